//! What is fuzzed, and how it becomes an image.
//!
//! An *image* is a static x86-64 Linux ELF: a libFuzzer harness, the library under test and
//! unifork's C runtime (`guest/runtime`), compiled with coverage. The same file is fuzzed in a
//! unifork guest and run on plain Linux as a check.
//!
//! - [`manifest`]: `harness.toml`, the description of one harness folder.
//! - [`fetch`]: gets the third-party sources it names, pinned by checksum.
//! - [`compile`]: the engine of `unifork build`: any libFuzzer harness to an image.
//! - [`harness`]: the three together: a folder to an image.
//! - [`program`]: programs for `unifork run`, built as for Linux and not for us.
//!
//! This crate runs compilers and package clients; it never runs a guest.
#![forbid(unsafe_code)]

pub mod compile;
pub mod fetch;
pub mod harness;
pub mod manifest;
pub mod program;

pub use compile::{BuildError, BuildRequest, Built, Libc, Unit, build};
pub use harness::{build_harness, list};
pub use manifest::{Language, Manifest};
