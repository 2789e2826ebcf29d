//! What a campaign starts from: the files of the seed folders, and the dictionary.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use libafl::mutators::Tokens;
use thiserror::Error;
use unifork_vmm::regular;

/// Why seeds or a dictionary cannot be used. All of it is the user's to mend.
#[derive(Debug, Error)]
pub(crate) enum SeedsError {
    /// A file or folder cannot be read.
    #[error("cannot read {what} {}", path.display())]
    Read {
        /// "seed folder", "seed", "dictionary".
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The folders hold no file.
    #[error("no seeds in {}", folders(paths))]
    Empty {
        /// The folders.
        paths: Vec<PathBuf>,
    },
    /// A line of the dictionary is not `"token"` or `name="token"`.
    #[error("{}:{line}: not a dictionary entry", path.display())]
    Dictionary {
        /// The dictionary.
        path: PathBuf,
        /// The line, from one.
        line: usize,
    },
}

fn folders(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// One file to start from.
#[derive(Clone, Debug)]
pub(crate) struct Seed {
    pub(crate) path: PathBuf,
    pub(crate) bytes: Vec<u8>,
}

/// Seeds that can be used, and those that cannot because they are longer than an input may be.
#[derive(Debug, Default)]
pub(crate) struct Seeds {
    pub(crate) usable: Vec<Seed>,
    pub(crate) too_long: Vec<PathBuf>,
}

/// Reads every file that [`files`] finds.
pub(crate) fn read(dirs: &[PathBuf], input_max: u64) -> Result<Seeds, SeedsError> {
    let files = files(dirs)?;
    let mut seeds = Seeds::default();
    for path in files {
        let bytes = regular::read(&path).map_err(|source| SeedsError::Read {
            what: "seed",
            path: path.clone(),
            source,
        })?;
        if bytes.len() as u64 > input_max {
            seeds.too_long.push(path);
        } else {
            seeds.usable.push(Seed { path, bytes });
        }
    }
    if seeds.usable.is_empty() && seeds.too_long.is_empty() {
        return Err(SeedsError::Empty { paths: dirs.to_vec() });
    }
    Ok(seeds)
}

/// Every file in `dirs` and their sub-folders, in order of path: seeds, or a corpus of libFuzzer's, AFL++'s or
/// ours. What is no input is skipped: names that start with a dot (AFL++'s `.state`), the files that
/// say where seeds are from, and of an output folder of AFL++'s or ours all but its queue.
pub(crate) fn files(dirs: &[PathBuf]) -> Result<Vec<PathBuf>, SeedsError> {
    let mut files = Vec::new();
    for dir in dirs {
        if dir.is_file() {
            files.push(dir.clone());
        } else {
            walk(dir, &mut files)?;
        }
    }
    files.sort();
    files.dedup();
    Ok(files)
}

/// Files that say where inputs are from; AFL++ puts the second beside its crashes.
const NOTES: [&str; 2] = ["README.md", "README.txt"];

/// One of these beside a folder `queue` makes an output folder: of AFL++, of unifork, of `unifork export --as afl`.
const MARKS: [&str; 6] =
    ["fuzzer_stats", "fuzzer_setup", "state.postcard", "stats.jsonl", "crashes", "hangs"];

fn walk(dir: &Path, files: &mut Vec<PathBuf>) -> Result<(), SeedsError> {
    let queue = dir.join("queue");
    if queue.is_dir() && MARKS.iter().any(|mark| dir.join(mark).exists()) {
        return walk(&queue, files);
    }
    let failed = |source| SeedsError::Read { what: "seed folder", path: dir.to_path_buf(), source };
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        if name.to_string_lossy().starts_with('.') || NOTES.iter().any(|&note| name == note) {
            continue;
        }
        // Links to folders are not followed: they may lead in a circle.
        if entry.file_type().map_err(failed)?.is_dir() {
            walk(&entry.path(), files)?;
        } else if entry.path().is_file() {
            files.push(entry.path());
        }
    }
    Ok(())
}

/// Reads a dictionary in AFL's and libFuzzer's syntax: `"token"` or `name="token"`, one a line.
///
/// LibAFL's own reader panics on a file that is not UTF-8, which dictionaries need not be, and its errors have no
/// line number.
pub(crate) fn dictionary(path: &Path) -> Result<Tokens, SeedsError> {
    let text = regular::read(path).map_err(|source| SeedsError::Read {
        what: "dictionary",
        path: path.to_path_buf(),
        source,
    })?;
    let mut tokens = Tokens::new();
    // Bytes, not text: what is between the quotes is taken as it is.
    for (number, line) in text.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii).enumerate() {
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let start = line.iter().position(|&byte| byte == b'"');
        let quoted = start.and_then(|start| line[start + 1..].strip_suffix(b"\""));
        match quoted.and_then(unescape) {
            Some(token) if token.is_empty() => {}
            Some(token) => _ = tokens.add_token(&token),
            None => return Err(SeedsError::Dictionary { path: path.to_path_buf(), line: number + 1 }),
        }
    }
    Ok(tokens)
}

/// The bytes of a token: `\\`, `\"` and `\xAB` as both fuzzers have them, and the usual `\n \r \t`.
fn unescape(token: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = token.iter().copied();
    let mut unescaped = Vec::with_capacity(token.len());
    while let Some(byte) = bytes.next() {
        unescaped.push(match byte {
            b'"' => return None,
            b'\\' => match bytes.next()? {
                byte @ (b'\\' | b'"') => byte,
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'x' => {
                    let mut digit = || (bytes.next()? as char).to_digit(16);
                    u8::try_from(digit()? << 4 | digit()?).ok()?
                }
                _ => return None,
            },
            byte => byte,
        });
    }
    Some(unescaped)
}

/// `NAME.seeds` for `NAME.img`, `NAME.dict`, `NAME.campaign`: what lies beside an image.
pub(crate) fn beside(image: &Path, extension: &str) -> PathBuf {
    let mut name: OsString = image.file_stem().unwrap_or_default().to_os_string();
    name.push(".");
    name.push(extension);
    image.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_named_after_the_image() {
        assert_eq!(beside(Path::new("a/sqlite.img"), "seeds"), Path::new("a/sqlite.seeds"));
        assert_eq!(beside(Path::new("v1.2.img"), "dict"), Path::new("v1.2.dict"));
    }

    #[test]
    fn seeds_are_read_from_sub_folders_and_too_long_ones_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let folder = |name: &str| dir.path().join(name);
        fs::create_dir(folder("sub")).unwrap();
        for (name, bytes) in [("b", &b"bb"[..]), ("sub/a", b"a"), ("long", b"12345"), (".hidden", b"x")] {
            fs::write(folder(name), bytes).unwrap();
        }
        let seeds = read(&[dir.path().to_path_buf()], 4).unwrap();
        let bytes: Vec<_> = seeds.usable.iter().map(|seed| seed.bytes.as_slice()).collect();
        assert_eq!(bytes, [b"bb".as_slice(), b"a"]);
        assert_eq!(seeds.too_long, [folder("long")]);
    }

    #[test]
    fn of_an_output_folder_only_the_queue_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let folder = |name: &str| dir.path().join(name);
        for name in [
            "main/queue/.state/deterministic_done",
            "main/crashes",
            "plain/queue",
            "sent/queue",
            "sent/crashes",
        ] {
            fs::create_dir_all(folder(name)).unwrap();
        }
        for name in [
            "main/fuzzer_stats",
            "main/cmdline",
            "main/queue/id:000000,orig:a",
            "main/queue/.state/deterministic_done/id:000000,orig:a",
            "main/crashes/README.txt",
            "main/crashes/id:000000",
            "plain/queue/one",
            "plain/two",
            "sent/queue/id:000000,orig:b",
            "sent/crashes/id:000000",
        ] {
            fs::write(folder(name), name).unwrap();
        }
        let expected =
            ["main/queue/id:000000,orig:a", "plain/queue/one", "plain/two", "sent/queue/id:000000,orig:b"]
                .map(folder);
        assert_eq!(files(&[dir.path().to_path_buf()]).unwrap(), expected);
        assert_eq!(files(&[folder("main/crashes")]).unwrap(), [folder("main/crashes/id:000000")]);
    }

    #[test]
    fn missing_and_empty_folders_are_different_errors() {
        let dir = tempfile::tempdir().unwrap();
        let empty = read(&[dir.path().to_path_buf()], 4).unwrap_err();
        assert!(matches!(empty, SeedsError::Empty { .. }), "{empty}");
        let missing = read(&[dir.path().join("none")], 4).unwrap_err();
        assert!(matches!(missing, SeedsError::Read { what: "seed folder", .. }), "{missing}");
    }

    #[test]
    fn dictionaries_of_afl_and_libfuzzer_are_read_and_errors_have_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.dict");
        fs::write(&path, "# comment\nselect=\"SELECT\"\n\n\"\\x00\\xffA\\\\\"\nkw@2=\"x\"\n").unwrap();
        let tokens = dictionary(&path).unwrap();
        assert_eq!(tokens.tokens(), [b"SELECT".to_vec(), b"\x00\xffA\\".to_vec(), b"x".to_vec()]);
        for bad in ["a=b\n", "\"open\n", "\"\\xZZ\"\n", "\"\\\"\n"] {
            fs::write(&path, format!("\"ok\"\n{bad}")).unwrap();
            let error = dictionary(&path).unwrap_err().to_string();
            assert!(error.contains("d.dict:2:"), "{error}");
        }
        fs::write(&path, b"# Fran\xe7ais\r\n\"\xff\xfe\"\r\n").unwrap();
        assert_eq!(dictionary(&path).unwrap().tokens(), [b"\xff\xfe".to_vec()]);
    }
}
