//! The end of a thread, and of the process.

use crate::Kernel;
use crate::errno::{Errno, Outcome};
use crate::sched::futex;
use crate::sched::thread::Resume;
use crate::user::{read_u32, read_u64, read_words, write_u32};

/// Futexes of a robust list that are looked at: a list may be a circle.
const ROBUST_LIST_MAX: usize = 2048;
// include/uapi/linux/futex.h
const FUTEX_OWNER_DIED: u32 = 0x4000_0000;
const FUTEX_WAITERS: u32 = 0x8000_0000;
const FUTEX_TID_MASK: u32 = 0x3fff_ffff;

/// `exit`: of this thread; of the process when it is the last.
pub(crate) fn exit_thread(k: &mut Kernel, code: u64) -> Outcome {
    if k.sched.threads.len() == 1 {
        unifork_hal::exit(code as u32 as i32);
    }
    let tid = k.sched.tid();
    release_robust(k, tid);
    let me = k.sched.me();
    let clear_tid = me.clear_tid;
    if clear_tid != 0 && write_u32(clear_tid, 0).is_ok() {
        futex::wake_all_of(k, clear_tid, 1);
    }
    k.sched.remove_current();
    Err(Errno::GONE)
}

/// Marks the robust futexes that the thread still holds, and wakes a waiter of each.
/// Linux `kernel/futex/core.c`, `exit_robust_list`.
fn release_robust(k: &mut Kernel, tid: u32) {
    let head = k.sched.me().robust_list;
    if head == 0 {
        return;
    }
    let Ok([first, offset, pending]) = read_words(head) else { return };
    let mut entry = first;
    for _ in 0..ROBUST_LIST_MAX {
        // The lowest bit says that it is a priority-inheriting one.
        let node = entry & !1;
        if node == head {
            break;
        }
        let Ok(next) = read_u64(node) else { return };
        if node != pending & !1 {
            release_one(k, node.wrapping_add(offset), tid);
        }
        entry = next;
    }
    if pending & !1 != 0 {
        release_one(k, (pending & !1).wrapping_add(offset), tid);
    }
}

fn release_one(k: &mut Kernel, at: u64, tid: u32) {
    let Ok(word) = read_u32(at) else { return };
    if word & FUTEX_TID_MASK == tid && write_u32(at, word & FUTEX_WAITERS | FUTEX_OWNER_DIED).is_ok() {
        k.sched.wake_where(1, Resume::Return(0), |call| futex::waits_for(call, at, u32::MAX));
    }
}
