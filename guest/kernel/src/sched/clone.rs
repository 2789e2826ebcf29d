//! New threads. There is one process: what would make another answers `ENOSYS`.

use unifork_hal::SyscallFrame;

use crate::Kernel;
use crate::errno::{Errno, Outcome};
use crate::sched::thread::Context;
use crate::user::{read_words, write_u32};

// include/uapi/linux/sched.h
const CLONE_VM: u64 = 0x100;
const CLONE_SIGHAND: u64 = 0x800;
const CLONE_PIDFD: u64 = 0x1000;
const CLONE_THREAD: u64 = 0x1_0000;
const CLONE_SETTLS: u64 = 0x8_0000;
const CLONE_PARENT_SETTID: u64 = 0x10_0000;
const CLONE_CHILD_CLEARTID: u64 = 0x20_0000;
const CLONE_CHILD_SETTID: u64 = 0x100_0000;
/// First address that is not canonical.
const CANONICAL_END: u64 = 1 << 47;
/// The first version of `struct clone_args`.
const CLONE_ARGS_BYTES: u64 = 64;
/// Bytes a thread takes of the libOS's heap, about.
const THREAD_BYTES: usize = 8 << 10;

/// What both calls ask for.
struct Request {
    flags: u64,
    stack: u64,
    parent_tid: u64,
    child_tid: u64,
    tls: u64,
}

/// `clone`.
pub(crate) fn clone(k: &mut Kernel, args: [u64; 6], frame: &SyscallFrame) -> Outcome {
    let [flags, stack, parent_tid, child_tid, tls, _] = args;
    start(k, &Request { flags: flags & !0xff, stack, parent_tid, child_tid, tls }, frame)
}

/// `clone3`.
pub(crate) fn clone3(k: &mut Kernel, at: u64, bytes: u64, frame: &SyscallFrame) -> Outcome {
    if bytes < CLONE_ARGS_BYTES {
        return Err(Errno::EINVAL);
    }
    if bytes > 4096 {
        return Err(Errno::E2BIG);
    }
    let [flags, _pidfd, child_tid, parent_tid, exit_signal, stack, stack_bytes, tls] = read_words(at)?;
    if flags & CLONE_THREAD != 0 && exit_signal != 0 || (stack == 0) != (stack_bytes == 0) {
        return Err(Errno::EINVAL);
    }
    let stack = stack.checked_add(stack_bytes).ok_or(Errno::EINVAL)?;
    start(k, &Request { flags, stack, parent_tid, child_tid, tls }, frame)
}

fn start(k: &mut Kernel, request: &Request, frame: &SyscallFrame) -> Outcome {
    let flags = request.flags;
    let has = |flag: u64| flags & flag != 0;
    if has(CLONE_THREAD) && !has(CLONE_SIGHAND) || has(CLONE_SIGHAND) && !has(CLONE_VM) {
        return Err(Errno::EINVAL);
    }
    if !has(CLONE_THREAD) || has(CLONE_PIDFD) {
        // Another process.
        return Err(Errno::ENOSYS);
    }
    if has(CLONE_SETTLS) && request.tls >= CANONICAL_END {
        return Err(Errno::EPERM);
    }
    crate::user::have_room(THREAD_BYTES)?;
    let mut context = Context::save(frame);
    context.frame.rax = 0;
    if request.stack != 0 {
        context.frame.rsp = request.stack;
    }
    if has(CLONE_SETTLS) {
        context.set_fs(request.tls);
    }
    let (blocked, name) = (k.sched.me().blocked, k.sched.me().name);
    let child = k.sched.add(context)?;
    child.blocked = blocked;
    child.name = name;
    if has(CLONE_CHILD_CLEARTID) {
        child.clear_tid = request.child_tid;
    }
    let tid = child.tid;
    // Linux ignores what goes wrong here.
    if has(CLONE_PARENT_SETTID) {
        let _ignored = write_u32(request.parent_tid, tid);
    }
    if has(CLONE_CHILD_SETTID) {
        let _ignored = write_u32(request.child_tid, tid);
    }
    Ok(tid.into())
}
