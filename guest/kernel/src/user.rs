//! Values in the application's memory.

use alloc::vec::Vec;

use unifork_hal::{Fault, User};

use crate::errno::Errno;

/// Longest path with its NUL; Linux `include/uapi/linux/limits.h`.
const PATH_MAX: u64 = 4096;
const PAGE_BYTES: u64 = 4096;

/// `N` words from `at`.
pub(crate) fn read_words<const N: usize>(at: u64) -> Result<[u64; N], Fault> {
    let mut words = [0; N];
    let user = User::readable(at, N as u64 * 8)?;
    for (i, word) in words.iter_mut().enumerate() {
        let mut bytes = [0; 8];
        user.read(i as u64 * 8, &mut bytes)?;
        *word = u64::from_le_bytes(bytes);
    }
    Ok(words)
}

/// The word at `at`.
pub(crate) fn read_u64(at: u64) -> Result<u64, Fault> {
    read_bytes(at).map(u64::from_le_bytes)
}

/// The half word at `at`.
pub(crate) fn read_u32(at: u64) -> Result<u32, Fault> {
    read_bytes(at).map(u32::from_le_bytes)
}

/// `N` bytes from `at`.
pub(crate) fn read_bytes<const N: usize>(at: u64) -> Result<[u8; N], Fault> {
    let mut bytes = [0; N];
    User::readable(at, N as u64)?.read(0, &mut bytes)?;
    Ok(bytes)
}

/// Writes `bytes` to `at`.
pub(crate) fn write_bytes(at: u64, bytes: &[u8]) -> Result<(), Fault> {
    User::writable(at, bytes.len() as u64)?.write(0, bytes)
}

/// Writes a word to `at`.
pub(crate) fn write_u64(at: u64, word: u64) -> Result<(), Fault> {
    write_bytes(at, &word.to_le_bytes())
}

/// Writes a half word to `at`.
pub(crate) fn write_u32(at: u64, word: u32) -> Result<(), Fault> {
    write_bytes(at, &word.to_le_bytes())
}

/// Writes words to `at` onwards.
pub(crate) fn write_words(at: u64, words: &[u64]) -> Result<(), Fault> {
    let user = User::writable(at, words.len() as u64 * 8)?;
    for (i, word) in words.iter().enumerate() {
        user.write(i as u64 * 8, &word.to_le_bytes())?;
    }
    Ok(())
}

/// A path, without its NUL.
pub(crate) fn read_path(at: u64) -> Result<Vec<u8>, Errno> {
    read_string(at, PATH_MAX)?.ok_or(Errno::ENAMETOOLONG)
}

/// A string of less than `max` bytes, without its NUL; `None` when it is longer.
pub(crate) fn read_string(at: u64, max: u64) -> Result<Option<Vec<u8>>, Errno> {
    let mut string = Vec::new();
    let mut from = at;
    let end = at.checked_add(max).ok_or(Errno::EFAULT)?;
    while from < end {
        // Not past a page that the string may end before.
        let count = (PAGE_BYTES - from % PAGE_BYTES).min(64).min(end - from);
        let mut piece = [0; 64];
        let piece = &mut piece[..count as usize];
        User::readable(from, count)?.read(0, piece)?;
        if let Some(len) = piece.iter().position(|&byte| byte == 0) {
            string.extend_from_slice(&piece[..len]);
            return Ok(Some(string));
        }
        string.extend_from_slice(piece);
        from += count;
    }
    Ok(None)
}

/// Refuses what would need `bytes` of the libOS's heap that are not there.
pub(crate) fn have_room(bytes: usize) -> Result<(), Errno> {
    /// Kept back for what cannot fail: lists, and the run's own end.
    const RESERVE_BYTES: usize = 256 << 10;
    /// With this much free, a piece of any size that is asked for here is, too.
    const PLENTY_BYTES: usize = 2 << 20;
    let needed = bytes.saturating_add(RESERVE_BYTES);
    let free = unifork_hal::heap_free_bytes();
    if free >= needed.saturating_add(PLENTY_BYTES) {
        return Ok(());
    }
    // In one piece? Asked and given back.
    if free < needed || Vec::<u8>::new().try_reserve_exact(needed).is_err() {
        return Err(Errno::ENOMEM);
    }
    Ok(())
}
