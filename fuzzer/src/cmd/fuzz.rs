//! `unifork fuzz`: fuzz an image until told to stop.
//!
//! Exit codes: 0 when the campaign ended by a limit, by Ctrl-C or SIGTERM, whatever it found; 1
//! when `--until finding` ended without one; 2 for an image, seeds or a folder that cannot be
//! used; 3 when the host failed (no KVM, a full disk).

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use libafl::mutators::Tokens;
use unifork_vmm::Engine;

use crate::campaign::{self, Campaign, CampaignError, Plan, Summary};
use crate::cmd::run::kernel::KernelArgs;
use crate::cmd::{Blame, Failure, Status, doctor, note, say, warn};
use crate::cores::{CoreList, Role};
use crate::findings;
use crate::grammar::Grammar;
use crate::identity::{self, IdentityError};
use crate::machine::{self, MachineArgs};
use crate::metrics;
use crate::monitor::Show;
use crate::monitor::board::Board;
use crate::opened::Opened;
use crate::output::{Output, OutputError};
use crate::seeds::{self, Seed, Seeds, SeedsError};
use crate::session::{self, Session};
use crate::signals;
use crate::strategy::{Mechanism, Strategy};
use crate::ui::Ui;
use crate::units::{self};

mod choose;
mod client;
pub(crate) mod foreign;
mod several;
mod tell;
mod watch;

use watch::Watchers;

/// Flags of `unifork fuzz`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  unifork fuzz sqlite.img --for 10m

Seeds, dictionary and output default to sqlite.seeds/, sqlite.dict and sqlite.campaign/ beside the
image. Running the same command again resumes, on as many cores as it says. Ctrl-C, or q in the terminal
UI, saves and prints a summary. `unifork report` makes a page of the campaign, while it runs or later.

On several cores, --execs is shared out, --until finding and --for end all, and --seed fixes each
client's randomness, but not when clients hear from one another: only one core repeats exactly.

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
    /// Grammar of the inputs, a JSON list of rules as Nautilus has it [default: NAME.grammar.json, where
    /// there is one]
    #[arg(long, value_name = "FILE")]
    pub(crate) grammar: Option<PathBuf>,
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
    /// Cores to fuzz on, a process for each: how many, a list such as 0-3,6, or all [default: one process,
    /// on any core]
    #[arg(long, value_name = "N|LIST|all")]
    pub(crate) cores: Option<CoreList>,
    /// Let campaigns on other machines join this one at IP:PORT. Nothing is encrypted: an address that is
    /// not loopback is for networks you trust
    #[arg(long, value_name = "ADDR")]
    pub(crate) serve: Option<SocketAddr>,
    /// Join the campaign that another machine serves at HOST:PORT; may be given again
    #[arg(long, value_name = "ADDR")]
    pub(crate) join: Vec<String>,
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
    /// Do without these mechanisms: a list with commas
    #[arg(long, value_name = "MECHANISM", value_delimiter = ',')]
    pub(crate) without: Vec<Mechanism>,
    /// Use these mechanisms as well: a list with commas
    #[arg(long, value_name = "MECHANISM", value_delimiter = ',')]
    pub(crate) with: Vec<Mechanism>,
    /// Make every Nth run again in a new fork and compare; a difference is a defect of ours or of the
    /// host, and the exit code is 3
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) audit: Option<u64>,
    /// Let new coverage in the libOS count as new, too
    #[arg(long)]
    pub(crate) kernel_coverage: bool,
    /// How the campaign is shown
    #[arg(long, value_name = "HOW", default_value = "auto")]
    pub(crate) ui: Ui,
    /// Serve the figures in Prometheus' text format at http://ADDR/metrics; a port alone is one of the
    /// loopback interface
    #[arg(long, value_name = "ADDR", value_parser = metrics::address)]
    pub(crate) metrics: Option<SocketAddr>,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
    #[command(flatten)]
    pub(crate) kernel: KernelArgs,
}

/// What can end a campaign beside its limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Until {
    /// The first finding that was not known
    Finding,
}

/// Runs the command.
pub(crate) fn run(args: &Args, json: bool) -> Result<Status, Failure> {
    match Role::of_this_process() {
        Some(role) => Ok(client::run(args, &role)),
        None => run_campaign(args, json),
    }
}

/// What a campaign begins with, and its folder.
struct Inputs {
    seeds: Seeds,
    tokens: Option<Tokens>,
    grammar: Option<Grammar>,
    root: PathBuf,
}

/// Reads what the campaign begins with.
fn find_inputs(args: &Args) -> Result<Inputs, Failure> {
    let (seeds_beside, dict_beside, campaign_beside) = campaign::neighbours(&args.image);
    let root = args.output.clone().unwrap_or(campaign_beside);
    let seeds = find_seeds(args, seeds_beside, &root)?;
    let dict = args.dict.clone().or_else(|| dict_beside.is_file().then_some(dict_beside));
    let tokens = dict.as_deref().map(seeds::dictionary).transpose().map_err(seeds_failure)?;
    let grammar = read_grammar(args.grammar.as_deref(), &args.image)?;
    Ok(Inputs { seeds, tokens, grammar, root })
}

fn run_campaign(args: &Args, json: bool) -> Result<Status, Failure> {
    // From the first moment on: who stops the campaign before it runs gets the same summary.
    signals::catch();
    // What the user can mend is looked at before the machine is.
    let kernel = foreign::is_wanted(&args.kernel, &args.image)?;
    if kernel {
        foreign::refuse_what_is_a_programs(args)?;
    }
    let file = !kernel && !machine::is_elf(&args.image).map_err(super::machine_failure)?;
    if args.with.contains(&Mechanism::Mopt) && !args.no_batch {
        let error =
            anyhow::anyhow!("--with mopt needs --no-batch: MOpt must hear of each run before the next");
        return Err(Failure::usage(error).help("the mechanism `operators`, on by default, has no such need"));
    }
    let cores = several::cores(args)?;
    let Inputs { mut seeds, tokens, grammar, root } = find_inputs(args)?;
    let watchers = Watchers::find(args, json)?;
    let show = watchers.show;
    let damaged = move |error| super::end_with(error, json);
    let machine: Opened = if kernel {
        foreign::open(&args.image, &args.machine, &args.kernel)?
    } else {
        machine::open_at_once(&args.image, &args.machine, damaged).map_err(super::machine_failure)?.into()
    };
    leave_out_long(&mut seeds, machine.frozen.input_max());
    if machine.frozen.counter_count() == 0 {
        let error = anyhow::anyhow!("{} has no coverage counters", args.image.display());
        return Err(Failure::usage(error).help(if kernel {
            "compile what is to be fuzzed with -fsanitize-coverage, as docs/agent.md has it, or try --cover all"
        } else {
            "build it with `unifork build`, or see what it does with `unifork run`"
        }));
    }
    let output = Output::open(&root).map_err(output_failure)?;
    let changed = claim(args, &output, machine.frozen.id())?;
    let (engine, figures) = choose::choose_engine(args, &machine, &seeds).map_err(Failure::host)?;
    if !json {
        say(&tell::opening(
            args,
            &machine,
            engine,
            &figures,
            &output,
            &seeds,
            tokens.as_ref().map_or(0, |tokens| tokens.len()),
        ));
    }
    if let Some(changed) = changed {
        note(&changed);
    }
    for path in &seeds.too_long {
        warn(&format!("{} is longer than the longest input and left out", path.display()));
    }
    let choice = serde_json::json!({ "engine": engine, "measured": figures });
    if json {
        say(&format!("{choice}\n"));
    }
    let described = machine.describe(&args.image, args.deadline, engine);
    let words = tokens.as_ref().map_or(0, |tokens| tokens.len());
    let session = Session::begin(doctor::facts(), described.clone(), seeds.usable.len(), words);
    let begin = [choice, serde_json::json!({ "session": session })];
    let board = Arc::new(Board::default());
    let shown = watchers.start(args, &root, &board)?;
    let summary = match cores {
        Some(cores) => {
            let machine = &machine;
            let started = several::Started { cores, file, machine, described, engine, show, board };
            several::run(args, started, &output, &begin)?
        }
        None => {
            let plan = Plan {
                seed: args.seed,
                execs: args.execs,
                duration: args.duration,
                until_finding: args.until.is_some(),
                engine,
                show,
                board,
                ..plan(args, &machine, described, seeds.usable, tokens, grammar)
            };
            run_alone(plan, &output, &begin).map_err(campaign_failure)?
        }
    };
    drop(shown);
    if json {
        say(&tell::closing_json(&summary));
    } else {
        say(&tell::closing(&summary, machine.boot.as_ref()));
    }
    let nothing_found = args.until.is_some() && summary.new_findings == 0 && !campaign::interrupted();
    if summary.figures.audit_differences > 0 {
        let error = anyhow::anyhow!(
            "{} audited runs were not what they are in a new fork",
            summary.figures.audit_differences
        );
        return Err(
            Failure::host(error).help("run `unifork doctor`, and report this: resets are not exact here")
        );
    }
    Ok(if nothing_found { Status::Negative } else { Status::Done })
}

/// A plan without limits, of a process that prints figures as JSON.
fn plan(
    args: &Args,
    machine: &Opened,
    described: findings::Machine,
    seeds: Vec<Seed>,
    tokens: Option<Tokens>,
    grammar: Option<Grammar>,
) -> Plan {
    Plan {
        kvm: machine.kvm.clone(),
        frozen: machine.frozen.clone(),
        machine: described,
        engine: super::default_engine(),
        audit: args.audit,
        batches: !args.no_batch,
        strategy: Strategy::new(&args.with, &args.without),
        deadline: args.deadline,
        seeds,
        tokens,
        grammar,
        kernel_coverage: args.kernel_coverage,
        seed: None,
        execs: None,
        duration: None,
        until_finding: false,
        boot_unserved: machine.boot.as_ref().map_or_else(Vec::new, |boot| boot.unserved.clone()),
        show: Show::Json,
        share: None,
        board: Arc::default(),
    }
}

/// A campaign in this process alone.
fn run_alone(plan: Plan, output: &Output, begin: &[serde_json::Value]) -> Result<Summary, CampaignError> {
    let until_finding = plan.until_finding;
    let mut campaign = Campaign::open(plan, output)?;
    for line in begin {
        campaign.log(line)?;
    }
    for text in campaign.notes.drain(..) {
        note(&text);
    }
    match campaign.load() {
        Ok(Some(report)) => {
            tell::warn_of_seeds(&report);
            campaign.run()?;
        }
        Ok(None) => {}
        // Nothing can be fuzzed, and what was waited for is there.
        Err(CampaignError::NoGoodSeed { .. }) if until_finding && campaign.new_findings() > 0 => {}
        Err(error) => return Err(error),
    }
    let summary = campaign.finish()?;
    campaign.log(&session::end())?;
    Ok(summary)
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

/// The grammar that was named, or the one beside the image.
pub(crate) fn read_grammar(named: Option<&Path>, image: &Path) -> Result<Option<Grammar>, Failure> {
    let beside = seeds::beside(image, "grammar.json");
    let path = named.or_else(|| beside.is_file().then_some(&beside));
    path.map(Grammar::read).transpose().map_err(|error| {
        Failure::usage(error).help(
            "it is a JSON list of rules, each [\"NAME\", \"text with {OTHER} in it\"]; see docs/harness-guide.md",
        )
    })
}

/// Leaves out seeds that a snapshot file, whose longest input is frozen in, does not take.
fn leave_out_long(seeds: &mut Seeds, input_max: u64) {
    let (usable, long): (Vec<_>, Vec<_>) =
        seeds.usable.drain(..).partition(|seed| seed.bytes.len() as u64 <= input_max);
    seeds.usable = usable;
    seeds.too_long.extend(long.into_iter().map(|seed| seed.path));
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

/// Makes the folder that of this image's campaign; what is to be said about it.
fn claim(args: &Args, output: &Output, id: u64) -> Result<Option<String>, Failure> {
    identity::claim(output, &args.image, &format!("{id:016x}")).map_err(identity_failure)
}

fn identity_failure(error: IdentityError) -> Failure {
    match error {
        IdentityError::Output(error) => output_failure(error),
        IdentityError::Another { .. } => Failure::usage(error).help(
            "give this campaign a folder of its own with --output; --seeds takes the other's folder to begin with",
        ),
    }
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
