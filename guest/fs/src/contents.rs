//! The bytes of a regular file: initial contents that stay where they are, and pages over them.
//!
//! ```text
//!   0                     base.len()            len
//!   ├──── base, borrowed ────┤······ zeros ······┤
//!        ▒▒▒▒      ▒▒▒▒▒▒▒▒▒▒▒▒▒      ▒▒▒▒          pages: copied on the first write, or holes
//! ```
//!
//! What was never written costs nothing, be it initial contents or the middle of a sparse file.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::budget::{Budget, PAGE_OVERHEAD_BYTES};
use crate::errno::Errno;

/// Bytes of a page of a file.
pub(crate) const PAGE: u64 = 4096;
/// The largest file: what an offset can name.
pub const FILE_BYTES_MAX: u64 = i64::MAX as u64;

static ZEROS: [u8; PAGE as usize] = [0; PAGE as usize];

#[derive(Debug)]
enum Page {
    /// Zeros over initial contents.
    Hole,
    /// A page's bytes.
    Bytes(Box<[u8]>),
}

/// Contents of a regular file.
#[derive(Debug, Default)]
pub(crate) struct Contents<'a> {
    // Invariant: base.len() <= len; every key of `pages` is below len / PAGE, rounded up; bytes of
    // pages past `len` are zero.
    base: &'a [u8],
    len: u64,
    pages: BTreeMap<u64, Page>,
}

const PAGE_COST: u64 = PAGE + PAGE_OVERHEAD_BYTES;

impl<'a> Contents<'a> {
    pub(crate) const fn borrowed(base: &'a [u8]) -> Self {
        Self { base, len: base.len() as u64, pages: BTreeMap::new() }
    }

    pub(crate) const fn len(&self) -> u64 {
        self.len
    }

    /// Bytes that are not holes, in whole pages.
    pub(crate) fn allocated(&self) -> u64 {
        let bytes = self.pages.values().filter(|page| matches!(page, Page::Bytes(_))).count() as u64;
        let over = self.pages.range(..self.base_pages()).count() as u64;
        (bytes + self.base_pages() - over) * PAGE
    }

    fn base_pages(&self) -> u64 {
        (self.base.len() as u64).div_ceil(PAGE)
    }

    /// Calls `f` with up to `bytes` bytes from `offset` on, in pieces; says how many there were.
    pub(crate) fn read(&self, offset: u64, bytes: u64, mut f: impl FnMut(&[u8])) -> u64 {
        let end = offset.saturating_add(bytes).min(self.len);
        let mut at = offset;
        while at < end {
            let page_end = (at / PAGE + 1).saturating_mul(PAGE).min(end);
            let (from, to) = (within(at), within(page_end - 1) + 1);
            match self.pages.get(&(at / PAGE)) {
                Some(Page::Bytes(page)) => f(&page[from..to]),
                Some(Page::Hole) => f(&ZEROS[from..to]),
                None => {
                    let base = self.base.len() as u64;
                    let borrowed = page_end.min(base).max(at);
                    if borrowed > at {
                        f(&self.base[at as usize..borrowed as usize]);
                    }
                    if page_end > borrowed {
                        f(&ZEROS[..(page_end - borrowed) as usize]);
                    }
                }
            }
            at = page_end;
        }
        end.saturating_sub(offset)
    }

    /// Lets `f` fill `bytes` bytes from `offset` on, in pieces; says how many there were, which are
    /// fewer when memory runs out. The file grows as needed.
    pub(crate) fn write(
        &mut self,
        budget: &mut Budget,
        offset: u64,
        bytes: u64,
        mut f: impl FnMut(&mut [u8]),
    ) -> Result<u64, Errno> {
        let end = offset.checked_add(bytes).filter(|&end| end <= FILE_BYTES_MAX).ok_or(Errno::EFBIG)?;
        let mut at = offset;
        while at < end {
            let page_end = (at / PAGE + 1).saturating_mul(PAGE).min(end);
            let (from, to) = (within(at), within(page_end - 1) + 1);
            match self.page_mut(budget, at / PAGE, to - from < PAGE as usize) {
                Ok(page) => f(&mut page[from..to]),
                Err(_) if at > offset => break,
                Err(error) => return Err(error),
            }
            at = page_end;
            self.len = self.len.max(at);
        }
        Ok(at - offset)
    }

    /// A page's own bytes: copied or zeroed now, if it has none and `fill` says that they matter.
    fn page_mut(&mut self, budget: &mut Budget, index: u64, fill: bool) -> Result<&mut [u8], Errno> {
        if !matches!(self.pages.get(&index), Some(Page::Bytes(_))) {
            budget.charge(PAGE_COST)?;
            let mut bytes: Vec<u8> = Vec::new();
            if bytes.try_reserve_exact(PAGE as usize).is_err() {
                budget.refund(PAGE_COST);
                return Err(Errno::ENOSPC);
            }
            let hole = self.pages.contains_key(&index);
            if fill && !hole {
                let from = index.saturating_mul(PAGE).min(self.base.len() as u64) as usize;
                let to = (from + PAGE as usize).min(self.base.len());
                bytes.extend_from_slice(&self.base[from..to]);
            }
            bytes.resize(PAGE as usize, 0);
            if hole {
                budget.refund(PAGE_OVERHEAD_BYTES);
            }
            self.pages.insert(index, Page::Bytes(bytes.into_boxed_slice()));
        }
        match self.pages.get_mut(&index) {
            Some(Page::Bytes(bytes)) => Ok(bytes),
            _ => Err(Errno::ENOSPC),
        }
    }

    /// Makes the file `len` bytes long; new bytes are zero.
    pub(crate) fn resize(&mut self, budget: &mut Budget, len: u64) -> Result<(), Errno> {
        if len > FILE_BYTES_MAX {
            return Err(Errno::EFBIG);
        }
        if len < self.len {
            let gone = self.pages.split_off(&len.div_ceil(PAGE));
            gone.values().for_each(|page| budget.refund(cost(page)));
            if let Some(Page::Bytes(bytes)) = self.pages.get_mut(&(len / PAGE)) {
                bytes[within(len)..].fill(0);
            }
            self.base = &self.base[..self.base.len().min(usize::try_from(len).unwrap_or(usize::MAX))];
        }
        self.len = len;
        Ok(())
    }

    /// Makes `bytes` bytes from `offset` on zero, and whole pages of them holes.
    pub(crate) fn punch(&mut self, budget: &mut Budget, offset: u64, bytes: u64) -> Result<(), Errno> {
        let limit = offset.saturating_add(bytes);
        let end = limit.min(self.len);
        let mut at = offset;
        while at < end {
            let index = at / PAGE;
            let page_end = (index + 1).saturating_mul(PAGE);
            let whole = within(at) == 0 && page_end <= limit;
            let in_base = index < self.base_pages();
            if whole {
                match self.pages.get(&index) {
                    Some(Page::Hole) => {}
                    Some(page @ Page::Bytes(_)) => {
                        budget.refund(cost(page));
                        self.pages.remove(&index);
                        self.hole(budget, index, in_base)?;
                    }
                    None => self.hole(budget, index, in_base)?,
                }
            } else if in_base || matches!(self.pages.get(&index), Some(Page::Bytes(_))) {
                let to = within(page_end.min(end) - 1) + 1;
                self.page_mut(budget, index, true)?[within(at)..to].fill(0);
            }
            at = match self.pages.range(index + 1..).next() {
                // From here to the next page there is nothing to do.
                next if index + 1 >= self.base_pages() => {
                    next.map_or(end, |(&next, _)| next.saturating_mul(PAGE)).max(page_end)
                }
                _ => page_end,
            };
        }
        Ok(())
    }

    fn hole(&mut self, budget: &mut Budget, index: u64, in_base: bool) -> Result<(), Errno> {
        if in_base {
            budget.charge(PAGE_OVERHEAD_BYTES)?;
            self.pages.insert(index, Page::Hole);
        }
        Ok(())
    }

    fn is_data(&self, index: u64) -> bool {
        match self.pages.get(&index) {
            Some(Page::Bytes(_)) => true,
            Some(Page::Hole) => false,
            None => index < self.base_pages(),
        }
    }

    /// `SEEK_DATA`: the first offset from `offset` on that is not in a hole.
    pub(crate) fn next_data(&self, offset: u64) -> Option<u64> {
        if offset >= self.len {
            return None;
        }
        let first = offset / PAGE;
        let in_base = (first..self.base_pages()).find(|&index| self.is_data(index));
        let over = self
            .pages
            .range(first..)
            .find(|(_, page)| matches!(page, Page::Bytes(_)))
            .map(|(&index, _)| index);
        let index = in_base.into_iter().chain(over).min()?;
        Some(offset.max(index * PAGE))
    }

    /// `SEEK_HOLE`: the first offset from `offset` on that is in a hole; there is one at the end.
    pub(crate) fn next_hole(&self, offset: u64) -> Option<u64> {
        if offset >= self.len {
            return None;
        }
        let mut index = offset / PAGE;
        while self.is_data(index) {
            index += 1;
        }
        Some(offset.max(index.saturating_mul(PAGE)).min(self.len))
    }

    /// Gives everything back.
    pub(crate) fn refund(&self, budget: &mut Budget) {
        self.pages.values().for_each(|page| budget.refund(cost(page)));
    }
}

fn within(offset: u64) -> usize {
    (offset % PAGE) as usize
}

fn cost(page: &Page) -> u64 {
    match page {
        Page::Hole => PAGE_OVERHEAD_BYTES,
        Page::Bytes(_) => PAGE_COST,
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    fn all(contents: &Contents<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        let bytes = contents.read(0, u64::MAX, |piece| out.extend_from_slice(piece));
        assert_eq!(bytes, contents.len());
        out
    }

    fn put(
        contents: &mut Contents<'_>,
        budget: &mut Budget,
        offset: u64,
        bytes: &[u8],
    ) -> Result<u64, Errno> {
        let mut rest = bytes;
        contents.write(budget, offset, bytes.len() as u64, |piece| {
            let (now, later) = rest.split_at(piece.len());
            piece.copy_from_slice(now);
            rest = later;
        })
    }

    #[test]
    fn a_write_copies_only_its_page_and_never_the_borrowed_bytes() {
        let base = vec![7u8; 3 * PAGE as usize + 5];
        let mut budget = Budget::new(1 << 20);
        let mut contents = Contents::borrowed(&base);
        put(&mut contents, &mut budget, PAGE + 1, b"ab").unwrap();
        assert_eq!(budget.total() - budget.left(), PAGE_COST);
        let mut expected = base.clone();
        expected[PAGE as usize + 1..][..2].copy_from_slice(b"ab");
        assert_eq!(all(&contents), expected);
        assert!(base.iter().all(|&b| b == 7));
    }

    #[test]
    fn what_was_cut_off_reads_as_zero_when_the_file_grows_again() {
        let base = [9u8; 100];
        let mut budget = Budget::new(1 << 20);
        let mut contents = Contents::borrowed(&base);
        contents.resize(&mut budget, 10).unwrap();
        contents.resize(&mut budget, 5000).unwrap();
        let bytes = all(&contents);
        assert!(bytes[..10].iter().all(|&b| b == 9) && bytes[10..].iter().all(|&b| b == 0));
        put(&mut contents, &mut budget, 0, &[1; 5000]).unwrap();
        contents.resize(&mut budget, 4500).unwrap();
        contents.resize(&mut budget, 4600).unwrap();
        assert!(all(&contents)[4500..].iter().all(|&b| b == 0));
        contents.resize(&mut budget, 0).unwrap();
        assert_eq!(budget.left(), budget.total());
    }

    #[test]
    fn memory_that_runs_out_shortens_the_write_and_then_fails_it() {
        let mut budget = Budget::new(2 * PAGE_COST);
        let mut contents = Contents::default();
        assert_eq!(put(&mut contents, &mut budget, 0, &[1; 3 * PAGE as usize]), Ok(2 * PAGE));
        assert_eq!(contents.len(), 2 * PAGE);
        assert_eq!(put(&mut contents, &mut budget, 2 * PAGE, &[1]), Err(Errno::ENOSPC));
        assert_eq!(put(&mut contents, &mut budget, FILE_BYTES_MAX, &[1]), Err(Errno::EFBIG));
    }

    #[test]
    fn holes_are_found_and_made() {
        let base = vec![3u8; 2 * PAGE as usize];
        let mut budget = Budget::new(1 << 20);
        let mut contents = Contents::borrowed(&base);
        contents.resize(&mut budget, 1 << 40).unwrap();
        put(&mut contents, &mut budget, 10 * PAGE, b"x").unwrap();
        assert_eq!((contents.next_data(5), contents.next_hole(5)), (Some(5), Some(2 * PAGE)));
        assert_eq!(contents.next_data(2 * PAGE), Some(10 * PAGE));
        assert_eq!(contents.next_data(11 * PAGE), None);
        assert_eq!(contents.next_hole(1 << 40), None);
        contents.punch(&mut budget, 0, PAGE + 1).unwrap();
        assert_eq!((contents.next_data(0), contents.next_hole(0)), (Some(PAGE), Some(0)));
        contents.punch(&mut budget, 0, 1 << 40).unwrap();
        assert_eq!((contents.next_data(0), contents.len()), (None, 1 << 40));
        assert_eq!(contents.allocated(), 0);
    }
}
