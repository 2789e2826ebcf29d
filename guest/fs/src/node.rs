//! Nodes of the tree (inodes): what they are, and who may do what with them.

use alloc::borrow::Cow;

use crate::contents::Contents;
use crate::directory::Directory;

/// Names a node as long as it is linked or pinned. Never reused while it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub(crate) u32);

/// A moment, counted from 1970. Times before that are negative seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Whole seconds.
    pub seconds: i64,
    /// And nanoseconds, below 1,000,000,000.
    pub nanos: u32,
}

/// What a node is, as far as its callers have to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket's name.
    Socket,
    /// A character device with this number.
    Character(u64),
    /// A block device with this number.
    Block(u64),
    /// A regular file whose contents the caller makes when it is opened; the number is the caller's.
    Synthetic(u32),
    /// A symbolic link that leads to something without a name; the number is the caller's.
    Magic(u32),
}

impl NodeKind {
    /// The `S_IFMT` bits of the mode.
    #[must_use]
    pub const fn mode_bits(self) -> u32 {
        match self {
            Self::Regular | Self::Synthetic(_) => 0o100_000,
            Self::Directory => 0o040_000,
            Self::Symlink | Self::Magic(_) => 0o120_000,
            Self::Fifo => 0o010_000,
            Self::Socket => 0o140_000,
            Self::Character(_) => 0o020_000,
            Self::Block(_) => 0o060_000,
        }
    }

    /// The type that `getdents64` gives: `DT_*`, which are the mode's bits shifted.
    #[must_use]
    pub const fn directory_type(self) -> u8 {
        (self.mode_bits() >> 12) as u8
    }
}

/// What `stat` says of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// What it is.
    pub kind: NodeKind,
    /// Which file system it is on: 1 the root, others as they were added.
    pub device: u32,
    /// Its number.
    pub ino: u64,
    /// Type and permissions.
    pub mode: u32,
    /// How many names it has.
    pub links: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number, of device nodes.
    pub rdev: u64,
    /// Bytes.
    pub size: u64,
    /// Units of 512 bytes in use.
    pub blocks: u64,
    /// Last read.
    pub atime: Time,
    /// Contents last changed.
    pub mtime: Time,
    /// Attributes last changed.
    pub ctime: Time,
}

#[derive(Debug)]
pub(crate) enum Kind<'a> {
    Regular(Contents<'a>),
    Directory(Directory),
    Symlink(Cow<'a, [u8]>),
    Fifo,
    Socket,
    Character(u64),
    Block(u64),
    Synthetic(u32),
    Magic(u32, Cow<'a, [u8]>),
}

#[derive(Debug)]
pub(crate) struct Node<'a> {
    pub kind: Kind<'a>,
    pub ino: u64,
    pub device: u32,
    /// Permissions with set-id and sticky bits: 07777.
    pub permissions: u32,
    pub uid: u32,
    pub gid: u32,
    /// Names, and for a directory its "." and its subdirectories' "..".
    pub links: u32,
    /// Descriptions, working directories and child directories that hold it.
    pub pins: u32,
    pub atime: Time,
    pub mtime: Time,
    pub ctime: Time,
    /// A file system is mounted here: it cannot be removed or moved.
    pub mount_point: bool,
    /// May be given a first name although it has none (`O_TMPFILE`).
    pub linkable: bool,
}

impl Node<'_> {
    pub(crate) fn node_kind(&self) -> NodeKind {
        match self.kind {
            Kind::Regular(_) => NodeKind::Regular,
            Kind::Directory(_) => NodeKind::Directory,
            Kind::Symlink(_) => NodeKind::Symlink,
            Kind::Fifo => NodeKind::Fifo,
            Kind::Socket => NodeKind::Socket,
            Kind::Character(number) => NodeKind::Character(number),
            Kind::Block(number) => NodeKind::Block(number),
            Kind::Synthetic(number) => NodeKind::Synthetic(number),
            Kind::Magic(number, _) => NodeKind::Magic(number),
        }
    }

    pub(crate) fn is_directory(&self) -> bool {
        matches!(self.kind, Kind::Directory(_))
    }
}
