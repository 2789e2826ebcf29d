//! The file system against the host's own: the same random calls, the same results and errno, and
//! in the end the same tree.
//!
//! The host's side is a temporary directory on a tmpfs, which the test makes its root directory, so
//! that absolute paths and ".." mean the same on both sides. Where that is not allowed, paths have
//! neither.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

use rand::prelude::*;
use rand::rngs::SmallRng;
use rustix::fs::{AtFlags, CWD, FallocateFlags, FileType, Mode, OFlags, RenameFlags, SeekFrom};
use unifork_fs::{FileSystem, NodeId, NodeKind, Time, flags};

/// Calls in one run; more with `UNIFORK_ROUNDS`.
const CALLS: u32 = 30_000;
const CALLS_BETWEEN_TREES: u32 = 200;

/// What either side says of one call.
type Answer = Result<u64, u16>;

/// What a tree looks like, by path.
type Tree = BTreeMap<String, String>;

struct World {
    rng: SmallRng,
    model: FileSystem<'static>,
    // Directories that paths start from, on both sides.
    starts: Vec<(NodeId, OwnedFd)>,
    files: Vec<(NodeId, OwnedFd)>,
    // Absolute paths and "..".
    free: bool,
}

fn host<T>(result: Result<T, rustix::io::Errno>) -> Result<T, u16> {
    result.map_err(|e| e.raw_os_error() as u16)
}

fn model<T>(result: Result<T, unifork_fs::Errno>) -> Result<T, u16> {
    result.map_err(unifork_fs::Errno::number)
}

impl World {
    fn name(&mut self) -> String {
        match self.rng.random_range(0..80) {
            0 => "n".repeat(255),
            1 => "n".repeat(256),
            2..5 => ".".into(),
            5..10 if self.free => "..".into(),
            n => ["a", "b", "c", "d", "e"][n % 5].into(),
        }
    }

    fn path(&mut self) -> String {
        if self.rng.random_range(0..300) == 0 {
            return "a/".repeat(self.rng.random_range(2040..2052));
        }
        let mut path = String::new();
        if self.free && self.rng.random_range(0..6) == 0 {
            path.push('/');
        }
        let depth = *[0, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 4].choose(&mut self.rng).unwrap();
        for i in 0..depth {
            if i > 0 {
                path.push_str(if self.rng.random_range(0..10) == 0 { "//" } else { "/" });
            }
            let name = self.name();
            path.push_str(&name);
        }
        if self.rng.random_range(0..6) == 0 && depth > 0 {
            path.push('/');
        }
        path
    }

    fn start(&mut self) -> usize {
        self.rng.random_range(0..self.starts.len())
    }

    fn mode(&mut self) -> u32 {
        if !self.free {
            return 0o755;
        }
        *[0o644, 0o755, 0o4755, 0o2755, 0o600, 0, 0o6777, 0o7].choose(&mut self.rng).unwrap()
    }

    /// Makes one random call on both sides; says what it was and what both answered.
    fn call(&mut self) -> (String, Answer, Answer) {
        let (s, t) = (self.start(), self.start());
        let (path, other) = (self.path(), self.path());
        let (p, o) = (path.as_bytes(), other.as_bytes());
        let (ms, mt) = (self.starts[s].0, self.starts[t].0);
        match self.rng.random_range(0..26) {
            0..5 => self.open(s, &path),
            5..7 => {
                let mode = self.mode();
                let theirs = host(rustix::fs::mkdirat(self.starts[s].1.as_fd(), &path, Mode::from(mode)));
                let ours = model(self.model.make_directory(ms, p, mode & 0o1777));
                (format!("mkdir({s}, {path:?}, {mode:o})"), ours.map(|_| 0), theirs.map(|()| 0))
            }
            7 => {
                let theirs = host(rustix::fs::unlinkat(self.starts[s].1.as_fd(), &path, AtFlags::REMOVEDIR));
                let ours = model(self.model.remove_directory(ms, p));
                (format!("rmdir({s}, {path:?})"), ours.map(|()| 0), theirs.map(|()| 0))
            }
            8 => {
                let theirs = host(rustix::fs::unlinkat(self.starts[s].1.as_fd(), &path, AtFlags::empty()));
                let ours = model(self.model.unlink(ms, p));
                (format!("unlink({s}, {path:?})"), ours.map(|()| 0), theirs.map(|()| 0))
            }
            9..13 => {
                let bits = *[0, 0, 0, 1, 2, 3].choose(&mut self.rng).unwrap();
                let (a, b) = (self.starts[s].1.as_fd(), self.starts[t].1.as_fd());
                let rename = RenameFlags::from_bits_retain(bits);
                let theirs = host(rustix::fs::renameat_with(a, &path, b, &other, rename));
                let ours = model(self.model.rename((ms, p), (mt, o), bits));
                (
                    format!("rename({s}, {path:?}, {t}, {other:?}, {bits})"),
                    ours.map(|()| 0),
                    theirs.map(|()| 0),
                )
            }
            13 => {
                let follow = self.rng.random();
                let at = if follow { AtFlags::SYMLINK_FOLLOW } else { AtFlags::empty() };
                let (a, b) = (self.starts[s].1.as_fd(), self.starts[t].1.as_fd());
                let theirs = host(rustix::fs::linkat(a, &path, b, &other, at));
                let node = model(self.model.lookup(ms, p, follow));
                let ours = node.and_then(|node| model(self.model.make_link(node, mt, o)));
                (
                    format!("link({s}, {path:?}, {t}, {other:?}, {follow})"),
                    ours.map(|()| 0),
                    theirs.map(|()| 0),
                )
            }
            14 | 15 => {
                let theirs = host(rustix::fs::symlinkat(&path, self.starts[t].1.as_fd(), &other));
                let ours = model(self.model.make_symlink(mt, o, p));
                (format!("symlink({path:?}, {t}, {other:?})"), ours.map(|_| 0), theirs.map(|()| 0))
            }
            16 => {
                let theirs = host(rustix::fs::readlinkat(self.starts[s].1.as_fd(), &path, Vec::new()));
                let node = model(self.model.lookup(ms, p, false));
                let ours =
                    node.and_then(|node| model(self.model.read_link(node)).map(|text| text.len() as u64));
                (format!("readlink({s}, {path:?})"), ours, theirs.map(|text| text.as_bytes().len() as u64))
            }
            17 => {
                let follow = self.rng.random();
                let at = if follow { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW };
                let theirs = host(rustix::fs::statat(self.starts[s].1.as_fd(), &path, at));
                let node = model(self.model.lookup(ms, p, follow));
                let ours = node.and_then(|node| model(self.model.stat(node)));
                let answer = |mode: u32, links: u64| u64::from(mode) << 32 | links;
                let ours = ours.map(|stat| answer(stat.mode, stat.links.into()));
                (
                    format!("stat({s}, {path:?}, {follow})"),
                    ours,
                    theirs.map(|stat| answer(stat.st_mode, stat.st_nlink)),
                )
            }
            18 => {
                let mode = self.mode();
                let theirs = host(rustix::fs::chmodat(
                    self.starts[s].1.as_fd(),
                    &path,
                    Mode::from(mode),
                    AtFlags::empty(),
                ));
                let node = model(self.model.lookup(ms, p, true));
                let ours = node.and_then(|node| model(self.model.set_permissions(node, mode)));
                (format!("chmod({s}, {path:?}, {mode:o})"), ours.map(|()| 0), theirs.map(|()| 0))
            }
            19 if self.free => {
                let (uid, gid) = (self.rng.random_range(0..3), self.rng.random_range(0..3));
                let follow = self.rng.random();
                let at = if follow { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW };
                let (u, g) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
                let theirs = host(rustix::fs::chownat(self.starts[s].1.as_fd(), &path, Some(u), Some(g), at));
                let node = model(self.model.lookup(ms, p, follow));
                let ours = node.and_then(|node| model(self.model.set_owner(node, Some(uid), Some(gid))));
                (
                    format!("chown({s}, {path:?}, {uid}, {gid}, {follow})"),
                    ours.map(|()| 0),
                    theirs.map(|()| 0),
                )
            }
            20 => {
                let (kind, file_type) = *[
                    (NodeKind::Fifo, FileType::Fifo),
                    (NodeKind::Socket, FileType::Socket),
                    (NodeKind::Regular, FileType::RegularFile),
                ]
                .choose(&mut self.rng)
                .unwrap();
                let mode = self.mode();
                let theirs = host(rustix::fs::mknodat(
                    self.starts[s].1.as_fd(),
                    &path,
                    file_type,
                    Mode::from(mode),
                    0,
                ));
                let ours = model(self.model.make_node(ms, p, kind, mode));
                (format!("mknod({s}, {path:?}, {kind:?})"), ours.map(|_| 0), theirs.map(|()| 0))
            }
            21 => self.keep_directory(s, &path),
            _ if self.files.is_empty() => self.open(s, &path),
            _ => self.file_call(),
        }
    }

    fn open(&mut self, s: usize, path: &str) -> (String, Answer, Answer) {
        use flags::*;
        let pieces = [O_CREAT, O_CREAT, O_EXCL, O_TRUNC, O_DIRECTORY, O_NOFOLLOW, O_PATH, O_TMPFILE];
        let mut bits = self.rng.random_range(0..3);
        for piece in pieces {
            if self.rng.random_range(0..7) == 0 {
                bits |= piece;
            }
        }
        let mode = self.mode();
        // A pipe must not make the host wait.
        let open = OFlags::from_bits_retain(bits | O_NONBLOCK);
        let theirs = host(rustix::fs::openat(self.starts[s].1.as_fd(), path, open, Mode::from(mode)));
        let ours = model(self.model.open(self.starts[s].0, path.as_bytes(), bits, mode));
        let what = format!("open({s}, {path:?}, {bits:#o}, {mode:o})");
        let kind = ours.ok().and_then(|node| self.model.kind(node).ok());
        let answers = (ours.map(|_| 0), theirs.as_ref().map(|_| 0).map_err(|&e| e));
        match (ours, theirs) {
            // Only the libOS knows who else has the pipe open.
            (Ok(node), _) if kind == Some(NodeKind::Fifo) => {
                self.model.unpin(node);
                return (what, Ok(0), Ok(0));
            }
            (Ok(node), Ok(fd)) => {
                let keep =
                    kind == Some(NodeKind::Regular) && bits & O_ACCMODE == O_RDWR && bits & O_PATH == 0;
                if keep && self.files.len() < 12 {
                    self.files.push((node, fd));
                } else {
                    self.model.unpin(node);
                }
            }
            (Ok(node), Err(_)) => self.model.unpin(node),
            (Err(_), _) => {}
        }
        (what, answers.0, answers.1)
    }

    /// Opens a directory to start later paths from, in place of one of the others.
    fn keep_directory(&mut self, s: usize, path: &str) -> (String, Answer, Answer) {
        let open = OFlags::DIRECTORY | OFlags::RDONLY;
        let theirs = host(rustix::fs::openat(self.starts[s].1.as_fd(), path, open, Mode::empty()));
        let ours = model(self.model.open(self.starts[s].0, path.as_bytes(), flags::O_DIRECTORY, 0));
        let answers = (ours.map(|_| 0), theirs.as_ref().map(|_| 0).map_err(|&e| e));
        if let (Ok(node), Ok(fd)) = (ours, theirs) {
            if self.starts.len() < 5 {
                self.starts.push((node, fd));
            } else {
                let at = self.rng.random_range(1..self.starts.len());
                let (old, _) = std::mem::replace(&mut self.starts[at], (node, fd));
                self.model.unpin(old);
            }
        }
        (format!("keep({s}, {path:?})"), answers.0, answers.1)
    }

    fn offset(&mut self) -> u64 {
        match self.rng.random_range(0..8) {
            0 => self.rng.random_range(0..1 << 40),
            1 => self.rng.random_range(0..6) * 4096,
            2 => self.rng.random_range(0..100),
            _ => self.rng.random_range(0..20_000),
        }
    }

    fn file_call(&mut self) -> (String, Answer, Answer) {
        let at = self.rng.random_range(0..self.files.len());
        let (offset, bytes) = (self.offset(), self.offset().min(30_000));
        let (node, fd) = &self.files[at];
        let node = *node;
        match self.rng.random_range(0..8) {
            0 | 1 => {
                let data: Vec<u8> = (0..bytes).map(|i| (i as u8) ^ (offset as u8)).collect();
                let theirs = host(rustix::io::pwrite(fd, &data, offset));
                let mut rest = data.as_slice();
                let ours = model(self.model.write(node, offset, bytes, |piece| {
                    let (now, later) = rest.split_at(piece.len());
                    piece.copy_from_slice(now);
                    rest = later;
                }));
                (format!("pwrite({at}, {offset}, {bytes})"), ours, theirs.map(|n| n as u64))
            }
            2 => {
                let mut data = vec![0; bytes as usize];
                let theirs = host(rustix::io::pread(fd, &mut data, offset)).map(|n| data[..n].to_vec());
                let mut read = Vec::new();
                let ours = model(self.model.read(node, offset, bytes, |piece| read.extend_from_slice(piece)));
                let same = theirs.as_ref().is_ok_and(|data| *data == read);
                let theirs = if same { Ok(0) } else { theirs.map(|data| 1 + data.len() as u64) };
                (format!("pread({at}, {offset}, {bytes})"), ours.map(|_| 0), theirs)
            }
            3 => {
                let theirs = host(rustix::fs::ftruncate(fd, offset));
                let ours = model(self.model.truncate(node, offset));
                (format!("ftruncate({at}, {offset})"), ours.map(|()| 0), theirs.map(|()| 0))
            }
            4 => {
                let mode = *[0, 1, 3, 3, 2, 8, 16].choose(&mut self.rng).unwrap();
                // Of huge ranges only holes: the host would really set the memory aside.
                let (offset, bytes) =
                    if mode & 2 == 0 { (offset.min(1 << 20), bytes) } else { (offset, bytes) };
                let allocate = FallocateFlags::from_bits_retain(mode);
                let theirs = host(rustix::fs::fallocate(fd, allocate, offset, bytes));
                let ours = model(self.model.allocate(node, mode, offset, bytes));
                (format!("fallocate({at}, {mode}, {offset}, {bytes})"), ours.map(|()| 0), theirs.map(|()| 0))
            }
            5 | 6 => {
                let hole = self.rng.random();
                let from = if hole { SeekFrom::Hole(offset) } else { SeekFrom::Data(offset) };
                let theirs = host(rustix::fs::seek(fd, from));
                let ours = model(self.model.seek(node, offset, hole));
                // The host may have set more memory aside than was written (large folios), so it may
                // know of fewer holes. Reading tells whether ours are holes.
                let data_end = |answer: Answer| answer.unwrap_or(u64::MAX);
                let coarser = if hole { ours <= theirs } else { data_end(ours) >= data_end(theirs) };
                let skipped = if hole { 0 } else { data_end(ours).min(1 << 41) - offset };
                let mut zero = true;
                self.model
                    .read(node, offset, skipped.min(1 << 20), |piece| zero &= piece.iter().all(|&b| b == 0))
                    .unwrap();
                assert!(zero, "what SEEK_DATA skips is no hole");
                (format!("seek({at}, {offset}, {hole})"), ours, if coarser { ours } else { theirs })
            }
            _ => {
                let (node, _) = self.files.swap_remove(at);
                self.model.unpin(node);
                (format!("close({at})"), Ok(0), Ok(0))
            }
        }
    }

    fn model_tree(&mut self) -> Tree {
        let mut tree = Tree::new();
        let mut open = vec![(String::new(), self.model.root())];
        while let Some((path, node)) = open.pop() {
            let stat = self.model.stat(node).unwrap();
            let mut text = format!("{:o} links {} owner {}:{}", stat.mode, stat.links, stat.uid, stat.gid);
            match stat.kind {
                NodeKind::Directory => {
                    let mut names = Vec::new();
                    self.model
                        .list(node, 0, |entry| {
                            names.push(String::from_utf8(entry.name.to_vec()).unwrap());
                            true
                        })
                        .unwrap();
                    assert_eq!(names[..2], [".", ".."]);
                    for name in &names[2..] {
                        let child = self.model.lookup(node, name.as_bytes(), false).unwrap();
                        open.push((format!("{path}/{name}"), child));
                    }
                }
                NodeKind::Regular => {
                    text += &format!(" bytes {}", stat.size);
                    let mut data = Vec::new();
                    self.model.read(node, 0, 1 << 16, |piece| data.extend_from_slice(piece)).unwrap();
                    text += &format!(" {:x}", digest(&data));
                }
                NodeKind::Symlink => text += &format!(" to {:?}", self.model.read_link(node).unwrap()),
                _ => {}
            }
            tree.insert(path, text);
        }
        tree
    }

    fn host_tree(&self) -> Tree {
        let mut tree = Tree::new();
        let root = &self.starts[0].1;
        let mut open = vec![String::new()];
        while let Some(path) = open.pop() {
            let relative = format!(".{path}");
            let stat = rustix::fs::statat(root, &relative, AtFlags::SYMLINK_NOFOLLOW).unwrap();
            let mut text =
                format!("{:o} links {} owner {}:{}", stat.st_mode, stat.st_nlink, stat.st_uid, stat.st_gid);
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    let fd = rustix::fs::openat(root, &relative, OFlags::DIRECTORY, Mode::empty()).unwrap();
                    for entry in rustix::fs::Dir::read_from(&fd).unwrap() {
                        let name = entry.unwrap().file_name().to_str().unwrap().to_owned();
                        if name != "." && name != ".." {
                            open.push(format!("{path}/{name}"));
                        }
                    }
                }
                FileType::RegularFile => {
                    text += &format!(" bytes {}", stat.st_size);
                    let fd = rustix::fs::openat(root, &relative, OFlags::RDONLY, Mode::empty()).unwrap();
                    let mut data = vec![0; 1 << 16];
                    let count = rustix::io::pread(&fd, &mut data, 0).unwrap();
                    text += &format!(" {:x}", digest(&data[..count]));
                }
                FileType::Symlink => {
                    let target = rustix::fs::readlinkat(root, &relative, Vec::new()).unwrap();
                    text += &format!(" to {:?}", target.as_bytes());
                }
                _ => {}
            }
            tree.insert(path, text);
        }
        tree
    }
}

/// FNV-1a.
fn digest(data: &[u8]) -> u64 {
    data.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &b| (hash ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}

#[test]
fn random_calls_do_what_they_do_on_the_hosts_tmpfs() {
    let seed = std::env::var("UNIFORK_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("UNIFORK_SEED={seed}");
    // The root directory and the umask are the process's, so this is the only test in this file.
    rustix::process::umask(Mode::empty());
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let real_root = rustix::fs::open("/", OFlags::DIRECTORY, Mode::empty()).unwrap();
    let free = rustix::process::chroot(folder.path()).is_ok();
    let root = if free {
        rustix::fs::open("/", OFlags::DIRECTORY, Mode::empty()).unwrap()
    } else {
        rustix::fs::openat(CWD, folder.path(), OFlags::DIRECTORY, Mode::empty()).unwrap()
    };
    rustix::fs::fchmod(&root, Mode::from(0o755)).unwrap();
    let mut model = FileSystem::new(1 << 30);
    model.set_time(Time { seconds: 1, nanos: 0 });
    let start = (model.root(), root);
    model.pin(start.0).unwrap();
    let mut world =
        World { rng: SmallRng::seed_from_u64(seed), model, starts: vec![start], files: Vec::new(), free };
    let calls = std::env::var("UNIFORK_ROUNDS").map_or(CALLS, |calls| calls.parse().unwrap());
    let mut log: Vec<String> = Vec::new();
    let mut done = 0;
    let failure = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        for i in 0..calls {
            let (what, ours, theirs) = world.call();
            log.push(format!("{what} = {theirs:?}"));
            assert_eq!(ours, theirs, "{what}, call {i}; ours is left");
            done += u32::from(ours.is_ok());
            if i % CALLS_BETWEEN_TREES == 0 {
                let (ours, theirs) = (world.model_tree(), world.host_tree());
                assert_eq!(ours, theirs, "the trees differ after {what}, call {i}; ours is left");
            }
        }
    }));
    if free {
        rustix::process::fchdir(&real_root).unwrap();
        rustix::process::chroot(".").unwrap();
    }
    if let Err(failure) = failure {
        println!(
            "UNIFORK_SEED={seed}; the last calls were\n{}",
            log[log.len().saturating_sub(40)..].join("\n")
        );
        std::panic::resume_unwind(failure);
    }
    assert!(done > calls / 5, "only {done} of {calls} calls did anything");
    // Everything is given back when nothing is held any more.
    let root = world.model.root();
    for (node, _) in world.files.drain(..).chain(world.starts.drain(..)) {
        world.model.unpin(node);
    }
    remove_all(&mut world.model, root);
    assert_eq!(world.model.node_count(), 1);
    let (total, left) = world.model.space();
    assert_eq!(total, left, "the budget is whole again");
}

fn remove_all(model: &mut FileSystem<'_>, directory: NodeId) {
    let mut names = Vec::new();
    model
        .list(directory, 2, |entry| {
            names.push((entry.name.to_vec(), entry.kind));
            true
        })
        .unwrap();
    for (name, kind) in names {
        if kind == NodeKind::Directory.directory_type() {
            let child = model.lookup(directory, &name, false).unwrap();
            remove_all(model, child);
            model.remove_directory(directory, &name).unwrap();
        } else {
            model.unlink(directory, &name).unwrap();
        }
    }
}
