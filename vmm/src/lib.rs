//! Run one guest under KVM, freeze it, fork it, and put it back.
//!
//! ```text
//!  ELF files ─► boot ─► Snapshot ─► Replica ─► run(input) ─► Outcome, counters, console
//!                          ▲           │  ▲                          │
//!                       file.rs        └──┴──────── reset ◄──────────┘
//! ```
//!
//! - [`boot()`] loads the libOS kernel and an application and runs them until the application asks
//!   for its first input; the machine is frozen there as a [`Snapshot`].
//! - A [`Replica`] is one fork: it maps the snapshot's memory copy-on-write. [`Replica::run`] gives
//!   it an input, [`Replica::reset`] puts it back.
//! - [`introspect`] looks at a stopped guest: symbols, backtraces, disassembly, reports.
//!
//! This crate knows no fuzzing engine and no harness. Whatever a guest does is an [`Outcome`];
//! errors are the host's or the files'.

pub mod addr;
pub mod agent;
pub mod bench;
pub mod boot;
pub mod caps;
pub mod choose;
pub mod comparisons;
mod direct;
pub mod elf;
mod faults;
pub mod foreign;
pub mod introspect;
pub mod layout;
mod machine;
pub mod memory;
pub mod outcome;
pub mod plan;
pub mod pool;
pub mod regular;
pub mod replica;
pub mod reset;
pub mod root;
pub mod services;
pub mod snapshot;
mod stack;
mod sys;
pub mod testing;
pub mod tree;
pub mod vcpu;
pub mod virtio;
mod vm;
mod windows;

pub use boot::{Boot, BootEnd, BootError, MachineConfig, Outside, boot, boot_with};
pub use caps::{HostCaps, Kvm, KvmError};
pub use choose::{EngineFigure, compare_engines, compare_engines_here};
pub use elf::{GuestImage, ImageError};
pub use outcome::{Cause, Crash, CrashKind, Outcome};
pub use pool::{Origin, Pool, SpawnTimes};
pub use replica::{Advance, BatchEnd, BatchReport, BatchRun, BatchTime, Replica, ReplicaError};
pub use reset::{Engine, ResetStats};
pub use root::{RootError, RootImage};
pub use services::Services;
pub use snapshot::file::MemoryCheck;
pub use snapshot::{Snapshot, SnapshotError, Space};
pub use tree::{NodeId, SnapshotTree, TreeError};
