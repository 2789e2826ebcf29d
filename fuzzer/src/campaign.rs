//! A campaign: LibAFL's concrete types, named once, and one core's loop from top to bottom.
//!
//! ```text
//!  queue, seeds ─► load ─► loop { CoverScheduler ─► Calibrate ─► pipeline.rs × power } ─► summary
//!                             │                          │ input
//!                             │                  ReplicaExecutor ─► Replica (vmm)
//!                             │                          │ counters, outcome
//!                             └── CorpusFeedback ◄───────┴──► Findings
//! ```
//!
//! With a seed given, nothing here depends on the clock, so two campaigns of the same seed and
//! number of executions are the same. It knows no command line and prints nothing but warnings.
//!
//! A campaign on several cores is several of these, processes that share a folder and hear from one
//! another between two rounds ([`cores`](crate::cores)).

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use libafl::corpus::{Corpus as _, InMemoryCorpus};
use libafl::events::NopEventManager;
use libafl::executors::{ExitKind, HasObservers as _};
use libafl::feedbacks::Feedback as _;
use libafl::fuzzer::{Evaluator as _, ExecuteInputResult, Fuzzer as _, NopInputFilter, StdFuzzer};
use libafl::inputs::{BytesInput, BytesInputConverter};
use libafl::observers::ObserversTuple as _;
use libafl::stages::StagesTuple;
use libafl::state::{HasCorpus, HasExecutions, HasMaxSize, StdState};
use libafl::{HasFeedback as _, HasMetadata};
use libafl_bolts::rands::StdRand;
use unifork_abi::Filter;
use unifork_vmm::Engine;

use crate::audit::Auditor;
use crate::batch::Batcher;
use crate::clock::Clock;
use crate::cores::link::Link;
use crate::detail::Book;
use crate::edges;
use crate::executor::{Limits, Parts, ReplicaExecutor, Tally};
use crate::feedback::{Admission, CorpusFeedback, FoundFeedback};
use crate::findings::Findings;
use crate::fork::Frozen;
use crate::grammar::Grammar;
use crate::journal::{self, Key};
use crate::monitor::{self, Monitor};
use crate::observer::{self, LastRun, SharedRun};
use crate::output::Output;
use crate::process;
use crate::queue::{Queue, SetAside, Stored};
use crate::scheduler::CoverScheduler;
use crate::seeds::Seed;
use crate::signals;
use crate::stage::calibrate::{self, Calibrate, UnstableList};
use crate::stage::compare::Tracer;
use crate::strategy::{Mechanism, Strategy};
use crate::triage::{Probe, Triage};
use crate::units::{plural, show_count};

mod exchange;
mod pipeline;
mod plan;
use pipeline::Mechanisms;
pub(crate) use plan::{CampaignError, Plan, SeedReport, Share, Summary};

/// Inputs in memory; the queue on disk is written by [`CorpusFeedback`].
pub(crate) type Corpus = InMemoryCorpus<BytesInput>;
/// LibAFL's state.
pub(crate) type State = StdState<Corpus, BytesInput, StdRand, Corpus>;
type TheFuzzer =
    StdFuzzer<CoverScheduler, CorpusFeedback, BytesInputConverter, NopInputFilter, FoundFeedback>;

/// Time between two savings of the state: the first after one second, then twice as long each time, up to the
/// maximum. The queue is on disk at once; this only saves running it again after a kill.
const SAVE_PERIOD: Duration = Duration::from_secs(1);
const SAVE_PERIOD_MAX: Duration = Duration::from_secs(30);

/// Exits measured before the first batch, to size it.
const EXIT_SAMPLES: usize = 200;

/// One core's campaign.
pub(crate) struct Campaign {
    fuzzer: TheFuzzer,
    state: State,
    executor: ReplicaExecutor,
    manager: NopEventManager,
    last: SharedRun,
    clock: Clock,
    key: Key,
    state_path: PathBuf,
    seeds: Vec<Seed>,
    stored: Vec<Stored>,
    tracer: Option<Tracer>,
    link: Option<Link>,
    book: Book,
    strategy: Strategy,
    grammar: Option<Grammar>,
    frozen: Frozen,
    /// Said before the first line of figures.
    pub(crate) notes: Vec<String>,
}

impl Campaign {
    /// Opens the folder's queue, findings and state, and makes everything ready to run.
    pub(crate) fn open(plan: Plan, output: &Output) -> Result<Self, CampaignError> {
        let mut notes = Vec::new();
        let shared = plan.share.is_some();
        let (queue, stored, aside) = Queue::open(&output.folder("queue")?, &output.path("corrupt"), shared)?;
        notes.extend(aside.iter().map(SetAside::sentence));
        // The figures of several clients are added up and stored by their parent.
        let stats_path = if shared { PathBuf::from("/dev/null") } else { output.path("stats.jsonl") };
        let before = monitor::last_figures(&stats_path);
        let total = plan.frozen.counter_count();
        let monitor = Monitor::start(stats_path, before.as_ref(), total, plan.show, plan.board)?;
        let clock = if plan.seed.is_some() { Clock::Logical } else { Clock::Wall };
        let last: SharedRun = Rc::new(LastRun::default());

        let probe = Probe::new(plan.kvm.clone(), plan.frozen.clone(), plan.deadline);
        let findings = Findings::open(&output.folder("findings")?, probe, plan.machine, total, shared)?;
        let mut replica = plan.frozen.fork(&plan.kvm, plan.engine)?;
        let observers = observer::observe(&mut replica);
        let mut feedback = CorpusFeedback::new(&observers, plan.kernel_coverage, queue, clock, last.clone());
        let mut objective = FoundFeedback::new(last.clone());

        let key = Key {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            snapshot: plan.frozen.id(),
            kernel_coverage: plan.kernel_coverage,
            seed: plan.seed,
        };
        let state_path = match plan.share.as_ref().map_or(0, |share| share.number) {
            0 => output.path("state.postcard"),
            number => output.path(&format!("state-{number}.postcard")),
        };
        let mut state = match journal::load(&state_path, &key) {
            Ok(state) => state,
            Err(why) => {
                if !stored.is_empty() {
                    let inputs = plural(stored.len(), "input");
                    notes.push(format!("no saved state is used ({why}): running the queue's {inputs} again"));
                }
                let rand = match plan.seed {
                    Some(seed) => StdRand::with_seed(seed),
                    None => StdRand::new(),
                };
                State::new(rand, Corpus::new(), Corpus::new(), &mut feedback, &mut objective)?
            }
        };
        // A client counts those of its session. A state may be older than the figures, or of one client.
        let execs_before = before.as_ref().map_or(0, |figures| figures.execs);
        *state.executions_mut() = if shared { 0 } else { execs_before.max(*state.executions()) };
        if let Some(before) = &before {
            let (execs, inputs) = (show_count(before.execs), stored.len());
            notes.push(format!("resuming after {execs} executions, with {}", plural(inputs, "input")));
        }
        let input_max = usize::try_from(plan.frozen.input_max()).unwrap_or(usize::MAX);
        state.set_max_size(input_max);
        if let Some(tokens) = plan.tokens {
            state.add_metadata(tokens);
        }
        let scheduler = CoverScheduler::new(&mut state, &observers.0, plan.strategy);
        let client = plan.share.as_ref().map_or(0, |share| share.number);
        let book = Book::open(output.root(), &client.to_string(), &plan.boot_unserved);
        feedback.slowest = book.slowest();
        let fuzzer = StdFuzzer::new(scheduler, feedback, objective);
        let limits = Limits {
            execs: plan.execs,
            until: plan.duration.map(|duration| Instant::now() + duration),
            finding: plan.until_finding,
        };
        let batches = plan.batches && plan.frozen.has_batches();
        let batcher = if batches && plan.engine == Engine::HotSet {
            let exit = unifork_vmm::bench::round_trip(&plan.kvm, EXIT_SAMPLES)
                .map_err(|error| CampaignError::Engine(error.to_string()))?;
            let filter = if plan.kernel_coverage { Filter::All } else { Filter::Application };
            Some(Batcher::new(plan.seed.is_some(), exit.percentile(50), filter))
        } else {
            None
        };
        let auditor =
            plan.audit.map(|every| Auditor::new(plan.kvm.clone(), plan.frozen.clone(), plan.deadline, every));
        let tracer = plan
            .strategy
            .has(Mechanism::Comparisons)
            .then(|| Tracer::new(plan.kvm.clone(), plan.frozen.clone(), plan.deadline));
        let triage = Triage::new(&plan.frozen);
        let deadline = plan.deadline;
        let parts = Parts {
            observers,
            replica,
            findings,
            monitor,
            limits,
            triage,
            last: last.clone(),
            deadline,
            input_max,
            batcher,
            auditor,
        };
        Ok(Self {
            fuzzer,
            state,
            executor: ReplicaExecutor::new(parts),
            manager: NopEventManager::new(),
            last,
            clock,
            key,
            state_path,
            seeds: plan.seeds,
            stored,
            tracer,
            link: plan.share.map(|share| Link::new(share.broker)),
            book,
            strategy: plan.strategy,
            grammar: plan.grammar,
            frozen: plan.frozen,
            notes,
        })
    }

    /// Runs what the queue has that the state does not know, then the seeds. False when the
    /// campaign was stopped on the way.
    pub(crate) fn load(&mut self) -> Result<Option<SeedReport>, CampaignError> {
        self.restore_missing_files()?;
        let known: std::collections::HashSet<Vec<u8>> = self
            .state
            .corpus()
            .ids()
            .filter_map(|id| {
                Some(self.state.corpus().get(id).ok()?.borrow().input().as_ref()?.as_ref().to_vec())
            })
            .collect();
        let stored = std::mem::take(&mut self.stored);
        self.fuzzer.feedback_mut().admission = Admission::All;
        for entry in &stored {
            if !known.contains(&entry.bytes) && self.evaluate(&entry.bytes)?.is_none() {
                return Ok(None);
            }
        }
        self.fuzzer.feedback_mut().admission = Admission::New;
        let mut report = SeedReport::default();
        let stored: std::collections::HashSet<&[u8]> =
            stored.iter().map(|entry| entry.bytes.as_slice()).collect();
        let seeds = std::mem::take(&mut self.seeds);
        for seed in &seeds {
            if known.contains(&seed.bytes) || stored.contains(seed.bytes.as_slice()) {
                continue;
            }
            let Some(result) = self.evaluate(&seed.bytes)? else { return Ok(None) };
            match self.last.exit.get() {
                Some(ExitKind::Timeout) => report.hung.push(seed.path.clone()),
                Some(ExitKind::Crash) => report.crashed.push(seed.path.clone()),
                _ if result == ExecuteInputResult::None && self.last.rejected.get() => {
                    report.refused.push(seed.path.clone());
                }
                _ => {}
            }
        }
        if self.state.corpus().count() == 0 {
            let (crashed, hung, refused) = (report.crashed.len(), report.hung.len(), report.refused.len());
            if crashed + hung + refused < seeds.len() {
                return Err(CampaignError::NoCoverage);
            }
            return Err(CampaignError::NoGoodSeed { seeds: seeds.len(), crashed, hung, refused });
        }
        Ok(Some(report))
    }

    /// Findings of this session that were not known.
    pub(crate) fn new_findings(&self) -> u64 {
        self.executor.tally.new_findings
    }

    /// Fuzzes until a limit is reached or someone asks to stop.
    pub(crate) fn run(&mut self) -> Result<(), CampaignError> {
        let calibrate = Calibrate::new(
            self.clock,
            self.last.clone(),
            UnstableList { frozen: self.frozen.clone(), path: self.unstable_path() },
        );
        let mechanisms = Mechanisms {
            strategy: self.strategy,
            tracer: self.tracer.take(),
            grammar: self.grammar.take(),
            last: self.last.clone(),
        };
        let stages = pipeline::stages(mechanisms, &mut self.state)?;
        self.fuzz((calibrate, stages))
    }

    /// The list of edges that do not repeat: `unstable.txt`, or `unstable-N.txt` of the client N.
    fn unstable_path(&self) -> PathBuf {
        let state = self.state_path.file_name().unwrap_or_default().to_string_lossy();
        let name = state.replacen("state", "unstable", 1);
        self.state_path.with_file_name(name).with_extension("txt")
    }

    fn fuzz<S>(&mut self, mut stages: S) -> Result<(), CampaignError>
    where
        S: StagesTuple<ReplicaExecutor, NopEventManager, State, TheFuzzer>,
    {
        let (mut saved, mut period) = (Instant::now(), SAVE_PERIOD);
        loop {
            let round =
                self.fuzzer.fuzz_one(&mut stages, &mut self.executor, &mut self.state, &mut self.manager);
            match round {
                Ok(_) => {}
                Err(libafl::Error::ShuttingDown) => break,
                Err(error) => return Err(error.into()),
            }
            if !self.exchange()? {
                break;
            }
            if saved.elapsed() >= period {
                self.save()?;
                process::trim();
                (saved, period) = (Instant::now(), SAVE_PERIOD_MAX.min(period * 2));
            }
        }
        self.last.take_fault().map_or(Ok(()), Err)
    }

    /// Saves the state and says how it went.
    pub(crate) fn finish(&mut self) -> Result<Summary, CampaignError> {
        self.tell();
        journal::settle(&mut self.state)?;
        self.save()?;
        let executor = &mut self.executor;
        executor.take_figures();
        let now = Instant::now();
        let figures = executor.monitor.close(now, &self.state, &executor.tally, &executor.findings)?;
        Ok(Summary {
            figures,
            runs: executor.tally.runs,
            session: executor.monitor.session(),
            new_findings: executor.tally.new_findings,
            findings: executor.findings.names().map(|name| executor.findings.folder(name)).collect(),
            unserved: executor.replica.unserved(),
            unstable: edges::find(&self.frozen, calibrate::unstable(&self.state)),
        })
    }

    /// Adds a line to the campaign's log, `stats.jsonl`.
    pub(crate) fn log(&mut self, line: &serde_json::Value) -> Result<(), CampaignError> {
        Ok(self.executor.monitor.log(line)?)
    }

    /// What was counted so far.
    pub(crate) fn tally_mut(&mut self) -> &mut Tally {
        &mut self.executor.tally
    }

    /// Judges the map of the last run again, `rounds` times: what coverage costs after each run.
    pub(crate) fn time_map(&mut self, rounds: u32) -> Result<Duration, CampaignError> {
        let input = BytesInput::new(Vec::new());
        let start = Instant::now();
        for _ in 0..rounds {
            self.executor.observers_mut().post_exec_all(&mut self.state, &input, &ExitKind::Ok)?;
            let (state, observers) = (&mut self.state, self.executor.observers());
            let feedback = self.fuzzer.feedback_mut();
            std::hint::black_box(feedback.is_interesting(
                state,
                &mut self.manager,
                &input,
                &observers,
                &ExitKind::Ok,
            )?);
        }
        Ok(start.elapsed())
    }

    fn save(&self) -> Result<(), CampaignError> {
        self.book.save(&self.executor.replica.unserved(), &self.fuzzer.feedback().slowest)?;
        Ok(journal::save(&self.state_path, &self.key, &self.state)?)
    }

    /// Runs one input, judged as any other. None when the campaign is to stop.
    fn evaluate(&mut self, bytes: &[u8]) -> Result<Option<ExecuteInputResult>, CampaignError> {
        let input = BytesInput::new(bytes.to_vec());
        let evaluated =
            self.fuzzer.evaluate_input(&mut self.state, &mut self.executor, &mut self.manager, &input);
        match evaluated {
            Ok((result, _)) => Ok(Some(result)),
            Err(libafl::Error::ShuttingDown) => self.last.take_fault().map_or(Ok(None), Err),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes those inputs of the state that the queue lost, through damage or by hand.
    fn restore_missing_files(&mut self) -> Result<(), CampaignError> {
        for id in self.state.corpus().ids() {
            let entry = self.state.corpus().get(id)?.borrow();
            if let Some(input) = entry.input() {
                self.fuzzer.feedback_mut().queue.save(input.as_ref())?;
            }
        }
        Ok(())
    }
}

/// Whether a stop was asked for from outside.
pub(crate) fn interrupted() -> bool {
    signals::stop_requested()
}

/// Where the seeds of a campaign lie by default, its dictionary, and its folder.
pub(crate) fn neighbours(image: &Path) -> (PathBuf, PathBuf, PathBuf) {
    use crate::seeds::beside;
    (beside(image, "seeds"), beside(image, "dict"), beside(image, "campaign"))
}
