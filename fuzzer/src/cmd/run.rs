//! `unifork run`: boot an image, a static ELF or a kernel and show its console.
//!
//! Exit codes: the program's own; 128 + N when signal N or the exception that Linux turns into it
//! ended it, as a shell has it; 124 when it did not end in time; 125 when unifork could not run it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use unifork_vmm::{BootEnd, Cause, Crash, Kvm, MachineConfig, Outcome, Outside, RootImage};

use crate::cmd::{Blame, BlameExt as _, Failure, Status, say};
use crate::machine;
use crate::report;
use crate::services::{HostServices, Publish};
use crate::signals;
use crate::syscalls;
use crate::units;

pub(crate) mod devices;
pub(crate) mod kernel;
pub(crate) mod wire;

/// Flags of `unifork run`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  unifork run ./hello one two
  unifork run --root files.tar --publish 127.0.0.1:8080:80 ./server
  unifork run --profile firecracker --mem 64M app_fc-x86_64 word

A kernel (multiboot, PVH, bzImage, or what --profile says) gets a machine of its own; its exit code
is 0 when it switches off or resets the machine, and 2N + 1 when it writes N to the debug-exit port.
A harness image stops where it asks for its first input.
Exit codes: the program's own; 128 + N when signal N ended it; 124 when it took longer than
--timeout; 125 when unifork could not run it.")]
pub(crate) struct Args {
    /// The image, or any static x86-64 Linux ELF or kernel, and its arguments; flags behind it are its own
    #[arg(required = true, num_args = 1.., trailing_var_arg = true, value_names = ["IMAGE", "ARGS"])]
    pub(crate) command: Vec<OsString>,
    /// A variable of its environment; may be given again
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    pub(crate) env: Vec<String>,
    /// Files that it finds, besides its own: a directory, or a cpio (newc) or tar archive
    #[arg(long, value_name = "DIR|CPIO|TAR")]
    pub(crate) root: Option<PathBuf>,
    /// Lets connections to ADDR:PORT in, to the port that the program listens on; may be given again
    #[arg(long, value_name = "ADDR:PORT[:GUESTPORT]", value_parser = Publish::parse)]
    pub(crate) publish: Vec<Publish>,
    /// Guest memory; 256M, and twice the size of the files, unless given (128M for a kernel). Files that are
    /// written may take an eighth of it
    #[arg(long, visible_alias = "mem", value_parser = units::size, value_name = "SIZE")]
    pub(crate) memory: Option<u64>,
    /// Time it may take; as long as it likes unless given
    #[arg(long, value_parser = units::duration, value_name = "TIME")]
    pub(crate) timeout: Option<Duration>,
    #[command(flatten)]
    pub(crate) kernel: kernel::BootArgs,
}

/// Guest memory, unless given: pages that are not touched cost nothing.
const MEMORY_BYTES: u64 = 256 << 20;

/// Arguments are kept with the machine, as text.
#[derive(Debug, thiserror::Error)]
#[error("the argument {0:?} is not UTF-8")]
struct NotUnicode(OsString);

/// Checks `NAME=VALUE`.
fn variable(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some((name, _)) if !name.is_empty() => Ok(text.to_owned()),
        _ => Err(format!("`{text}` is not NAME=VALUE")),
    }
}

/// Runs the command.
pub(crate) fn run(args: &Args, json: bool) -> Result<Status, Failure> {
    let image = Path::new(&args.command[0]);
    let ran = kernel::is_wanted(image, &args.kernel, None)
        .and_then(|kernel| if kernel { kernel::boot(args, json) } else { boot(args, json) });
    ran.map_err(|failure| Failure { blame: Blame::OfRun, ..failure })
}

fn boot(args: &Args, json: bool) -> Result<Status, Failure> {
    let text = |arg: &OsString| arg.clone().into_string().map_err(NotUnicode);
    let argv = args.command.iter().map(text).collect::<Result<Vec<_>, _>>().or_usage();
    let argv =
        argv.map_err(|failure| failure.help("a program's arguments are kept as text: give it in UTF-8"))?;
    let image = Path::new(&args.command[0]);
    machine::is_elf(image).map_err(super::machine_failure)?;
    let kvm = Kvm::open().map_err(|error| super::machine_failure(error.into()))?;
    let root = RootImage::with_program(args.root.as_deref(), &argv[0], image).or_usage();
    let root =
        root.map_err(|failure| failure.help("--root takes a directory, or a cpio (newc) or tar archive"))?;
    for what in root.skipped() {
        eprintln!("unifork: left out: {what}");
    }
    let root_bytes = root.bytes().len() as u64;
    let services = HostServices::open(&args.publish, !json).context("cannot listen").or_host();
    let mut services =
        services.map_err(|failure| failure.help("give --publish an address and a port that are free"))?;
    signals::catch();
    let config = MachineConfig {
        memory_bytes: args.memory.unwrap_or((MEMORY_BYTES + 2 * root_bytes).next_multiple_of(1 << 20)),
        boot_deadline: args.timeout.unwrap_or(Duration::MAX),
        args: argv,
        env: args.env.clone(),
        ..MachineConfig::default()
    };
    let outside = Outside { root: Some(&root), services: Some(&mut services) };
    let mut boot = machine::boot_with(&kvm, image, &config, outside).map_err(super::machine_failure)?;
    // Served, and counted for harnesses: that it makes nothing fault may hide a bug of theirs.
    boot.unserved.retain(|(number, _)| *number != libc::SYS_mprotect as u64);
    services.finish();
    let (sentence, status) = match &boot.end {
        BootEnd::Snapshot(_) => {
            ("it asks for an input: a harness, for `unifork fuzz`".to_owned(), Status::Done)
        }
        BootEnd::Ended(Outcome::Timeout) if signals::stop_requested() => {
            ("stopped".to_owned(), Status::Guest(signals::stopped_code()))
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
