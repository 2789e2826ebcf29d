//! A harness folder, built: manifest, sources and compiler together.

use std::fs;
use std::path::{Path, PathBuf};

use crate::compile::{BuildError, BuildRequest, Built, Flags, Libc, Progress, Unit, build, io_error};
use crate::fetch::Cache;
use crate::manifest::{FILE_NAME, Language, Manifest};

/// How deep below `harnesses/` a harness's folder may be.
const FOLDER_DEPTH_MAX: usize = 4;

/// Builds the harness in `folder` to the image at `output`, with its seeds, dictionary and grammar beside
/// it. Sources are fetched when they are not cached yet, and only files that changed are compiled.
///
/// `flags` come behind the manifest's, for all files.
///
/// # Errors
///
/// Any [`BuildError`]; the output is then as it was.
pub fn build_harness(folder: &Path, output: &Path, flags: &Flags) -> Result<Built, BuildError> {
    build(&request(folder, output, flags, None)?)
}

/// The request that [`build_harness`] makes, after fetching the sources.
///
/// # Errors
///
/// [`BuildError::Manifest`], [`BuildError::Fetch`] and [`BuildError::NotFound`].
pub fn request(
    folder: &Path,
    output: &Path,
    flags: &Flags,
    progress: Option<Progress>,
) -> Result<BuildRequest, BuildError> {
    let manifest = Manifest::read(folder)?;
    let mut cache = Cache::for_harness(folder);
    cache.progress = progress;
    let mut include: Vec<PathBuf> = manifest.include.iter().map(|path| folder.join(path)).collect();
    let mut sources = Vec::new();
    for source in &manifest.source {
        let root = cache.source(source)?.join(&source.root);
        include.extend(source.include.iter().map(|path| root.join(path)));
        sources.push((source, root));
    }
    let include: Vec<String> = include.iter().map(|path| format!("-I{}", path.display())).collect();

    let mut units = Vec::new();
    for file in &manifest.files {
        let flags = include.iter().chain(&manifest.flags).cloned().collect();
        units.push(Unit { path: folder.join(file), flags });
    }
    for (source, root) in &sources {
        for file in &source.files {
            let flags = include.iter().chain(&source.flags).cloned().collect();
            units.push(Unit { path: root.join(file), flags });
        }
    }
    let mut flags = flags.clone();
    flags.link.splice(0..0, manifest.link.iter().cloned());
    Ok(BuildRequest {
        units,
        linked: Vec::new(),
        flags,
        libc: Some(match manifest.language {
            Language::C => Libc::Musl,
            Language::Cxx => Libc::Glibc,
        }),
        output: output.into(),
        seeds: Some(folder.join(&manifest.seeds)),
        dictionary: manifest.dictionary.as_ref().map(|path| folder.join(path)),
        grammar: manifest.grammar.as_ref().map(|path| folder.join(path)),
        object_cache: Some(cache.objects()),
        jobs: None,
        color: false,
        progress,
    })
}

/// Every harness folder below `root`, in order of its path.
///
/// # Errors
///
/// [`BuildError::Io`] when a folder cannot be read.
pub fn list(root: &Path) -> Result<Vec<PathBuf>, BuildError> {
    let mut found = Vec::new();
    let mut folders = vec![(root.to_path_buf(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        if folder.join(FILE_NAME).is_file() {
            found.push(folder);
            continue;
        }
        if depth == FOLDER_DEPTH_MAX {
            continue;
        }
        for entry in fs::read_dir(&folder).map_err(io_error("read", &folder))? {
            let path = entry.map_err(io_error("read", &folder))?.path();
            if path.is_dir() {
                folders.push((path, depth + 1));
            }
        }
    }
    found.sort();
    Ok(found)
}
