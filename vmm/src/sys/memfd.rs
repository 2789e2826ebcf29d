//! Memory files: created, filled once, sealed, and mapped.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};

/// A new memory file of `bytes` zeroes that may be sealed later.
pub(crate) fn create(name: &CStr, bytes: u64) -> io::Result<File> {
    // SAFETY: `name` is a C string; the call has no other precondition.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` is open (checked above) and nothing else owns it.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(bytes)?;
    Ok(file)
}

/// Seals `file` against any change, for ever.
///
/// # Errors
///
/// `EBUSY` while somebody still maps it shared and writable.
pub(crate) fn seal(file: &File) -> io::Result<()> {
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE | libc::F_SEAL_SEAL;
    // SAFETY: `file` is an open descriptor; F_ADD_SEALS takes an int.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn a_sealed_file_refuses_to_be_written() {
        let file = create(c"test", 4096).unwrap();
        file.write_all_at(b"x", 0).unwrap();
        seal(&file).unwrap();
        assert!(file.write_all_at(b"y", 0).is_err());
        assert!(file.set_len(0).is_err());
    }
}
