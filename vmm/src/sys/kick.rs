//! Stops a vCPU that runs past its deadline.
//!
//! A run must not pay for its deadline: arming a timer would be two system calls per input. Instead
//! each vCPU thread stores its deadline in a shared word, and one watchdog thread per process looks
//! at all of them. When one has passed it sends the thread a signal, which ends `KVM_RUN` with
//! `EINTR`. The handler also sets `kvm_run.immediate_exit`, so that a signal that arrives just
//! before the ioctl is not lost; the run loop clears it again. An early or late signal does no
//! harm: the loop looks at its own clock.

use std::cell::Cell;
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, OnceLock, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

/// How late a deadline may be noticed, at most.
const TICK_MAX: Duration = Duration::from_millis(20);
/// The watchdog does not wake more often than this.
const TICK_MIN: Duration = Duration::from_millis(1);
/// No deadline.
const IDLE: u64 = u64::MAX;

thread_local! {
    /// `kvm_run.immediate_exit` of the vCPU that this thread is running, or null.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
}

/// One vCPU thread's deadline, as the watchdog sees it.
#[derive(Debug)]
struct Slot {
    /// Nanoseconds since [`epoch`], or [`IDLE`].
    deadline_ns: AtomicU64,
    /// Kernel id of the thread to signal.
    tid: AtomicU64,
}

/// A vCPU's deadline. Setting and clearing it costs two atomic stores and no system call.
#[derive(Debug)]
pub(crate) struct Deadline {
    slot: Arc<Slot>,
}

impl Deadline {
    /// Registers a deadline with this process's watchdog, starting it if need be.
    pub(crate) fn new() -> io::Result<Self> {
        let slot = Arc::new(Slot { deadline_ns: AtomicU64::new(IDLE), tid: AtomicU64::new(0) });
        watch(&slot)?;
        Ok(Self { slot })
    }

    /// From now on until [`Self::disarm`], this thread is signalled when `after` has passed.
    /// `immediate_exit` is set by the signal; it must stay valid until then.
    pub(crate) fn arm(&self, after: Duration, immediate_exit: *mut u8) {
        IMMEDIATE_EXIT.with(|cell| cell.set(immediate_exit));
        self.slot.tid.store(thread_id(), Ordering::Relaxed);
        let deadline = now_ns().saturating_add(u64::try_from(after.as_nanos()).unwrap_or(IDLE - 1));
        self.slot.deadline_ns.store(deadline.min(IDLE - 1), Ordering::Release);
    }

    /// Moves the deadline of an armed run.
    pub(crate) fn extend(&self, after: Duration) {
        let deadline = now_ns().saturating_add(u64::try_from(after.as_nanos()).unwrap_or(IDLE - 1));
        self.slot.deadline_ns.store(deadline.min(IDLE - 1), Ordering::Release);
    }

    /// The deadline of the run has passed.
    pub(crate) fn passed(&self) -> bool {
        self.slot.deadline_ns.load(Ordering::Relaxed) <= now_ns()
    }

    /// Ends the watch that [`Self::arm`] began.
    pub(crate) fn disarm(&self) {
        self.slot.deadline_ns.store(IDLE, Ordering::Release);
        IMMEDIATE_EXIT.with(|cell| cell.set(ptr::null_mut()));
    }
}

fn epoch() -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    *EPOCH.get_or_init(Instant::now)
}

fn now_ns() -> u64 {
    u64::try_from(epoch().elapsed().as_nanos()).unwrap_or(IDLE - 1)
}

thread_local! {
    /// This thread's kernel id, or 0 when it has not been asked for yet.
    static THREAD_ID: Cell<u64> = const { Cell::new(0) };
    /// [`WATCHDOG`]'s lock, while this thread forks.
    static HELD: Cell<Option<MutexGuard<'static, Option<Watchdog>>>> = const { Cell::new(None) };
}

fn thread_id() -> u64 {
    THREAD_ID.with(|id| {
        if id.get() == 0 {
            // SAFETY: gettid has no precondition.
            let tid = unsafe { libc::gettid() };
            id.set(u64::try_from(tid).unwrap_or(0));
        }
        id.get()
    })
}

/// What the watchdog looks at. `pid` tells a forked child that its parent's thread is not its own.
struct Watchdog {
    pid: u32,
    slots: Vec<Weak<Slot>>,
}

static WATCHDOG: Mutex<Option<Watchdog>> = Mutex::new(None);

fn watchdog() -> MutexGuard<'static, Option<Watchdog>> {
    WATCHDOG.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A child must neither inherit the lock from a watchdog that it does not have, nor take its
/// parent's thread for its own.
extern "C" fn before_fork() {
    HELD.with(|held| held.set(Some(watchdog())));
}

extern "C" fn after_fork() {
    HELD.with(Cell::take);
}

extern "C" fn after_fork_in_child() {
    THREAD_ID.with(|id| id.set(0));
    after_fork();
}

fn survive_forks() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the handlers are functions, and touch nothing but this module's own lock and
        // thread-locals. When there is no memory to note them, forks are as they would be without.
        unsafe { libc::pthread_atfork(Some(before_fork), Some(after_fork), Some(after_fork_in_child)) };
    });
}

/// The signal that ends `KVM_RUN`. Real-time, so that no application library is likely to use it.
fn kick_signal() -> libc::c_int {
    libc::SIGRTMIN() + 4
}

extern "C" fn on_kick(_signal: libc::c_int) {
    let flag = IMMEDIATE_EXIT.with(Cell::get);
    if !flag.is_null() {
        // SAFETY: 1. the pointer is set only between `arm` and `disarm`, while the vCPU's kvm_run
        // page is mapped. 2. A byte store is atomic on x86-64; KVM reads it at the next KVM_RUN.
        unsafe { flag.write_volatile(1) };
    }
}

fn install_handler() -> io::Result<()> {
    // SAFETY: an all-zero sigaction is valid: no flags, empty mask, default handler.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_kick as extern "C" fn(libc::c_int) as libc::sighandler_t;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: `action` is initialised, and the handler only stores a byte.
    let result = unsafe { libc::sigaction(kick_signal(), &raw const action, ptr::null_mut()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn watch(slot: &Arc<Slot>) -> io::Result<()> {
    survive_forks();
    let mut guard = watchdog();
    let pid = std::process::id();
    match guard.as_mut().filter(|dog| dog.pid == pid) {
        Some(dog) => dog.slots.push(Arc::downgrade(slot)),
        None => {
            install_handler()?;
            epoch();
            *guard = Some(Watchdog { pid, slots: vec![Arc::downgrade(slot)] });
            thread::Builder::new().name("deadlines".into()).spawn(move || patrol(pid))?;
        }
    }
    Ok(())
}

/// The watchdog thread: signals every thread whose deadline has passed, again at each tick until
/// the deadline is moved or cleared. Ends when nothing is left to watch.
fn patrol(pid: u32) {
    loop {
        let now = now_ns();
        let mut wait = TICK_MAX;
        {
            let mut guard = watchdog();
            let Some(dog) = guard.as_mut().filter(|dog| dog.pid == pid) else { return };
            dog.slots.retain(|slot| slot.strong_count() > 0);
            if dog.slots.is_empty() {
                *guard = None;
                return;
            }
            for slot in dog.slots.iter().filter_map(Weak::upgrade) {
                let deadline = slot.deadline_ns.load(Ordering::Acquire);
                if deadline == IDLE {
                    continue;
                }
                if deadline <= now {
                    kick(&slot);
                    wait = TICK_MIN;
                } else {
                    wait = wait.min(Duration::from_nanos(deadline - now)).max(TICK_MIN);
                }
            }
        }
        thread::sleep(wait);
    }
}

fn kick(slot: &Slot) {
    let tid = libc::pid_t::try_from(slot.tid.load(Ordering::Relaxed)).unwrap_or(0);
    // SAFETY: getpid has no precondition.
    let pid = unsafe { libc::getpid() };
    // SAFETY: tgkill with a stale thread id fails with ESRCH; a live one of this process has the
    // handler installed.
    unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, kick_signal()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passed_deadline_interrupts_the_thread_and_sets_the_flag() {
        let deadline = Deadline::new().unwrap();
        let mut flag = 0u8;
        deadline.arm(Duration::from_millis(5), &raw mut flag);
        let started = Instant::now();
        while !deadline.passed() || started.elapsed() < Duration::from_millis(40) {
            thread::sleep(Duration::from_millis(1));
            assert!(started.elapsed() < Duration::from_secs(5), "never signalled");
        }
        deadline.disarm();
        let pointer = &raw const flag;
        // SAFETY: `flag` is alive; the handler wrote it from this very thread.
        assert_eq!(unsafe { pointer.read_volatile() }, 1);
        assert!(!deadline.passed(), "a disarmed deadline never passes");
    }
}
