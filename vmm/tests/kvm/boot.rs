//! What a guest at CPL 3 can do, and how it is seen.

use std::time::{Duration, Instant};

use unifork_vmm::testing::{self, CALL_BYTES, DONE};
use unifork_vmm::vcpu::cpuid::CpuModel;
use unifork_vmm::{
    BootEnd, Cause, Crash, CrashKind, Engine, MachineConfig, Outcome, Replica, Snapshot, SnapshotError,
};

use crate::common::{DEADLINE, boot, fork};

/// The crash of `code`, seen both in a boot and in a fork.
fn crash(code: &[u8]) -> Crash {
    let in_boot = match boot(code).end {
        BootEnd::Ended(Outcome::Crash(crash)) => crash,
        end => panic!("it did not crash while it booted: {end:?}"),
    };
    match fork(code, Engine::CopyAll).run(b"", DEADLINE).unwrap() {
        Outcome::Crash(in_fork) => {
            assert_eq!(in_boot.kind, in_fork.kind, "a fork sees what the boot saw");
            in_fork
        }
        outcome => panic!("it did not crash in a fork: {outcome:?}"),
    }
}

fn exception(code: &[u8]) -> (u8, u32) {
    match crash(code).cause {
        Cause::Exception { vector, error_code, .. } => (vector, error_code),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_exception_arrives_with_its_vector_and_error_code() {
    assert_eq!(exception(&[0x0f, 0x0b]), (6, 0)); //             ud2
    assert_eq!(exception(&[0xcc]), (3, 0)); //                   int3
    assert_eq!(exception(&[0xfa]), (13, 0)); //                  cli
    assert_eq!(exception(&[0x31, 0xc9, 0xf7, 0xf1]), (0, 0)); // xor ecx, ecx; div ecx
    // int 14 forges no page fault: #GP that names gate 14 of the IDT, or #UD under software KVM.
    assert!(matches!(exception(&[0xcd, 14]), (13, 0x72) | (6, 0)));
}

#[test]
fn a_page_fault_arrives_with_its_address_and_all_registers() {
    let code = [
        0xb8, 0x34, 0x12, 0, 0, //             mov eax, 0x1234
        0x49, 0xc7, 0xc7, 0x78, 0x56, 0, 0, // mov r15, 0x5678
        0x88, 0x04, 0x25, 0x10, 0, 0, 0, //    mov [0x10], al
    ];
    let crash = crash(&code);
    assert_eq!(crash.cause, Cause::Exception { vector: 14, error_code: 6, address: 0x10 });
    assert_eq!(crash.kind, CrashKind::NullWrite);
    assert_eq!((crash.registers.rax, crash.registers.r15), (0x1234, 0x5678));
    let start = unifork_vmm::testing::CODE_VA + 120 + CALL_BYTES as u64;
    assert_eq!(crash.registers.rip, start + 12, "the faulting instruction, not the next one");
}

#[test]
fn the_machines_tables_are_out_of_reach() {
    // mov rax, 0x3000000000; mov [rax], al
    let code = [0x48, 0xb8, 0, 0, 0, 0, 0x30, 0, 0, 0, 0x88, 0x00];
    assert_eq!(crash(&code).kind, CrashKind::Privileged);
}

#[test]
fn code_and_the_input_are_read_only_and_data_is_not_executable() {
    // lea rax, [rip]; mov [rax], al
    assert_eq!(crash(&[0x48, 0x8d, 0x05, 0, 0, 0, 0, 0x88, 0x00]).kind, CrashKind::WriteToReadOnly);
    // mov rax, 0x2200000000; mov [rax], al
    let input = [0x48, 0xb8, 0, 0, 0, 0, 0x22, 0, 0, 0, 0x88, 0x00];
    assert_eq!(crash(&input).kind, CrashKind::WriteToInput);
    // mov rax, 0x1000000000; jmp rax
    let arena = [0x48, 0xb8, 0, 0, 0, 0, 0x10, 0, 0, 0, 0xff, 0xe0];
    assert_eq!(crash(&arena).kind, CrashKind::NotExecutable);
}

#[test]
fn a_stack_that_runs_into_its_guard_page_is_a_stack_overflow() {
    // push rax; jmp -3
    assert_eq!(crash(&[0x50, 0xeb, 0xfd]).kind, CrashKind::StackOverflow);
}

#[test]
fn a_run_that_does_not_end_is_a_timeout_at_its_deadline() {
    let mut fork = fork(&[0xeb, 0xfe], Engine::HotSet); // jmp $
    for _ in 0..3 {
        let started = Instant::now();
        assert_eq!(fork.run(b"", Duration::from_millis(60)).unwrap(), Outcome::Timeout);
        let took = started.elapsed();
        assert!(took >= Duration::from_millis(60), "{took:?}");
        assert!(took < Duration::from_secs(5), "{took:?}");
    }
}

#[test]
fn cpuid_says_what_the_model_says() {
    // mov eax, 7; xor ecx, ecx; cpuid; then a page fault shows the registers.
    let code = [0xb8, 7, 0, 0, 0, 0x31, 0xc9, 0x0f, 0xa2, 0x88, 0x04, 0x25, 0, 0, 0, 0];
    let registers = crash(&code).registers;
    let caps = crate::common::kvm().caps().clone();
    let [eax, ebx, ecx, edx] = caps.cpu_model.lookup(7, 0).map(u64::from);
    assert_eq!((registers.rax, registers.rbx, registers.rcx, registers.rdx), (eax, ebx, ecx, edx));
}

#[test]
fn a_fork_gets_its_input_and_says_that_it_is_done() {
    // mov rax, 0x2300000000; mov al, [rax]; mov [0], al if al == 'x'; then done
    let mut code = vec![0x48, 0xb8, 0, 0, 0, 0, 0x23, 0, 0, 0, 0x8a, 0x00, 0x3c, b'x', 0x75, 0x07];
    code.extend_from_slice(&[0x88, 0x04, 0x25, 0, 0, 0, 0]);
    code.extend_from_slice(&DONE);
    let mut fork = fork(&code, Engine::HotSet);
    for _ in 0..10 {
        assert_eq!(fork.run(b"abc", DEADLINE).unwrap(), Outcome::Done { code: 0 });
        assert!(matches!(fork.run(b"xbc", DEADLINE).unwrap(), Outcome::Crash(_)));
    }
}

#[test]
fn an_input_that_is_too_long_is_refused() {
    let mut fork = fork(&DONE, Engine::HotSet);
    assert!(fork.run(&[0; 4097], DEADLINE).is_err());
    assert!(fork.run(&[0; 4096], DEADLINE).is_ok());
}

#[test]
fn a_bare_round_trip_can_be_measured() {
    let sample = unifork_vmm::bench::round_trip(&crate::common::kvm(), 2000).unwrap();
    println!("round trip: p50 {:?}, p90 {:?}", sample.percentile(50), sample.percentile(90));
    assert!(sample.percentile(50) > Duration::ZERO);
}

#[test]
fn every_fork_sees_the_cpu_that_its_snapshot_was_taken_with() {
    let code = [0xb8, 7, 0, 0, 0, 0x31, 0xc9, 0x0f, 0xa2, 0x88, 0x04, 0x25, 0, 0, 0, 0];
    let kvm = crate::common::kvm();
    for model in [CpuModel::V2, kvm.caps().cpu_model] {
        let config = MachineConfig { cpu_model: Some(model), ..crate::common::small() };
        let snapshot = crate::common::frozen_image(&testing::snapshot_then(&code), &config);
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.snap");
        snapshot.write_to(&file).unwrap();
        let opened = Snapshot::open(&file).unwrap();
        for snapshot in [snapshot, opened] {
            let mut fork = Replica::spawn(&kvm, &snapshot, Engine::HotSet).unwrap();
            let Outcome::Crash(crash) = fork.run(b"", DEADLINE).unwrap() else { panic!("no crash") };
            assert_eq!(crash.registers.rbx, u64::from(model.lookup(7, 0)[1]), "{model:?}");
        }
        // The features are in the header; other ones are another build's.
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[52] ^= 1;
        bytes[12..16].fill(0);
        let crc = crc32c::crc32c(&bytes[..4096]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        std::fs::write(&file, &bytes).unwrap();
        assert!(matches!(Snapshot::open(&file), Err(SnapshotError::Cpu { .. })));
    }
}
