//! Memory files: created, filled once, sealed, and mapped.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::ops::Range;
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

/// The parts of `bytes` bytes of `file` from `offset` on that are not holes, counted from `offset`. All
/// of it, where the file system does not say.
pub(crate) fn data_ranges(file: &File, offset: u64, bytes: u64) -> Vec<Range<u64>> {
    let end = offset + bytes;
    let mut ranges = Vec::new();
    let mut at = offset;
    while at < end {
        let Some(data) = seek(file, at, libc::SEEK_DATA) else {
            // ENXIO: nothing but a hole from here on. Anything else: not supported.
            let hole = io::Error::last_os_error().raw_os_error() == Some(libc::ENXIO);
            if !hole {
                return std::iter::once(0..bytes).collect();
            }
            break;
        };
        let hole = seek(file, data, libc::SEEK_HOLE).unwrap_or(end);
        if data < end {
            ranges.push(data - offset..hole.min(end) - offset);
        }
        at = hole.max(data + 1);
    }
    ranges
}

fn seek(file: &File, at: u64, whence: libc::c_int) -> Option<u64> {
    let at = libc::off_t::try_from(at).ok()?;
    // SAFETY: `file` is an open descriptor; its position is of no use to anybody here.
    let found = unsafe { libc::lseek(file.as_raw_fd(), at, whence) };
    u64::try_from(found).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn holes_are_found() {
        let file = create(c"test", 64 << 10).unwrap();
        file.write_all_at(b"x", 16 << 10).unwrap();
        let ranges = |offset, bytes| -> Vec<(u64, u64)> {
            data_ranges(&file, offset, bytes).iter().map(|r| (r.start >> 10, r.end >> 10)).collect()
        };
        assert_eq!(ranges(0, 64 << 10), [(16, 20)]);
        assert_eq!(ranges(4096, 60 << 10), [(12, 16)]);
        assert_eq!(ranges(32 << 10, 32 << 10), []);
    }

    #[test]
    fn a_sealed_file_refuses_to_be_written() {
        let file = create(c"test", 4096).unwrap();
        file.write_all_at(b"x", 0).unwrap();
        seal(&file).unwrap();
        assert!(file.write_all_at(b"y", 0).is_err());
        assert!(file.set_len(0).is_err());
    }
}
