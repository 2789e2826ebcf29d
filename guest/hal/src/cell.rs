//! The libOS's one global: a value that is borrowed for the length of a system call.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering};

/// A global that one caller at a time may use.
pub struct KernelCell<T> {
    taken: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: the guest has one CPU and nothing preempts the libOS; `with` also refuses a second borrow
// while one is alive. So no two references to the value ever exist at a time.
// `T` need not be `Send`: there is no other thread of Rust's to send it to.
unsafe impl<T> Sync for KernelCell<T> {}

impl<T> KernelCell<T> {
    /// A cell with `value` in it.
    pub const fn new(value: T) -> Self {
        Self { taken: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    /// Calls `f` with the value.
    ///
    /// # Panics
    ///
    /// When `f` is running already.
    pub fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        // Plain loads and stores: with one CPU there is nothing to be atomic against.
        assert!(!self.taken.load(Ordering::Relaxed), "the libOS was entered twice");
        self.taken.store(true, Ordering::Relaxed);
        // SAFETY: `taken` was false, so no other reference is alive; it stays true until this one
        // is gone.
        let result = f(unsafe { &mut *self.value.get() });
        self.taken.store(false, Ordering::Relaxed);
        result
    }
}
