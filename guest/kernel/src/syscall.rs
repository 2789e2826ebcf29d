//! From a number to the code that serves it. The list is in `syscall/table.rs`.

use unifork_abi::SYS_UNIFORK_ASSERT;
use unifork_hal::{SyscallFrame, assertion_failed, count_unserved};

use crate::Kernel;
use crate::errno::{Errno, Outcome};
use crate::fs::names::HERE;

/// Makes the dispatcher out of the table; others make documentation out of it.
macro_rules! syscalls {
    ($($number:literal $name:ident $status:ident $(($deviation:literal))? => |$k:pat_param, $args:pat_param, $frame:pat_param| $handler:expr;)*) => {
        /// Serves the call that `frame` holds, or counts that it was not.
        pub(crate) fn dispatch(kernel: &mut Kernel, frame: &mut SyscallFrame) -> Outcome {
            // Linux looks at no more of it.
            let number = frame.rax & 0xffff_ffff;
            let args = [frame.rdi, frame.rsi, frame.rdx, frame.r10, frame.r8, frame.r9];
            let result: Outcome = match number {
                $($number => { let ($k, $args, $frame) = (kernel, args, frame); $handler })*
                SYS_UNIFORK_ASSERT => assertion_failed(args[0], args[1], frame),
                _ => Err(Errno::ENOSYS),
            };
            if result == Err(Errno::ENOSYS) {
                count_unserved(number);
            }
            result
        }
    };
}

include!("syscall/table.rs");
