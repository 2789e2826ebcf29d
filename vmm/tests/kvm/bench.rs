//! The guests and figures that `unifork bench` is made of.

use unifork_vmm::introspect::ReadMemory as _;
use unifork_vmm::{Engine, Outcome, Replica, bench};

use crate::common::{DEADLINE, kvm};

#[test]
fn the_writer_dirties_as_many_pages_as_its_input_says() {
    let kvm = kvm();
    let snapshot = bench::writer(&kvm, 8 << 20).unwrap();
    for engine in Engine::ALL {
        let mut fork = Replica::spawn(&kvm, &snapshot, engine).unwrap();
        for pages in [0, 1, 16, 300, 0, 2] {
            let (outcome, steps) = bench::run(&mut fork, &bench::writes(pages), DEADLINE).unwrap();
            assert_eq!(outcome, Outcome::Done { code: 0 }, "{engine}, {pages} pages");
            assert!(!steps.run.is_zero());
            assert_eq!(fork.differing_pages().len() as u64, pages, "{engine}");
            let reset = fork.reset().unwrap();
            assert!(reset.pages as u64 >= pages, "{engine}: {reset:?}");
            assert_eq!(fork.differing_pages(), Vec::<u64>::new(), "{engine}, {pages} pages");
        }
    }
}

#[test]
fn a_fork_stops_behind_its_first_instruction_and_is_none_the_worse() {
    let kvm = kvm();
    let snapshot = bench::writer(&kvm, 4 << 20).unwrap();
    for engine in Engine::ALL {
        let mut fork = Replica::spawn(&kvm, &snapshot, engine).unwrap();
        bench::first_instruction(&mut fork, &bench::writes(3), DEADLINE).unwrap();
        let mut word = [0; 8];
        assert!(fork.read(unifork_abi::ARENA_VA, &mut word));
        assert_eq!(word, [0; 8], "{engine}: it has gone on");
        fork.reset().unwrap();
        assert_eq!(fork.vcpu_state().unwrap(), *snapshot.vcpu(), "{engine}");
        assert_eq!(fork.run(&bench::writes(3), DEADLINE).unwrap(), Outcome::Done { code: 0 });
    }
}
