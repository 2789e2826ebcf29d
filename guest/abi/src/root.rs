//! The root image: the files that an application finds.

/// First bytes of the root image at [`crate::ROOT_VA`]: the files that the guest starts with. The host packs
/// it, the guest reads it in place. [`RootEntry`] number 0 follows it and is the root directory; names
/// and data follow the entries, at the offsets that these give. Little-endian.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RootHeader {
    /// [`ROOT_MAGIC`].
    pub magic: [u8; 8],
    /// [`ROOT_VERSION`].
    pub version: u32,
    /// How many entries there are.
    pub entries: u32,
    /// Bytes of the whole image.
    pub bytes: u64,
    /// 0.
    pub reserved: u64,
}

/// What [`RootHeader::magic`] holds.
pub const ROOT_MAGIC: [u8; 8] = *b"UFROOT\0\0";
/// What [`RootHeader::version`] holds.
pub const ROOT_VERSION: u32 = 1;

/// One name in the root image. Entries come in the order in which their directories list them, and
/// after their directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RootEntry {
    /// Number of the entry that is its directory.
    pub parent: u32,
    /// Type and permissions, as in `struct stat`: a directory, regular file, symbolic link or FIFO.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last modified, seconds from 1970.
    pub mtime_seconds: i64,
    /// Number of an earlier entry that this is another name of, or [`NO_LINK`].
    pub link: u32,
    /// Nanoseconds of the time.
    pub mtime_nanos: u32,
    /// Where its name is, in bytes from the image's beginning.
    pub name_offset: u64,
    /// Bytes of its name.
    pub name_bytes: u64,
    /// Where its contents are, or a symbolic link's target.
    pub data_offset: u64,
    /// Bytes of them.
    pub data_bytes: u64,
}

/// [`RootEntry::link`] of an entry that is a node of its own.
pub const NO_LINK: u32 = u32::MAX;

layout!(RootHeader, 32, version @ 8, entries @ 12, bytes @ 16);
layout!(RootEntry, 64, mode @ 4, mtime_seconds @ 16, link @ 24, name_offset @ 32, data_bytes @ 56);
