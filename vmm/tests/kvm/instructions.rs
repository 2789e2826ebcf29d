//! No instruction gets past the machine: whatever a run executes, the next run does not know.

use std::time::{Duration, Instant};

use unifork_vmm::introspect::ReadMemory as _;
use unifork_vmm::{Engine, Outcome, Replica};

use crate::common::{DEADLINE, frozen, kvm};
use crate::equivalence::same_state;
use crate::snippets::{self, NAMES};

/// What a piece of code leaves in a fork: outcome, and the first bytes of the arena and the stack.
fn trace(fork: &mut Replica, index: usize) -> (Outcome, Vec<u8>) {
    let outcome = fork.run(&snippets::input(index), DEADLINE).unwrap();
    let mut bytes = vec![0; 4096 + 128];
    assert!(fork.read(unifork_abi::ARENA_VA, &mut bytes[..4096]));
    assert!(fork.read(unifork_abi::STACK_TOP_VA - 128, &mut bytes[4096..]));
    (outcome, bytes)
}

#[test]
fn no_instruction_is_felt_by_the_next_run() {
    let snapshot = frozen(snippets::code());
    let kvm = kvm();
    let spawn = |engine| Replica::spawn(&kvm, &snapshot, engine).unwrap();
    // Those that look at state, as a new fork sees it.
    let looking: Vec<usize> =
        (0..NAMES.len()).filter(|&i| NAMES[i] == "reference" || NAMES[i].starts_with("see ")).collect();
    let fresh: Vec<_> = looking.iter().map(|&i| trace(&mut spawn(Engine::CopyAll), i)).collect();
    assert!(matches!(fresh[0].0, Outcome::Done { .. }), "{:?}", fresh[0].0);
    let mut wrong = Vec::new();
    for engine in Engine::ALL {
        let mut fork = spawn(engine);
        for (index, name) in NAMES.iter().enumerate() {
            let mut outcomes = Vec::new();
            for (&look, expected) in looking.iter().zip(&fresh) {
                let started = Instant::now();
                outcomes.push(fork.run(&snippets::input(index), Duration::from_millis(500)).unwrap());
                assert!(started.elapsed() < Duration::from_secs(5), "{name} took {:?}", started.elapsed());
                let seen = trace(&mut fork, look);
                if seen != *expected {
                    let at = seen.1.iter().zip(&expected.1).position(|(a, b)| a != b);
                    wrong.push(format!(
                        "{engine}, after `{name}`: `{}` ended with {} and byte {at:x?}, not {}",
                        NAMES[look],
                        short(&seen.0),
                        short(&expected.0)
                    ));
                }
            }
            if engine == Engine::CopyAll {
                println!("{name}: {}", outcomes.iter().map(short).collect::<Vec<_>>()[0]);
            }
            fork.run(&snippets::input(index), Duration::from_millis(500)).unwrap();
            fork.reset().unwrap();
            let state = fork.vcpu_state().unwrap();
            if let Err(e) = same_state(snapshot.vcpu(), &state) {
                wrong.push(format!("{engine}, after `{name}`: {e}"));
            }
            if !fork.differing_pages().is_empty() {
                wrong.push(format!("{engine}, after `{name}`: pages {:?} differ", fork.differing_pages()));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} differences, the first of them:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(6)].join("\n")
    );
}

fn short(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Crash(crash) => format!("{} ({:x?})", crash.kind, crash.cause),
        other => format!("{other:?}"),
    }
}
