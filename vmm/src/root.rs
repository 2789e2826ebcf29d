//! The root image: the files that a guest starts with, packed from a directory or an archive.
//!
//! The format is `unifork_abi::RootHeader`'s; the guest reads it in place. Entries are sorted by
//! name within their directory, and owners of files from a directory are not taken over, so that
//! the same files make the same image whoever packs them.
//!
//! Device nodes, sockets and what is in `/proc` are left out, which [`RootImage::skipped`] tells: the guest has its own.

mod archive;
mod cpio;
mod directory;
mod tree;

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use tree::Tree;

/// Why a root image cannot be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RootError {
    /// Something could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// What.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It is a file, but no archive that is understood.
    #[error("{} is neither a directory nor a cpio (newc) or tar archive{hint}", path.display())]
    NotAnArchive {
        /// The file.
        path: PathBuf,
        /// What can be done about it, if that is known.
        hint: &'static str,
    },
    /// It is an archive and makes no sense.
    #[error("{}: {reason}", path.display())]
    Damaged {
        /// The archive.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// A packed root.
#[derive(Clone, Debug)]
pub struct RootImage {
    bytes: Vec<u8>,
    skipped: Vec<String>,
}

impl RootImage {
    /// Packs the directory, cpio (newc) archive or tar archive at `path`.
    ///
    /// # Errors
    ///
    /// [`RootError`].
    pub fn pack(path: &Path) -> Result<Self, RootError> {
        Self::of(read(path)?, path)
    }

    /// Packs `root`, if there is one, and with it the file `program`, which is started as `name`: where
    /// `/proc/self/exe` leads, unless something is there already.
    ///
    /// # Errors
    ///
    /// [`RootError`].
    pub fn with_program(root: Option<&Path>, name: &str, program: &Path) -> Result<Self, RootError> {
        let mut tree = root.map(read).transpose()?.unwrap_or_else(Tree::new);
        let place = place_of_program(name);
        if tree.find(place.as_bytes()).is_none() {
            let item = directory::file(program)?;
            // A symbolic link above it, say: its path leads elsewhere, as it would on Linux.
            let _in_the_way = tree.insert(place.as_bytes(), item);
        }
        Self::of(tree, root.unwrap_or(program))
    }

    fn of(mut tree: Tree, path: &Path) -> Result<Self, RootError> {
        tree.cover("proc");
        let damaged = |reason| RootError::Damaged { path: path.to_owned(), reason };
        let bytes = tree.pack().map_err(damaged)?;
        Ok(Self { bytes, skipped: tree.skipped })
    }

    fn unpack(path: &Path, bytes: &[u8]) -> Result<Tree, RootError> {
        let not = |hint| RootError::NotAnArchive { path: path.to_owned(), hint };
        let damaged = |reason| RootError::Damaged { path: path.to_owned(), reason };
        let begins = |magic: &[u8]| bytes.starts_with(magic);
        if begins(b"070701") || begins(b"070702") {
            return cpio::read(bytes).map_err(damaged);
        }
        if bytes.get(257..262) == Some(b"ustar") {
            return archive::read(bytes).map_err(damaged);
        }
        if begins(b"070707") || begins(&[0xc7, 0x71]) {
            return Err(not(": it is cpio's old format; make it with `cpio -o -H newc`"));
        }
        let compressed: [&[u8]; 4] = [&[0x1f, 0x8b], b"BZh", &[0xfd, b'7', b'z'], &[0x28, 0xb5, 0x2f, 0xfd]];
        if compressed.into_iter().any(begins) {
            return Err(not(": it is compressed; decompress it first"));
        }
        Err(not(""))
    }

    /// The image, as the guest finds it.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What was left out and why, one sentence each.
    #[must_use]
    pub fn skipped(&self) -> &[String] {
        &self.skipped
    }
}

/// The tree of the directory or archive at `path`.
fn read(path: &Path) -> Result<Tree, RootError> {
    let failed = |source| RootError::Read { path: path.to_owned(), source };
    if std::fs::metadata(path).map_err(failed)?.is_dir() {
        directory::read(path)
    } else {
        RootImage::unpack(path, &crate::regular::read(path).map_err(failed)?)
    }
}

/// Where the libOS says that a program is which was started as `name` (`executable` in
/// `guest/kernel/src/fs/proc.rs`).
fn place_of_program(name: &str) -> &str {
    if name.starts_with('/') { name } else { name.rsplit('/').next().unwrap_or(name) }
}

#[cfg(test)]
mod tests;
