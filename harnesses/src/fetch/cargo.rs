//! Crates that carry C sources, by `cargo fetch`.
//!
//! The crate is never compiled: cargo downloads it for a throw-away manifest, and the `.crate` file
//! is taken from cargo's own cache.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Cache, FetchError, Wanted, io_error, said};
use crate::manifest::Source;

/// Returns the `.crate` file, unchecked.
pub(super) fn download(cache: &Cache, name: &str, source: &Source) -> Result<PathBuf, FetchError> {
    let version = &source.version;
    let file = format!("{name}-{version}.crate");
    let kept = cache.downloads().join(&file);
    if kept.is_file() {
        return Ok(kept);
    }
    let wanted =
        Wanted { program: "cargo", what: format!("crate {name} {version}"), file: file.clone(), cache };
    let found = match find_in_cargo_home(&file) {
        Some(path) => path,
        None => {
            fetch(&wanted, name, version)?;
            find_in_cargo_home(&file).ok_or_else(|| {
                wanted.failed(format!(
                    "cargo fetched it but {file} is not in its cache; are crates replaced by a folder here?"
                ))
            })?
        }
    };
    let partial = cache.downloads().join(format!("{file}.partial"));
    fs::copy(&found, &partial).map_err(io_error("copy to", &partial))?;
    fs::rename(&partial, &kept).map_err(io_error("create", &kept))?;
    Ok(kept)
}

fn fetch(wanted: &Wanted<'_>, name: &str, version: &str) -> Result<(), FetchError> {
    let downloads = wanted.cache.downloads();
    let folder = tempfile::tempdir_in(&downloads).map_err(io_error("create a folder in", &downloads))?;
    let manifest = folder.path().join("Cargo.toml");
    // `[workspace]` keeps cargo from looking for one above this folder.
    let text = format!(
        "[package]\nname = \"unifork-source\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\
         [lib]\npath = \"empty.rs\"\n[workspace]\n\
         [dependencies]\n{name} = {{ version = \"={version}\", default-features = false }}\n"
    );
    fs::write(&manifest, text).map_err(io_error("write", &manifest))?;
    let library = folder.path().join("empty.rs");
    fs::write(&library, "").map_err(io_error("write", &library))?;

    // Set when cargo runs us, and then it is the very same cargo.
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = wanted.run(Command::new(cargo).arg("fetch").arg("--manifest-path").arg(&manifest))?;
    if output.status.success() { Ok(()) } else { Err(wanted.failed(said(&output))) }
}

/// cargo keeps `.crate` files in `registry/cache/REGISTRY/`, one folder per registry or mirror.
fn find_in_cargo_home(file: &str) -> Option<PathBuf> {
    let home = match env::var_os("CARGO_HOME") {
        Some(home) => PathBuf::from(home),
        None => Path::new(&env::var_os("HOME")?).join(".cargo"),
    };
    let registries = fs::read_dir(home.join("registry/cache")).ok()?;
    registries.flatten().map(|registry| registry.path().join(file)).find(|path| path.is_file())
}
