//! Campaigns of several processes: who is who, and what their folders hold.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;
use unifork_harnesses::BuildRequest;

use super::{Ran, names, text, wait_until};

/// A campaign that runs, in a process group of its own. Dropping it kills it.
pub(crate) struct Running {
    child: Option<Child>,
    pub(crate) output: PathBuf,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Running {
    /// Starts `command`, which fuzzes into `output`; what it says goes to files beside that folder.
    pub(crate) fn start(mut command: Command, output: &Path) -> Self {
        BEFORE.get_or_init(segments);
        let (stdout, stderr) = (output.with_extension("stdout"), output.with_extension("stderr"));
        command.stdin(Stdio::null()).process_group(0);
        command.stdout(fs::File::create(&stdout).unwrap()).stderr(fs::File::create(&stderr).unwrap());
        let child = command.spawn().expect("the program starts");
        Self { child: Some(child), output: output.to_path_buf(), stdout, stderr }
    }

    /// The parent's process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// What it has said on stderr.
    pub(crate) fn stderr(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    /// The processes with this role: "Client" or "Broker".
    pub(crate) fn parts(&self, role: &str) -> Vec<u32> {
        parts_of(self.pid(), role)
    }

    /// Waits until it has figures of every client that say more than `execs` executions in all.
    pub(crate) fn wait_for_execs(&self, execs: u64) {
        wait_until("figures of the clients", || last_figures(&self.output)["execs"].as_u64() > Some(execs));
    }

    /// Sends a signal to the parent, or with `group` to all its processes.
    pub(crate) fn signal(&self, signal: &str, group: bool) {
        let pid = if group { format!("-{}", self.pid()) } else { self.pid().to_string() };
        kill(signal, &pid);
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> Ran {
        let status = self.child.take().expect("it runs").wait().unwrap();
        Ran {
            args: format!("fuzz into {}", self.output.display()),
            code: status.code().unwrap_or(-1),
            stdout: fs::read_to_string(&self.stdout).unwrap_or_default(),
            stderr: self.stderr(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            kill("KILL", &format!("-{}", child.id()));
            let _ = child.wait();
        }
    }
}

/// Sends `signal` to a process, or a group with a minus before it.
pub(crate) fn kill(signal: &str, pid: &str) {
    let sent = Command::new("kill").args(["-s", signal, "--", pid]).stderr(Stdio::null()).status();
    assert!(sent.is_ok(), "there is no `kill`");
}

/// The children of `parent` with this role.
fn parts_of(parent: u32, role: &str) -> Vec<u32> {
    let mark = format!("UNIFORK_ROLE={{\"{role}\"");
    let mut parts: Vec<u32> = processes()
        .filter(|&(pid, of)| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            of == parent && environment.split(|&byte| byte == 0).any(|line| line.starts_with(mark.as_bytes()))
        })
        .map(|(pid, _)| pid)
        .collect();
    parts.sort_unstable();
    parts
}

/// All processes with their parents.
fn processes() -> impl Iterator<Item = (u32, u32)> {
    names(Path::new("/proc")).into_iter().filter_map(|name| {
        let pid: u32 = name.parse().ok()?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
        Some((pid, parent))
    })
}

/// Processes that work on the folder `output`.
pub(crate) fn left_over(output: &Path) -> Vec<u32> {
    processes()
        .map(|(pid, _)| pid)
        .filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|&byte| byte == 0).any(|arg| arg == text(output).as_bytes())
        })
        .collect()
}

/// Shared memory that nobody has attached any more and that was not there at the start: (identifier, bytes).
pub(crate) fn orphaned_segments() -> Vec<(u64, u64)> {
    let before = BEFORE.get_or_init(segments);
    segments().into_iter().filter(|segment| !before.contains(segment)).collect()
}

/// Those of others, when the first campaign was started.
static BEFORE: OnceLock<Vec<(u64, u64)>> = OnceLock::new();

fn segments() -> Vec<(u64, u64)> {
    let table = fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
    let row = |line: &str| {
        let field = |at: usize| line.split_whitespace().nth(at)?.parse::<u64>().ok();
        (field(6)? == 0).then_some((field(1)?, field(3)?))
    };
    table.lines().skip(1).filter_map(row).collect()
}

/// The last figures of a campaign; null when there are none yet.
pub(crate) fn last_figures(output: &Path) -> Value {
    let stats = fs::read_to_string(output.join("stats.jsonl")).unwrap_or_default();
    let figures = |line| serde_json::from_str::<Value>(line).ok().filter(|line| line["execs"].is_u64());
    stats.lines().rev().find_map(figures).unwrap_or(Value::Null)
}

/// What a folder of files holds, but those that are half written.
pub(crate) fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let whole = names(folder).into_iter().filter(|name| !name.starts_with('.'));
    whole.map(|name| (name.clone(), fs::read(folder.join(name)).unwrap_or_default())).collect()
}

/// An image of a C file of ours, built once.
pub(crate) fn guest(source: &str) -> PathBuf {
    super::need_kvm();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guests");
    fs::create_dir_all(&folder).unwrap();
    // Test binaries and tests may run at once.
    let lock = fs::File::create(folder.join(".lock")).unwrap();
    lock.lock().unwrap();
    let output = folder.join(source).with_extension("img");
    let file = super::root().join("fuzzer/tests/guests").join(source);
    let request = BuildRequest::new(&[file], &[], output.clone()).unwrap();
    if let Err(error) = unifork_harnesses::build(&request) {
        panic!("cannot build {source}: {error}: {:?}", error.diagnostics());
    }
    output
}
