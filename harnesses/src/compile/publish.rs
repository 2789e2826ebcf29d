//! Putting an image, its seeds and its dictionary in place, each whole or not at all.
//!
//! ```text
//! DIR/NAME.img    DIR/NAME.seeds/    DIR/NAME.dict    DIR/NAME.grammar.json
//! ```
//!
//! What is the same already is not touched. Seeds, a dictionary or a grammar that a build does not name are
//! left as they are. The seeds folder is changed by two renames: a machine that stops between them
//! leaves no seeds folder, never half of one.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::{BuildError, BuildRequest, io_error};

/// Permissions of the image, and of the other files.
const PROGRAM: u32 = 0o755;
const FILE: u32 = 0o644;

/// Where seeds and dictionary of the image at `output` go: beside it, named after it.
fn beside(output: &Path, extension: &str) -> PathBuf {
    output.with_extension(extension)
}

/// Refuses inputs that are not there and outputs that cannot be, before anything is compiled.
pub(super) fn check(request: &BuildRequest) -> Result<(), BuildError> {
    let unusable =
        |path: &Path, what: &str| Err(BuildError::UnusableFile { path: path.into(), what: what.into() });
    if request.output.extension().is_none_or(|extension| extension != "img") {
        return unusable(&request.output, "the output's name must end in .img");
    }
    if request.output.is_dir() {
        return unusable(&request.output, "is a folder; name a file for the image");
    }
    if let Some(seeds) = &request.seeds
        && !seeds.is_dir()
    {
        return Err(BuildError::NotFound { path: seeds.clone() });
    }
    if let Some(seeds) = &request.seeds
        && seed_files(seeds)?.is_empty()
    {
        return unusable(seeds, "the seeds folder has no files; put one input per file into it");
    }
    for file in [&request.dictionary, &request.grammar].into_iter().flatten() {
        if !file.is_file() {
            return Err(BuildError::NotFound { path: file.clone() });
        }
    }
    let folder = folder_of(&request.output);
    fs::create_dir_all(&folder).map_err(io_error("create", &folder))
}

/// What lies beside an image.
#[derive(Debug, Default)]
pub(super) struct Beside {
    pub(super) seeds: Option<PathBuf>,
    pub(super) dictionary: Option<PathBuf>,
    pub(super) grammar: Option<PathBuf>,
}

/// Puts everything in place and returns where it is.
pub(super) fn publish(request: &BuildRequest, image: &[u8]) -> Result<Beside, BuildError> {
    let mut seeds = None;
    if let Some(from) = &request.seeds {
        let to = beside(&request.output, "seeds");
        publish_seeds(from, &to)?;
        seeds = Some(to);
    }
    let copy = |from: &Option<PathBuf>, extension| -> Result<Option<PathBuf>, BuildError> {
        let Some(from) = from else { return Ok(None) };
        let to = beside(&request.output, extension);
        publish_file(&fs::read(from).map_err(io_error("read", from))?, &to, FILE)?;
        Ok(Some(to))
    };
    let dictionary = copy(&request.dictionary, "dict")?;
    let grammar = copy(&request.grammar, "grammar.json")?;
    // Last, so that an image which is there has what belongs to it.
    publish_file(image, &request.output, PROGRAM)?;
    Ok(Beside { seeds, dictionary, grammar })
}

fn publish_file(bytes: &[u8], to: &Path, mode: u32) -> Result<(), BuildError> {
    if fs::read(to).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let folder = folder_of(to);
    let write = || -> io::Result<()> {
        let mut file = tempfile::Builder::new().prefix(".unifork-").tempfile_in(&folder)?;
        file.write_all(bytes)?;
        file.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
        file.persist(to)?;
        Ok(())
    };
    write().map_err(io_error("write", to))
}

/// The files of a seeds folder, by name, in order. Folders in it are not looked into.
fn seed_files(folder: &Path) -> Result<Vec<PathBuf>, BuildError> {
    let list = || -> io::Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_file() {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    };
    list().map_err(io_error("read the seeds folder", folder))
}

fn publish_seeds(from: &Path, to: &Path) -> Result<(), BuildError> {
    let mut seeds = Vec::new();
    for path in seed_files(from)? {
        let name = path.file_name().expect("read_dir names its entries").to_owned();
        seeds.push((name, fs::read(&path).map_err(io_error("read", &path))?));
    }
    let same = |(name, bytes): &(std::ffi::OsString, Vec<u8>)| {
        fs::read(to.join(name)).is_ok_and(|old| old == *bytes)
    };
    if fs::read_dir(to).is_ok_and(|old| old.count() == seeds.len()) && seeds.iter().all(same) {
        return Ok(());
    }
    let folder = folder_of(to);
    let write = || -> io::Result<()> {
        let fresh = tempfile::Builder::new().prefix(".unifork-seeds-").tempdir_in(&folder)?;
        for (name, bytes) in &seeds {
            fs::write(fresh.path().join(name), bytes)?;
        }
        fs::set_permissions(fresh.path(), fs::Permissions::from_mode(PROGRAM))?;
        if to.exists() {
            // Dropped at the end of this block, with what was there before.
            let old = tempfile::Builder::new().prefix(".unifork-old-").tempdir_in(&folder)?;
            fs::rename(to, old.path().join("seeds"))?;
            if let Err(error) = fs::rename(fresh.path(), to) {
                fs::rename(old.path().join("seeds"), to)?;
                return Err(error);
            }
        } else {
            fs::rename(fresh.path(), to)?;
        }
        // It has moved; there is nothing to remove under its first name.
        let _moved = fresh.keep();
        Ok(())
    };
    write().map_err(io_error("write", to))
}

/// The folder that a file is or will be in.
fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder.into(),
        _ => ".".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_seeds_folder_is_replaced_whole_and_nothing_else_is_left_behind() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("x.seeds"));
        fs::create_dir(&from).unwrap();
        fs::write(from.join("a"), "1").unwrap();
        publish_seeds(&from, &to).unwrap();
        fs::rename(from.join("a"), from.join("b")).unwrap();
        publish_seeds(&from, &to).unwrap();
        assert_eq!(names(&to), ["b"]);
        assert_eq!(names(folder.path()), ["from", "x.seeds"]);
    }

    #[test]
    fn a_file_that_is_the_same_is_not_touched() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.img");
        publish_file(b"one", &path, PROGRAM).unwrap();
        let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
        let first = inode(&path);
        publish_file(b"one", &path, PROGRAM).unwrap();
        assert_eq!(inode(&path), first);
        publish_file(b"two", &path, PROGRAM).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(names(folder.path()), ["x.img"]);
    }
}
