//! Looking at a stopped guest: which function it is in, how it got there, and what it touched.
//!
//! ```text
//!  ELF images ──► Symbols ─────────────┐
//!  stopped vCPU ─► Registers ──┐       ├─► unwind ─► [Frame] ─► signature, stack_hash
//!  guest memory ─► ReadMemory ─┴───────┼─► access, disassemble
//!                                      └─► CrashReport (all of it, as text or through serde)
//! ```
//!
//! Nothing here runs a guest or writes to one. Everything that is read, be it registers, memory or the
//! debug information of an image, is what a crashed program or a damaged file left behind: no input
//! makes this module panic, loop for ever or read without bound. `tests/introspect/hostile.rs` holds it
//! to that. The module is for the control plane and allocates freely.
//!
//! Addresses are the guest's virtual ones. An image is known by the name it was loaded under and by its
//! load bias: the difference between where it runs and where it was linked.
#![forbid(unsafe_code)]

mod access;
mod blocks;
mod disassemble;
mod elf;
mod frame;
mod hash;
mod memory;
mod names;
mod registers;
mod report;
mod symbols;
mod unwind;

pub use access::{Access, AccessKind, access};
pub use blocks::{Block, blocks};
pub use disassemble::{CodeLine, Disassembly, Lines, disassemble};
pub use frame::{Frame, Method};
pub use hash::{StackHash, signature, stack_hash};
pub use memory::ReadMemory;
pub(crate) use memory::{read_prefix, read_u64};
pub use registers::Registers;
pub use report::{CrashReport, Stop};
pub use symbols::{Place, Symbols, SymbolsError};
pub use unwind::unwind;
