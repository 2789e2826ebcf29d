//! Reading the memory of a stopped guest.

/// The size at which a partial read is cut, so that bytes before an unmapped page are still seen.
const PAGE_BYTES: u64 = 4096;

/// The memory of a stopped guest, by guest virtual address.
pub trait ReadMemory {
    /// Fills `out` from `gva`. True only if every byte could be read; otherwise what `out` holds is
    /// unspecified.
    fn read(&self, gva: u64, out: &mut [u8]) -> bool;
}

/// Eight bytes, little-endian, as the stack holds them.
pub(crate) fn read_u64(memory: &dyn ReadMemory, gva: u64) -> Option<u64> {
    gva.checked_add(8)?;
    let mut bytes = [0; 8];
    memory.read(gva, &mut bytes).then(|| u64::from_le_bytes(bytes))
}

/// As many of `length` bytes from `gva` on as are readable without a gap.
pub(crate) fn read_prefix(memory: &dyn ReadMemory, gva: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let mut done = 0;
    while done < length {
        let Some(at) = gva.checked_add(done as u64) else { break };
        let to_page_end = usize::try_from(PAGE_BYTES - at % PAGE_BYTES).unwrap_or(1);
        let end = length.min(done + to_page_end);
        let Some(chunk) = bytes.get_mut(done..end) else { break };
        if at.checked_add(chunk.len() as u64).is_none() || !memory.read(at, chunk) {
            break;
        }
        done = end;
    }
    bytes.truncate(done);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One page at 0x1000, and nothing else.
    struct OnePage;

    impl ReadMemory for OnePage {
        fn read(&self, gva: u64, out: &mut [u8]) -> bool {
            out.fill(7);
            gva >= 0x1000 && gva + out.len() as u64 <= 0x2000
        }
    }

    #[test]
    fn a_prefix_stops_at_the_first_page_that_is_not_there() {
        assert_eq!(read_prefix(&OnePage, 0x1ff0, 64), vec![7; 16]);
        assert_eq!(read_prefix(&OnePage, 0x1100, 64), vec![7; 64]);
        assert!(read_prefix(&OnePage, 0x2000, 64).is_empty());
    }

    #[test]
    fn the_end_of_the_address_space_is_not_wrapped_around() {
        assert!(read_prefix(&OnePage, u64::MAX - 3, 64).is_empty());
        assert_eq!(read_u64(&OnePage, u64::MAX - 3), None);
        assert_eq!(read_u64(&OnePage, 0x1ff9), None);
        assert_eq!(read_u64(&OnePage, 0x1ff8), Some(0x0707_0707_0707_0707));
    }
}
