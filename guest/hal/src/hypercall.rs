//! Asking the host.

use core::arch::asm;

use unifork_abi::{ABI_VERSION, DOORBELL_VA, Hypercall, SyscallFrame};

/// Stores the number to the doorbell; the host answers in RAX.
pub(crate) fn call(number: Hypercall, args: [u64; 3]) -> u64 {
    let result;
    // SAFETY: the store leaves the guest; the host changes no register but RAX, and no memory that
    // Rust knows of but what the call is about, which is behind raw pointers.
    unsafe {
        asm!(
            "mov qword ptr [{door}], rax",
            door = in(reg) DOORBELL_VA,
            inlateout("rax") number as u64 => result,
            in("rdi") args[0],
            in("rsi") args[1],
            in("rdx") args[2],
            options(nostack),
        );
    }
    result
}

/// A hypercall that the host never answers.
pub(crate) fn call_last(number: Hypercall, args: [u64; 3]) -> ! {
    loop {
        call(number, args);
    }
}

/// The first hypercall: says which ABI this kernel speaks.
pub fn hello() {
    call(Hypercall::Hello, [ABI_VERSION.into(), 0, 0]);
}

/// The application called `exit`.
pub fn exit(code: i32) -> ! {
    call_last(Hypercall::Exit, [u64::from(code.cast_unsigned()), 0, 0])
}

/// A signal that nothing handles ended the application, in the call that `frame` belongs to.
pub fn signalled(signal: i32, frame: &SyscallFrame) -> ! {
    call_last(Hypercall::Signal, [u64::from(signal.cast_unsigned()), address(frame), 0])
}

/// The signal of the exception that the host handed over, in the code that `frame` belongs to, has
/// no handler after all, or none that could be run: the exception itself ended the application.
pub fn signalled_by_fault(signal: i32, frame: &SyscallFrame) -> ! {
    call_last(Hypercall::Signal, [u64::from(signal.cast_unsigned()), address(frame), 1])
}

/// The arena has no `bytes` more.
pub fn out_of_memory(bytes: u64, frame: &SyscallFrame) -> ! {
    call_last(Hypercall::OutOfMemory, [bytes, address(frame), 0])
}

/// The application says that something is wrong. The host reads the message, and checks that it can.
pub fn assertion_failed(message: u64, bytes: u64, frame: &SyscallFrame) -> ! {
    call_last(Hypercall::Assert, [message, bytes, address(frame)])
}

/// The libOS panicked.
pub fn panicked(message: &str) -> ! {
    call_last(Hypercall::Panic, [message.as_ptr() as u64, message.len() as u64, 0])
}

fn address(frame: &SyscallFrame) -> u64 {
    core::ptr::from_ref(frame) as u64
}
