//! `/proc`, as far as programs look into it. proc(5).

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use unifork_fs::{FileSystem, NodeId};
use unifork_hal::{boot_info, heap_free_bytes};

use crate::Kernel;
use crate::errno::{Errno, Outcome};
use crate::fd::buffers::Buffers;
use crate::fd::object::{Description, Object, POLLIN, POLLRDNORM, Ready, Stat};
use crate::fs::file::File;
use crate::fs::{setup, tree, with};
use crate::mm::MM;
use crate::mm::list::{Backing, Mapping, PROT_EXEC, PROT_READ, PROT_WRITE};
use crate::sched::PID;
use crate::time::clock::SECOND_NS;
use crate::user::{have_room, read_bytes, read_string, read_u64};

// What a synthetic file holds.
const MAPS: u32 = 1;
const STATUS: u32 = 2;
const STAT: u32 = 3;
const STATM: u32 = 4;
const CMDLINE: u32 = 5;
const COMM: u32 = 6;
const AUXV: u32 = 7;
const ENVIRON: u32 = 8;
const SMAPS: u32 = 9;
const CPUINFO: u32 = 20;
const MEMINFO: u32 = 21;
const UPTIME: u32 = 22;
const SYSTEM_STAT: u32 = 23;

const SYNTHETIC: [(&[u8], u32); 13] = [
    (b"self/maps", MAPS),
    (b"self/smaps", SMAPS),
    (b"self/status", STATUS),
    (b"self/stat", STAT),
    (b"self/statm", STATM),
    (b"self/cmdline", CMDLINE),
    (b"self/comm", COMM),
    (b"self/auxv", AUXV),
    (b"self/environ", ENVIRON),
    (b"cpuinfo", CPUINFO),
    (b"meminfo", MEMINFO),
    (b"uptime", UPTIME),
    (b"stat", SYSTEM_STAT),
];

/// Files that never change.
const CONSTANT: [(&[u8], &[u8]); 15] = [
    (b"version", b"Linux version 6.1.0 (unifork) #1 unifork\n"),
    (b"loadavg", b"0.00 0.00 0.00 1/1 1000\n"),
    (b"filesystems", b"nodev\ttmpfs\nnodev\tproc\n"),
    (b"mounts", b"tmpfs / tmpfs rw 0 0\nproc /proc proc rw 0 0\ndevtmpfs /dev devtmpfs rw 0 0\ntmpfs /dev/shm tmpfs rw 0 0\n"),
    (b"sys/kernel/ostype", b"Linux\n"),
    (b"sys/kernel/osrelease", b"6.1.0\n"),
    (b"sys/kernel/version", b"#1 unifork\n"),
    (b"sys/kernel/hostname", b"unifork\n"),
    (b"sys/kernel/pid_max", b"32768\n"),
    (b"sys/kernel/random/boot_id", b"756e6966-6f72-4b21-8000-000000000000\n"),
    (b"sys/vm/overcommit_memory", b"0\n"),
    (b"sys/vm/max_map_count", b"65530\n"),
    (b"sys/net/core/somaxconn", b"4096\n"),
    (b"sys/fs/file-max", b"1048576\n"),
    (b"sys/fs/pipe-max-size", b"1048576\n"),
];

const DIRECTORIES: [&[u8]; 12] = [
    b"/proc",
    b"/proc/1000",
    b"/proc/1000/fd",
    b"/proc/1000/task",
    b"/proc/sys",
    b"/proc/sys/kernel",
    b"/proc/sys/kernel/random",
    b"/proc/sys/vm",
    b"/proc/sys/net",
    b"/proc/sys/net/core",
    b"/proc/sys/fs",
    b"/sys",
];

/// Makes the tree of `/proc`; returns `/proc/self/fd`.
pub(crate) fn fill(fs: &mut FileSystem<'static>) -> Result<NodeId, unifork_fs::Errno> {
    for (i, path) in DIRECTORIES.into_iter().enumerate() {
        let node = setup::directory(fs, path, 0o555)?;
        if i == 0 {
            fs.mount(node, 3, false)?;
        }
    }
    let root = fs.root();
    let proc = fs.lookup(root, b"/proc", true)?;
    let own = fs.lookup(proc, b"1000", true)?;
    fs.make_symlink(proc, b"self", b"1000")?;
    fs.make_symlink(proc, b"thread-self", b"1000")?;
    fs.make_symlink(own, b"exe", &executable())?;
    fs.make_symlink(own, b"root", b"/")?;
    for (path, number) in SYNTHETIC {
        let (directory, name) = split(fs, proc, path)?;
        fs.add_synthetic(directory, name, number, if number == COMM { 0o644 } else { 0o444 })?;
    }
    for (path, text) in CONSTANT {
        let (directory, name) = split(fs, proc, path)?;
        fs.add_file(directory, name, text, 0o444)?;
    }
    for path in &DIRECTORIES[..DIRECTORIES.len() - 1] {
        let node = fs.lookup(root, path, true)?;
        fs.seal(node, true)?;
    }
    fs.lookup(own, b"fd", true)
}

fn split<'p>(
    fs: &FileSystem<'static>,
    proc: NodeId,
    path: &'p [u8],
) -> Result<(NodeId, &'p [u8]), unifork_fs::Errno> {
    match path.iter().rposition(|&b| b == b'/') {
        Some(at) => Ok((fs.lookup(proc, &path[..at], true)?, &path[at + 1..])),
        None => Ok((proc, path)),
    }
}

/// Brings `/proc/self/fd` and `/proc/self/cwd` up to date, if `path` may lead there.
pub(crate) fn refresh(k: &mut Kernel, start: NodeId, path: &[u8]) -> Result<(), Errno> {
    let directory = k.place.descriptors;
    let names: [&[u8]; 3] = [b"fd", b"std", b"cwd"];
    if start != directory && !names.iter().any(|name| path.windows(name.len()).any(|w| w == *name)) {
        return Ok(());
    }
    let numbers: Vec<u64> = k.files.numbers().collect();
    have_room(numbers.len() * 512 + 4096)?;
    let mut links = Vec::with_capacity(numbers.len());
    for &fd in &numbers {
        let description = k.files.get(fd)?;
        let text = match description.as_a::<File>() {
            Some(file) => tree(|fs| fs.find_path(file.node)).unwrap_or_else(|| b"/ (deleted)".to_vec()),
            None => {
                let stat = description.object.stat()?;
                match stat.mode & 0o170_000 {
                    0o010_000 => format!("pipe:[{}]", stat.inode).into_bytes(),
                    0o140_000 => format!("socket:[{}]", stat.inode).into_bytes(),
                    0o020_000 => b"/dev/console".to_vec(),
                    _ => b"anon_inode:[object]".to_vec(),
                }
            }
        };
        links.push((fd as u32, format!("{fd}").into_bytes(), text));
    }
    let here = k.place.directory;
    with(k, |fs| {
        let parent = fs.lookup(directory, b"..", true)?;
        fs.seal(directory, false)?;
        fs.seal(parent, false)?;
        // Whoever lists them while he looks at each must come to an end: what is right stays in its place.
        fs.retain_links(directory, |name, text| links.iter().any(|(_, n, t)| n == name && t == text))?;
        for (fd, name, text) in links {
            if fs.lookup(directory, &name, false).is_err() {
                fs.add_magic(directory, &name, fd, &text)?;
            }
        }
        let path = fs.path_of(here).ok();
        fs.retain_links(parent, |name, text| name != b"cwd" || path.as_deref() == Some(text))?;
        if let Some(path) = path
            && fs.lookup(parent, b"cwd", false).is_err()
        {
            fs.make_symlink(parent, b"cwd", &path)?;
        }
        fs.seal(parent, true)?;
        fs.seal(directory, true)
    })?;
    Ok(())
}

/// Whether a synthetic file may be opened for writing: what is written changes nothing.
pub(crate) fn may_write(number: u32) -> bool {
    number == COMM
}

/// The strings of the argument vector or the environment, as the start left them.
fn strings(environment: bool) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let stack = boot_info().app_stack;
    let Ok(count) = read_u64(stack) else { return all };
    let first = stack + 8 + if environment { (count + 1) * 8 } else { 0 };
    for i in 0..4096 {
        match read_u64(first + i * 8) {
            Ok(at) if at != 0 => match read_string(at, 128 << 10) {
                Ok(Some(text)) => all.push(text),
                _ => break,
            },
            _ => break,
        }
    }
    all
}

fn joined(environment: bool) -> Vec<u8> {
    let mut text = Vec::new();
    for string in strings(environment) {
        text.extend_from_slice(&string);
        text.push(0);
    }
    text
}

/// The path of the program: what it was started as, seen from the root.
fn executable() -> Vec<u8> {
    let name = strings(false).into_iter().next().unwrap_or_default();
    if name.first() == Some(&b'/') {
        return name;
    }
    let mut path = Vec::from(*b"/");
    path.extend_from_slice(name.rsplit(|&b| b == b'/').next().unwrap_or_default());
    path
}

fn auxv() -> Vec<u8> {
    let mut bytes = Vec::new();
    let stack = boot_info().app_stack;
    let arguments = read_u64(stack).unwrap_or(0);
    let mut at = stack + 8 + (arguments + 1) * 8;
    while read_u64(at).is_ok_and(|word| word != 0) {
        at += 8;
    }
    at += 8;
    while let Ok(pair) = read_bytes::<16>(at) {
        bytes.extend_from_slice(&pair);
        at += 16;
        if pair[..8] == [0; 8] {
            break;
        }
    }
    bytes
}

fn maps(detail: bool) -> String {
    let image = executable();
    let image = core::str::from_utf8(&image).unwrap_or("");
    let mut text = String::new();
    for Mapping { start, end, protection, shared, backing } in MM.with(|mm| mm.list.all().to_vec()) {
        let may = |bit: u8, letter: char| if protection & bit != 0 { letter } else { '-' };
        let access = [may(PROT_READ, 'r'), may(PROT_WRITE, 'w'), may(PROT_EXEC, 'x')];
        let access: String = access.into_iter().chain([if shared { 's' } else { 'p' }]).collect();
        let (offset, inode, name) = match backing {
            Backing::Anonymous => (0, 0, String::new()),
            Backing::Image => (0, 1, String::from(image)),
            Backing::Heap => (0, 0, String::from("[heap]")),
            Backing::Stack => (0, 0, String::from("[stack]")),
            Backing::File(file, offset) => {
                let inode = file.object.stat().map_or(0, |stat| stat.inode);
                let path = file.as_a::<File>().and_then(|file| tree(|fs| fs.find_path(file.node)));
                let name = String::from_utf8(path.unwrap_or_default()).unwrap_or_default();
                (offset, inode, name)
            }
        };
        let place = format!("{start:08x}-{end:08x} {access} {offset:08x} 00:00 {inode} ");
        text += &if name.is_empty() { format!("{place}\n") } else { format!("{place:<73}{name}\n") };
        if detail {
            let kb = (end - start) / 1024;
            text += &format!("Size: {kb:>17} kB\nRss: {kb:>18} kB\nAnonHugePages: {:>8} kB\n", 0);
        }
    }
    text
}

/// Kibibytes in use: of the program's, all in all.
fn used_kb() -> u64 {
    MM.with(|mm| mm.list.all().iter().map(|m| m.end - m.start).sum::<u64>()) / 1024
}

/// Contents of a synthetic file.
pub(crate) fn text(k: &mut Kernel, number: u32) -> Result<Vec<u8>, Errno> {
    have_room(256 << 10)?;
    let memory_kb = boot_info().memory_bytes / 1024;
    let used = used_kb();
    let name = k.sched.me().name;
    let name = core::str::from_utf8(&name).unwrap_or("app").trim_end_matches('\0');
    let threads = k.sched.threads().count();
    let now = k.clock.now();
    let ticks = now / (SECOND_NS / 100);
    Ok(match number {
        MAPS => maps(false).into_bytes(),
        SMAPS => maps(true).into_bytes(),
        CMDLINE => joined(false),
        ENVIRON => joined(true),
        AUXV => auxv(),
        COMM => format!("{name}\n").into_bytes(),
        STATM => format!("{} {} 0 1 0 {} 0\n", used / 4, used / 4, used / 4).into_bytes(),
        STAT => format!(
            "{PID} ({name}) R 999 {PID} {PID} 0 -1 4194304 0 0 0 0 {ticks} 0 0 0 20 0 {threads} 0 0 {} {} \
             18446744073709551615 0 0 0 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n",
            used * 1024,
            used / 4
        )
        .into_bytes(),
        STATUS => format!(
            "Name:\t{name}\nUmask:\t{:04o}\nState:\tR (running)\nTgid:\t{PID}\nNgid:\t0\nPid:\t{PID}\nPPid:\t999\n\
             TracerPid:\t0\nUid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nFDSize:\t64\nGroups:\t\nVmPeak:\t{used:>8} kB\n\
             VmSize:\t{used:>8} kB\nVmRSS:\t{used:>8} kB\nThreads:\t{threads}\nCpus_allowed:\t1\n\
             Cpus_allowed_list:\t0\n",
            k.place.umask
        )
        .into_bytes(),
        CPUINFO => b"processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 85\nmodel name\t: unifork\n\
            stepping\t: 0\ncpu MHz\t\t: 2000.000\ncache size\t: 1024 KB\nsiblings\t: 1\ncpu cores\t: 1\nfpu\t\t: yes\n\
            flags\t\t: fpu tsc cx8 cmov mmx fxsr sse sse2 syscall nx lm\n\n"
            .to_vec(),
        MEMINFO => {
            let free = (MM.with(|mm| mm.free_bytes()) + heap_free_bytes() as u64) / 1024;
            format!(
                "MemTotal: {memory_kb:>15} kB\nMemFree: {free:>16} kB\nMemAvailable: {free:>11} kB\n\
                 Buffers: {0:>16} kB\nCached: {0:>17} kB\nSwapTotal: {0:>14} kB\nSwapFree: {0:>15} kB\n",
                0
            )
            .into_bytes()
        }
        UPTIME => {
            let hundredths = now / (SECOND_NS / 100);
            format!("{}.{:02} 0.00\n", hundredths / 100, hundredths % 100).into_bytes()
        }
        SYSTEM_STAT => format!("cpu  {ticks} 0 0 0 0 0 0 0 0 0\ncpu0 {ticks} 0 0 0 0 0 0 0 0 0\nbtime 1767225600\n")
            .into_bytes(),
        _ => return Err(Errno::ENOENT),
    })
}

/// A synthetic file, opened: its text as it was then.
pub(crate) struct Text {
    text: Vec<u8>,
    file: File,
}

impl Text {
    pub(crate) fn new(text: Vec<u8>, file: File) -> Self {
        Self { text, file }
    }
}

impl Object for Text {
    fn ready(&self, _now: u64) -> Ready {
        Ready { mask: POLLIN | POLLRDNORM, in_edges: 1, out_edges: 1, at: None }
    }

    fn read(&self, _k: &mut Kernel, from: &Description, at: Option<u64>, to: &mut Buffers) -> Outcome {
        let offset = at.unwrap_or(from.offset.get());
        let rest = usize::try_from(offset).ok().and_then(|at| self.text.get(at..)).unwrap_or_default();
        let done = to.put(rest)? as u64;
        if at.is_none() {
            from.offset.set(offset + done);
        }
        Ok(done)
    }

    /// Accepted, and without effect.
    fn write(&self, _k: &mut Kernel, _to: &Description, _at: Option<u64>, from: &mut Buffers) -> Outcome {
        let all = from.left();
        from.skip(all);
        Ok(all)
    }

    fn has_positions(&self) -> bool {
        true
    }

    fn seek(&self, description: &Description, offset: i64, whence: u64) -> Outcome {
        let base = match whence {
            0 => 0,
            1 => description.offset.get().cast_signed(),
            _ => return Err(Errno::EINVAL),
        };
        let to = base.checked_add(offset).and_then(|to| u64::try_from(to).ok()).ok_or(Errno::EINVAL)?;
        description.offset.set(to);
        Ok(to)
    }

    fn stat(&self) -> Result<Stat, Errno> {
        self.file.stat()
    }
}
