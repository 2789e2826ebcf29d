//! A file that is replaced whole or not at all, and of which a kill leaves no half.
//!
//! It is written without a name (`O_TMPFILE`), so that the kernel takes it back when the writer dies, and
//! given one when it is complete and on disk. Where a file system has no such files, it has a name from
//! the start, and what dead writers left is removed by the next: a writer holds a lock on its own.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::{AtFlags, CWD};
use tempfile::TempPath;

/// What the umask leaves of this.
const MODE: u32 = 0o644;

/// Makes `path` what `write` writes.
///
/// # Errors
///
/// The kernel's, or those of `write`; `path` is then as it was.
pub(super) fn replace(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().ok_or(io::ErrorKind::IsADirectory)?;
    remove_stale(folder, name);
    let nameless =
        OpenOptions::new().read(true).write(true).mode(MODE).custom_flags(libc::O_TMPFILE).open(folder);
    let (mut file, named) = match nameless {
        Ok(file) => (file, None),
        // What kernels and file systems say that know no such files; `open(2)`.
        Err(e) if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR | libc::ENOENT)) => {
            let (file, path) = named(folder, name)?;
            (file, Some(path))
        }
        Err(e) => return Err(e),
    };
    write(&mut file)?;
    file.sync_all()?;
    let temporary = match named {
        Some(temporary) => temporary,
        None => link(&file, folder, name)?,
    };
    temporary.persist(path).map_err(|e| e.error)?;
    // The name itself is on disk when the folder is.
    File::open(folder)?.sync_all()
}

/// A locked file under a name of [`prefix`] and [`SUFFIX`].
fn named(folder: &Path, name: &OsStr) -> io::Result<(File, TempPath)> {
    let prefix = prefix(name);
    let mut builder = tempfile::Builder::new();
    builder.prefix(&prefix).suffix(SUFFIX).permissions(Permissions::from_mode(MODE));
    let (file, path) = builder.tempfile_in(folder)?.into_parts();
    file.lock()?;
    Ok((file, path))
}

/// Gives a nameless file such a name.
fn link(file: &File, folder: &Path, name: &OsStr) -> io::Result<TempPath> {
    file.lock()?;
    let from = format!("/proc/self/fd/{}", file.as_raw_fd());
    let prefix = prefix(name);
    let mut builder = tempfile::Builder::new();
    builder.prefix(&prefix).suffix(SUFFIX);
    let linked = builder.make_in(folder, |to| {
        rustix::fs::linkat(CWD, &from, CWD, to, AtFlags::SYMLINK_FOLLOW).map_err(io::Error::from)
    });
    linked.map(|linked| linked.into_temp_path())
}

const SUFFIX: &str = ".unifork-tmp";

fn prefix(name: &OsStr) -> OsString {
    let mut prefix = OsString::from(".");
    prefix.push(name);
    prefix.push(".");
    prefix
}

/// Removes what writers of `name` left that are dead. What cannot be removed stays.
fn remove_stale(folder: &Path, name: &OsStr) {
    let prefix = prefix(name);
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let found = entry.file_name();
        let ours =
            found.as_bytes().starts_with(prefix.as_bytes()) && found.as_bytes().ends_with(SUFFIX.as_bytes());
        if !ours || !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        let locked =
            File::open(entry.path()).map(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)));
        if matches!(locked, Ok(false)) {
            let _gone = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_dead_writers_left_is_removed_and_what_living_ones_write_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.snap");
        let (_file, living) = named(folder.path(), OsStr::new("x.snap")).unwrap();
        let living = living.file_name().unwrap().to_string_lossy().into_owned();
        for stale in [".x.snap.dead.unifork-tmp", ".y.snap.other.unifork-tmp", ".x.snap.mine"] {
            fs::write(folder.path().join(stale), b"half").unwrap();
        }
        replace(&path, |file| file.write_all(b"whole")).unwrap();
        let mut expected =
            vec![living, ".x.snap.mine".into(), ".y.snap.other.unifork-tmp".into(), "x.snap".into()];
        expected.sort();
        assert_eq!(names(folder.path()), expected);
        assert_eq!(fs::read(&path).unwrap(), b"whole");
    }

    #[test]
    fn it_is_replaced_and_has_the_mode_that_any_program_gives_its_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.snap");
        for bytes in [&b"first"[..], b"second"] {
            replace(&path, |file| file.write_all(bytes)).unwrap();
            assert_eq!(fs::read(&path).unwrap(), bytes);
        }
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let other = folder.path().join("other");
        fs::write(&other, b"").unwrap();
        assert_eq!(mode(&path), mode(&other) & MODE);
        let (_file, named) = named(folder.path(), OsStr::new("z")).unwrap();
        assert_eq!(mode(&named), mode(&path));
        assert!(replace(&path, |_| Err(io::ErrorKind::Other.into())).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"second");
    }
}
