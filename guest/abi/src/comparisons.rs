//! The log of comparisons.

use crate::{COMPARISON_BYTES, COMPARISON_SITES};

/// The head of the comparison log, at [`crate::COMPARISONS_VA`]. Reset-exempt; the host clears it before a
/// traced run, the application's runtime writes it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ComparisonLog {
    /// Comparisons that were logged.
    pub count: u64,
    /// Comparisons that were not, for want of room or because their place had its share.
    pub lost: u64,
    /// Fills the page.
    pub reserved: [u64; 510],
    /// How many were logged of each place, by a hash of its address.
    pub sites: [u8; COMPARISON_SITES],
}

/// One comparison of a traced run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Comparison {
    /// Where in the code: the address behind the call that logged it.
    pub site: u64,
    /// Address of the first operand when it is a string of bytes, else 0.
    pub left_at: u64,
    /// Address of the second.
    pub right_at: u64,
    /// A [`ComparisonKind`].
    pub kind: u32,
    /// Bytes of the first operand: 1, 2, 4 or 8 of a number, up to [`COMPARISON_BYTES`] of a string.
    pub left_len: u16,
    /// Bytes of the second.
    pub right_len: u16,
    /// The first operand; a number is little-endian.
    pub left: [u8; COMPARISON_BYTES],
    /// The second.
    pub right: [u8; COMPARISON_BYTES],
}

/// What was compared with what, in [`Comparison::kind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ComparisonKind {
    /// Two numbers.
    Numbers = 0,
    /// A number with a constant, which is the first operand.
    Constant = 1,
    /// Two strings of bytes.
    Bytes = 2,
}

layout!(ComparisonLog, 8192, lost @ 8, sites @ 4096);
layout!(Comparison, 96, left_at @ 8, kind @ 24, left_len @ 28, right_len @ 30, left @ 32, right @ 64);
