//! Addresses and page arithmetic. The only place that knows how large a page is.

use serde::{Deserialize, Serialize};

/// Bytes in a page.
pub const PAGE_BYTES: u64 = unifork_abi::PAGE_BYTES;

/// A guest-physical address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Gpa(pub u64);

/// A guest-linear (virtual) address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Gva(pub u64);

impl Gpa {
    /// This address plus `bytes`; wraps, as the result is always checked where it is used.
    #[must_use]
    pub const fn offset(self, bytes: u64) -> Self {
        Self(self.0.wrapping_add(bytes))
    }
}

/// `value` rounded down to a page.
#[must_use]
pub const fn page_floor(value: u64) -> u64 {
    value & !(PAGE_BYTES - 1)
}

/// `value` rounded up to a page, or `None` when that does not fit.
#[must_use]
pub const fn page_ceil(value: u64) -> Option<u64> {
    match value.checked_add(PAGE_BYTES - 1) {
        Some(sum) => Some(page_floor(sum)),
        None => None,
    }
}

/// Bytes from `address` to the end of its page.
#[must_use]
pub const fn to_page_end(address: u64) -> u64 {
    PAGE_BYTES - (address & (PAGE_BYTES - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_keeps_whole_pages_and_refuses_overflow() {
        assert_eq!(page_floor(4097), 4096);
        assert_eq!(page_ceil(4096), Some(4096));
        assert_eq!(page_ceil(4097), Some(8192));
        assert_eq!(page_ceil(u64::MAX), None);
        assert_eq!(to_page_end(4096), 4096);
        assert_eq!(to_page_end(4097), 4095);
    }
}
