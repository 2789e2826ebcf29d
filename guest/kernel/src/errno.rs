//! Why a system call failed. Linux `include/uapi/asm-generic/errno-base.h` and `errno.h`.

use unifork_hal::Fault;

/// An error number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Errno(u16);

impl Errno {
    pub(crate) const EPERM: Self = Self(1);
    pub(crate) const ENOENT: Self = Self(2);
    pub(crate) const ESRCH: Self = Self(3);
    pub(crate) const EBADF: Self = Self(9);
    pub(crate) const EAGAIN: Self = Self(11);
    pub(crate) const ENOMEM: Self = Self(12);
    pub(crate) const EFAULT: Self = Self(14);
    pub(crate) const EEXIST: Self = Self(17);
    pub(crate) const EINVAL: Self = Self(22);
    pub(crate) const ENOTTY: Self = Self(25);
    pub(crate) const ESPIPE: Self = Self(29);
    pub(crate) const ERANGE: Self = Self(34);
    pub(crate) const ENOSYS: Self = Self(38);
    pub(crate) const ETIMEDOUT: Self = Self(110);

    /// As the application finds it in RAX: minus the number.
    pub(crate) fn as_result(self) -> u64 {
        u64::from(self.0).wrapping_neg()
    }
}

impl From<Fault> for Errno {
    fn from(_: Fault) -> Self {
        Self::EFAULT
    }
}

/// What a system call returns.
pub(crate) type Outcome = Result<u64, Errno>;
