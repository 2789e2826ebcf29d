//! What `repro`, `tmin` and `triage` are about: an input, what is on record about it, and its machine.

use std::path::{Path, PathBuf};
use std::time::Duration;

use unifork_vmm::regular;

use crate::cmd::fuzz::foreign;
use crate::cmd::run::kernel::KernelArgs;
use crate::cmd::{Failure, machine_failure};
use crate::findings::Record;
use crate::machine::{self, MachineArgs};
use crate::opened::Opened;

/// Opens the image or snapshot file `path`, whoever's kernel is in it.
pub(crate) fn open(path: &Path, args: &MachineArgs, kernel: &KernelArgs) -> Result<Opened, Failure> {
    if foreign::is_wanted(kernel, path)? {
        return foreign::open(path, args, kernel);
    }
    Ok(machine::open(path, args).map_err(machine_failure)?.into())
}

/// An input, with its record where it is a finding's.
#[derive(Debug)]
pub(crate) struct Subject {
    /// As the user named it: a finding's folder, or a file.
    pub(crate) named: PathBuf,
    /// The file that holds the input.
    pub(crate) path: PathBuf,
    pub(crate) input: Vec<u8>,
    pub(crate) record: Option<Record>,
}

impl Subject {
    /// Reads a finding's folder, or a file that holds an input.
    pub(crate) fn read(named: &Path) -> Result<Self, Failure> {
        let path = if named.is_dir() { named.join("input") } else { named.to_path_buf() };
        let input = regular::read(&path).map_err(|error| {
            Failure::usage(anyhow::Error::from(error).context(format!("cannot read {}", path.display())))
                .help("give a finding's folder, or a file that holds an input")
        })?;
        let record = if named.is_dir() && named.join("report.json").exists() {
            let help = "give its input and --image instead";
            Some(Record::read(named).map_err(|error| Failure::usage(error).help(help))?)
        } else {
            None
        };
        Ok(Self { named: named.to_path_buf(), path, input, record })
    }

    /// The image to run it in: the one that was named, or the one on record.
    pub(crate) fn image(&self, named: Option<&Path>) -> Result<PathBuf, Failure> {
        let recorded = self.record.as_ref().map(|record| record.machine.image.as_path());
        named.or(recorded).map(Path::to_path_buf).ok_or_else(|| {
            let error = anyhow::anyhow!("{} does not say which image it belongs to", self.named.display());
            Failure::usage(error).help("name it with --image")
        })
    }

    /// What its machine is like: as on record, or as the flags say.
    pub(crate) fn sizes(&self, args: &MachineArgs) -> MachineArgs {
        let mut sizes = args.clone();
        if let Some(record) = &self.record {
            sizes.memory = record.machine.memory_bytes;
            sizes.input_max = record.machine.input_max;
        }
        sizes
    }

    /// Time a run of it may take: as the flags say, as on record, or a second.
    pub(crate) fn deadline(&self, named: Option<Duration>) -> Duration {
        let recorded = self.record.as_ref().map_or(1000, |record| record.machine.deadline_ms);
        named.unwrap_or(Duration::from_millis(recorded))
    }

    /// How its machine is booted, if it has a kernel of its own: as the flags say, or as on record.
    pub(crate) fn kernel(&self, args: &KernelArgs) -> KernelArgs {
        let recorded = self.record.as_ref().and_then(|record| record.machine.kernel.as_ref());
        recorded.filter(|_| !args.any()).unwrap_or(args).clone()
    }

    /// Opens its machine, and holds input and record to it.
    pub(crate) fn open(
        &self,
        image: Option<&Path>,
        args: &MachineArgs,
        kernel: &KernelArgs,
    ) -> Result<Opened, Failure> {
        let machine = open(&self.image(image)?, &self.sizes(args), &self.kernel(kernel))?;
        self.fits(&machine)?;
        Ok(machine)
    }

    /// Refuses an input that is too long for `machine`; warns when the record is of another one.
    pub(crate) fn fits(&self, machine: &Opened) -> Result<(), Failure> {
        if self.input.len() as u64 > machine.frozen.input_max() {
            let error = anyhow::anyhow!("{} is longer than the machine's longest input", self.path.display());
            return Err(Failure::usage(error).help("raise --input-max"));
        }
        let id = format!("{:016x}", machine.frozen.id());
        if let Some(record) = self.record.as_ref().filter(|record| record.machine.snapshot != id) {
            let (named, found) = (self.named.display(), &record.machine.snapshot);
            eprintln!(
                "unifork: warning: {named} was found in snapshot {found}, this one is {id}: \
                 the image or unifork changed"
            );
        }
        Ok(())
    }
}
