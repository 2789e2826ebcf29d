//! `unifork.h` in a kernel of its own, compiled in each way that it supports, against this module: under
//! KVM, at ring 0.

use std::path::Path;
use std::process::Command;

use kvm_bindings::{CpuId, kvm_cpuid_entry2, kvm_regs, kvm_segment};
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};
use object::{Object as _, ObjectSegment as _, ObjectSymbol as _};

use super::*;
use crate::comparisons::{self, Operands};
use crate::memory::MEMORY_BYTES_MIN;
use crate::sys::slots;
use crate::vcpu::cpuid::CpuModel;

const CLANG: &str = "clang-16";
const GCC: &str = "gcc";

/// Compiles the kernel, and `parse.c` with `coverage`, by `compiler`.
fn build(compiler: &str, coverage: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/agent");
    let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guest/runtime/include");
    let run = |command: &mut Command| {
        let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        assert!(output.status.success(), "{command:?}:\n{}", String::from_utf8_lossy(&output.stderr));
    };
    let objects = [("kernel.c", None), ("parse.c", Some(coverage))].map(|(source, coverage)| {
        let object = folder.path().join(source).with_extension("o");
        let mut compile = Command::new(compiler);
        compile.args(["-c", "-O1", "-ffreestanding", "-fno-pic", "-fno-stack-protector", "-mno-red-zone"]);
        compile.args(["-mno-sse", "-fcf-protection=none", "-Wall", "-Wextra", "-Werror"]);
        compile.arg("-I").arg(&include).arg("-o").arg(&object).args(coverage);
        run(compile.arg(sources.join(source)));
        object
    });
    let image = folder.path().join("kernel");
    run(Command::new("ld")
        .args(["-static", "-nostdlib", "-Ttext=0x100000", "-z", "noexecstack", "-o"])
        .arg(&image)
        .args(objects));
    std::fs::read(image).unwrap()
}

/// Linear addresses are physical ones, as in the tables of [`Machine::boot`].
struct Flat<'a>(&'a GuestMemory);

impl ReadMemory for Flat<'_> {
    fn read(&self, gva: u64, out: &mut [u8]) -> bool {
        self.0.read(Gpa(gva), out).is_ok()
    }
}

impl AddressSpace for Flat<'_> {
    fn translate(&self, gva: u64) -> Option<Gpa> {
        (gva < self.0.len()).then_some(Gpa(gva))
    }
}

/// A frozen machine, and all that is needed to run it from there.
struct Machine {
    vcpu: VcpuFd,
    _vm: VmFd,
    memory: GuestMemory,
    agent: Agent,
    placement: Placement,
    frozen: Vec<u8>,
    regs: kvm_regs,
}

impl Machine {
    /// Runs `image` to its snapshot.
    fn boot(image: &[u8]) -> Self {
        let mut memory = GuestMemory::for_boot(MEMORY_BYTES_MIN, 4096).unwrap().0;
        let file = object::File::parse(image).unwrap();
        for segment in file.segments() {
            memory.write(Gpa(segment.address()), segment.data().unwrap()).unwrap();
        }
        // One table of each level, and two pages of 2 MiB.
        for (at, entry) in [(0x1000, 0x2003u64), (0x2000, 0x3003), (0x3000, 0x83), (0x3008, 0x20_0083)] {
            memory.write(Gpa(at), &entry.to_le_bytes()).unwrap();
        }
        let kvm = kvm_ioctls::Kvm::new().unwrap();
        let vm = kvm.create_vm().unwrap();
        // SAFETY: the machine owns both, and its fields are dropped in order: the vCPU and the VM go before
        // the memory.
        unsafe { slots::set(&vm, 0, &memory.ram, 0) }.unwrap();
        let vcpu = vm.create_vcpu(0).unwrap();
        let mut leaves = CpuModel::V2.table().as_slice().to_vec();
        for function in [abi::CPUID_LEAF, abi::CPUID_LEAF + 1] {
            let [eax, ebx, ecx, edx] = cpuid(function).unwrap();
            leaves.push(kvm_cpuid_entry2 { function, eax, ebx, ecx, edx, ..Default::default() });
        }
        vcpu.set_cpuid2(&CpuId::from_entries(&leaves).unwrap()).unwrap();
        let mut sregs = vcpu.get_sregs().unwrap();
        let segment = kvm_segment { limit: u32::MAX, present: 1, s: 1, g: 1, ..Default::default() };
        sregs.cs = kvm_segment { selector: 8, type_: 11, l: 1, ..segment };
        let data = kvm_segment { selector: 16, type_: 3, db: 1, ..segment };
        (sregs.ds, sregs.es, sregs.ss, sregs.fs, sregs.gs) = (data, data, data, data, data);
        (sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer) = (0x8000_0011, 0x1000, 0x20, 0x500);
        vcpu.set_sregs(&sregs).unwrap();
        vcpu.set_regs(&kvm_regs { rip: file.entry(), rflags: 2, ..Default::default() }).unwrap();
        let mut machine = Self {
            vcpu,
            _vm: vm,
            memory,
            agent: Agent::default(),
            placement: Placement::default(),
            frozen: Vec::new(),
            regs: kvm_regs::default(),
        };
        assert_eq!(machine.next(), AgentEvent::Snapshot);
        machine.placement = machine.agent.place(&Flat(&machine.memory)).unwrap();
        machine.placement.counters.clear(&mut machine.memory).unwrap();
        machine.frozen = machine.memory.ram_bytes().to_vec();
        machine.regs = machine.settled();
        machine
    }

    /// The registers behind the `out` that the machine stopped at.
    fn settled(&mut self) -> kvm_regs {
        self.vcpu.set_kvm_immediate_exit(1);
        assert!(self.vcpu.run().is_err(), "nothing is run");
        self.vcpu.set_kvm_immediate_exit(0);
        self.vcpu.get_regs().unwrap()
    }

    /// Runs to the next event that is more than an announcement.
    fn next(&mut self) -> AgentEvent {
        loop {
            match self.vcpu.run().unwrap() {
                VcpuExit::IoOut(port, data) if port == u16::from(abi::PORT) => {
                    assert_eq!(data.len(), 4, "out eax");
                }
                exit => panic!("{exit:?}"),
            }
            let regs = self.settled();
            let call = CallRegisters { rax: regs.rax, rdi: regs.rdi, rsi: regs.rsi, rdx: regs.rdx };
            match self.agent.call(&call, &Flat(&self.memory)).expect("a call") {
                AgentEvent::Continue { rax } => self.vcpu.set_regs(&kvm_regs { rax, ..regs }).unwrap(),
                event => return event,
            }
        }
    }

    /// One run, from the snapshot.
    fn run(&mut self, input: &[u8], compare: bool) -> AgentEvent {
        self.memory.write(Gpa(0), &self.frozen.clone()).unwrap();
        let rax = self.placement.input.write(&mut self.memory, input).unwrap();
        if compare {
            self.placement.comparison_flag.write(&mut self.memory, &1u32.to_le_bytes()).unwrap();
        }
        self.vcpu.set_regs(&kvm_regs { rax, ..self.regs }).unwrap();
        self.next()
    }

    fn counters(&self) -> Vec<u8> {
        let mut counters = vec![0; self.placement.sites.len()];
        self.placement.counters.read(&self.memory, &mut counters).unwrap();
        counters
    }
}

fn check(compiler: &str, coverage: &str) -> Machine {
    let image = build(compiler, coverage);
    let mut machine = Machine::boot(&image);
    assert!(machine.agent.greeted());
    assert_eq!(machine.counters().iter().max(), Some(&0), "counters are zero when a fork begins");

    assert_eq!(machine.run(b"short", false), AgentEvent::Done { code: -1 });
    let short = machine.counters();
    assert_eq!(machine.run(b"not the magic", false), AgentEvent::Done { code: 1 });
    let other = machine.counters();
    let mut full = vec![1; 6000];
    full[..4].copy_from_slice(&0x1234_5678u32.to_le_bytes());
    assert_eq!(machine.run(&full, false), AgentEvent::Done { code: 5992 }, "the whole window");
    let far = machine.counters();
    let reached = |counters: &[u8]| counters.iter().filter(|&&count| count > 0).count();
    assert!(reached(&short) > 0 && short != other, "{compiler} {coverage}");
    assert!(reached(&far) > reached(&other), "{compiler} {coverage}");
    assert_eq!(machine.run(b"short", false), AgentEvent::Done { code: -1 });
    assert_eq!(machine.counters(), short, "the same input, the same counters");

    let AgentEvent::Report { message } = machine.run(b"\x78\x56\x34\x12!   ", false) else {
        panic!("the assertion holds");
    };
    assert!(message.starts_with("data[4] != '!' ("), "{message}");
    assert!(message.ends_with("parse.c:13)"), "{message}");

    let logged = |machine: &Machine| {
        let mut log = vec![0; usize::try_from(machine.placement.comparisons.len()).unwrap()];
        machine.placement.comparisons.read(&machine.memory, &mut log).unwrap();
        comparisons::decode(&log)
    };
    assert_eq!(logged(&machine), [], "only where it is asked for");
    assert_eq!(machine.run(b"not the magic", true), AgentEvent::Done { code: 1 });
    let magic = logged(&machine).into_iter().any(|comparison| match comparison.operands {
        Operands::Numbers { bytes: 4, left, right, .. } => {
            left == 0x1234_5678 && right == u64::from(u32::from_le_bytes(*b"not "))
        }
        _ => false,
    });
    assert!(magic, "{compiler} {coverage}: {:?}", logged(&machine));
    machine
}

#[test]
fn clang_with_counters_in_line() {
    let coverage = "-fsanitize-coverage=inline-8bit-counters,pc-table,trace-cmp";
    let image = build(CLANG, coverage);
    let file = object::File::parse(&*image).unwrap();
    let parse = file.symbols().find(|symbol| symbol.name() == Ok("parse")).unwrap();
    let machine = check(CLANG, coverage);
    assert!(machine.placement.sites.len() > 4);
    for site in machine.placement.sites {
        assert!((parse.address()..parse.address() + parse.size()).contains(&site), "{site:#x} is in parse");
    }
}

#[test]
fn clang_with_guards() {
    check(CLANG, "-fsanitize-coverage=trace-pc-guard,trace-cmp");
}

#[test]
fn gcc_with_the_callers_address() {
    check(GCC, "-fsanitize-coverage=trace-pc,trace-cmp");
}
