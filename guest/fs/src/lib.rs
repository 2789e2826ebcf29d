//! The libOS's file system: a tree of nodes in memory, as tmpfs is, over a root image that is read
//! in place.
//!
//! ```text
//!  root image (read-only, packed by the host)          heap
//!  ┌─────────┬───────┬──────────────────────┐        ┌───────────────────────────┐
//!  │ entries │ names │ contents             │ ◄───── │ nodes, directories, pages │
//!  └─────────┴───────┴──────────────────────┘ borrow └───────────────────────────┘
//! ```
//!
//! It is what a program sees through Linux's calls, down to which errno a call with several mistakes
//! gets: `tests/against_linux.rs` makes the same random calls on the host's own tmpfs and compares.
//! The caller is root, so permissions are kept and shown but stop nobody.
//!
//! It knows no descriptors, no offsets, no devices and no clock: those are the libOS's. Memory is
//! bounded by a budget, and what does not fit is `ENOSPC`.
//!
//! # Sources
//!
//! - Linux `fs/namei.c`, `fs/open.c`, `fs/attr.c`, `mm/shmem.c`; the manual pages of section 2 and
//!   `path_resolution(7)`.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod attributes;
mod budget;
mod contents;
mod directory;
mod errno;
mod file;
mod image;
mod names;
mod node;
mod open;
mod rename;
mod tree;
mod walk;

pub use contents::FILE_BYTES_MAX;
pub use errno::Errno;
pub use file::{FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, Listed};
pub use image::ImageError;
pub use node::{NodeId, NodeKind, Stat, Time};
pub use open::flags;
pub use rename::{RENAME_EXCHANGE, RENAME_NOREPLACE};
pub use tree::FileSystem;
pub use walk::{NAME_MAX, PATH_MAX};
