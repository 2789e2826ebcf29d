//! `unifork run` for images that are kernels: unikernels and small operating systems of other people.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use clap::ValueEnum;
use rustix::event::{PollFd, PollFlags, Timespec};
use serde::{Deserialize, Serialize};
use unifork_vmm::Kvm;
use unifork_vmm::agent::AgentEvent;
use unifork_vmm::foreign::{
    Config, End, ForeignError, LoadError, Machine, Module, Outside, Power, Profile, Ring0, SymbolFile, Terms,
    locate,
};
use unifork_vmm::introspect::Symbols;
use unifork_vmm::regular;

use super::Args;
use super::devices::DeviceArgs;
use super::wire::Plug;
use crate::cmd::{Blame, BlameExt as _, Failure, Status, say};
use crate::signals;
use crate::terms::TermsArgs;
use crate::ui::terminal::Keys;
use crate::units;

/// Flags for images that are kernels, and are to be fuzzed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, clap::Args)]
pub(crate) struct KernelArgs {
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) boot: BootArgs,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) terms: TermsArgs,
}

impl KernelArgs {
    /// Whether one of them was given.
    pub(crate) fn any(&self) -> bool {
        self.given().is_some()
    }

    /// The first flag of them that was given.
    pub(crate) fn given(&self) -> Option<&'static str> {
        self.boot.given().or_else(|| self.terms.given())
    }

    /// The same from any folder: for a finding's record.
    pub(crate) fn absolute(&self) -> Self {
        Self { boot: self.boot.absolute(), terms: self.terms.absolute() }
    }

    /// What they say of `image`, which is called `name` and was read from `path`.
    pub(crate) fn terms(
        &self,
        kvm: &Kvm,
        (path, name, image): (&Path, &str, &Arc<[u8]>),
        config: &Config,
        deadline: Duration,
    ) -> Result<Terms, Failure> {
        let mut files = self.boot.symbol_files(path)?;
        let handed = self.boot.handed_programs(config);
        let bytes: Vec<_> = handed.iter().map(|file| Arc::clone(&file.bytes)).collect();
        let biases = locate(kvm, name, image, config, &bytes, deadline).map_err(|e| failure(path, e))?;
        for (file, bias) in handed.into_iter().zip(biases) {
            match bias {
                Some(bias) => files.push(SymbolFile { bias, ..file }),
                None => log::info!("{} is nowhere in memory: no symbols of it", file.name),
            }
        }
        self.terms.resolve(name, image, files)
    }
}

/// Flags for images that are kernels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, clap::Args)]
#[command(next_help_heading = "For an image that is a kernel")]
pub(crate) struct BootArgs {
    /// The machine it was made for; an image for Firecracker is known by this flag alone
    #[arg(long, value_name = "NAME")]
    profile: Option<ProfileName>,
    /// Its command line; the words behind IMAGE unless given
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    append: Option<String>,
    /// An initial RAM disk
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// A module, with its own arguments behind a comma; may be given again
    #[arg(long, value_name = "FILE[,ARGS]")]
    module: Vec<String>,
    /// How its CPL 0 is run: by KVM, or at CPL 3 by our own monitor; as `unifork doctor` says unless given
    #[arg(long, value_name = "HOW")]
    ring0: Option<Ring0Name>,
    #[command(flatten)]
    #[serde(default)]
    pub(crate) devices: DeviceArgs,
    /// A file with its symbols, for an image that is stripped, and how far above where it was linked its code
    /// runs; may be given again [default: IMAGE.dbg, where there is one]
    #[arg(long, value_name = "FILE[,bias=ADDR]")]
    symbols: Vec<String>,
}

impl BootArgs {
    /// The first flag of them that was given.
    fn given(&self) -> Option<&'static str> {
        let flags = [
            ("--profile", self.profile.is_some()),
            ("--append", self.append.is_some()),
            ("--initrd", self.initrd.is_some()),
            ("--module", !self.module.is_empty()),
            ("--ring0", self.ring0.is_some()),
            ("--symbols", !self.symbols.is_empty()),
        ];
        first(&flags).or_else(|| self.devices.given())
    }

    /// The same from any folder.
    fn absolute(&self) -> Self {
        let whole = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
        let file_whole = |text: &String| {
            let (file, rest) = text.split_at(text.find(',').unwrap_or(text.len()));
            format!("{}{rest}", whole(Path::new(file)).display())
        };
        Self {
            initrd: self.initrd.as_deref().map(whole),
            module: self.module.iter().map(file_whole).collect(),
            symbols: self.symbols.iter().map(file_whole).collect(),
            devices: self.devices.absolute(),
            ..self.clone()
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
enum ProfileName {
    /// What QEMU's `pc` has
    Pc,
    /// What Firecracker has
    Firecracker,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
enum Ring0Name {
    /// By KVM
    Native,
    /// By the monitor
    Monitor,
}

/// Memory of a machine, unless given.
const MEMORY_BYTES: u64 = 128 << 20;

/// The first of `flags` that was given.
pub(crate) fn first(flags: &[(&'static str, bool)]) -> Option<&'static str> {
    flags.iter().find(|(_, given)| *given).map(|(flag, _)| *flag)
}

/// Whether the image at `path` is to be booted as a kernel: it says that it is one, or `--profile` does. Fails if
/// neither does, and there is another flag for kernels: one of `flags`, or `other`.
pub(crate) fn is_wanted(path: &Path, flags: &BootArgs, other: Option<&'static str>) -> Result<bool, Failure> {
    if flags.profile.is_some() {
        return Ok(true);
    }
    // That it cannot be read is said where it is opened.
    let Ok(image) = regular::read(path) else { return Ok(false) };
    match flags.given().or(other) {
        _ if unifork_vmm::foreign::is_kernel(&image) => Ok(true),
        None => Ok(false),
        Some(flag) => {
            let error =
                anyhow!("{} does not say that it is a kernel, and {flag} is for kernels", path.display());
            Err(Failure::usage(error).help(format!(
                "if it is one, name the machine it was made for: --profile pc or --profile firecracker; leave out {flag} otherwise"
            )))
        }
    }
}

/// Runs one.
pub(super) fn boot(args: &Args, json: bool) -> Result<Status, Failure> {
    let path = Path::new(&args.command[0]);
    let image = read(path)?;
    refuse_what_is_a_programs(args)?;
    let kvm = Kvm::open().map_err(|error| crate::cmd::machine_failure(error.into()))?;
    let words: Vec<_> = args.command[1..].iter().map(|word| word.to_string_lossy()).collect();
    let config = args.kernel.config(args.memory.unwrap_or(MEMORY_BYTES), &words.join(" "))?;
    // As for one that is to be fuzzed, though nothing is looked up here.
    args.kernel.symbol_files(path)?;
    let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    signals::catch();
    let began = Instant::now();
    let failed = |error| failure(path, error);
    let mut machine = Machine::boot(&kvm, &name, &image, &config).map_err(failed)?;
    let plugs = args.kernel.devices.wires().iter().map(Plug::connect).collect::<Result<_, _>>()?;
    let mut terminal = Terminal { show: !json, kept: Vec::new(), open: true, failed: None, plugs };
    let keys = Keys::take();
    let end = machine.run(args.timeout.unwrap_or(Duration::MAX), &mut terminal).map_err(failed)?;
    drop(keys);
    match terminal.failed.take() {
        // As what writes to a closed pipe ends elsewhere: without a word.
        Some(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            return Ok(Status::Guest(128 + libc::SIGPIPE as u8));
        }
        Some(error) => {
            let error = anyhow::Error::from(error).context("cannot write the console to standard output");
            return Err(Failure::host(error).help("make room where it goes, or send it elsewhere"));
        }
        None => {}
    }
    let (sentence, status) = judge(&end);
    if json {
        let line = serde_json::json!({
            "console": String::from_utf8_lossy(&terminal.kept),
            "end": sentence,
            "exit_code": super::code(status),
            "protocol": machine.protocol().name(),
            "ring0": if machine.monitor_stats().is_some() { "monitor" } else { "native" },
            "elapsed_s": began.elapsed().as_secs_f64(),
        });
        say(&format!("{line}\n"));
    } else if !matches!(end, End::Power(_)) {
        eprintln!("unifork: {}: {sentence}", path.display());
        if let End::Stuck { .. } = end {
            eprintln!("  help: {}", help_of_stuck(machine.monitor_stats().is_some()));
        }
    }
    Ok(status)
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let bytes = regular::read(path).with_context(|| format!("cannot read {}", path.display())).or_usage();
    bytes.map_err(|failure| failure.help("check the path"))
}

fn refuse_what_is_a_programs(args: &Args) -> Result<(), Failure> {
    let flags = [
        ("--env", !args.env.is_empty()),
        ("--root", args.root.is_some()),
        ("--publish", !args.publish.is_empty()),
    ];
    match first(&flags) {
        None => Ok(()),
        Some(flag) => Err(Failure::usage(anyhow!("{flag} is for programs, and this image is a kernel"))
            .help("files and variables reach a kernel by --initrd, --module and --append")),
    }
}

impl BootArgs {
    /// The machine that they ask for, with `memory_bytes` of memory, and `words` for a command line unless
    /// they have one.
    pub(crate) fn config(&self, memory_bytes: u64, words: &str) -> Result<Config, Failure> {
        let flags = self;
        let mut modules = Vec::new();
        for module in &flags.module {
            let (file, rest) = module.split_once(',').unwrap_or((module, ""));
            let separator = if rest.is_empty() { "" } else { " " };
            modules
                .push(Module { command: format!("{file}{separator}{rest}"), bytes: read(Path::new(file))? });
        }
        Ok(Config {
            profile: match flags.profile {
                Some(ProfileName::Firecracker) => Profile::Firecracker,
                Some(ProfileName::Pc) | None => Profile::Pc,
            },
            memory_bytes,
            append: flags.append.clone().unwrap_or_else(|| words.to_owned()),
            initrd: flags.initrd.as_deref().map(read).transpose()?,
            modules,
            devices: flags.devices.devices()?,
            ring0: match flags.ring0 {
                Some(Ring0Name::Native) => Ring0::Native,
                Some(Ring0Name::Monitor) => Ring0::Monitor,
                None => Ring0::Auto,
            },
            agent: false,
            cpu_model: None,
        })
    }

    /// What the image is handed and may load as a program with symbols; where to, is not known yet. None of those that
    /// `--symbols` names.
    fn handed_programs(&self, config: &Config) -> Vec<SymbolFile> {
        let initrd = self.initrd.iter().zip(&config.initrd).map(|(path, bytes)| (path.clone(), bytes));
        let names = self.module.iter().map(|text| PathBuf::from(text.split(',').next().unwrap_or_default()));
        let modules = names.zip(config.modules.iter().map(|module| &module.bytes));
        let named = |path: &Path| {
            let mut named = self.symbols.iter().map(|text| text.split(',').next().unwrap_or_default());
            named.any(|name| Path::new(name) == path)
        };
        initrd
            .chain(modules)
            .filter(|(path, bytes)| bytes.starts_with(b"\x7fELF") && !named(path))
            .map(|(path, bytes)| symbol_file(&path, bytes.clone(), 0))
            .collect()
    }

    /// Files with symbols of `image`: those that were named, or the one beside it.
    fn symbol_files(&self, image: &Path) -> Result<Vec<SymbolFile>, Failure> {
        if self.symbols.is_empty() {
            let beside = PathBuf::from(format!("{}.dbg", image.display()));
            let bytes = if beside.is_file() { Some(read(&beside)?) } else { None };
            return Ok(bytes.map(|bytes| symbol_file(&beside, bytes, 0)).into_iter().collect());
        }
        self.symbols.iter().map(|named| named_symbols(named)).collect()
    }
}

fn symbol_file(path: &Path, bytes: Vec<u8>, bias: u64) -> SymbolFile {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    SymbolFile { name, bytes: bytes.into(), bias }
}

fn named_symbols(named: &str) -> Result<SymbolFile, Failure> {
    let (path, bias) = match named.split_once(",bias=") {
        None => (named, 0),
        Some((path, bias)) => {
            let bias = units::address(bias).map_err(|error| {
                Failure::usage(anyhow!("--symbols {named}: {error}")).help("as in kernel.elf,bias=0x200000")
            })?;
            (path, bias)
        }
    };
    let file = symbol_file(Path::new(path), read(Path::new(path))?, bias);
    let mut symbols = Symbols::new();
    let loaded = symbols.load(&file.name, Arc::clone(&file.bytes), 0);
    loaded
        .with_context(|| format!("--symbols {named}"))
        .or_usage()
        .map_err(|failure| failure.help("it is the whole ELF file, or one of `objcopy --only-keep-debug`"))?;
    if symbols.functions().any(|(_, range)| range.end.checked_add(bias).is_none()) {
        return Err(Failure::usage(anyhow!("--symbols {named}: no code can run so far up"))
            .help("bias is how far above where it was linked its code runs"));
    }
    Ok(file)
}

/// Whose fault it is that an image does not boot.
pub(crate) fn failure(path: &Path, error: ForeignError) -> Failure {
    let (blame, help) = match &error {
        ForeignError::Load(LoadError::Memory(_) | LoadError::TooLarge { .. }) => {
            (Blame::Usage, "give it another size of memory (--memory)")
        }
        ForeignError::Load(LoadError::Devices(_)) => (
            Blame::Usage,
            "give the devices that the image wants: --disk and --net, each as often as it has one (docs/devices.md)",
        ),
        ForeignError::Load(LoadError::ArgumentsTooLong(_) | LoadError::CommandLineTooLong { .. }) => {
            (Blame::Usage, "shorten --append or the words behind the image, or what is behind --module FILE")
        }
        ForeignError::Load(LoadError::NotAKernel) => (
            Blame::Usage,
            "kernels are ELF files with a multiboot header or a PVH note, ELF64 files, and bzImages",
        ),
        ForeignError::Load(_) => (Blame::Usage, "check that the image is whole, and made for --profile"),
        _ => (Blame::Host, "`unifork doctor` says what this host offers"),
    };
    let error = anyhow::Error::from(error).context(format!("{} cannot be booted", path.display()));
    Failure { blame, error, help: Some(help.to_owned()) }
}

/// What an end is called, and the exit code that it stands for.
pub(crate) fn judge(end: &End) -> (String, Status) {
    match end {
        End::Power(Power::Off) => ("it switched its machine off".to_owned(), Status::Done),
        End::Power(Power::Reset) => ("it reset its machine".to_owned(), Status::Done),
        End::Power(Power::Exit(status)) => {
            (format!("it ended with status {status}"), Status::Guest(*status as u8))
        }
        // As QEMU's isa-debug-exit has it.
        End::Power(Power::DebugExit(value)) => {
            (format!("it wrote {value:#x} to the debug-exit port"), Status::Guest((value << 1 | 1) as u8))
        }
        End::Halted => ("it halted with interrupts off".to_owned(), Status::Done),
        End::Idle => ("it waits for an interrupt, and nothing will raise one".to_owned(), Status::Done),
        End::TripleFault { first, rip } => {
            let first = first.map_or_else(String::new, |first| {
                let at = if first.vector == 14 { format!(" on {:#x}", first.address) } else { String::new() };
                format!(": exception {} (code {:#x}){at}, which it did not handle", first.vector, first.code)
            });
            (format!("triple fault at {rip:#x}{first}"), Status::Guest(128 + libc::SIGABRT as u8))
        }
        End::Deadline => ("it did not end in time".to_owned(), Status::Guest(124)),
        // `unifork run` has neither an agent's host nor breakpoints: these are of images that are to be fuzzed.
        End::Agent(AgentEvent::Report { message }) => {
            let said = message.trim_end_matches('\0').escape_debug();
            (format!("its agent reported `{said}`"), Status::Done)
        }
        End::Agent(AgentEvent::Done { code }) => {
            (format!("its agent ended a run, with {code}"), Status::Done)
        }
        End::Stopped | End::Agent(_) | End::Breakpoint { .. } => {
            ("stopped".to_owned(), Status::Guest(signals::stopped_code()))
        }
        End::Stuck { reason } => (format!("it cannot go on: {reason}"), Status::Guest(125)),
    }
}

/// What can be done about an image that cannot go on.
fn help_of_stuck(monitored: bool) -> &'static str {
    if monitored {
        "where KVM runs ring 0 natively (`unifork doctor`), --ring0 native does without the monitor"
    } else {
        "--ring0 monitor runs it at CPL 3, under unifork's own monitor"
    }
}

/// Standard output and input as the machine's console.
struct Terminal {
    show: bool,
    kept: Vec<u8>,
    open: bool,
    // Why the console can be written no more.
    failed: Option<std::io::Error>,
    // Of each network card; `None` where nothing is at the other end.
    plugs: Vec<Option<Plug>>,
}

/// Bytes of console that are kept for `--json`.
const KEPT_MAX: usize = 1 << 20;

impl Outside for Terminal {
    fn console(&mut self, bytes: &[u8]) {
        if self.show {
            let mut out = std::io::stdout().lock();
            let written =
                std::io::Write::write_all(&mut out, bytes).and_then(|()| std::io::Write::flush(&mut out));
            if let Err(error) = written {
                self.failed.get_or_insert(error);
            }
        } else {
            let room = KEPT_MAX - self.kept.len();
            self.kept.extend_from_slice(&bytes[..room.min(bytes.len())]);
        }
    }

    fn typed(&mut self, room: usize) -> Vec<u8> {
        let stdin = std::io::stdin();
        let mut ready = [PollFd::new(&stdin, PollFlags::IN)];
        if !self.open || !rustix::event::poll(&mut ready, Some(&Timespec::default())).is_ok_and(|n| n > 0) {
            return Vec::new();
        }
        let mut bytes = vec![0; room];
        // Not by way of a buffer: what waits there would not be seen above.
        let read = match rustix::io::read(&stdin, &mut bytes) {
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => 0,
            read => {
                let read = read.unwrap_or(0);
                self.open = read > 0;
                read
            }
        };
        bytes.truncate(read);
        bytes
    }

    fn listens(&self) -> bool {
        self.open && std::io::stdin().is_terminal()
    }

    fn stopped(&self) -> bool {
        signals::stop_requested() || self.failed.is_some()
    }

    fn sent(&mut self, card: usize, frame: &[u8]) {
        if let Some(Some(plug)) = self.plugs.get(card) {
            plug.send(frame);
        }
    }

    fn arrived(&mut self, card: usize) -> Option<Vec<u8>> {
        self.plugs.get_mut(card)?.as_mut()?.receive()
    }

    fn is_connected(&self) -> bool {
        self.plugs.iter().any(Option::is_some)
    }

    fn wait(&mut self, at_most: Duration, takes_typed: bool) {
        let stdin = std::io::stdin();
        let mut ready = Vec::new();
        if self.open && takes_typed {
            ready.push(PollFd::new(&stdin, PollFlags::IN));
        }
        ready.extend(self.plugs.iter().flatten().map(|plug| PollFd::new(plug, PollFlags::IN)));
        let timeout = Timespec::try_from(at_most).ok();
        // A signal ends the wait as well.
        let _anything = rustix::event::poll(&mut ready, timeout.as_ref());
    }
}

/// A sentence about how kernels are run on this host.
pub(crate) fn ring0_fact(kvm: &Kvm) -> Option<String> {
    unifork_vmm::foreign::runs_ring0(kvm).ok().map(|native| {
        if native {
            "run by KVM: other people's kernels run natively".to_owned()
        } else {
            "emulated by KVM: other people's kernels run at CPL 3, under the monitor (run --ring0 says otherwise)"
                .to_owned()
        }
    })
}
