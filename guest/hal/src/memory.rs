//! The application's memory, as claims that are checked, and what the VMM said about the machine.

use unifork_abi::{BOOT_INFO_VA, BootInfo, INPUT_VA, STACK_TOP_VA, UNSERVED_SLOTS, UNSERVED_VA};

/// What the VMM said.
pub fn boot_info() -> &'static BootInfo {
    // SAFETY: the VMM wrote the page before the first instruction; it is mapped read-only for as
    // long as the guest lives.
    unsafe { &*(BOOT_INFO_VA as *const BootInfo) }
}

/// The application named memory that it may not use so: `EFAULT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault;

/// A range of the application's memory: checked to be mapped, not to hold anything in particular.
#[derive(Clone, Copy, Debug)]
pub struct User {
    // Invariant: `bytes` bytes from `start` are inside one of the application's mappings, and
    // `start` is not null when `bytes` is not 0.
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
        let info = boot_info();
        let input = info.input_window_bytes;
        let ranges = [
            (info.app_start, info.app_end),
            (info.arena_start, info.arena_start + info.arena_bytes),
            (info.app_stack_low, STACK_TOP_VA),
            (INPUT_VA, INPUT_VA + input),
        ];
        let end = start.checked_add(bytes).ok_or(Fault)?;
        let inside = bytes == 0 || ranges.iter().any(|&(low, high)| start >= low && end <= high);
        if inside { Ok(Self { start, bytes }) } else { Err(Fault) }
    }

    /// Checks that the application may write `bytes` bytes from `start`, as far as is known without
    /// its page tables: not its input, and not outside of its memory.
    ///
    /// # Errors
    ///
    /// [`Fault`] when it may not.
    pub fn writable(start: u64, bytes: u64) -> Result<Self, Fault> {
        let inside_input = start >= INPUT_VA && start < INPUT_VA + boot_info().input_window_bytes;
        if inside_input && bytes > 0 { Err(Fault) } else { Self::readable(start, bytes) }
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

    /// Calls `f` with all of it, in pieces.
    pub fn for_each_piece(&self, mut f: impl FnMut(&[u8])) {
        let mut buffer = [0u8; 256];
        let mut done = 0;
        while done < self.bytes {
            let count = (self.bytes - done).min(buffer.len() as u64) as usize;
            let from = (self.start + done) as *const u8;
            // SAFETY: the range is mapped (invariant); the buffer is ours and large enough.
            unsafe { buffer.as_mut_ptr().copy_from(from, count) };
            f(&buffer[..count]);
            done += count as u64;
        }
    }

    /// Copies `bytes` to its start, as much as fits.
    pub fn write(&self, bytes: &[u8]) {
        let count = bytes.len().min(self.bytes as usize);
        // SAFETY: the range is mapped and at least `count` long (invariant). A read-only page faults,
        // which the host sees as the application's doing.
        unsafe { (self.start as *mut u8).copy_from(bytes.as_ptr(), count) };
    }

    /// Reads a little-endian word `offset` bytes into it; 0 past its end.
    #[must_use]
    pub fn word(&self, offset: u64) -> u64 {
        if offset.checked_add(8).is_none_or(|end| end > self.bytes) {
            return 0;
        }
        // SAFETY: checked to be inside the range, which is mapped (invariant).
        unsafe { ((self.start + offset) as *const u64).read_unaligned() }
    }
}

/// Zeroes part of the arena.
///
/// # Errors
///
/// [`Fault`] when it is not all inside the arena.
pub fn clear(start: u64, bytes: u64) -> Result<(), Fault> {
    let at = arena(start, bytes)?;
    // SAFETY: inside the arena, which is mapped and which no Rust reference points into.
    unsafe { at.write_bytes(0, bytes as usize) };
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
