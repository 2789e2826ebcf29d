//! What the tests share: images, built once; the program, run; folders that are thrown away.
#![allow(dead_code, reason = "each test binary uses its part")]

pub(crate) mod campaign;
pub(crate) mod coverage;
pub(crate) mod html;
pub(crate) mod linux;
pub(crate) mod pty;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::Value;
use unifork_harnesses::compile::Flags;

/// Where this repository is.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in the workspace")
}

/// Fails with one sentence where there is no KVM.
pub(crate) fn need_kvm() {
    if let Err(error) = File::options().read(true).write(true).open("/dev/kvm") {
        panic!("this test runs guests, and /dev/kvm cannot be opened: {error}; see `unifork doctor`");
    }
}

/// The image of the harness `harnesses/NAME`, built once for all test binaries, with its seeds and
/// dictionary beside it. Needs KVM, since all who ask for an image run it.
pub(crate) fn image(name: &str) -> PathBuf {
    static BUILT: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
    need_kvm();
    let mut built = BUILT.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(path) = built.get(name) {
        return path.clone();
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("images");
    fs::create_dir_all(&folder).unwrap();
    // Test binaries may run at once.
    let lock = File::create(folder.join(".lock")).unwrap();
    lock.lock().unwrap();
    let output = folder.join(format!("{}.img", name.replace('/', "-")));
    let flags = Flags::default();
    if let Err(error) =
        unifork_harnesses::build_harness(&root().join("harnesses").join(name), &output, &flags)
    {
        panic!("cannot build harness {name}: {error}: {:?}", error.diagnostics());
    }
    built.insert(name.to_owned(), output.clone());
    output
}

/// The program, with stdin closed and without logging.
pub(crate) fn unifork(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_unifork"));
    command.args(args).env_remove("UNIFORK_LOG").stdin(std::process::Stdio::null());
    command
}

/// Runs the program to its end.
pub(crate) fn run(args: &[&str]) -> Ran {
    let output = unifork(args).output().expect("the program starts");
    Ran::new(args, output)
}

/// A finished run of the program.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) args: String,
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    pub(crate) fn new(args: &[&str], output: Output) -> Self {
        Self {
            args: args.join(" "),
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Asserts the exit code, and shows everything where it differs.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "unifork {}\n{}\n{}", self.args, self.stdout, self.stderr);
        self
    }

    /// The last line of `--json` output.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        let line = self.stdout.lines().next_back().unwrap_or_default();
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {}\n{}", self.stdout, self.stderr))
    }
}

/// The names of the files in a folder, sorted; none if there is no folder.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// A path as an argument.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("test paths are UTF-8")
}

/// Waits for something that is to happen soon.
pub(crate) fn wait_until(what: &str, mut happened: impl FnMut() -> bool) {
    let start = Instant::now();
    while !happened() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what} did not happen in a minute");
        std::thread::sleep(Duration::from_millis(5));
    }
}
