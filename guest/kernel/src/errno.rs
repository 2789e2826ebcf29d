//! Why a system call failed. Linux `include/uapi/asm-generic/errno-base.h` and `errno.h`.

use unifork_hal::Fault;

/// An error number.
///
/// Beyond Linux's own there are three that no program sees (Linux has such too, from `ERESTARTSYS`
/// on); they tell the scheduler what to do with the thread instead of returning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Errno(u16);

macro_rules! numbers {
    ($($name:ident = $number:literal),* $(,)?) => {
        #[expect(dead_code, reason = "the list is Linux's, not what is used today")]
        impl Errno {
            $(pub(crate) const $name: Self = Self($number);)*
        }
    };
}

numbers! {
    EPERM = 1, ENOENT = 2, ESRCH = 3, EINTR = 4, EIO = 5, ENXIO = 6, E2BIG = 7, ENOEXEC = 8, EBADF = 9,
    ECHILD = 10, EAGAIN = 11, ENOMEM = 12, EACCES = 13, EFAULT = 14, ENOTBLK = 15, EBUSY = 16, EEXIST = 17,
    EXDEV = 18, ENODEV = 19, ENOTDIR = 20, EISDIR = 21, EINVAL = 22, ENFILE = 23, EMFILE = 24, ENOTTY = 25,
    ETXTBSY = 26, EFBIG = 27, ENOSPC = 28, ESPIPE = 29, EROFS = 30, EMLINK = 31, EPIPE = 32, EDOM = 33,
    ERANGE = 34, EDEADLK = 35, ENAMETOOLONG = 36, ENOLCK = 37, ENOSYS = 38, ENOTEMPTY = 39, ELOOP = 40,
    ENODATA = 61, EPROTO = 71, EBADMSG = 74, EOVERFLOW = 75, EBADFD = 77, EUSERS = 87, ENOTSOCK = 88,
    EDESTADDRREQ = 89, EMSGSIZE = 90, EPROTOTYPE = 91, ENOPROTOOPT = 92, EPROTONOSUPPORT = 93,
    ESOCKTNOSUPPORT = 94, EOPNOTSUPP = 95, EPFNOSUPPORT = 96, EAFNOSUPPORT = 97, EADDRINUSE = 98,
    EADDRNOTAVAIL = 99, ENETDOWN = 100, ENETUNREACH = 101, ECONNABORTED = 103, ECONNRESET = 104,
    ENOBUFS = 105, EISCONN = 106, ENOTCONN = 107, ESHUTDOWN = 108, ETIMEDOUT = 110, ECONNREFUSED = 111,
    EHOSTDOWN = 112, EHOSTUNREACH = 113, EALREADY = 114, EINPROGRESS = 115, ECANCELED = 125,
    EOWNERDEAD = 130,
}

impl Errno {
    /// The call waits: what for is noted in the thread (`sched/wait.rs`).
    pub(crate) const BLOCK: Self = Self(600);
    /// The thread is gone, and its frame with it.
    pub(crate) const GONE: Self = Self(601);
    /// The frame is as it should be; nothing is to be put into RAX.
    pub(crate) const AS_IS: Self = Self(602);

    /// As the application finds it in RAX: minus the number.
    pub(crate) fn as_result(self) -> u64 {
        u64::from(self.0).wrapping_neg()
    }

    /// The errno with this number, as a crate that does not know this type names it.
    pub(crate) const fn from_number(number: u16) -> Self {
        Self(number)
    }
}

impl From<Fault> for Errno {
    fn from(_: Fault) -> Self {
        Self::EFAULT
    }
}

/// What a system call returns.
pub(crate) type Outcome = Result<u64, Errno>;
