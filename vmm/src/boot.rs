//! From two ELF files to a frozen machine: load, start, run until the guest asks for its first
//! input.

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;
use unifork_abi::{
    self as abi, ABI_VERSION, DIRECT_VA, Hypercall, KERNEL_END_VA, KERNEL_MAGIC, KERNEL_VA, KernelHeader,
};

use crate::caps::Kvm;
use crate::comparisons;
use crate::direct::DirectCalls;
use crate::elf::{GuestImage, ImageError};
use crate::faults::FaultDoors;
use crate::memory::{GuestMemory, MemoryError};
use crate::outcome::Outcome;
use crate::plan::{Plan, PlanError, Sizes};
use crate::root::RootImage;
use crate::services::{self, Services};
use crate::snapshot::{Snapshot, SnapshotError};
use crate::stack::StackError;
use crate::vcpu::VcpuError;
use crate::vcpu::cpuid::CpuModel;
use crate::vm::{Event, Tracking, Vm};
use crate::windows;

mod config;
mod place;

pub use config::{MachineConfig, MachineInfo};
pub(crate) use place::write_tables;
use place::{write_at, write_boot_info, write_image};

/// Console bytes kept of a boot at most.
const CONSOLE_KEPT_MAX: usize = 1 << 20;

/// Why a machine could not be booted. What the guest does wrong while it boots is
/// [`BootEnd::Ended`] instead.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BootError {
    /// The CPU model needs what the host's CPU lacks.
    #[error("a guest with {} needs AVX2, BMI and FMA, which this host's CPU lacks", .0.name())]
    Cpu(CpuModel),
    /// The application cannot be loaded.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The libOS kernel is not one this VMM can load: the build is broken.
    #[error("the libOS kernel is unusable: {reason}")]
    Kernel {
        /// What is wrong.
        reason: String,
    },
    /// The sizes do not go together.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Arguments and environment do not fit.
    #[error(transparent)]
    Stack(#[from] StackError),
    /// Guest memory could not be made.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// KVM refused.
    #[error("cannot run a virtual CPU")]
    Vcpu(#[from] VcpuError),
    /// The machine could not be frozen.
    #[error("cannot freeze the machine")]
    Snapshot(#[from] SnapshotError),
}

/// A boot, ended.
#[derive(Debug)]
pub struct Boot {
    /// How.
    pub end: BootEnd,
    /// What the guest wrote to its console, the first MiB of it.
    pub console: Vec<u8>,
    /// Numbers of system calls that the libOS did not serve, and how often they were made.
    pub unserved: Vec<(u64, u32)>,
    /// From the creation of the VM to the end.
    pub elapsed: Duration,
}

/// How a boot ended.
#[derive(Debug)]
pub enum BootEnd {
    /// The application asked for an input: the machine is frozen there.
    Snapshot(Arc<Snapshot>),
    /// It ended before it did.
    Ended(Outcome),
}

/// What a machine has that is not in its memory.
#[derive(Debug, Default)]
pub struct Outside<'a> {
    /// The files it starts with; without, none.
    pub root: Option<&'a RootImage>,
    /// What it speaks to while it boots; without, it is alone in the world.
    pub services: Option<&'a mut dyn Services>,
}

/// How often a console is looked at while the guest runs.
const CONSOLE_INTERVAL: Duration = Duration::from_millis(50);

/// Boots `image` on `kernel`, until it asks for its first input or ends.
///
/// # Errors
///
/// [`BootError`], when the host, the files or the sizes are to blame.
pub fn boot(kvm: &Kvm, kernel: &[u8], image: &GuestImage, config: &MachineConfig) -> Result<Boot, BootError> {
    boot_with(kvm, kernel, image, config, Outside::default())
}

/// [`boot`], with files and services.
///
/// # Errors
///
/// As [`boot`].
pub fn boot_with(
    kvm: &Kvm,
    kernel: &[u8],
    image: &GuestImage,
    config: &MachineConfig,
    outside: Outside<'_>,
) -> Result<Boot, BootError> {
    let started = Instant::now();
    let kernel = GuestImage::parse_within("libOS kernel".into(), kernel.into(), KERNEL_VA..KERNEL_END_VA)?;
    let header = kernel_header(&kernel)?;
    let mut config = config.clone();
    choose_cpu(kvm, &mut config)?;
    if config.args.is_empty() {
        config.args = vec![image.name().to_owned()];
    }
    let direct =
        if config.direct_calls { DirectCalls::find(image, header.direct) } else { DirectCalls::default() };
    let root = outside.root.map_or(&[][..], RootImage::bytes);
    let sizes = Sizes { root_bytes: root.len() as u64, ..sizes(&config) };
    let plan = Plan::new(sizes, Some(&kernel), Some(image), direct.code().len() as u64)?;
    let (mut memory, file) = GuestMemory::for_boot(config.memory_bytes, plan.windows.bytes)?;
    write_tables(&mut memory, &plan)?;
    write_image(&mut memory, &plan.layout, &kernel);
    write_image(&mut memory, &plan.layout, image);
    write_at(&mut memory, &plan.layout, DIRECT_VA, direct.code());
    for patch in direct.patches() {
        write_at(&mut memory, &plan.layout, patch.at, &patch.bytes);
    }
    if let Some(sites) = comparisons::Sites::find(image) {
        for patch in sites.without() {
            write_at(&mut memory, &plan.layout, patch.at, &patch.bytes);
        }
    }
    write_at(&mut memory, &plan.layout, abi::ROOT_VA, root);
    let services = service_bits(outside.services.as_deref());
    write_boot_info(
        &mut memory,
        &plan,
        &config,
        image,
        &kernel,
        [header.vector, root.len() as u64, services],
    )?;
    let info = MachineInfo {
        name: image.name().to_owned(),
        layout: Arc::new(plan.layout.clone()),
        windows: plan.windows,
        app_counters: image.counters(),
        kernel_counters: kernel.counters(),
        app_bias: image.bias(),
        resume: header.resume,
        doors: Some(FaultDoors::of(&header)),
        config,
    };
    let start =
        Start { rip: header.entry, rsp: abi::KERNEL_STACK_TOP_VA, syscall_entry: header.syscall_entry };
    let images = [kernel.bytes(), image.bytes()].map(Arc::clone);
    run_and_freeze(kvm, memory, file, &plan, start, info, images, started, outside.services)
}

fn service_bits(services: Option<&dyn Services>) -> u64 {
    services.map_or(0, |services| {
        let terminals = services.terminals();
        let bit = |set: bool, bit: u64| if set { bit } else { 0 };
        abi::SERVICES_ON
            | bit(terminals.input, abi::SERVICES_INPUT_TERMINAL)
            | bit(terminals.output, abi::SERVICES_OUTPUT_TERMINAL)
    })
}

/// Boots `image` on the bare machine, without a libOS: it begins at its entry point with an empty
/// stack and speaks the hypercalls itself. For tests and measurements.
///
/// # Errors
///
/// As [`boot`].
pub fn boot_bare(kvm: &Kvm, image: &GuestImage, config: &MachineConfig) -> Result<Boot, BootError> {
    let mut configured = config.clone();
    choose_cpu(kvm, &mut configured)?;
    let started = Instant::now();
    let plan = Plan::new(sizes(config), None, Some(image), 0)?;
    let (mut memory, file) = GuestMemory::for_boot(config.memory_bytes, plan.windows.bytes)?;
    write_tables(&mut memory, &plan)?;
    write_image(&mut memory, &plan.layout, image);
    let info = MachineInfo {
        name: image.name().to_owned(),
        layout: Arc::new(plan.layout.clone()),
        windows: plan.windows,
        app_counters: image.counters(),
        kernel_counters: None,
        app_bias: image.bias(),
        resume: 0,
        doors: None,
        config: configured,
    };
    let start = Start { rip: image.entry, rsp: abi::STACK_TOP_VA, syscall_entry: image.entry };
    let images = [Arc::from([]), Arc::clone(image.bytes())];
    run_and_freeze(kvm, memory, file, &plan, start, info, images, started, None)
}

/// Writes down which CPU the guest sees, so that every fork sees the same wherever it runs.
fn choose_cpu(kvm: &Kvm, config: &mut MachineConfig) -> Result<(), BootError> {
    let best = kvm.caps().cpu_model;
    let model = *config.cpu_model.get_or_insert(best);
    if model == CpuModel::V3 && best != CpuModel::V3 { Err(BootError::Cpu(model)) } else { Ok(()) }
}

fn sizes(config: &MachineConfig) -> Sizes {
    Sizes {
        memory_bytes: config.memory_bytes,
        stack_bytes: config.stack_bytes,
        input_max: config.input_max,
        root_bytes: 0,
    }
}

/// Where the vCPU begins.
struct Start {
    rip: u64,
    rsp: u64,
    syscall_entry: u64,
}

#[expect(
    clippy::too_many_arguments,
    reason = "the two boots' common end; each argument is another part of the machine"
)]
fn run_and_freeze<'s>(
    kvm: &Kvm,
    mut memory: GuestMemory,
    file: File,
    plan: &Plan,
    start: Start,
    info: MachineInfo,
    images: [Arc<[u8]>; 2],
    started: Instant,
    services: Option<&mut (dyn Services + 's)>,
) -> Result<Boot, BootError> {
    memory.forget_host_writes();
    let mut vm = Vm::create(kvm, memory, &info, Tracking::Off)?;
    vm.vcpu.start(start.rip, start.rsp, plan.tables.0, start.syscall_entry)?;
    let mut console = Vec::new();
    let event = run_boot(&mut vm, &info, &mut console, services)?;
    let unserved = windows::unserved(&vm.memory, &info.windows);
    let end = if matches!(event, Event::Hypercall { number, .. } if number == Hypercall::Snapshot as u64) {
        BootEnd::Snapshot(Arc::new(Snapshot::freeze(vm, file, info, images)?))
    } else {
        BootEnd::Ended(vm.outcome(event))
    };
    Ok(Boot { end, console, unserved, elapsed: started.elapsed() })
}

/// Runs until something happens that ends the boot. Being told to stop is a deadline.
fn run_boot<'s>(
    vm: &mut Vm,
    info: &MachineInfo,
    console: &mut Vec<u8>,
    mut services: Option<&mut (dyn Services + 's)>,
) -> Result<Event, BootError> {
    windows::flush_console(&mut vm.memory, &info.windows, true);
    let mut shown = Console { kept: console, shown: 0 };
    let deadline = info.config.boot_deadline;
    let started = Instant::now();
    let slice = if services.is_some() { deadline.min(CONSOLE_INTERVAL) } else { deadline };
    vm.vcpu.arm(slice);
    let event = loop {
        let event = vm.run_armed();
        if let Some(services) = services.as_deref_mut() {
            shown.show(vm, info, services);
            if services.stopped() {
                break Event::Deadline;
            }
        }
        let (number, args) = match event {
            Event::Hypercall { number, args } => (number, args),
            Event::Deadline if started.elapsed() < deadline => {
                vm.vcpu.disarm();
                vm.vcpu.arm(slice);
                continue;
            }
            event => break event,
        };
        match (Hypercall::from_number(number), services.as_deref_mut()) {
            (Some(Hypercall::Hello), _) if args[0] == u64::from(ABI_VERSION) => vm.answer(0)?,
            (Some(Hypercall::Hello), _) => {
                let reason = format!("it speaks ABI version {}, this VMM {ABI_VERSION}", args[0]);
                vm.vcpu.disarm();
                return Err(BootError::Kernel { reason });
            }
            (Some(Hypercall::Console), services) => {
                shown.take(vm, info, services);
                vm.answer(0)?;
            }
            (Some(Hypercall::Service), Some(services)) => {
                let left = deadline.saturating_sub(started.elapsed());
                let wait = args[1].min(u64::try_from(left.as_nanos()).unwrap_or(u64::MAX));
                match services::exchange(services, &mut vm.memory, &info.windows, [args[0], wait]) {
                    Ok(bytes) => vm.answer(bytes)?,
                    Err(services::BadMessage) => break event,
                }
            }
            _ => break event,
        }
    };
    vm.vcpu.disarm();
    shown.take(vm, info, services);
    windows::flush_console(&mut vm.memory, &info.windows, false);
    Ok(event)
}

/// A boot's console. While the guest runs it is only looked at: the guest may be in the middle of a
/// write, so it alone sets its length back.
struct Console<'a> {
    kept: &'a mut Vec<u8>,
    shown: usize,
}

impl Console<'_> {
    /// Shows what is new.
    fn show(&mut self, vm: &Vm, info: &MachineInfo, services: &mut dyn Services) {
        let bytes = windows::console(&vm.memory, &info.windows);
        if let Some(new) = bytes.get(self.shown..).filter(|new| !new.is_empty()) {
            services.console(new);
            self.shown = bytes.len();
        }
    }

    /// Takes all of it.
    fn take(&mut self, vm: &mut Vm, info: &MachineInfo, services: Option<&mut (dyn Services + '_)>) {
        if let Some(services) = services {
            self.show(vm, info, services);
        }
        self.shown = 0;
        let bytes = windows::take_console(&mut vm.memory, &info.windows);
        let room = CONSOLE_KEPT_MAX.saturating_sub(self.kept.len());
        self.kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

fn kernel_header(kernel: &GuestImage) -> Result<KernelHeader, BootError> {
    let bad = |reason: &str| BootError::Kernel { reason: reason.to_owned() };
    let first = kernel
        .segments
        .first()
        .filter(|s| s.start == KERNEL_VA)
        .ok_or_else(|| bad("it is not at its place"))?;
    let bytes = kernel.bytes().get(first.file.clone()).unwrap_or_default();
    let header = bytes.get(..size_of::<KernelHeader>()).ok_or_else(|| bad("it has no header"))?;
    let word = |at: usize| header[at..].first_chunk().map_or(0, |c: &[u8; 8]| u64::from_le_bytes(*c));
    let version = word(8) as u32;
    if header[..8] != KERNEL_MAGIC || version != ABI_VERSION {
        return Err(bad("its header has another magic or version"));
    }
    Ok(KernelHeader {
        magic: KERNEL_MAGIC,
        abi_version: version,
        reserved: 0,
        entry: word(16),
        syscall_entry: word(24),
        vector: word(32),
        resume: word(40),
        direct: word(48),
        fault_entry: word(56),
        fault_signals: word(64),
        copy_start: word(72),
        copy_end: word(80),
        copy_fault: word(88),
    })
}
