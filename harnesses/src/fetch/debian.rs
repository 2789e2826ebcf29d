//! Upstream tarballs from Debian, by `apt-get source`.
//!
//! Works for any user and changes nothing on the system: apt-get is given folders of our own for its
//! lists and its lock files, and a list of archives made from the system's, with `deb` turned into
//! `deb-src`. Keys, proxies and mirrors stay the system's.
//!
//! Only the release [`SUITE`] itself is asked for, not its security archive: upstream's tarball is
//! the same in both, and the release does not lose files.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Cache, FetchError, Wanted, create_folder, io_error, said};
use crate::manifest::Source;

/// The Debian release that versions in manifests are of.
const SUITE: &str = "bookworm";

/// Returns the `.orig.tar.*` file, unchecked.
pub(super) fn download(cache: &Cache, name: &str, source: &Source) -> Result<PathBuf, FetchError> {
    let stem = format!("{name}_{}.orig.tar.", source.version);
    if let Some(kept) = find(&cache.downloads(), &stem) {
        return Ok(kept);
    }
    let wanted = Wanted {
        program: "apt-get",
        what: format!("Debian source {name} {}", source.version),
        file: format!("{stem}gz (or .xz, .bz2)"),
        cache,
    };
    let apt = Apt::prepare(&wanted)?;
    let downloads = cache.downloads();
    let folder = tempfile::tempdir_in(&downloads).map_err(io_error("create a folder in", &downloads))?;

    // Lists of an earlier download may serve; when they do not, they are old or were never there.
    let mut complaint = String::new();
    for update_first in [false, true] {
        if update_first {
            // Not fatal by itself: one archive of several may have no sources.
            complaint = said(&wanted.run(apt.command().arg("update"))?);
        }
        let output = wanted.run(
            apt.command()
                .args(["source", "--download-only", "--tar-only"])
                .arg(format!("{name}/{SUITE}"))
                .current_dir(folder.path()),
        )?;
        if let Some(fresh) = find(folder.path(), &stem).filter(|_| output.status.success()) {
            let kept = downloads.join(fresh.file_name().expect("found by its name"));
            fs::rename(&fresh, &kept).map_err(io_error("create", &kept))?;
            return Ok(kept);
        }
        complaint += &said(&output);
    }
    Err(wanted.failed(complaint))
}

/// The file in `folder` whose name is `stem` and a compression suffix.
fn find(folder: &Path, stem: &str) -> Option<PathBuf> {
    ["gz", "xz", "bz2"]
        .iter()
        .map(|suffix| folder.join(format!("{stem}{suffix}")))
        .find(|path| path.is_file())
}

/// A private apt-get.
struct Apt {
    configuration: PathBuf,
}

impl Apt {
    fn prepare(wanted: &Wanted<'_>) -> Result<Self, FetchError> {
        let root = wanted.cache.root.join("apt");
        for folder in ["lists/partial", "cache/archives/partial", "parts"] {
            create_folder(&root.join(folder))?;
        }
        let root = fs::canonicalize(&root).map_err(io_error("find", &root))?;
        let archives = archives(&read_system_sources(), &system_suite());
        if archives.is_empty() {
            return Err(wanted.failed(format!(
                "no Debian archive with `main` of {SUITE} is configured in /etc/apt/sources.list or \
                 /etc/apt/sources.list.d"
            )));
        }
        let sources = root.join("archives.sources");
        fs::write(&sources, archives).map_err(io_error("write", &sources))?;
        let configuration = root.join("apt.conf");
        fs::write(&configuration, Self::configuration(&root, &sources))
            .map_err(io_error("write", &configuration))?;
        Ok(Self { configuration })
    }

    /// Everything that apt-get writes is below `root`; no installed package matters to a download.
    fn configuration(root: &Path, sources: &Path) -> String {
        let mut text = String::new();
        for (key, value) in [
            ("Dir::State", root.to_path_buf()),
            ("Dir::State::lists", root.join("lists")),
            ("Dir::State::status", "/dev/null".into()),
            ("Dir::Cache", root.join("cache")),
            ("Dir::Etc::SourceList", sources.into()),
            ("Dir::Etc::SourceParts", root.join("parts")),
            // Else root's apt-get becomes the user _apt, who may not write here.
            ("APT::Sandbox::User", "".into()),
            ("Acquire::Languages", "none".into()),
            ("Acquire::Retries", "2".into()),
        ] {
            writeln!(text, "{key} \"{}\";", value.display()).expect("a String takes any text");
        }
        text
    }

    fn command(&self) -> Command {
        let mut command = Command::new("apt-get");
        // Read after the system's own configuration, so what is set there for these keys loses.
        command.env("LC_ALL", "C").arg("--quiet").arg("--config-file").arg(&self.configuration);
        command
    }
}

/// One archive as apt's files describe it, in deb822 terms.
#[derive(Debug, Default, PartialEq)]
struct Stanza(Vec<(String, String)>);

impl Stanza {
    fn get(&self, key: &str) -> &str {
        self.0.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)).map_or("", |(_, value)| value)
    }

    fn has(&self, key: &str, word: &str) -> bool {
        self.get(key).split_whitespace().any(|found| found == word)
    }
}

/// Names that the system's own sources may use for its release.
fn system_suite() -> Vec<String> {
    let mut names = vec![SUITE.to_owned()];
    let os = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let value = |key: &str| os.lines().find_map(|line| line.strip_prefix(key)).map(|v| v.trim_matches('"'));
    // Another Debian's archive has this release too; another distribution's has not.
    if value("ID=") == Some("debian") {
        names.extend(value("VERSION_CODENAME=").map(str::to_owned));
        names.push("stable".to_owned());
    }
    names
}

fn read_system_sources() -> Vec<Stanza> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(parts) = fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(parts.flatten().map(|entry| entry.path()));
    }
    files.sort();
    let mut stanzas = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap_or_default();
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("sources") => stanzas.extend(parse_deb822(&text)),
            Some("list") => stanzas.extend(text.lines().filter_map(parse_one_line)),
            _ => {}
        }
    }
    stanzas
}

/// The `.sources` format: stanzas of `Key: value`, continued on lines that begin with a blank.
fn parse_deb822(text: &str) -> Vec<Stanza> {
    let mut stanzas = vec![Stanza::default()];
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let stanza = stanzas.last_mut().expect("begins with one");
        if line.trim().is_empty() {
            stanzas.push(Stanza::default());
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = stanza.0.last_mut() {
                value.push('\n');
                value.push_str(line);
            }
        } else if let Some((key, value)) = line.split_once(':') {
            stanza.0.push((key.trim().into(), value.trim().into()));
        }
    }
    stanzas.retain(|stanza| !stanza.0.is_empty());
    stanzas
}

/// The `.list` format: `deb [option=value …] URI SUITE COMPONENT…`.
fn parse_one_line(line: &str) -> Option<Stanza> {
    let line = line.split('#').next()?.trim();
    let (kind, rest) = line.split_once(char::is_whitespace)?;
    if !matches!(kind, "deb" | "deb-src") {
        return None;
    }
    let mut fields = vec![("Types".to_owned(), kind.to_owned())];
    let mut rest = rest.trim_start();
    if let Some(options) = rest.strip_prefix('[') {
        let (options, after) = options.split_once(']')?;
        for (key, value) in options.split_whitespace().filter_map(|option| option.split_once('=')) {
            fields.push((key.to_owned(), value.replace(',', " ")));
        }
        rest = after;
    }
    let mut words = rest.split_whitespace();
    fields.push(("URIs".to_owned(), words.next()?.to_owned()));
    fields.push(("Suites".to_owned(), words.next()?.to_owned()));
    fields.push(("Components".to_owned(), words.collect::<Vec<_>>().join(" ")));
    Some(Stanza(fields))
}

/// The archives of the system that have Debian's sources, as a `.sources` file for [`SUITE`].
fn archives(system: &[Stanza], suites: &[String]) -> String {
    let mut text = String::new();
    for stanza in system {
        let ours = suites.iter().any(|suite| stanza.has("Suites", suite));
        if !ours || !stanza.has("Components", "main") || stanza.get("Enabled").eq_ignore_ascii_case("no") {
            continue;
        }
        let mut archive =
            format!("Types: deb-src\nURIs: {}\nSuites: {SUITE}\nComponents: main\n", stanza.get("URIs"));
        for key in ["Signed-By", "Trusted", "Check-Valid-Until"] {
            let value = stanza.get(key);
            if !value.is_empty() {
                writeln!(archive, "{key}: {value}").expect("a String takes any text");
            }
        }
        // `deb` and `deb-src` lines of one archive come out the same.
        if !text.contains(&archive) {
            text += &archive;
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suites() -> Vec<String> {
        vec!["bookworm".to_owned()]
    }

    #[test]
    fn the_release_is_taken_from_a_deb822_file_and_nothing_else_is() {
        let system = parse_deb822(
            "# a comment\nTypes: deb\nURIs: http://archive.example/debian\nSuites: bookworm bookworm-updates\n\
             Components: main contrib\nSigned-By:\n -----BEGIN\n .\n key\n\n\
             Types: deb\nURIs: http://archive.example/security\nSuites: bookworm-security\nComponents: main\n\n\
             Types: deb\nURIs: http://other.example\nSuites: nodistro\nComponents: main\n\n\
             Enabled: no\nTypes: deb\nURIs: http://off.example\nSuites: bookworm\nComponents: main\n",
        );
        assert_eq!(
            archives(&system, &suites()),
            "Types: deb-src\nURIs: http://archive.example/debian\nSuites: bookworm\nComponents: main\n\
             Signed-By: \n -----BEGIN\n .\n key\n\n"
        );
    }

    #[test]
    fn one_line_entries_keep_their_key_and_binary_and_source_lines_become_one() {
        let lines = "deb [arch=amd64 signed-by=/k.gpg] http://a.example/debian bookworm main\n\
                     deb-src [arch=amd64 signed-by=/k.gpg] http://a.example/debian bookworm main\n\
                     # deb http://b.example bookworm main\ndeb http://c.example bookworm stable\n";
        let system: Vec<_> = lines.lines().filter_map(parse_one_line).collect();
        assert_eq!(
            archives(&system, &suites()),
            "Types: deb-src\nURIs: http://a.example/debian\nSuites: bookworm\nComponents: main\n\
             Signed-By: /k.gpg\n\n"
        );
    }

    #[test]
    fn a_system_of_another_release_is_asked_for_ours() {
        let system = vec![parse_one_line("deb http://a.example/debian trixie main").unwrap()];
        let text = archives(&system, &["bookworm".to_owned(), "trixie".to_owned()]);
        assert!(text.contains("Suites: bookworm\n"), "{text}");
    }
}
