//! The tree at the start: the root image, and what every Linux has.

use unifork_fs::{FileSystem, NodeId, NodeKind};
use unifork_hal::{boot_info, root_image};

use crate::fs::device::number;
use crate::fs::{FS, Place, proc};

/// The part of the heap that files may take.
const HEAP_PART: u64 = 2;

const PASSWD: &[u8] =
    b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n";
const GROUP: &[u8] = b"root:x:0:\nnogroup:x:65534:\n";
const HOSTS: &[u8] = b"127.0.0.1\tlocalhost\n::1\tlocalhost\n";

/// Character devices: name, major and minor number.
const DEVICES: [(&[u8], u64, u64); 7] = [
    (b"null", 1, 3),
    (b"zero", 1, 5),
    (b"full", 1, 7),
    (b"random", 1, 8),
    (b"urandom", 1, 9),
    (b"tty", 5, 0),
    (b"console", 5, 1),
];

/// Sets the tree up.
///
/// # Panics
///
/// When the root image does not fit the heap, or has files where directories must be: the host is told so.
pub(crate) fn open() -> Place {
    let mut fs = FileSystem::new(boot_info().heap_bytes / HEAP_PART);
    let image = root_image();
    if !image.is_empty()
        && let Err(error) = fs.load(image)
    {
        panic!("{error}");
    }
    let descriptors = match fill(&mut fs) {
        Ok(node) => node,
        Err(error) => panic!("/dev, /etc, /tmp and /proc do not go into the root's files: {error:?}"),
    };
    let directory = fs.root();
    let _root = fs.pin(directory);
    FS.with(|tree| *tree = Some(fs));
    Place { directory, umask: 0o022, shared: alloc::vec::Vec::new(), descriptors }
}

/// The directory at `path`, made if it is not there.
pub(crate) fn directory(
    fs: &mut FileSystem<'static>,
    path: &[u8],
    mode: u32,
) -> Result<NodeId, unifork_fs::Errno> {
    let root = fs.root();
    match fs.lookup(root, path, true) {
        Ok(node) if fs.kind(node) == Ok(NodeKind::Directory) => Ok(node),
        _ => fs.make_directory(root, path, mode),
    }
}

/// Returns `/proc/self/fd`.
fn fill(fs: &mut FileSystem<'static>) -> Result<NodeId, unifork_fs::Errno> {
    let root = fs.root();
    let tmp = directory(fs, b"/tmp", 0o1777)?;
    fs.set_permissions(tmp, 0o1777)?;
    let etc = directory(fs, b"/etc", 0o755)?;
    for (name, text) in [(b"passwd".as_slice(), PASSWD), (b"group", GROUP), (b"hosts", HOSTS)] {
        if fs.lookup(etc, name, false).is_err() {
            fs.add_file(etc, name, text, 0o644)?;
        }
    }
    let dev = directory(fs, b"/dev", 0o755)?;
    fs.mount(dev, 2, false)?;
    for (name, major, minor) in DEVICES {
        if fs.lookup(dev, name, false).is_err() {
            fs.make_node(dev, name, NodeKind::Character(number(major, minor)), 0o666)?;
        }
    }
    let links = [
        (b"/dev/fd".as_slice(), b"/proc/self/fd".as_slice()),
        (b"/dev/stdin", b"/proc/self/fd/0"),
        (b"/dev/stdout", b"/proc/self/fd/1"),
        (b"/dev/stderr", b"/proc/self/fd/2"),
    ];
    for (path, text) in links {
        if fs.lookup(root, path, false).is_err() {
            fs.make_symlink(root, path, text)?;
        }
    }
    let shm = directory(fs, b"/dev/shm", 0o1777)?;
    fs.set_permissions(shm, 0o1777)?;
    fs.mount(shm, 4, false)?;
    proc::fill(fs)
}
