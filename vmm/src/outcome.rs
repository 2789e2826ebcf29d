//! How a run ended, as the guest's own doing. What goes wrong on the host is an error instead.

use std::fmt;

use serde::{Deserialize, Serialize};
use unifork_abi::{LOWEST_VA, PAGE_BYTES};

use crate::introspect::Registers;
use crate::layout::{Layout, Purpose};

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    /// The harness returned.
    Done {
        /// What it returned; -1 asks that the input be kept out of the corpus.
        code: i64,
    },
    /// The application called `exit`.
    Exit {
        /// Its status.
        code: i32,
    },
    /// The deadline passed.
    Timeout,
    /// Something is wrong in the guest.
    Crash(Crash),
}

/// A crash: what happened and where.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Crash {
    /// What the machine or the libOS says.
    pub cause: Cause,
    /// What it amounts to; names findings.
    pub kind: CrashKind,
    /// Registers at the faulting instruction, or at the system call that ended the run.
    pub registers: Registers,
}

/// What the machine or the libOS says about a crash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    /// A CPU exception.
    Exception {
        /// Its vector.
        vector: u8,
        /// The error code, 0 for vectors without one.
        error_code: u32,
        /// CR2: what a page fault touched.
        address: u64,
    },
    /// A signal that the application raised and did not handle.
    Signal {
        /// Its number.
        number: i32,
    },
    /// The machine's memory is used up.
    OutOfMemory {
        /// Bytes that were asked for.
        requested: u64,
    },
    /// The application says that something is wrong.
    Assertion {
        /// In its words.
        message: String,
    },
    /// The libOS panicked.
    KernelPanic {
        /// In its words.
        message: String,
    },
    /// An image with a kernel of its own panicked.
    Panic {
        /// In its words.
        message: String,
    },
    /// A hypercall that makes no sense: the guest overwrote itself.
    BadHypercall {
        /// Its number.
        number: u64,
    },
    /// The virtual CPU cannot go on.
    Vm {
        /// KVM's words for it.
        reason: String,
    },
}

/// What a crash amounts to. `Display` gives the kebab-case name that findings carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CrashKind {
    /// Read near address 0.
    NullRead,
    /// Write near address 0.
    NullWrite,
    /// Call or jump near address 0.
    NullCall,
    /// The stack ran into its guard page.
    StackOverflow,
    /// Read of an address that is not mapped.
    WildRead,
    /// Write to an address that is not mapped.
    WildWrite,
    /// Call or jump to an address that is not mapped.
    WildJump,
    /// Write to read-only memory.
    WriteToReadOnly,
    /// The harness wrote to its input, which is const.
    WriteToInput,
    /// A read past the end of the input.
    InputOverread,
    /// Execution of data.
    NotExecutable,
    /// Access to the machine's own tables.
    Privileged,
    /// Integer division by zero, or a quotient that does not fit.
    DivideByZero,
    /// An instruction that does not exist (`ud2` of a trapping sanitizer, too).
    IllegalInstruction,
    /// `int3`.
    Breakpoint,
    /// A non-canonical address, or a privileged instruction.
    GeneralProtection,
    /// A misaligned access with alignment checks on.
    Misaligned,
    /// SIGABRT.
    Abort,
    /// A failed assertion.
    Assertion,
    /// The machine's memory is used up.
    OutOfMemory,
    /// The libOS panicked.
    KernelPanic,
    /// A hypercall that makes no sense.
    BadHypercall,
    /// Another signal.
    Signal(i32),
    /// The virtual CPU cannot go on.
    Vm,
    /// Another exception.
    OtherException(u8),
}

impl fmt::Display for CrashKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NullRead => "null-read",
            Self::NullWrite => "null-write",
            Self::NullCall => "null-call",
            Self::StackOverflow => "stack-overflow",
            Self::WildRead => "wild-read",
            Self::WildWrite => "wild-write",
            Self::WildJump => "wild-jump",
            Self::WriteToReadOnly => "write-to-read-only",
            Self::WriteToInput => "write-to-input",
            Self::InputOverread => "input-overread",
            Self::NotExecutable => "not-executable",
            Self::Privileged => "privileged",
            Self::DivideByZero => "divide-by-zero",
            Self::IllegalInstruction => "illegal-instruction",
            Self::Breakpoint => "breakpoint",
            Self::GeneralProtection => "general-protection",
            Self::Misaligned => "misaligned",
            Self::Abort => "abort",
            Self::Assertion => "assertion",
            Self::OutOfMemory => "out-of-memory",
            Self::KernelPanic => "kernel-panic",
            Self::BadHypercall => "bad-hypercall",
            Self::Vm => "vm",
            Self::Signal(number) => return write!(f, "signal-{number}"),
            Self::OtherException(vector) => return write!(f, "exception-{vector}"),
        })
    }
}

/// Addresses below this count as near null: a null pointer to a large struct.
const NULL_END: u64 = LOWEST_VA;
/// A fault this far below the stack's lowest page still is a stack overflow, when the stack
/// pointer has left the stack as well: a large frame skips the first guard page.
const GUARD_BYTES: u64 = 8 << 20;

// Intel SDM volume 3, 5.7: page-fault error code.
const PF_PRESENT: u32 = 1;
const PF_WRITE: u32 = 1 << 1;
const PF_FETCH: u32 = 1 << 4;

impl CrashKind {
    /// What `cause` amounts to in a machine with this layout.
    #[must_use]
    pub fn of(cause: &Cause, registers: &Registers, layout: &Layout) -> Self {
        match cause {
            Cause::Exception { vector, error_code, address } => match vector {
                0 => Self::DivideByZero,
                1 | 3 => Self::Breakpoint,
                6 => Self::IllegalInstruction,
                12 => Self::StackOverflow,
                13 => Self::GeneralProtection,
                14 => Self::of_page_fault(*error_code, *address, registers, layout),
                17 => Self::Misaligned,
                other => Self::OtherException(*other),
            },
            Cause::Signal { number: 6 } => Self::Abort,
            Cause::Signal { number } => Self::Signal(*number),
            Cause::OutOfMemory { .. } => Self::OutOfMemory,
            Cause::Assertion { .. } => Self::Assertion,
            Cause::KernelPanic { .. } | Cause::Panic { .. } => Self::KernelPanic,
            Cause::BadHypercall { .. } => Self::BadHypercall,
            Cause::Vm { .. } => Self::Vm,
        }
    }

    fn of_page_fault(code: u32, address: u64, registers: &Registers, layout: &Layout) -> Self {
        let (write, fetch) = (code & PF_WRITE != 0, code & PF_FETCH != 0);
        if code & PF_PRESENT != 0 {
            return match layout.find(address).map(|m| m.purpose) {
                Some(Purpose::Machine) => Self::Privileged,
                _ if fetch => Self::NotExecutable,
                Some(Purpose::Input) => Self::WriteToInput,
                _ => Self::WriteToReadOnly,
            };
        }
        let below_stack = layout.mappings().iter().any(|m| {
            let low = m.start.0;
            matches!(m.purpose, Purpose::Stack | Purpose::KernelStack)
                && (low.saturating_sub(GUARD_BYTES)..low).contains(&address)
                && registers.rsp < low + PAGE_BYTES
        });
        let behind_input = layout
            .mappings()
            .iter()
            .any(|m| m.purpose == Purpose::Input && (m.end()..m.end() + PAGE_BYTES).contains(&address));
        match (fetch, write) {
            _ if below_stack => Self::StackOverflow,
            (true, _) if address < NULL_END => Self::NullCall,
            (true, _) => Self::WildJump,
            (_, true) if address < NULL_END => Self::NullWrite,
            (_, true) => Self::WildWrite,
            _ if address < NULL_END => Self::NullRead,
            _ if behind_input => Self::InputOverread,
            _ => Self::WildRead,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exception { vector: 14, error_code, address } => {
                let what = match (error_code & PF_FETCH != 0, error_code & PF_WRITE != 0) {
                    (true, _) => "execution of",
                    (_, true) => "write to",
                    _ => "read of",
                };
                let why = if error_code & PF_PRESENT != 0 { "not allowed" } else { "not mapped" };
                write!(f, "page fault: {what} {address:#x}, which is {why}")
            }
            Self::Exception { vector, error_code, .. } => {
                let name = exception_name(*vector);
                write!(f, "{name} (vector {vector}, error code {error_code:#x})")
            }
            Self::Signal { number } => write!(f, "the application raised signal {number}"),
            Self::OutOfMemory { requested } => {
                write!(f, "out of memory: {requested} bytes more do not fit the machine")
            }
            Self::Assertion { message } => write!(f, "assertion failed: {message}"),
            Self::KernelPanic { message } => write!(f, "the libOS panicked: {message}"),
            Self::Panic { message } => write!(f, "the image panicked: {message}"),
            Self::BadHypercall { number } => write!(f, "hypercall {number:#x} makes no sense"),
            Self::Vm { reason } => write!(f, "the virtual CPU cannot go on: {reason}"),
        }
    }
}

fn exception_name(vector: u8) -> &'static str {
    match vector {
        0 => "division by zero or overflow",
        1 => "debug exception",
        3 => "breakpoint",
        4 => "overflow",
        5 => "bound range exceeded",
        6 => "invalid opcode",
        7 => "device not available",
        8 => "double fault",
        10 => "invalid TSS",
        11 => "segment not present",
        12 => "stack-segment fault",
        13 => "general protection",
        14 => "page fault",
        16 => "x87 floating-point error",
        17 => "alignment check",
        18 => "machine check",
        19 => "SIMD floating-point exception",
        _ => "exception",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{Gpa, Gva};
    use crate::layout::{Access, Mapping};

    fn layout() -> Layout {
        let mut layout = Layout::default();
        for (start, access, purpose) in [
            (0x40_0000, Access::EXECUTE, Purpose::Application),
            (0x3000_0000, Access::SUPERVISOR, Purpose::Machine),
            (0x5000_0000, Access::READ, Purpose::Input),
            (0x7000_0000, Access::WRITE, Purpose::Stack),
        ] {
            layout.add(Mapping { start: Gva(start), bytes: 0x4000, to: Gpa(0), access, purpose }).unwrap();
        }
        layout
    }

    fn fault(error_code: u32, address: u64, rsp: u64) -> CrashKind {
        let registers = Registers { rsp, ..Registers::default() };
        CrashKind::of(&Cause::Exception { vector: 14, error_code, address }, &registers, &layout())
    }

    #[test]
    fn a_page_fault_is_named_by_what_was_touched_and_how() {
        let stack = 0x7000_2000;
        assert_eq!(fault(4, 0x10, stack), CrashKind::NullRead);
        assert_eq!(fault(6, 0x10, stack), CrashKind::NullWrite);
        assert_eq!(fault(0x14, 0, stack), CrashKind::NullCall);
        assert_eq!(fault(4, 0xdead_0000, stack), CrashKind::WildRead);
        assert_eq!(fault(6, 0xdead_0000, stack), CrashKind::WildWrite);
        assert_eq!(fault(0x14, 0xdead_0000, stack), CrashKind::WildJump);
        assert_eq!(fault(7, 0x40_0000, stack), CrashKind::WriteToReadOnly);
        assert_eq!(fault(0x15, 0x7000_0000, stack), CrashKind::NotExecutable);
        assert_eq!(fault(5, 0x3000_0000, stack), CrashKind::Privileged);
        assert_eq!(fault(7, 0x5000_0000, stack), CrashKind::WriteToInput);
        assert_eq!(fault(4, 0x5000_4000, stack), CrashKind::InputOverread);
    }

    #[test]
    fn a_fault_below_the_stack_is_an_overflow_only_with_the_stack_pointer_there() {
        let below = 0x7000_0000 - 8;
        assert_eq!(fault(6, below, 0x7000_0008), CrashKind::StackOverflow);
        assert_eq!(fault(6, below - 0x10_0000, below - 0x10_0000), CrashKind::StackOverflow);
        assert_eq!(fault(6, below, 0x7000_2000), CrashKind::WildWrite);
    }
}
