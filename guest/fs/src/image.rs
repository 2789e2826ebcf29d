//! The root image: what the host packed, made into a tree without copying any contents.
//!
//! The layout is `unifork_abi::RootHeader`'s. The host is trusted to have packed it well, but
//! nothing here depends on that: whatever is wrong is an [`ImageError`].

use alloc::borrow::Cow;
use core::fmt;

use unifork_abi::{NO_LINK, ROOT_MAGIC, ROOT_VERSION, RootEntry, RootHeader};

use crate::contents::Contents;
use crate::directory::{Directory, Name};
use crate::errno::Errno;
use crate::node::{Kind, NodeId, Time};
use crate::tree::FileSystem;

use alloc::vec::Vec;

/// What is wrong with a root image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageError {
    /// It is something else, or of another version.
    NotAnImage,
    /// This entry is not inside the image, or refers to one that does not come before it.
    BadEntry(u32),
    /// This entry could not be made.
    Refused(u32, Errno),
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAnImage => f.write_str("the root image has another magic or version"),
            Self::BadEntry(index) => write!(f, "entry {index} of the root image is damaged"),
            Self::Refused(index, Errno::ENOSPC) => {
                write!(f, "no memory for entry {index} of the root image; give the guest more")
            }
            Self::Refused(index, error) => write!(f, "entry {index} of the root image: {error:?}"),
        }
    }
}

const ENTRY_BYTES: usize = size_of::<RootEntry>();

impl<'a> FileSystem<'a> {
    /// Fills an empty file system from `image`.
    ///
    /// # Errors
    ///
    /// [`ImageError`]; what came before the bad entry is there then.
    pub fn load(&mut self, image: &'a [u8]) -> Result<(), ImageError> {
        let header = image.get(..size_of::<RootHeader>()).ok_or(ImageError::NotAnImage)?;
        if header[..8] != ROOT_MAGIC || u32_at(header, 8) != ROOT_VERSION {
            return Err(ImageError::NotAnImage);
        }
        let count = u32_at(header, 12);
        let mut nodes: Vec<NodeId> = Vec::new();
        let full = |index| ImageError::Refused(index, Errno::ENOSPC);
        nodes.try_reserve_exact(count as usize).map_err(|_| full(0))?;
        for index in 0..count {
            let at = size_of::<RootHeader>() + index as usize * ENTRY_BYTES;
            let entry = image.get(at..at + ENTRY_BYTES).ok_or(ImageError::BadEntry(index))?;
            let entry = Entry::parse(image, entry).ok_or(ImageError::BadEntry(index))?;
            let node = if index == 0 {
                self.root()
            } else {
                let known = |i: u32| nodes.get(i as usize).copied().ok_or(ImageError::BadEntry(index));
                let parent = known(entry.parent)?;
                let link = if entry.link == NO_LINK { None } else { Some(known(entry.link)?) };
                self.load_entry(parent, link, &entry).map_err(|error| ImageError::Refused(index, error))?
            };
            nodes.push(node);
            self.set_loaded(node, &entry).map_err(|error| ImageError::Refused(index, error))?;
        }
        // Making an entry changes its directory's time; they are put right last.
        for index in (0..count).rev() {
            let at = size_of::<RootHeader>() + index as usize * ENTRY_BYTES;
            let entry = image.get(at..at + ENTRY_BYTES).and_then(|entry| Entry::parse(image, entry));
            let entry = entry.ok_or(ImageError::BadEntry(index))?;
            if let Some(&node) = nodes.get(index as usize) {
                let set = self.set_loaded(node, &entry);
                set.map_err(|error| ImageError::Refused(index, error))?;
            }
        }
        Ok(())
    }

    fn load_entry(
        &mut self,
        parent: NodeId,
        link: Option<NodeId>,
        entry: &Entry<'a>,
    ) -> Result<NodeId, Errno> {
        let valid =
            !entry.name.is_empty() && !entry.name.contains(&b'/') && !matches!(entry.name, b"." | b"..");
        if !valid || self.directory(parent)?.get(entry.name).is_some() {
            return Err(Errno::EINVAL);
        }
        let name = Name::from(entry.name);
        if let Some(node) = link {
            if self.node(node)?.is_directory() {
                return Err(Errno::EPERM);
            }
            self.link_in(parent, &name, node)?;
            return Ok(node);
        }
        let kind = match entry.mode & 0o170_000 {
            0o040_000 => Kind::Directory(Directory::new(parent, Name::clone(&name))),
            0o100_000 => Kind::Regular(Contents::borrowed(entry.data)),
            0o120_000 => Kind::Symlink(Cow::Borrowed(entry.data)),
            0o010_000 => Kind::Fifo,
            _ => return Err(Errno::EINVAL),
        };
        self.make(parent, &name, kind, entry.mode & 0o7777)
    }

    fn set_loaded(&mut self, node: NodeId, entry: &Entry<'_>) -> Result<(), Errno> {
        let node = self.node_mut(node)?;
        node.permissions = entry.mode & 0o7777;
        (node.uid, node.gid) = (entry.uid, entry.gid);
        (node.atime, node.mtime, node.ctime) = (entry.mtime, entry.mtime, entry.mtime);
        Ok(())
    }
}

struct Entry<'a> {
    parent: u32,
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: Time,
    link: u32,
    name: &'a [u8],
    data: &'a [u8],
}

impl<'a> Entry<'a> {
    fn parse(image: &'a [u8], bytes: &[u8]) -> Option<Self> {
        let slice = |offset: u64, bytes: u64| {
            let from = usize::try_from(offset).ok()?;
            image.get(from..from.checked_add(usize::try_from(bytes).ok()?)?)
        };
        let nanos = u32_at(bytes, 28);
        Some(Self {
            parent: u32_at(bytes, 0),
            mode: u32_at(bytes, 4),
            uid: u32_at(bytes, 8),
            gid: u32_at(bytes, 12),
            mtime: Time { seconds: u64_at(bytes, 16).cast_signed(), nanos: nanos.min(999_999_999) },
            link: u32_at(bytes, 24),
            name: slice(u64_at(bytes, 32), u64_at(bytes, 40))?,
            data: slice(u64_at(bytes, 48), u64_at(bytes, 56))?,
        })
    }
}

/// The number at `at`; 0 past the end.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |chunk| u32::from_le_bytes(*chunk))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |chunk| u64::from_le_bytes(*chunk))
}
