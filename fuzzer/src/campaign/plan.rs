//! What a campaign is given, what it gives back, and what ends it before its time.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use libafl::mutators::Tokens;
use thiserror::Error;
use unifork_vmm::{Engine, Kvm, ReplicaError};

use crate::cores::link::Port;
use crate::edges::Edge;
use crate::findings::Machine;
use crate::fork::{ForkError, Frozen};
use crate::grammar::Grammar;
use crate::monitor::board::Board;
use crate::monitor::{Figures, Show};
use crate::output::OutputError;
use crate::seeds::Seed;
use crate::strategy::Strategy;
use crate::units::plural;

/// What ends a campaign before its time.
#[derive(Debug, Error)]
pub(crate) enum CampaignError {
    /// The host could not run the replica.
    #[error("cannot run the machine")]
    Replica(#[from] ForkError),
    /// The campaign's folder could not be written or read.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// LibAFL refused something: a defect of ours.
    #[error("the fuzzing engine failed: {0}")]
    Engine(String),
    /// No seed ends well, so there is nothing to mutate.
    #[error(
        "of {}, none ends well: {crashed} crash, {hung} time out, {refused} are refused by the harness",
        plural(*seeds, "seed")
    )]
    NoGoodSeed {
        /// How many there are.
        seeds: usize,
        /// How many crash,
        crashed: usize,
        /// time out,
        hung: usize,
        /// or make the harness return -1.
        refused: usize,
    },
    /// Seeds end well but cover nothing.
    #[error("no seed reaches instrumented code, so nothing would guide the fuzzer")]
    NoCoverage,
}

impl From<ReplicaError> for CampaignError {
    fn from(error: ReplicaError) -> Self {
        Self::Replica(error.into())
    }
}

impl From<libafl::Error> for CampaignError {
    fn from(error: libafl::Error) -> Self {
        Self::Engine(error.to_string())
    }
}

/// What to fuzz, from what, and for how long.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) kvm: Arc<Kvm>,
    pub(crate) frozen: Frozen,
    pub(crate) machine: Machine,
    pub(crate) engine: Engine,
    /// Many inputs per entry of the guest; needs the hot set.
    pub(crate) batches: bool,
    pub(crate) strategy: Strategy,
    /// Every so many runs, one is made again in a new fork and compared.
    pub(crate) audit: Option<u64>,
    pub(crate) deadline: Duration,
    pub(crate) seeds: Vec<Seed>,
    pub(crate) tokens: Option<Tokens>,
    pub(crate) grammar: Option<Grammar>,
    pub(crate) kernel_coverage: bool,
    /// Given: the campaign is the same each time.
    pub(crate) seed: Option<u64>,
    pub(crate) execs: Option<u64>,
    pub(crate) duration: Option<Duration>,
    pub(crate) until_finding: bool,
    /// System calls that were not served while booting.
    pub(crate) boot_unserved: Vec<(u64, u32)>,
    pub(crate) show: Show,
    /// Given: this is one client of several.
    pub(crate) share: Option<Share>,
    /// Where the newest figures go, beside what `show` says.
    pub(crate) board: Arc<Board>,
}

/// What a client of several knows of the others.
#[derive(Clone, Debug)]
pub(crate) struct Share {
    /// Its number, from 0.
    pub(crate) number: usize,
    /// Where the broker is.
    pub(crate) broker: Port,
}

/// How the seeds ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SeedReport {
    /// Those that crash, those that time out, and those that the harness refuses (-1).
    pub(crate) crashed: Vec<PathBuf>,
    pub(crate) hung: Vec<PathBuf>,
    pub(crate) refused: Vec<PathBuf>,
}

/// How a campaign ended.
#[derive(Debug)]
pub(crate) struct Summary {
    pub(crate) figures: Figures,
    /// Executions and time of this session.
    pub(crate) runs: u64,
    pub(crate) session: Duration,
    pub(crate) new_findings: u64,
    /// Folders of all findings.
    pub(crate) findings: Vec<PathBuf>,
    /// System calls the libOS does not serve, and how often they were made.
    pub(crate) unserved: Vec<(u64, u32)>,
    /// Edges whose counts differ between runs of one input.
    pub(crate) unstable: Vec<Edge>,
}
