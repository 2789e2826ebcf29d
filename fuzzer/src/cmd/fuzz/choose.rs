//! Which reset engine a campaign uses.

use std::time::Duration;

use unifork_vmm::{Engine, EngineFigure, ReplicaError};

use super::Args;
use crate::cmd;
use crate::fork::Frozen;
use crate::opened::Opened;
use crate::seeds::Seeds;

/// Time that each engine is measured for.
const CHOICE_BUDGET: Duration = Duration::from_millis(20);
/// Seeds that are run for it.
const CHOICE_SEEDS: usize = 16;

/// The engine asked for, or the fastest, with what was measured.
pub(super) fn choose_engine(
    args: &Args,
    machine: &Opened,
    seeds: &Seeds,
) -> Result<(Engine, Vec<EngineFigure>), ReplicaError> {
    if let Some(engine) = args.engine {
        return Ok((engine, Vec::new()));
    }
    let (None, Frozen::Own(snapshot)) = (args.seed, &machine.frozen) else {
        return Ok((cmd::default_engine(), Vec::new()));
    };
    let inputs: Vec<&[u8]> =
        seeds.usable.iter().take(CHOICE_SEEDS).map(|seed| seed.bytes.as_slice()).collect();
    let deadline = args.deadline.min(CHOICE_BUDGET);
    let figures = unifork_vmm::compare_engines(&machine.kvm, snapshot, &inputs, deadline, CHOICE_BUDGET)?;
    // Batches are worth more than any difference between engines.
    let hot = figures.iter().any(|figure| figure.engine == Engine::HotSet) && !args.no_batch;
    let fastest = figures.first().map_or_else(cmd::default_engine, |figure| figure.engine);
    Ok((if hot { Engine::HotSet } else { fastest }, figures))
}
