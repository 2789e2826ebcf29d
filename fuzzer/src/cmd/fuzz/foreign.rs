//! `unifork fuzz` for images with a kernel and an agent of their own.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, anyhow};
use unifork_vmm::Kvm;
use unifork_vmm::foreign::{self, Base, BaseError, Terms};

use super::watch::Watchers;
use super::{
    Args, Inputs, campaign_failure, claim, find_inputs, leave_out_long, output_failure, run_alone, tell,
};
use crate::campaign::{self, Plan};
use crate::cmd::run::kernel::{self, KernelArgs};
use crate::cmd::{Blame, BlameExt as _, Failure, Status, doctor, note, say, warn};
use crate::findings;
use crate::fork::Frozen;
use crate::machine::{MachineArgs, read_image};
use crate::monitor::board::Board;
use crate::output::Output;
use crate::session::Session;
use crate::signals;
use crate::strategy::Strategy;
use crate::units::{plural, show_count, show_size};

/// Whether the image is to be booted as a kernel: it says that it is one, or a flag does.
pub(crate) fn is_wanted(flags: &KernelArgs, image: &Path) -> bool {
    flags.any() || read_image(image).is_ok_and(|bytes| foreign::is_kernel(&bytes))
}

/// Boots one to where its agent asks for the snapshot.
pub(crate) fn boot(
    flags: &KernelArgs,
    path: &Path,
    machine: &MachineArgs,
) -> Result<(Arc<Kvm>, Arc<Base>), Failure> {
    let image: Arc<[u8]> = read_image(path)
        .with_context(|| format!("cannot read {}", path.display()))
        .or_usage()
        .map_err(|failure| failure.help("check the path"))?
        .into();
    let config = flags.config(machine.memory, "")?;
    let kvm = Arc::new(Kvm::open().map_err(|error| crate::cmd::machine_failure(error.into()))?);
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let terms = Terms { symbols: flags.symbol_files(path)? };
    let base = Base::boot(&kvm, &name, image, &config, &terms, machine.boot_deadline)
        .map_err(|error| failure(path, error))?;
    Ok((kvm, base))
}

/// Fuzzes one.
pub(super) fn run(args: &Args, json: bool) -> Result<Status, Failure> {
    let several = args.cores.is_some() || args.serve.is_some() || !args.join.is_empty();
    if several || args.audit.is_some() || args.kernel_coverage {
        let error =
            anyhow!("{} is a kernel of its own, which is fuzzed by one process", args.image.display());
        return Err(
            Failure::usage(error).help("leave out --cores, --serve, --join, --audit and --kernel-coverage")
        );
    }
    let Inputs { mut seeds, tokens, grammar, root } = find_inputs(args)?;
    let watchers = Watchers::find(args, json)?;
    let show = watchers.show;
    let began = Instant::now();
    let (kvm, base) = boot(&args.kernel, &args.image, &args.machine)?;
    let elapsed = began.elapsed();
    if base.sites().is_empty() {
        return Err(Failure::usage(anyhow!("{} has announced no coverage counters", args.image.display()))
            .help("compile what is to be fuzzed with -fsanitize-coverage, as docs/agent.md has it"));
    }
    leave_out_long(&mut seeds, base.input_max());
    for path in &seeds.too_long {
        warn(&format!("{} is longer than the image's input window and left out", path.display()));
    }
    let output = Output::open(&root).map_err(output_failure)?;
    if let Some(changed) = claim(args, &output, base.id())? {
        note(&changed);
    }
    let engine = args.engine.unwrap_or(crate::cmd::default_engine());
    if !json {
        say(&format!(
            "fuzzing {}, booted and frozen in {:.0} ms\n  machine {}, inputs up to {}, engine {engine}, run {}\n  \
             {} edges, {}, {}\n  campaign in {}\n",
            args.image.display(),
            elapsed.as_secs_f64() * 1e3,
            show_size(base.memory_bytes()),
            show_size(base.input_max()),
            if base.is_monitored() { "by the monitor" } else { "at ring 0" },
            show_count(base.sites().len() as u64),
            plural(seeds.usable.len(), "seed"),
            plural(tokens.as_ref().map_or(0, |tokens| tokens.len()), "token"),
            output.root().display(),
        ));
    }
    let frozen = Frozen::Foreign(base);
    let described = findings::Machine {
        image: args.image.canonicalize().unwrap_or_else(|_| args.image.clone()),
        name: args.image.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        snapshot: format!("{:016x}", frozen.id()),
        memory_bytes: frozen.memory_bytes(),
        input_max: frozen.input_max(),
        deadline_ms: u64::try_from(args.deadline.as_millis()).unwrap_or(u64::MAX),
        engine: engine.to_string(),
    };
    let words = tokens.as_ref().map_or(0, |tokens| tokens.len());
    let session = Session::begin(doctor::facts(), described.clone(), seeds.usable.len(), words);
    let board = Arc::new(Board::default());
    let plan = Plan {
        kvm,
        frozen,
        machine: described,
        engine,
        audit: None,
        batches: false,
        strategy: Strategy::new(&args.with, &args.without),
        deadline: args.deadline,
        seeds: seeds.usable,
        tokens,
        grammar,
        kernel_coverage: false,
        seed: args.seed,
        execs: args.execs,
        duration: args.duration,
        until_finding: args.until.is_some(),
        boot_unserved: Vec::new(),
        show,
        share: None,
        board: board.clone(),
    };
    signals::catch();
    let choice = serde_json::json!({ "engine": engine, "measured": [] });
    if json {
        say(&format!("{choice}\n"));
    }
    let begin = [choice, serde_json::json!({ "session": session })];
    let shown = watchers.start(args, &root, &board)?;
    let summary = run_alone(plan, &output, &begin).map_err(campaign_failure)?;
    drop(shown);
    say(&if json { tell::closing_json(&summary) } else { tell::closing(&summary, None) });
    let nothing_found = args.until.is_some() && summary.new_findings == 0 && !campaign::interrupted();
    Ok(if nothing_found { Status::Negative } else { Status::Done })
}

fn failure(path: &Path, error: BaseError) -> Failure {
    match error {
        BaseError::Foreign(error) => kernel::failure(path, error),
        BaseError::NoSnapshot { ref console, .. } => {
            let said = String::from_utf8_lossy(console);
            let last =
                said.lines().next_back().map_or_else(String::new, |line| format!(", after saying `{line}`"));
            Failure::usage(anyhow!("{}: {error}{last}", path.display()))
                .help("docs/agent.md says how an image asks for one; `unifork run` shows what it does")
        }
        error => Failure {
            blame: Blame::Usage,
            error: anyhow::Error::from(error).context(format!("{} cannot be fuzzed", path.display())),
            help: Some("docs/agent.md says what an image announces, and when".to_owned()),
        },
    }
}
