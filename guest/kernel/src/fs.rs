//! Files: the calls that name them, and what is behind their descriptors.
//!
//! ```text
//!  calls with paths ─► place (where a path begins) ─► unifork_fs::FileSystem ─► node
//!  open ─────────────► file (regular, directory) · device · proc · console  =  Object behind a descriptor
//! ```
//!
//! The tree itself is the crate `unifork-fs`. It has a cell of its own, [`FS`], so that an object can give
//! its node back when the last descriptor is closed.

pub(crate) mod attributes;
pub(crate) mod copy;
pub(crate) mod device;
pub(crate) mod directory;
pub(crate) mod file;
pub(crate) mod lock;
pub(crate) mod map;
pub(crate) mod names;
pub(crate) mod open;
pub(crate) mod place;
pub(crate) mod proc;
pub(crate) mod setup;
pub(crate) mod stat;

use unifork_fs::{FileSystem, NodeId, Time};
use unifork_hal::KernelCell;

use crate::Kernel;
use crate::errno::Errno;
use crate::time::clock::SECOND_NS;

/// The tree.
static FS: KernelCell<Option<FileSystem<'static>>> = KernelCell::new(None);

/// What the process knows of files, besides its descriptors.
pub(crate) struct Place {
    /// The working directory; pinned.
    pub(crate) directory: NodeId,
    pub(crate) umask: u32,
    /// Files mapped to be shared.
    pub(crate) shared: alloc::vec::Vec<map::Shared>,
    /// `/proc/self/fd`.
    pub(crate) descriptors: NodeId,
}

/// Works on the tree, at the present time.
pub(crate) fn with<R>(k: &Kernel, f: impl FnOnce(&mut FileSystem<'static>) -> R) -> R {
    let wall = k.clock.wall();
    let now = Time { seconds: (wall / SECOND_NS).cast_signed(), nanos: (wall % SECOND_NS) as u32 };
    tree(|fs| {
        fs.set_time(now);
        f(fs)
    })
}

/// Works on the tree.
fn tree<R>(f: impl FnOnce(&mut FileSystem<'static>) -> R) -> R {
    FS.with(|fs| f(fs.as_mut().expect("the tree is set up at the start")))
}

impl From<unifork_fs::Errno> for Errno {
    fn from(errno: unifork_fs::Errno) -> Self {
        Self::from_number(errno.number())
    }
}
