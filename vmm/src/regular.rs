//! Regular files that somebody names: all that are read whole or mapped are opened here.
//!
//! A FIFO would be waited for until somebody writes to it, and a device may have no end; neither is opened. A
//! directory is one too little to read, and the system says so.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Opens the regular file at `path`, to read.
///
/// # Errors
///
/// What the system says, or that it is something else.
pub fn open(path: impl AsRef<Path>) -> io::Result<File> {
    let path = path.as_ref();
    let kind = fs::metadata(path)?.file_type();
    if kind.is_dir() {
        return Err(io::Error::from_raw_os_error(libc::EISDIR));
    }
    if !kind.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    // Without waiting, should it have become a FIFO since. Of a regular file the flag changes nothing.
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)
}

/// All of the regular file at `path`.
///
/// # Errors
///
/// As [`open`], or what the system says when it is read.
pub fn read(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    let mut file = open(path)?;
    let bytes = file.metadata().map_or(0, |data| data.len());
    let mut read = Vec::with_capacity(usize::try_from(bytes).unwrap_or(0));
    file.read_to_end(&mut read)?;
    Ok(read)
}

/// [`read`], of a text.
///
/// # Errors
///
/// As [`read`], or that it is not UTF-8.
pub fn read_text(path: impl AsRef<Path>) -> io::Result<String> {
    String::from_utf8(read(path)?).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_and_all_else_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("file"), b"x\xff").unwrap();
        std::os::unix::fs::symlink(at("file"), at("link")).unwrap();
        assert_eq!(read(at("link")).unwrap(), b"x\xff");
        assert_eq!(read_text(at("file")).unwrap_err().to_string(), "it is not UTF-8");
        rustix::fs::mkfifoat(rustix::fs::CWD, at("fifo"), rustix::fs::Mode::from(0o600)).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        for path in [at("fifo"), at("socket"), "/dev/zero".into(), "/dev/null".into()] {
            assert_eq!(read(&path).unwrap_err().to_string(), "it is not a regular file", "{path:?}");
        }
        assert_eq!(read(folder.path()).unwrap_err().kind(), io::ErrorKind::IsADirectory);
        assert_eq!(open(at("missing")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
