//! `unifork fuzz`: fuzz an image until told to stop.
//!
//! Exit codes: 0 when the campaign ended by a limit, by Ctrl-C or SIGTERM, whatever it found; 1
//! when `--until finding` ended without one; 2 for an image, seeds or a folder that cannot be
//! used; 3 when the host failed (no KVM, a full disk).

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use unifork_vmm::{Engine, EngineFigure, ReplicaError, Space};

use crate::campaign::{self, Campaign, CampaignError, Plan, SeedReport, Summary};
use crate::cmd::{Blame, Failure, Status, say};
use crate::machine::{self, BootFacts, Machine, MachineArgs};
use crate::monitor::Show;
use crate::output::{Output, OutputError};
use crate::seeds::{self, Seeds, SeedsError};
use crate::units::{self, plural, show_clock, show_count, show_size};
use crate::{signals, syscalls};

/// Flags of `unifork fuzz`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  unifork fuzz sqlite.img --for 10m

Seeds, dictionary and output default to sqlite.seeds/, sqlite.dict and sqlite.campaign/ beside the
image. Running the same command again resumes. Ctrl-C saves and prints a summary.

Exit codes: 0 ended by a limit or a signal; 1 --until finding and there was none; 2 bad input;
3 the host failed.")]
pub(crate) struct Args {
    /// The image (`unifork build`) or snapshot file (`unifork snapshot`) to fuzz
    pub(crate) image: PathBuf,
    /// Folder of inputs to start from; may be given again [default: IMAGE's neighbour NAME.seeds]
    #[arg(long, value_name = "DIR")]
    pub(crate) seeds: Vec<PathBuf>,
    /// Dictionary in AFL's or libFuzzer's syntax [default: NAME.dict, where there is one]
    #[arg(long, value_name = "FILE")]
    pub(crate) dict: Option<PathBuf>,
    /// Folder of the campaign: corpus, findings, statistics [default: NAME.campaign]
    #[arg(long, value_name = "DIR")]
    pub(crate) output: Option<PathBuf>,
    /// Stop after this time
    #[arg(long = "for", value_parser = units::duration, value_name = "TIME")]
    pub(crate) duration: Option<Duration>,
    /// Stop after so many executions, those of earlier sessions included
    #[arg(long, value_name = "N")]
    pub(crate) execs: Option<u64>,
    /// Stop at this event
    #[arg(long, value_name = "EVENT")]
    pub(crate) until: Option<Until>,
    /// Seed of all randomness: the same seed and --execs give the same campaign
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Time one input may take
    #[arg(long, default_value = "1s", value_parser = units::duration, value_name = "TIME")]
    pub(crate) deadline: Duration,
    /// How forks are put back: copy-all, dirty-log, dirty-ring or hot-set. Unless given, the fastest
    /// is found by measuring; with --seed it is hot-set
    #[arg(long)]
    pub(crate) engine: Option<Engine>,
    /// Run inputs one by one, not many per entry of the guest
    #[arg(long)]
    pub(crate) no_batch: bool,
    /// Make every Nth run again in a new fork and compare; a difference is a defect of ours or of the
    /// host, and the exit code is 3
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) audit: Option<u64>,
    /// Let new coverage in the libOS count as new, too
    #[arg(long)]
    pub(crate) kernel_coverage: bool,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
}

/// What can end a campaign beside its limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Until {
    /// The first finding that was not known
    Finding,
}

/// Runs the command.
pub(crate) fn run(args: &Args, json: bool) -> Result<Status, Failure> {
    let (seeds_beside, dict_beside, campaign_beside) = campaign::neighbours(&args.image);
    let root = args.output.clone().unwrap_or(campaign_beside);
    // What the user can mend is looked at before the machine is.
    machine::is_elf(&args.image).map_err(super::machine_failure)?;
    let mut seeds = find_seeds(args, seeds_beside, &root)?;
    let dict = args.dict.clone().or_else(|| dict_beside.is_file().then_some(dict_beside));
    let tokens = dict.as_deref().map(seeds::dictionary).transpose().map_err(seeds_failure)?;

    let machine = machine::open(&args.image, &args.machine).map_err(super::machine_failure)?;
    leave_out_long(&mut seeds, machine.snapshot.input_max());
    if machine.snapshot.counter_count(Space::Application) == 0 {
        let error = anyhow::anyhow!("{} has no coverage counters", args.image.display());
        return Err(Failure::usage(error)
            .help("build it with `unifork build`, or see what it does with `unifork run`"));
    }
    let output = Output::open(&root).map_err(output_failure)?;
    let (engine, figures) = choose_engine(args, &machine, &seeds).map_err(Failure::host)?;
    if !json {
        say(&opening(args, &machine, engine, &figures, &output, &seeds, tokens.as_ref().map_or(0, |tokens| tokens.len())));
    }
    for path in &seeds.too_long {
        eprintln!("unifork: warning: {} is longer than --input-max and left out", path.display());
    }
    let plan = Plan {
        kvm: machine.kvm.clone(),
        snapshot: machine.snapshot.clone(),
        machine: machine.describe(&args.image, args.deadline, engine),
        engine,
        audit: args.audit,
        batches: !args.no_batch,
        deadline: args.deadline,
        seeds: seeds.usable,
        tokens,
        kernel_coverage: args.kernel_coverage,
        seed: args.seed,
        execs: args.execs,
        duration: args.duration,
        until_finding: args.until.is_some(),
        show: if json { Show::Json } else { Show::Lines },
    };
    signals::catch();
    let mut campaign = Campaign::open(plan, &output).map_err(campaign_failure)?;
    let choice = serde_json::json!({ "engine": engine, "measured": figures });
    if json {
        say(&format!("{choice}\n"));
    }
    campaign.log(&choice).map_err(campaign_failure)?;
    for note in campaign.notes.drain(..) {
        eprintln!("unifork: {note}");
    }
    if let Some(report) = campaign.load().map_err(campaign_failure)? {
        warn_of_seeds(&report);
        campaign.run().map_err(campaign_failure)?;
    }
    let summary = campaign.finish().map_err(campaign_failure)?;
    if json {
        say(&closing_json(&summary));
    } else {
        say(&closing(&summary, machine.boot.as_ref()));
    }
    let nothing_found = args.until.is_some() && summary.new_findings == 0 && !campaign::interrupted();
    if summary.figures.audit_differences > 0 {
        let error = anyhow::anyhow!("{} audited runs were not what they are in a new fork", summary.figures.audit_differences);
        return Err(Failure::host(error).help("run `unifork doctor`, and report this: resets are not exact here"));
    }
    Ok(if nothing_found { Status::Negative } else { Status::Done })
}

/// Reads the seeds. None are needed when there is a queue to resume from.
fn find_seeds(args: &Args, beside: PathBuf, root: &Path) -> Result<Seeds, Failure> {
    let resumes = fs::read_dir(root.join("queue")).is_ok_and(|mut entries| entries.next().is_some());
    let dirs = if !args.seeds.is_empty() {
        args.seeds.clone()
    } else if beside.is_dir() || !resumes {
        vec![beside]
    } else {
        return Ok(Seeds::default());
    };
    match seeds::read(&dirs, args.machine.input_max) {
        Err(SeedsError::Empty { .. }) if resumes => Ok(Seeds::default()),
        read => read.map_err(seeds_failure),
    }
}

/// Leaves out seeds that a snapshot file, whose longest input is frozen in, does not take.
fn leave_out_long(seeds: &mut Seeds, input_max: u64) {
    let (usable, long): (Vec<_>, Vec<_>) =
        seeds.usable.drain(..).partition(|seed| seed.bytes.len() as u64 <= input_max);
    seeds.usable = usable;
    seeds.too_long.extend(long.into_iter().map(|seed| seed.path));
}

/// Time that each engine is measured for.
const CHOICE_BUDGET: Duration = Duration::from_millis(20);
/// Seeds that are run for it.
const CHOICE_SEEDS: usize = 16;

/// The engine asked for, or the fastest, with what was measured.
fn choose_engine(
    args: &Args,
    machine: &Machine,
    seeds: &Seeds,
) -> Result<(Engine, Vec<EngineFigure>), ReplicaError> {
    if let Some(engine) = args.engine {
        return Ok((engine, Vec::new()));
    }
    if args.seed.is_some() {
        return Ok((super::default_engine(), Vec::new()));
    }
    let inputs: Vec<&[u8]> = seeds.usable.iter().take(CHOICE_SEEDS).map(|seed| seed.bytes.as_slice()).collect();
    let deadline = args.deadline.min(CHOICE_BUDGET);
    let figures =
        unifork_vmm::compare_engines(&machine.kvm, &machine.snapshot, &inputs, deadline, CHOICE_BUDGET)?;
    // Batches are worth more than any difference between engines.
    let hot = figures.iter().any(|figure| figure.engine == Engine::HotSet) && !args.no_batch;
    let fastest = figures.first().map_or_else(super::default_engine, |figure| figure.engine);
    Ok((if hot { Engine::HotSet } else { fastest }, figures))
}

fn opening(
    args: &Args,
    machine: &Machine,
    engine: Engine,
    figures: &[EngineFigure],
    output: &Output,
    seeds: &Seeds,
    tokens: usize,
) -> String {
    let snapshot = &machine.snapshot;
    let mut text = format!("fuzzing {}", args.image.display());
    if let Some(boot) = &machine.boot {
        let _ = write!(text, ", booted and frozen in {:.0} ms", boot.elapsed.as_secs_f64() * 1e3);
    }
    let _ = writeln!(
        text,
        "\n  machine {}, inputs up to {}, {} per run, engine {}",
        show_size(snapshot.memory_bytes()),
        show_size(snapshot.input_max()),
        show_deadline(args.deadline),
        engine,
    );
    if !figures.is_empty() {
        let measured: Vec<String> = figures
            .iter()
            .map(|figure| format!("{} {:.0} us", figure.engine, figure.run_ns as f64 / 1e3))
            .collect();
        let batches = if engine == Engine::HotSet && !args.no_batch { "; only hot-set runs batches" } else { "" };
        let _ = writeln!(text, "  measured, a run one by one: {}{batches}", measured.join(", "));
    }
    let edges = show_count(snapshot.counter_count(Space::Application) as u64);
    let _ = writeln!(text, "  {edges} edges, {}, {}", plural(seeds.usable.len(), "seed"), plural(tokens, "token"));
    let _ = writeln!(text, "  campaign in {}", output.root().display());
    text
}

fn show_deadline(deadline: Duration) -> String {
    if deadline.subsec_nanos() == 0 {
        format!("{} s", deadline.as_secs())
    } else {
        format!("{} ms", deadline.as_millis())
    }
}

/// Says which seeds are of no use.
fn warn_of_seeds(report: &SeedReport) {
    let lists = [
        ("the harness crashes", &report.crashed),
        ("the harness does not end in time", &report.hung),
        ("the harness returns -1", &report.refused),
    ];
    for (what, paths) in lists {
        let Some(first) = paths.first() else { continue };
        eprintln!(
            "unifork: warning: {} left out, since {what}; the first is {}",
            plural(paths.len(), "seed"),
            first.display()
        );
    }
}

fn closing(summary: &Summary, boot: Option<&BootFacts>) -> String {
    let figures = &summary.figures;
    let seconds = summary.session.as_secs_f64().max(1e-9);
    let mut text = String::from("\n");
    let _ = writeln!(
        text,
        "{} executions in {}: {}/s on average",
        show_count(summary.runs),
        show_clock(summary.session),
        show_count((summary.runs as f64 / seconds) as u64)
    );
    let percent = 100.0 * figures.edges as f64 / figures.edges_total.max(1) as f64;
    let _ = writeln!(
        text,
        "corpus {}, edges {} of {} ({percent:.1} %), libOS edges {} of {}, stability {:.1} %",
        show_count(figures.corpus as u64),
        show_count(figures.edges as u64),
        show_count(figures.edges_total as u64),
        show_count(figures.kernel_edges as u64),
        show_count(figures.kernel_edges_total as u64),
        100.0 * figures.stability
    );
    let _ = writeln!(
        text,
        "pages put back by the host per run: {:.1}, hot set {}, hit rate {:.1} %",
        figures.reset_pages_per_run,
        plural(figures.hot_pages, "page"),
        100.0 * figures.hot_hit_rate
    );
    if figures.batches > 0 {
        let _ = writeln!(
            text,
            "batches: {} of {:.0} runs on average, {} thrown away",
            show_count(figures.batches),
            figures.batched as f64 / figures.batches as f64,
            show_count(figures.spoiled)
        );
    }
    if figures.audits > 0 {
        let verdict = match figures.audit_differences {
            0 => "all the same".to_owned(),
            count => format!("{} DIFFER: do not trust this campaign", show_count(count)),
        };
        let _ = writeln!(text, "audits: {} runs made again in a new fork, {verdict}", show_count(figures.audits));
    }
    let unserved = unserved(summary, boot);
    if !unserved.is_empty() {
        let _ = writeln!(
            text,
            "system calls the libOS does not serve (they got ENOSYS): {}",
            syscalls::list(&unserved)
        );
    }
    if figures.unrepeated > 0 {
        let _ =
            writeln!(text, "{} timeouts did not repeat in a fresh fork and are not kept", figures.unrepeated);
    }
    if summary.findings.is_empty() {
        let _ = writeln!(text, "no findings");
        return text;
    }
    let duplicates = show_count(figures.duplicates);
    let _ = writeln!(
        text,
        "findings: {}, and {duplicates} runs that repeated one. See them with",
        figures.findings
    );
    for folder in &summary.findings {
        let _ = writeln!(text, "  unifork repro {}", folder.display());
    }
    text
}

/// The boot's and the runs' unserved calls together.
fn unserved(summary: &Summary, boot: Option<&BootFacts>) -> Vec<(u64, u32)> {
    let mut counts = std::collections::BTreeMap::new();
    for &(number, count) in boot.iter().flat_map(|boot| &boot.unserved).chain(&summary.unserved) {
        *counts.entry(number).or_insert(0u32) += count;
    }
    counts.into_iter().collect()
}

fn closing_json(summary: &Summary) -> String {
    let unserved: Vec<_> =
        summary.unserved.iter().map(|&(number, count)| (syscalls::name(number), count)).collect();
    let line = serde_json::json!({
        "summary": summary.figures,
        "session_s": summary.session.as_secs_f64(),
        "session_execs": summary.runs,
        "new_findings": summary.new_findings,
        "findings": summary.findings,
        "unserved": unserved,
    });
    format!("{line}\n")
}

pub(crate) fn seeds_failure(error: SeedsError) -> Failure {
    let help = match &error {
        SeedsError::Empty { .. } => {
            "put at least one ordinary input there; an empty file will do to start with"
        }
        SeedsError::Read { what: "seed folder", .. } => {
            "make the folder and put at least one ordinary input in it, or name another with --seeds"
        }
        SeedsError::Read { .. } => "check that it exists and may be read",
        SeedsError::Dictionary { .. } => {
            "an entry is \"token\" or name=\"token\", with \\\\, \\\" and \\xAB as escapes"
        }
    };
    Failure::usage(error).help(help)
}

/// The campaign's folder cannot be had: the user's to mend.
fn output_failure(error: OutputError) -> Failure {
    let help = match &error {
        OutputError::Busy { .. } => {
            "wait for it or stop it, or give this campaign a folder of its own with --output"
        }
        OutputError::Io { .. } => {
            "check that the folder may be written and its disk is not full, or name another with --output"
        }
    };
    Failure::usage(error).help(help)
}

pub(crate) fn campaign_failure(error: CampaignError) -> Failure {
    let (blame, help) = match &error {
        CampaignError::Replica(_) => {
            (Blame::Host, "see `unifork doctor`; the campaign so far is kept, the same command resumes it")
        }
        CampaignError::Output(_) => (
            Blame::Host,
            "make room on the disk or check its permissions; the same command then resumes the campaign",
        ),
        CampaignError::Engine(_) => (Blame::Host, "this is a defect of unifork; the campaign so far is kept"),
        CampaignError::NoGoodSeed { .. } => (
            Blame::Usage,
            "add a seed that the harness handles; look at one with `unifork repro SEED --image IMAGE`",
        ),
        CampaignError::NoCoverage => {
            (Blame::Usage, "compile the library under test with `unifork build`, too, not only the harness")
        }
    };
    Failure { blame, error: error.into(), help: Some(help.to_owned()) }
}
