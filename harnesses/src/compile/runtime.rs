//! The C runtime's files, written to where a compiler can read them.

use std::fs;
use std::path::{Path, PathBuf};

use unifork_guest::RUNTIME;

use super::{BuildError, io_error};

/// The runtime on disk.
pub(super) struct Runtime {
    /// Files to compile.
    pub(super) sources: Vec<PathBuf>,
    /// Folder with `unifork.h`.
    pub(super) include: PathBuf,
    /// The linker-script fragment.
    pub(super) script: PathBuf,
}

/// Writes the runtime below `folder`.
pub(super) fn write(folder: &Path) -> Result<Runtime, BuildError> {
    let root = folder.join("runtime");
    let mut sources = Vec::new();
    for (name, text) in RUNTIME {
        let path = root.join(name);
        let parent = path.parent().expect("below root");
        fs::create_dir_all(parent).map_err(io_error("create", parent))?;
        fs::write(&path, text).map_err(io_error("write", &path))?;
        if path.extension().is_some_and(|extension| extension == "c") {
            sources.push(path);
        }
    }
    Ok(Runtime { sources, include: root.join("include"), script: root.join("counters.ld") })
}
