//! Addresses of files of the campaign, from where the page is.

use std::fmt::Write as _;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use crate::output;

/// The way from the page to the campaign's folder.
#[derive(Debug)]
pub(super) struct Links {
    way: PathBuf,
}

impl Links {
    pub(super) fn new(page: &Path, campaign: &Path) -> io::Result<Self> {
        Ok(Self { way: way(&output::parent(page).canonicalize()?, &campaign.canonicalize()?) })
    }

    /// The relative address of `path`, which is in the campaign's folder.
    pub(super) fn to(&self, path: impl AsRef<Path>) -> String {
        let mut address = String::new();
        for component in self.way.join(path).components() {
            if !address.is_empty() {
                address.push('/');
            }
            for &byte in component.as_os_str().as_bytes() {
                if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                    address.push(char::from(byte));
                } else {
                    let _ = write!(address, "%{byte:02X}");
                }
            }
        }
        address
    }
}

/// The relative path from the folder `from` to `to`, both absolute.
fn way(from: &Path, to: &Path) -> PathBuf {
    let common = from.components().zip(to.components()).take_while(|(one, other)| one == other).count();
    let up = from.components().skip(common).map(|_| Component::ParentDir);
    up.chain(to.components().skip(common)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_relative_and_escaped() {
        let way = |from, to| way(Path::new(from), Path::new(to));
        assert_eq!(way("/a/c", "/a/c"), Path::new(""));
        assert_eq!(way("/a", "/a/c"), Path::new("c"));
        assert_eq!(way("/a/pages", "/a/c/d"), Path::new("../c/d"));
        let links = Links { way: way("/a/pages", "/a/c d") };
        assert_eq!(links.to("findings/x\"<&?#/input"), "../c%20d/findings/x%22%3C%26%3F%23/input");
        assert_eq!(Links { way: PathBuf::new() }.to("queue/1"), "queue/1");
    }
}
