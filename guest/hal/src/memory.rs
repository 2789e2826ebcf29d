//! The application's memory, as claims that are checked, and what the VMM said about the machine.

use crate::entry::unifork_kernel_allows;
use unifork_abi::{BOOT_INFO_VA, BootInfo, INPUT_VA, PAGE_BYTES, STACK_TOP_VA, UNSERVED_SLOTS, UNSERVED_VA};

/// What the VMM said.
pub fn boot_info() -> &'static BootInfo {
    // SAFETY: the VMM wrote the page before the first instruction; it is mapped read-only for as
    // long as the guest lives.
    unsafe { &*(BOOT_INFO_VA as *const BootInfo) }
}

/// The application named memory that it may not use so: `EFAULT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault;

/// Bytes that are passed on at a time.
const PIECE_BYTES: usize = 1024;

unsafe extern "C" {
    /// Copies; returns how many bytes were left when a page fault ended it (`entry.rs`).
    fn unifork_copy(to: u64, from: u64, bytes: u64) -> u64;
}

/// A range of the application's memory: checked to be its own, not to hold anything in particular.
///
/// Within the arena the check is exact. Elsewhere a page may still be read-only or missing; copying
/// stops there, and says [`Fault`].
#[derive(Clone, Copy, Debug)]
pub struct User {
    // Invariant: `bytes` bytes from `start` are inside the application's image, stack, arena or input,
    // never inside the libOS or its windows.
    start: u64,
    bytes: u64,
}

impl User {
    /// Checks that the application may read `bytes` bytes from `start`.
    ///
    /// # Errors
    ///
    /// [`Fault`] when it may not.
    pub fn readable(start: u64, bytes: u64) -> Result<Self, Fault> {
        Self::checked(start, bytes, false)
    }

    /// Checks that the application may write `bytes` bytes from `start`, as far as is known without
    /// its page tables.
    ///
    /// # Errors
    ///
    /// [`Fault`] when it may not.
    pub fn writable(start: u64, bytes: u64) -> Result<Self, Fault> {
        Self::checked(start, bytes, true)
    }

    fn checked(start: u64, bytes: u64, write: bool) -> Result<Self, Fault> {
        let info = boot_info();
        let end = start.checked_add(bytes).ok_or(Fault)?;
        let inside = |low: u64, high: u64| start >= low && end <= high;
        let allowed = bytes == 0
            || inside(info.app_stack_low, STACK_TOP_VA)
            || inside(info.app_start, info.app_end)
            || inside(info.arena_start, info.arena_start + info.arena_bytes)
                && unifork_kernel_allows(start, bytes, write)
            || !write && inside(INPUT_VA, INPUT_VA + info.input_window_bytes);
        if allowed { Ok(Self { start, bytes }) } else { Err(Fault) }
    }

    /// Its length.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.bytes
    }

    /// Whether it is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Calls `f` with all of it, in pieces; ends early where a page is missing.
    ///
    /// # Errors
    ///
    /// [`Fault`]: with the pieces before it passed on.
    pub fn for_each_piece(&self, mut f: impl FnMut(&[u8])) -> Result<(), Fault> {
        let mut buffer = [0u8; PIECE_BYTES];
        let mut done = 0;
        while done < self.bytes {
            let count = (self.bytes - done).min(PIECE_BYTES as u64) as usize;
            self.read(done, &mut buffer[..count])?;
            f(&buffer[..count]);
            done += count as u64;
        }
        Ok(())
    }

    /// Fills `out` from `offset` bytes into it.
    ///
    /// # Errors
    ///
    /// [`Fault`] when that is past its end, or a page is missing.
    pub fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Fault> {
        let from = self.inside(offset, out.len())?;
        // SAFETY: `out` is ours to write; the other side is the application's (invariant), which no
        // Rust reference points into, and a page that is missing ends the copy.
        let left = unsafe { unifork_copy(out.as_mut_ptr() as u64, from, out.len() as u64) };
        if left == 0 { Ok(()) } else { Err(Fault) }
    }

    /// Writes `bytes` from `offset` bytes into it.
    ///
    /// # Errors
    ///
    /// [`Fault`] when they do not fit, or a page is missing or read-only.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Fault> {
        let to = self.inside(offset, bytes.len())?;
        // SAFETY: the range is the application's (invariant), which no Rust reference points into; a
        // page that cannot be written ends the copy.
        let left = unsafe { unifork_copy(to, bytes.as_ptr() as u64, bytes.len() as u64) };
        if left == 0 { Ok(()) } else { Err(Fault) }
    }

    fn inside(&self, offset: u64, bytes: usize) -> Result<u64, Fault> {
        let end = offset.checked_add(bytes as u64).ok_or(Fault)?;
        if end <= self.bytes { Ok(self.start + offset) } else { Err(Fault) }
    }
}

/// Zeroes part of the arena. Pages that hold nothing but zeros are only read: memory that was mapped and
/// never used, as most of a thread's stack is, stays as clean as it was for the next reset.
///
/// # Errors
///
/// [`Fault`] when it is not all inside the arena.
pub fn clear(start: u64, bytes: u64) -> Result<(), Fault> {
    let mut at = arena(start, bytes)?;
    let mut left = bytes as usize;
    while left > 0 {
        let count = left.min(PAGE_BYTES as usize - at as usize % PAGE_BYTES as usize);
        // SAFETY: inside the arena, which is mapped; nothing else runs while this reference lives.
        let piece = unsafe { core::slice::from_raw_parts_mut(at, count) };
        // In steps that the compiler makes vectors of.
        if piece.chunks(256).any(|bytes| bytes.iter().fold(0, |all, byte| all | byte) != 0) {
            piece.fill(0);
        }
        // SAFETY: at most the end of the range.
        at = unsafe { at.add(count) };
        left -= count;
    }
    Ok(())
}

/// Moves bytes within the arena.
///
/// # Errors
///
/// [`Fault`] when either range is not all inside the arena.
pub fn move_bytes(to: u64, from: u64, bytes: u64) -> Result<(), Fault> {
    let (to, from) = (arena(to, bytes)?, arena(from, bytes)?);
    // SAFETY: both inside the arena, which is mapped and which no Rust reference points into.
    unsafe { to.copy_from(from, bytes as usize) };
    Ok(())
}

/// Reads part of the arena, whatever its protection is.
///
/// # Errors
///
/// [`Fault`] when it is not all inside the arena.
pub fn read_arena(start: u64, out: &mut [u8]) -> Result<(), Fault> {
    let at = arena(start, out.len() as u64)?;
    // SAFETY: inside the arena, which is mapped and which no Rust reference points into.
    unsafe { at.copy_to(out.as_mut_ptr(), out.len()) };
    Ok(())
}

/// Writes part of the arena, whatever its protection is.
///
/// # Errors
///
/// [`Fault`] when it is not all inside the arena.
pub fn write_arena(start: u64, bytes: &[u8]) -> Result<(), Fault> {
    let at = arena(start, bytes.len() as u64)?;
    // SAFETY: inside the arena, which is mapped and which no Rust reference points into.
    unsafe { at.copy_from(bytes.as_ptr(), bytes.len()) };
    Ok(())
}

fn arena(start: u64, bytes: u64) -> Result<*mut u8, Fault> {
    let info = boot_info();
    let end = start.checked_add(bytes).ok_or(Fault)?;
    let inside = start >= info.arena_start && end <= info.arena_start + info.arena_bytes;
    if inside { Ok(start as *mut u8) } else { Err(Fault) }
}

/// Counts a system call that is not served, where the host finds it.
pub fn count_unserved(number: u64) {
    let slot = (number as usize).min(UNSERVED_SLOTS - 1);
    // SAFETY: the window holds UNSERVED_SLOTS counts and `slot` is below that.
    let count = unsafe { &mut *(UNSERVED_VA as *mut u32).add(slot) };
    *count = count.saturating_add(1);
}

/// The root image that the VMM mapped; empty when there is none.
#[must_use]
pub fn root_image() -> &'static [u8] {
    let bytes = boot_info().root_bytes as usize;
    if bytes == 0 {
        return &[];
    }
    // SAFETY: the VMM mapped so many bytes there, read-only, for as long as the guest lives, and wrote
    // them before the first instruction.
    unsafe { core::slice::from_raw_parts(unifork_abi::ROOT_VA as *const u8, bytes) }
}

/// One exchange with the host's services: says `out`, waits up to `wait_ns` for an answer. Returns how
/// long it waited, and the answer, which is good until the next exchange. `out` is cut to the window.
#[must_use]
pub fn service_exchange(out: &[u8], wait_ns: u64) -> (u64, &'static [u8]) {
    use unifork_abi::{Hypercall, SERVICE_BYTES, SERVICE_IN_VA, SERVICE_OUT_VA};
    let said = out.len().min(SERVICE_BYTES as usize);
    // SAFETY: the window is SERVICE_BYTES long, and only this function refers to it.
    unsafe { (SERVICE_OUT_VA as *mut u8).copy_from_nonoverlapping(out.as_ptr(), said) };
    let answer = crate::hypercall::call(Hypercall::Service, [said as u64, wait_ns, 0]);
    // SAFETY: as above; the host has written the waited time there.
    let elapsed = unsafe { (SERVICE_IN_VA as *const u64).read_volatile() };
    let bytes = (answer as usize).min(SERVICE_BYTES as usize - 8);
    // SAFETY: inside the window, which the host writes in an exchange only. The caller is done with the
    // last answer when it asks for the next one.
    let said = unsafe { core::slice::from_raw_parts((SERVICE_IN_VA + 8) as *const u8, bytes) };
    (elapsed, said)
}
