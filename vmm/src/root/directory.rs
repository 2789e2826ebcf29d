//! Reads a directory of the host.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use super::RootError;
use super::tree::{Item, S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG, Tree};
use crate::regular;

/// Everything below `root`.
pub(super) fn read(root: &Path) -> Result<Tree, RootError> {
    let mut tree = Tree::new();
    // Files with several names: where their first one is.
    let mut seen: HashMap<(u64, u64), usize> = HashMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(path) = open.pop() {
        let failed = |source| RootError::Read { path: path.clone(), source };
        // A symbolic link that is given as the root stands for the directory it leads to.
        let metadata = if path == root { fs::metadata(&path) } else { fs::symlink_metadata(&path) };
        let metadata = metadata.map_err(failed)?;
        let kind = metadata.file_type();
        let below = path.strip_prefix(root).unwrap_or(&path).as_os_str().as_bytes();
        let damaged = |reason| RootError::Damaged { path: root.to_owned(), reason };
        let several = !kind.is_dir() && metadata.nlink() > 1;
        if let Some(&first) = seen.get(&(metadata.dev(), metadata.ino())).filter(|_| several) {
            tree.link(below, first).map_err(damaged)?;
            continue;
        }
        let (type_bits, data) = if kind.is_dir() {
            let mut names = Vec::new();
            for entry in fs::read_dir(&path).map_err(failed)? {
                names.push(entry.map_err(failed)?.path());
            }
            // Taken from the end: in sorted order.
            names.sort_unstable_by(|a, b| b.cmp(a));
            open.extend(names);
            (S_IFDIR, Vec::new())
        } else if kind.is_symlink() {
            (S_IFLNK, fs::read_link(&path).map_err(failed)?.as_os_str().as_bytes().to_vec())
        } else if kind.is_file() {
            (S_IFREG, regular::read(&path).map_err(failed)?)
        } else if kind.is_fifo() {
            (S_IFIFO, Vec::new())
        } else {
            let what = if kind.is_socket() { "a socket" } else { "a device node" };
            tree.skipped.push(format!("{} is {what}", path.display()));
            continue;
        };
        let node = tree.insert(below, item(&metadata, type_bits, data)).map_err(damaged)?;
        if several {
            seen.insert((metadata.dev(), metadata.ino()), node);
        }
    }
    Ok(tree)
}

/// The regular file at `path`.
pub(super) fn file(path: &Path) -> Result<Item, RootError> {
    let failed = |source| RootError::Read { path: path.to_owned(), source };
    let metadata = fs::metadata(path).map_err(failed)?;
    Ok(item(&metadata, S_IFREG, regular::read(path).map_err(failed)?))
}

fn item(metadata: &Metadata, type_bits: u32, data: Vec<u8>) -> Item {
    Item {
        mode: type_bits | metadata.mode() & 0o7777,
        // The guest's only user is root, and whose files these are on the host means nothing there.
        uid: 0,
        gid: 0,
        mtime_seconds: metadata.mtime(),
        mtime_nanos: u32::try_from(metadata.mtime_nsec()).unwrap_or(0),
        data,
    }
}
