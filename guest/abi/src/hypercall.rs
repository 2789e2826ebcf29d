//! How the guest calls the host.

use crate::CONTROL_VA;

/// A hypercall is a 64-bit store of its number, from RAX, to this address, where there is no memory:
/// KVM exits, with the instruction completed and all registers as they are. Arguments are in RDI,
/// RSI and RDX; the result comes back in RAX.
///
/// A store leaves the guest at CPL 3 and takes no trap, so it is the cheapest exit there is under
/// software KVM, and costs no more than any other on VT-x and AMD-V. (`int N` is no alternative:
/// software KVM delivers it as #UD.)
pub const DOORBELL_VA: u64 = CONTROL_VA + 0x8_0000;
/// The port that a trap stub writes to, which is what makes KVM exit.
pub const TRAP_PORT: u16 = 0xf5;
/// Bytes of one trap stub: `out 0xf5, al`, then `hlt`s that are never reached.
pub const STUB_BYTES: u64 = 16;

/// What the guest asks of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Hypercall {
    /// `(abi_version)`: the first one. Any other version ends the boot.
    Hello = 1,
    /// `()`: freeze the machine here. Returns once in each fork.
    Snapshot = 2,
    /// `()`: the batch is over; [`crate::Control`] and the records say how it went.
    Done = 3,
    /// `(code)`: the application called `exit`.
    Exit = 4,
    /// `(signal, frame, fault)`: a signal that nothing handles ended the application. `frame` is the
    /// linear address of the [`crate::SyscallFrame`] of the call that raised it, or 0. With `fault` = 1 it
    /// is the signal of the exception that [`crate::Control`] describes, which the host had handed over.
    Signal = 5,
    /// `(message, bytes)`: the libOS panicked.
    Panic = 6,
    /// `()`: the console is full; the host takes it and the guest goes on. Only while
    /// [`crate::Control::console_flush`] is set.
    Console = 7,
    /// `(bytes)`: the arena is used up by a request that would have fitted an empty one.
    OutOfMemory = 8,
    /// `(message, bytes, frame)`: the application says that something is wrong.
    Assert = 9,
    /// `(bytes, wait)`: says what is in the first `bytes` bytes at [`crate::SERVICE_OUT_VA`], waits up to
    /// `wait` nanoseconds for something to be said, and returns how many bytes of messages there are at
    /// [`crate::SERVICE_IN_VA`] + 8. Only with [`crate::BootInfo::services`].
    Service = 10,
}

impl Hypercall {
    /// The hypercall with this number.
    #[must_use]
    pub const fn from_number(number: u64) -> Option<Self> {
        Some(match number {
            1 => Self::Hello,
            2 => Self::Snapshot,
            3 => Self::Done,
            4 => Self::Exit,
            5 => Self::Signal,
            6 => Self::Panic,
            7 => Self::Console,
            8 => Self::OutOfMemory,
            9 => Self::Assert,
            10 => Self::Service,
            _ => return None,
        })
    }
}
