//! Images frozen where inputs begin: by their agent, or as their terms say.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use super::agentless::{Entry, PlaceError};
use super::run_loop;
use super::watch::Watch;
use super::{Config, End, ForeignError, Frozen, Machine, Panics, Recorder, SymbolFile, Terms};
use crate::agent::{AgentError, AgentEvent, Placement};
use crate::caps::Kvm;
use crate::introspect::Symbols;
use crate::memory::OutOfBounds;

/// Why an image cannot be frozen where its agent or its terms say.
#[derive(Debug, Error)]
pub enum BaseError {
    /// The machine could not be made or run.
    #[error(transparent)]
    Foreign(#[from] ForeignError),
    /// What the agent announced makes no sense.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// Its page tables point to where no memory is.
    #[error(transparent)]
    Outside(#[from] OutOfBounds),
    /// It ended, or time was up, before its agent asked for a snapshot.
    #[error("the image asked for no snapshot{}", if *.greeted { "" } else { ", and has no agent" })]
    NoSnapshot {
        /// How it ended.
        end: End,
        /// Whether its agent was heard of.
        greeted: bool,
        /// What it wrote to its console.
        console: Vec<u8>,
    },
    /// Its agent announced no place for inputs.
    #[error("the image asked for a snapshot, but announced no input window before")]
    NoWindow,
    /// It ended, or time was up, before it came to where it was to be frozen.
    #[error("the image did not come to where it is to be frozen")]
    NotReached {
        /// How it ended.
        end: End,
        /// What it wrote to its console.
        console: Vec<u8>,
    },
    /// Inputs cannot go where they were to.
    #[error(transparent)]
    Place(#[from] PlaceError),
}

/// An image, frozen where its agent asked for it, or where its terms say.
#[derive(Debug)]
pub struct Base {
    pub(super) frozen: Arc<Frozen>,
    pub(super) placement: Placement,
    // Of a monitored image that goes on by itself with the next input.
    pub(super) loop_layout: Option<run_loop::Layout>,
    pub(super) name: String,
    pub(super) image: Arc<[u8]>,
    pub(super) symbols: Vec<SymbolFile>,
    pub(super) entry: Entry,
    pub(super) watch: Watch,
    pub(super) id: u64,
}

impl Base {
    /// Boots `image`, which is called `name`, and lets it run for at most `deadline`, until its agent asks for
    /// a snapshot.
    ///
    /// # Errors
    ///
    /// [`BaseError`], whoever is to blame.
    pub fn boot(
        kvm: &Kvm,
        name: &str,
        image: Arc<[u8]>,
        config: &Config,
        terms: &Terms,
        deadline: Duration,
    ) -> Result<Arc<Self>, BaseError> {
        let config = Config { agent: terms.agentless.is_none(), ..config.clone() };
        let symbols = load_symbols(name, &image, &terms.symbols);
        let mut machine = Machine::boot(kvm, name, &image, &config)?;
        let mut recorder = Recorder::default();
        let (input, entry) = match &terms.agentless {
            None => {
                match machine.run(deadline, &mut recorder)? {
                    End::Agent(AgentEvent::Snapshot) => {}
                    end => {
                        let (greeted, console) = (machine.agent.greeted(), recorder.console);
                        return Err(BaseError::NoSnapshot { end, greeted, console });
                    }
                }
                if machine.agent.input().is_none() {
                    return Err(BaseError::NoWindow);
                }
                (None, Entry::Agent)
            }
            Some(agentless) => {
                let at = &agentless.snapshot;
                if let Some(end) = machine.run_to(at, &image, &symbols, deadline, &mut recorder)? {
                    return Err(BaseError::NotReached { end, console: recorder.console });
                }
                machine.note_sanitizer_counters(&symbols);
                let (input, entry) = machine.place_input(&agentless.input)?;
                (Some(input), entry)
            }
        };
        let agent = machine.agent.clone();
        let mut placement = agent.place(&machine.linear())?;
        if let Some(input) = input {
            placement.input = input;
        }
        placement.counters.clear(&mut machine.memory)?;
        placement.comparison_flag.clear(&mut machine.memory)?;
        let watch = Watch::find(&mut machine, terms, &symbols);
        let mut loop_layout = None;
        if machine.monitor_stats().is_some() {
            machine.mark_tables();
            if watch.blocks.is_empty() {
                loop_layout = run_loop::Layout::new(&placement, machine.cpu.vcpu().xsave_bytes());
            }
        }
        if loop_layout.is_some() {
            placement.again.write(&mut machine.memory, &run_loop::done_va().to_le_bytes())?;
        }
        placement.sites.extend(&watch.blocks);
        // Whatever the profile's file is called.
        let panics = Panics { name: String::new(), ..terms.panics.clone() };
        let told = (&config, config.disks_checksum()?, &terms.agentless, &panics, &watch.blocks);
        let id = u64::from(crc32c::crc32c(&image)) << 32
            | u64::from(crc32c::crc32c(format!("{told:?}").as_bytes()));
        // What it sent until now is no run's.
        let _of_the_boot = machine.bus.virtio().take_frames();
        Ok(Arc::new(Self {
            frozen: Arc::new(machine.freeze()?),
            placement,
            loop_layout,
            name: name.to_owned(),
            image,
            symbols: terms.symbols.clone(),
            entry,
            watch,
            id,
        }))
    }

    /// The same for the same image and the same machine.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What the image is called.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The image's file.
    #[must_use]
    pub fn image(&self) -> &Arc<[u8]> {
        &self.image
    }

    /// Files with symbols of it, besides its own.
    #[must_use]
    pub fn symbols(&self) -> &[SymbolFile] {
        &self.symbols
    }

    /// The longest input, in bytes.
    #[must_use]
    pub fn input_max(&self) -> u64 {
        match self.entry {
            Entry::Serial { max } | Entry::Net { max } => max,
            _ => self.placement.input.len(),
        }
    }

    /// Whether it has an agent of its own.
    #[must_use]
    pub fn has_agent(&self) -> bool {
        self.entry == Entry::Agent
    }

    /// The profile that says what a crash of it looks like; empty for none.
    #[must_use]
    pub fn panic_profile(&self) -> &str {
        &self.watch.panics.name
    }

    /// Blocks of code that count as edges, and how many do not because memory has something else there.
    #[must_use]
    pub fn blocks(&self) -> (usize, usize) {
        (self.watch.blocks.len(), self.watch.left_out)
    }

    /// For each counter, the address of its code, 0 where the image does not say; behind them, of each block.
    #[must_use]
    pub fn sites(&self) -> &[u64] {
        &self.placement.sites
    }

    /// Whether its forks run many inputs per entry of the guest.
    #[must_use]
    pub fn has_batches(&self) -> bool {
        self.loop_layout.is_some()
    }

    /// Whether its CPL 0 is run by the monitor.
    #[must_use]
    pub fn is_monitored(&self) -> bool {
        self.frozen.state.monitor.is_some()
    }

    /// Bytes of memory.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.frozen.memory.len()
    }
}

/// The symbols of an image: of the files that were given, and of its own.
fn load_symbols(name: &str, image: &Arc<[u8]>, files: &[SymbolFile]) -> Symbols {
    let mut symbols = Symbols::new();
    let files = files.iter().map(|file| (file.name.as_str(), &file.bytes, file.bias));
    for (name, bytes, bias) in files.chain([(name, image, 0)]) {
        // A bzImage, or a 32-bit file, has none that can be read.
        let _without = symbols.load(name, Arc::clone(bytes), bias);
    }
    symbols
}
