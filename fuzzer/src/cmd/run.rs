//! `unifork run`: boot an image or a static ELF and show its console.
//!
//! Exit codes: the program's own; 128 + N when signal N or the exception that Linux turns into it
//! ended it, as a shell has it; 124 when it did not end in time; 125 when unifork could not run it.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use unifork_vmm::{BootEnd, Cause, Crash, Kvm, MachineConfig, Outcome};

use crate::cmd::{Blame, Failure, Status, say};
use crate::machine;
use crate::report;
use crate::syscalls;
use crate::units;

/// Flags of `unifork run`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  unifork run ./hello one two

A harness image stops where it asks for its first input.
Exit codes: the program's own; 128 + N when signal N ended it; 124 when it took longer than
--timeout; 125 when unifork could not run it.")]
pub(crate) struct Args {
    /// The image, or any static x86-64 Linux ELF, and its arguments; flags behind it are its own
    #[arg(required = true, num_args = 1.., trailing_var_arg = true, value_names = ["IMAGE", "ARGS"])]
    pub(crate) command: Vec<OsString>,
    /// A variable of its environment; may be given again
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    pub(crate) env: Vec<String>,
    /// Guest memory
    #[arg(long, visible_alias = "mem", default_value = "64M", value_parser = units::size, value_name = "SIZE")]
    pub(crate) memory: u64,
    /// Time it may take; as long as it likes unless given
    #[arg(long, value_parser = units::duration, value_name = "TIME")]
    pub(crate) timeout: Option<Duration>,
}

/// Checks `NAME=VALUE`.
fn variable(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some((name, _)) if !name.is_empty() => Ok(text.to_owned()),
        _ => Err(format!("`{text}` is not NAME=VALUE")),
    }
}

/// Runs the command.
pub(crate) fn run(args: &Args, json: bool) -> Result<Status, Failure> {
    boot(args, json).map_err(|failure| Failure { blame: Blame::OfRun, ..failure })
}

fn boot(args: &Args, json: bool) -> Result<Status, Failure> {
    let argv = args.command.iter().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let image = Path::new(&args.command[0]);
    machine::is_elf(image).map_err(super::machine_failure)?;
    let kvm = Kvm::open().map_err(|error| super::machine_failure(error.into()))?;
    let config = MachineConfig {
        memory_bytes: args.memory,
        boot_deadline: args.timeout.unwrap_or(Duration::MAX),
        args: argv,
        env: args.env.clone(),
        ..MachineConfig::default()
    };
    let boot = machine::boot(&kvm, image, &config).map_err(super::machine_failure)?;
    let (sentence, status) = match &boot.end {
        BootEnd::Snapshot(_) => {
            ("it asks for an input: a harness, for `unifork fuzz`".to_owned(), Status::Done)
        }
        BootEnd::Ended(outcome) => (report::sentence(outcome), status(outcome)),
    };
    if json {
        let unserved: Vec<_> =
            boot.unserved.iter().map(|&(number, count)| (syscalls::name(number), count)).collect();
        let line = serde_json::json!({
            "console": String::from_utf8_lossy(&boot.console),
            "end": sentence,
            "exit_code": code(status),
            "unserved": unserved,
            "elapsed_s": boot.elapsed.as_secs_f64(),
        });
        say(&format!("{line}\n"));
        return Ok(status);
    }
    // Bytes, as the program wrote them; a closed pipe is not worth a message.
    let _ = std::io::stdout().write_all(&boot.console).and_then(|()| std::io::stdout().flush());
    if !matches!(boot.end, BootEnd::Ended(Outcome::Exit { .. })) {
        eprintln!("unifork: {}: {sentence}", image.display());
    }
    if !boot.unserved.is_empty() {
        eprintln!("unifork: not served (ENOSYS): {}", syscalls::list(&boot.unserved));
    }
    Ok(status)
}

fn status(outcome: &Outcome) -> Status {
    match outcome {
        Outcome::Done { .. } => Status::Done,
        // Linux passes the low eight bits on.
        Outcome::Exit { code } => Status::Guest((code & 0xff) as u8),
        Outcome::Timeout => Status::Guest(124),
        Outcome::Crash(crash) => Status::Guest(128 + signal(crash)),
    }
}

/// The signal Linux would have ended the program with.
fn signal(crash: &Crash) -> u8 {
    match crash.cause {
        Cause::Signal { number } => u8::try_from(number).unwrap_or(0) & 0x7f,
        Cause::Exception { vector: 0 | 16 | 19, .. } => libc::SIGFPE as u8,
        Cause::Exception { vector: 6, .. } => libc::SIGILL as u8,
        Cause::Exception { vector: 1 | 3, .. } => libc::SIGTRAP as u8,
        Cause::Exception { vector: 17, .. } => libc::SIGBUS as u8,
        Cause::Exception { .. } => libc::SIGSEGV as u8,
        Cause::OutOfMemory { .. } => libc::SIGKILL as u8,
        _ => libc::SIGABRT as u8,
    }
}

fn code(status: Status) -> u8 {
    match status {
        Status::Done => 0,
        Status::Negative => 1,
        Status::Guest(code) => code,
    }
}
