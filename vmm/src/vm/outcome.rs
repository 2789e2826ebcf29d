//! How a run ended.

use unifork_abi::{Hypercall, SyscallFrame};

use super::{Event, Vm, registers_of};
use crate::introspect::Registers;
use crate::outcome::{Cause, Crash, CrashKind, Outcome};

/// Bytes of a message that the guest hands over, at most.
const MESSAGE_BYTES_MAX: u64 = 4096;
impl Vm {
    /// How the run that stopped with `event` ended, when it does not go on: everything but the
    /// hypercalls that its caller understands.
    pub(crate) fn outcome(&self, event: Event) -> Outcome {
        let (cause, registers) = match event {
            Event::Deadline => return Outcome::Timeout,
            Event::Exception { vector, error_code, address, registers } => {
                (Cause::Exception { vector, error_code, address }, registers)
            }
            Event::Lost { reason } => (Cause::Vm { reason }, registers_of(&self.vcpu.core())),
            Event::Hypercall { number, args: [a, b, c] } => match Hypercall::from_number(number) {
                Some(Hypercall::Exit) => return Outcome::Exit { code: a as i32 },
                Some(Hypercall::Signal) if c == 1 => (self.handed_over(), self.syscall_registers(b)),
                Some(Hypercall::Signal) => (Cause::Signal { number: a as i32 }, self.syscall_registers(b)),
                Some(Hypercall::Panic) => {
                    (Cause::KernelPanic { message: self.message(a, b) }, registers_of(&self.vcpu.core()))
                }
                Some(Hypercall::OutOfMemory) => {
                    (Cause::OutOfMemory { requested: a }, self.syscall_registers(b))
                }
                Some(Hypercall::Assert) => {
                    (Cause::Assertion { message: self.message(a, b) }, self.syscall_registers(c))
                }
                _ => (Cause::BadHypercall { number }, registers_of(&self.vcpu.core())),
            },
        };
        let kind = CrashKind::of(&cause, &registers, &self.layout);
        Outcome::Crash(Crash { cause, kind, registers })
    }

    /// The application's registers at the system call whose frame is claimed to be at `frame`.
    fn syscall_registers(&self, frame: u64) -> Registers {
        let mut bytes = [0; size_of::<SyscallFrame>()];
        if frame == 0 || !self.read(frame, &mut bytes) {
            return registers_of(&self.vcpu.core());
        }
        let word =
            |i: usize| bytes[i * 8..].first_chunk().map_or(0, |chunk: &[u8; 8]| u64::from_le_bytes(*chunk));
        let bases = registers_of(&self.vcpu.core());
        Registers {
            r15: word(0),
            r14: word(1),
            r13: word(2),
            r12: word(3),
            rbp: word(4),
            rbx: word(5),
            r11: word(6),
            r10: word(7),
            r9: word(8),
            r8: word(9),
            rax: word(10),
            rcx: word(11),
            rdx: word(12),
            rsi: word(13),
            rdi: word(14),
            rip: word(15),
            rflags: word(16),
            rsp: word(17),
            ..bases
        }
    }

    /// `bytes` bytes of text that the guest claims to have at `at`; as much of it as is readable.
    fn message(&self, at: u64, bytes: u64) -> String {
        let mut text = Vec::new();
        for i in 0..bytes.min(MESSAGE_BYTES_MAX) {
            let mut byte = [0];
            if !self.read(at.wrapping_add(i), &mut byte) {
                break;
            }
            text.push(byte[0]);
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}
