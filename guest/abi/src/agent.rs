//! What the *agent* in somebody else's image and the host say to each other.
//!
//! The agent is `guest/runtime/include/unifork.h` in C and `guest/agent` in Rust; the host's side is
//! `vmm/src/agent.rs`. An image has its own page tables, its own libc and perhaps its own user mode, so
//! nothing of the rest of this crate is there: no windows, no doorbell page, no libOS.
//!
//! # Is this a unifork machine?
//!
//! CPUID leaf 1 has the hypervisor bit (ECX bit 31), and leaf [`CPUID_LEAF`] has [`SIGNATURE`] in EBX, ECX
//! and EDX, four bytes each, as hypervisors name themselves, and at least [`CPUID_LEAF`] + 1 in EAX. Leaf
//! [`CPUID_LEAF`] + 1 has [`PORT`] in EBX and [`VERSION`] in ECX; EAX is 0, as kernels take it for the features of KVM
//! (Solo5's virtio target does, whatever the signature).
//!
//! # Calls
//!
//! `out PORT, eax` with [`CALL_TAG`] + the number of a [`Call`] in EAX, the arguments in RDI, RSI and RDX.
//! RAX comes back with the result; nothing else changes. Any other value written to the port, and any
//! access of another width, means nothing. Addresses are linear, in the page tables of the moment.
//!
//! A port is what every way of running an image can catch: under KVM it is an exit of its own at ring 0,
//! and at ring 3 with access to the port; where the image runs under unifork's monitor the instruction is
//! a #GP that the monitor decodes anyhow. Memory would have to be mapped by the image first.

/// Version of this protocol.
pub const VERSION: u32 = 1;
/// First hypervisor leaf of CPUID.
pub const CPUID_LEAF: u32 = 0x4000_0000;
/// What EBX, ECX and EDX of it spell.
pub const SIGNATURE: [u8; 12] = *b"UniforkAgent";
/// The port, small enough for the form of `out` that takes it as an operand.
pub const PORT: u8 = 0xf6;
/// The upper half of EAX: "UF".
pub const CALL_TAG: u32 = 0x5546_0000;

/// Bytes of an input window at most.
pub const INPUT_BYTES_MAX: u64 = 16 << 20;
/// Ranges of counters at most.
pub const COUNTER_RANGES_MAX: usize = 64;
/// Counters at most, in all ranges together.
pub const COUNTERS_MAX: u64 = 16 << 20;
/// Bytes of a message at most; the rest is cut off.
pub const MESSAGE_BYTES_MAX: u64 = 4096;

/// RAX after a call that did what it says.
pub const OK: u64 = 0;
/// RAX after a call that cannot be what was meant: an unknown number, a range that is too long or wraps
/// around, a second input window.
pub const REFUSED: u64 = u64::MAX;

/// What the agent asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Call {
    /// `(version)`: the first one. [`REFUSED`] for a version that the host does not speak.
    Hello = 1,
    /// `(address, bytes)`: inputs go here. The pages are mapped, and stay where they are until
    /// [`Self::Snapshot`].
    Input = 2,
    /// `()`: freeze the machine here. Returns once in each fork, with the bytes of its input in RAX and
    /// the input in the window. No page that was announced moves after it.
    Snapshot = 3,
    /// `(code)`: the run is over. Does not return in a fork.
    Done = 4,
    /// `(message, bytes)`: something is wrong, and the run is over. Does not return in a fork.
    Report = 5,
    /// `(address, bytes)`: counters of one byte each. They are zero when a fork begins.
    Counters = 6,
    /// `(address, bytes)`: for the counters announced last, two words each: the address of the code, and
    /// flags (bit 0: a function's first), as clang's `pc-table` has them.
    CounterPcs = 7,
    /// `(log, records, flag)`: a [`crate::ComparisonLog`], then so many times [`crate::Comparison`]. The host
    /// sets the 32-bit word at `flag` to 1 in the machine that is to log.
    Comparisons = 8,
    /// `(word)`: eight bytes, zero, where the host puts the address of a function that takes the place of
    /// [`Self::Done`] in the image: it takes the code as [`Self::Done`] does, and goes on behind
    /// [`Self::Snapshot`] with the next input. Where it stays zero, the host has none.
    Again = 9,
}

impl Call {
    /// The call with this number.
    #[must_use]
    pub const fn from_number(number: u16) -> Option<Self> {
        Some(match number {
            1 => Self::Hello,
            2 => Self::Input,
            3 => Self::Snapshot,
            4 => Self::Done,
            5 => Self::Report,
            6 => Self::Counters,
            7 => Self::CounterPcs,
            8 => Self::Comparisons,
            9 => Self::Again,
            _ => return None,
        })
    }

    /// The call that EAX asks for; `None` when it is no call.
    #[must_use]
    pub const fn from_eax(eax: u32) -> Option<Self> {
        if eax & 0xffff_0000 != CALL_TAG {
            return None;
        }
        Self::from_number((eax & 0xffff) as u16)
    }

    /// What EAX holds to ask for it.
    #[must_use]
    pub const fn eax(self) -> u32 {
        CALL_TAG | self as u32
    }
}

const _: () = {
    let mut number = 0;
    while number <= 10 {
        if let Some(call) = Call::from_number(number) {
            assert!(call as u16 == number);
            assert!(Call::from_eax(call.eax()).is_some());
        }
        number += 1;
    }
    assert!(Call::from_eax(Call::Hello as u32).is_none());
};
