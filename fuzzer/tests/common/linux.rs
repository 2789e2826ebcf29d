//! Static Linux programs: built with each C library, run on the host and in a guest, and compared.
//!
//! The host is the oracle: what it does with the same file is right.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Time a program may take on the host, which may be busy with other tests.
const HOST_DEADLINE: Duration = Duration::from_secs(300);
/// The same in a guest, as `unifork run` takes it.
const GUEST_DEADLINE: &str = "300s";

/// What a program is linked with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Libc {
    Musl,
    Glibc,
}

impl Libc {
    pub(crate) const ALL: [Self; 2] = [Self::Musl, Self::Glibc];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Musl => "musl",
            Self::Glibc => "glibc",
        }
    }

    /// The compiler, and what makes its programs static. musl comes without the kernel's headers, so
    /// those are looked for behind its own.
    fn compiler(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::Musl => (
                "musl-gcc",
                &[
                    "-static",
                    "-no-pie",
                    "-idirafter",
                    "/usr/include",
                    "-idirafter",
                    "/usr/include/x86_64-linux-gnu",
                ],
            ),
            Self::Glibc => ("gcc", &["-static", "-no-pie"]),
        }
    }
}

/// Where the tests' programs are put.
pub(crate) fn folder() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("linux");
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// Compiles one C file to a static program. `more` comes last, and may say otherwise.
pub(crate) fn compile(source: &Path, libc: Libc, more: &[&str]) -> PathBuf {
    let (compiler, flags) = libc.compiler();
    let stem = source.file_stem().unwrap().to_string_lossy();
    let name = format!("{stem}{}.{}", more.concat().replace('/', "_"), libc.name());
    let fresh = tempfile::NamedTempFile::new_in(folder()).unwrap().into_temp_path();
    let output = Command::new(compiler)
        .args(["-O1", "-g", "-w", "-o"])
        .args([fresh.as_os_str(), source.as_os_str(), OsStr::new("-pthread")])
        .args(flags)
        .args(more)
        .output()
        .unwrap_or_else(|error| panic!("{compiler} cannot be run: {error}; scripts/setup.sh installs it"));
    assert!(output.status.success(), "{compiler}: {}", String::from_utf8_lossy(&output.stderr));
    let program = folder().join(name);
    // Test processes may do the same at once.
    fresh.persist(&program).unwrap();
    program
}

/// How a program ended and what it said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    /// Its exit code; 128 + N for signal N.
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs `command` to its end, with nothing to read. Its output goes through files, so that none of it
/// waits for us.
pub(crate) fn finish(command: &mut Command, deadline: Duration) -> Ended {
    let (out, err) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    let mut child = command
        .stdin(Stdio::null())
        .stdout(out.try_clone().unwrap())
        .stderr(err.try_clone().unwrap())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if start.elapsed() > deadline {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("{command:?} did not end in {deadline:?}; it said:\n{}", text_of(&out));
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    Ended { code, stdout: text_of(&out), stderr: text_of(&err) }
}

fn text_of(mut file: &File) -> String {
    use std::io::{Read as _, Seek as _};
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Runs a program on the host, in `root`, without an environment.
pub(crate) fn on_host(program: &Path, args: &[&str], root: &Path) -> Ended {
    finish(Command::new(program).args(args).current_dir(root).env_clear(), HOST_DEADLINE)
}

/// Runs a program in a guest whose root is `root`. Its exit code is the program's, and what is on
/// stderr is the tool's.
pub(crate) fn in_guest(program: &Path, args: &[&str], root: &Path) -> Ended {
    let root = super::text(root);
    let mut all = vec!["run", "--timeout", GUEST_DEADLINE, "--root", root, super::text(program)];
    all.extend(args);
    finish(&mut super::unifork(&all), HOST_DEADLINE + Duration::from_secs(30))
}

/// A check with another result in the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) check: String,
    pub(crate) host: String,
    pub(crate) guest: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: host `{}`, guest `{}`", self.check, self.host, self.guest)
    }
}

/// What stands for a line that is not there.
const MISSING: &str = "nothing";

/// Compares the lines `check: result` of two runs, and the exit codes. Checks are matched by name, so
/// that one that is missing does not move the others.
pub(crate) fn differences(host: &Ended, guest: &Ended) -> Vec<Difference> {
    let split = |ended: &Ended| -> Vec<(String, String)> {
        let halves = |line: &str| {
            let (check, result) = line.split_once(": ").unwrap_or((line, ""));
            (check.to_owned(), result.to_owned())
        };
        let mut lines: Vec<_> = ended.stdout.lines().map(halves).collect();
        lines.push(("exit code".into(), ended.code.to_string()));
        lines
    };
    let (expected, found) = (split(host), split(guest));
    let names: BTreeSet<&String> = expected.iter().map(|(check, _)| check).collect();
    assert_eq!(names.len(), expected.len(), "two checks have one name: {}", twice(&expected));
    let by_name: BTreeMap<_, _> = found.iter().cloned().collect();
    let mut all: Vec<Difference> = expected
        .iter()
        .filter_map(|(check, host)| {
            let guest = by_name.get(check).map_or(MISSING, String::as_str);
            (guest != host).then(|| Difference {
                check: check.clone(),
                host: host.clone(),
                guest: guest.to_owned(),
            })
        })
        .collect();
    all.extend(found.iter().filter(|(check, _)| !names.contains(check)).map(|(check, guest)| Difference {
        check: check.clone(),
        host: MISSING.into(),
        guest: guest.clone(),
    }));
    all
}

fn twice(lines: &[(String, String)]) -> String {
    let mut seen = BTreeSet::new();
    let again: Vec<_> = lines.iter().map(|(check, _)| check.as_str()).filter(|c| !seen.insert(*c)).collect();
    again.join(", ")
}
