//! Snapshot files: what is written can be read, and what was damaged cannot.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tempfile::TempDir;
use unifork_abi::Filter;
use unifork_vmm::{BatchTime, Engine, Kvm, Replica, ReplicaError, Snapshot, SnapshotError, Space};

use crate::common::{frozen, kvm, reference};
use crate::equivalence::{rounds, same_state, seed};
use crate::interpreter;
use crate::programs::{Programs, pick};

const PAGE: u64 = 4096;

/// A snapshot in a file of its own folder.
fn written() -> (Arc<Snapshot>, TempDir, PathBuf) {
    let snapshot = frozen(interpreter::code());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.snap");
    snapshot.write_to(&path).unwrap();
    (snapshot, folder, path)
}

/// Bytes of the state section, as the header says.
fn state_bytes(path: &Path) -> u64 {
    let mut word = [0; 8];
    File::open(path).unwrap().read_exact_at(&mut word, 16).unwrap();
    u64::from_le_bytes(word)
}

#[test]
fn a_fork_of_an_opened_snapshot_runs_like_one_of_the_original() {
    let (original, _folder, path) = written();
    let opened = Snapshot::open(&path).unwrap();
    assert_eq!(opened.vcpu(), original.vcpu());
    assert_eq!(opened.info(), original.info());
    assert_eq!(opened.id(), original.id());
    assert_eq!((opened.app_elf(), opened.kernel_elf()), (original.app_elf(), original.kernel_elf()));
    assert!(opened.memory().bytes() == original.memory().bytes());
    let programs = Programs::new(&original);
    let base = seed();
    let mut forks =
        [&original, &opened].map(|snapshot| Replica::spawn(&kvm(), snapshot, Engine::HotSet).unwrap());
    for round in 0..200 {
        let program = programs.draw(&mut StdRng::seed_from_u64(base.wrapping_add(round)));
        if program.is_endless() {
            continue;
        }
        let [one, other] = forks.each_mut().map(|fork| reference(fork, &program.bytes()));
        assert_eq!(one, other, "seed {base:#x}, round {round}: {program:x?}");
    }
    let [one, other] = forks.each_mut().map(|fork| {
        fork.reset().unwrap();
        fork.vcpu_state().unwrap()
    });
    same_state(&one, &other).unwrap();
}

#[test]
fn a_shared_snapshot_is_the_same_and_takes_the_room_of_what_the_machine_touched() {
    let original = frozen(interpreter::code());
    let file = original.share().unwrap();
    let opened = Snapshot::open(Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd()))).unwrap();
    assert_eq!((opened.id(), opened.vcpu()), (original.id(), original.vcpu()));
    let blocks = |file: &File| file.metadata().unwrap().blocks() * 512;
    assert!(blocks(&file) < original.memory_bytes() / 4, "{} bytes", blocks(&file));
    assert!(opened.memory().bytes() == original.memory().bytes());
    let refused = file.set_len(PAGE).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied, "it is sealed");
}

#[test]
fn a_file_says_what_is_in_it_and_takes_the_room_of_what_the_machine_touched() {
    let (original, _folder, path) = written();
    let summary = Snapshot::inspect(&path).unwrap();
    assert_eq!((summary.memory_bytes, summary.state_bytes), (original.memory_bytes(), state_bytes(&path)));
    assert_eq!(summary.name, original.info().name);
    let used =
        original.memory().bytes().chunks(PAGE as usize).filter(|page| page.iter().any(|&b| b != 0)).count();
    assert_eq!(summary.memory_used_bytes, used as u64 * PAGE);
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!(metadata.len(), PAGE + summary.state_bytes.next_multiple_of(PAGE) + summary.memory_bytes);
    let room = metadata.blocks() * 512;
    assert!(room < metadata.len() / 4, "{room} bytes for {used} used pages of {}", metadata.len() / PAGE);
}

#[test]
fn a_file_cut_off_anywhere_is_refused() {
    let (_, _folder, path) = written();
    let len = fs::metadata(&path).unwrap().len();
    let memory_at = PAGE + state_bytes(&path).next_multiple_of(PAGE);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(len + 1).unwrap();
    assert!(Snapshot::open(&path).is_err(), "a byte too many");
    let borders = [PAGE, PAGE + state_bytes(&path), memory_at, len];
    let mut lengths: Vec<u64> = (0..PAGE).chain((PAGE..len).step_by(512)).collect();
    lengths.extend(borders.iter().flat_map(|at| at - 2..at + 2).filter(|&at| at < len));
    lengths.sort_unstable();
    for &cut in lengths.iter().rev() {
        file.set_len(cut).unwrap();
        assert!(Snapshot::open(&path).is_err() && Snapshot::inspect(&path).is_err(), "cut to {cut} bytes");
    }
}

/// Flips bit `bit` of the file, checks that it is refused, and flips it back.
fn flip(file: &File, path: &Path, bit: u64) {
    let mut byte = [0];
    file.read_exact_at(&mut byte, bit / 8).unwrap();
    file.write_all_at(&[byte[0] ^ 1 << (bit % 8)], bit / 8).unwrap();
    let outcome = Snapshot::open(path);
    assert!(outcome.is_err(), "bit {} of byte {:#x} may be anything", bit % 8, bit / 8);
    file.write_all_at(&byte, bit / 8).unwrap();
}

#[test]
fn a_single_flipped_bit_anywhere_is_noticed() {
    let (original, _folder, path) = written();
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let memory_at = PAGE + state_bytes(&path).next_multiple_of(PAGE);
    // All of the header, the state section and its padding.
    for bit in 0..memory_at * 8 {
        flip(&file, &path, bit);
    }
    // Of memory, which takes longer to check: some bits of the pages that are in use, and one of every
    // hole.
    let mut rng = StdRng::seed_from_u64(seed());
    let pages = original.memory().bytes().chunks(PAGE as usize).map(|page| page.iter().any(|&b| b != 0));
    let (used, holes): (Vec<_>, Vec<_>) = (0u64..).zip(pages).partition(|(_, used)| *used);
    let chosen: Vec<_> = (0..rounds(3000)).map(|_| *pick(&mut rng, &used)).chain(holes).collect();
    for (page, _) in chosen {
        flip(&file, &path, (memory_at + page * PAGE) * 8 + rng.random_range(0..PAGE * 8));
    }
    Snapshot::open(&path).expect("every bit was put back");
}

/// One byte of the state section changed and both checksums made right again: the plan in it was taken at
/// its word, and a window that began outside of the windows made the host panic at the first input.
#[test]
fn a_made_up_file_is_refused_or_is_a_machine_like_any_other() {
    let (original, folder, path) = written();
    let kvm = kvm();
    let bytes = fs::read(&path).unwrap();
    // What the section is made of, in order: pages and vCPU, of which some bytes will do; the machine, of
    // which all are changed; the images.
    let images = original.kernel_elf().len() + original.app_elf().len();
    let state_end = (PAGE + state_bytes(&path)) as usize;
    let machine = state_end - images - postcard::to_stdvec(original.info()).unwrap().len() - 8;
    let mut rng = StdRng::seed_from_u64(seed());
    let mut places: Vec<_> = (machine..state_end - images).collect();
    places.extend((0..rounds(300)).map(|_| rng.random_range(PAGE as usize..machine)));
    let made_up = folder.path().join("made-up.snap");
    let (mut refused, mut ran) = (0, 0);
    for at in places {
        let mut bytes = bytes.clone();
        bytes[at] ^= rng.random_range(1..=255);
        let crc = crc32c::crc32c(&bytes[PAGE as usize..state_end]);
        bytes[32..36].copy_from_slice(&crc.to_le_bytes());
        bytes[12..16].fill(0);
        let crc = crc32c::crc32c(&bytes[..PAGE as usize]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        fs::write(&made_up, &bytes).unwrap();
        let inspected = Snapshot::inspect(&made_up).is_ok();
        let Ok(snapshot) = Snapshot::open(&made_up) else {
            refused += 1;
            continue;
        };
        assert!(inspected, "byte {at:#x}: opened, but not described");
        ran += usize::from(use_it(&kvm, &snapshot).is_ok());
    }
    println!("{refused} refused, {ran} ran");
    assert!(refused > 100 && ran > 100, "{refused} refused, {ran} ran");
}

/// Everything that a campaign does with a fork. What KVM refuses is an error like any other.
fn use_it(kvm: &Kvm, snapshot: &Arc<Snapshot>) -> Result<(), ReplicaError> {
    let mut fork = Replica::spawn(kvm, snapshot, Engine::HotSet)?;
    let longest = vec![b'x'; snapshot.input_max() as usize];
    let mut runs = Vec::new();
    for input in [&longest[..], b"", b"short"] {
        fork.run(input, Duration::from_millis(20))?;
        for space in [Space::Application, Space::Kernel] {
            assert_eq!(fork.counters(space).len(), snapshot.counter_count(space));
            assert_eq!(fork.counters_ptr(space).1, snapshot.counter_count(space));
        }
        let _seen = (fork.console(), fork.unserved(), fork.registers(), fork.differing_pages());
        fork.reset()?;
        fork.novelty_mut().fill(0);
        let inputs = std::iter::repeat_n(input, 3);
        fork.run_batch(inputs, BatchTime::each(Duration::from_millis(20)), Filter::All, &mut runs)?;
        let _cut = fork.batch_counters(u32::MAX);
    }
    fork.begin(b"tree", Duration::from_millis(20))?;
    fork.scrub()
}

#[test]
fn other_files_and_other_versions_are_told_apart() {
    let (_, folder, path) = written();
    let refused = |path: &Path| Snapshot::open(path).expect_err("not a snapshot of this version");
    for (name, bytes) in
        [("empty", &b""[..]), ("text", b"hello"), ("long", &[b'x'; 100_000]), ("elf", b"\x7fELF\x02\x01\x01")]
    {
        let other = folder.path().join(name);
        fs::write(&other, bytes).unwrap();
        assert!(matches!(refused(&other), SnapshotError::NotASnapshot { .. }), "{name}");
    }
    assert!(matches!(refused(&folder.path().join("missing")), SnapshotError::Io { op: "open", .. }));
    assert!(matches!(refused(folder.path()), SnapshotError::Io { .. } | SnapshotError::NotASnapshot { .. }));
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&999u32.to_le_bytes(), 8).unwrap();
    let error = refused(&path);
    assert!(matches!(error, SnapshotError::Version { found: 999, .. }), "{error}");
    assert!(error.to_string().contains("take it again"), "{error}");
}

#[test]
fn what_cannot_be_written_leaves_nothing_behind() {
    let (snapshot, folder, path) = written();
    for impossible in
        [folder.path().join("no/such/folder.snap"), path.join("in-a-file.snap"), "/proc/x.snap".into()]
    {
        let error = snapshot.write_to(&impossible).expect_err("nobody can write there");
        assert!(matches!(error, SnapshotError::Io { op: "write", .. }), "{error}");
    }
    // A disk that is full half-way, as a limit on the size of files: in a child, since it is the
    // process's.
    // SAFETY: the child only writes files and leaves by `_exit`.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let limit = libc::rlimit { rlim_cur: 3 * PAGE, rlim_max: 3 * PAGE };
        // SAFETY: ignoring a signal has no precondition.
        unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
        // SAFETY: `limit` is initialised.
        unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) };
        let refused = snapshot.write_to(&folder.path().join("full.snap")).is_err();
        let kept = snapshot.write_to(&path).is_err() && Snapshot::open(&path).is_ok();
        // SAFETY: ends the child without running the parent's destructors.
        unsafe { libc::_exit(i32::from(!refused) + 2 * i32::from(!kept)) };
    }
    let mut status = 0;
    // SAFETY: `status` is writable, `child` is ours.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!((waited, status), (child, 0));
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["small.snap"]);
}

/// Killed in the middle of a snapshot, the writer left a hidden file of up to the machine's size, for good.
#[test]
fn a_writer_killed_half_way_leaves_nothing_behind() {
    let (snapshot, folder, path) = written();
    // SAFETY: the child only writes files; it is killed by the first that grows too large.
    let child = unsafe { libc::fork() };
    if child == 0 {
        for (what, most) in [(libc::RLIMIT_FSIZE, 3 * PAGE), (libc::RLIMIT_CORE, 0)] {
            let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
            // SAFETY: `limit` is initialised.
            unsafe { libc::setrlimit(what, &raw const limit) };
        }
        // SAFETY: the default action has no precondition.
        unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_DFL) };
        let _killed = snapshot.write_to(&path);
        // SAFETY: ends the child without running the parent's destructors.
        unsafe { libc::_exit(1) };
    }
    let mut status = 0;
    // SAFETY: `status` is writable, `child` is ours.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!((waited, status & 0x7f), (child, libc::SIGXFSZ));
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["small.snap"]);
    Snapshot::open(&path).expect("the old file is as it was");
}

#[test]
fn forks_live_on_when_their_file_is_replaced() {
    let (original, _folder, path) = written();
    let opened = Snapshot::open(&path).unwrap();
    let program = Programs::new(&original).draw(&mut StdRng::seed_from_u64(1)).bytes();
    let mut fork = Replica::spawn(&kvm(), &opened, Engine::DirtyLog).unwrap();
    let before = reference(&mut fork, &program);
    frozen(crate::snippets::code()).write_to(&path).unwrap();
    assert_eq!(reference(&mut fork, &program), before);
    fork.reset().unwrap();
    assert!(fork.differing_pages().is_empty());
}
