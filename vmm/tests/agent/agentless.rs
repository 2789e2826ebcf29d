//! A kernel without an agent: frozen, forked, run and put back as its terms say.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use unifork_vmm::foreign::{
    Agentless, Base, BaseError, Config, EndAt, Fork, InputTo, PanicPoint, Panics, Ring0, SnapshotAt, Terms,
};
use unifork_vmm::introspect::{Block, Symbols, blocks};
use unifork_vmm::virtio::DeviceConfig;
use unifork_vmm::{Cause, CrashKind, Engine, Kvm, Outcome};

use crate::build::{CLANG, image};

const DEADLINE: Duration = Duration::from_secs(60);
const WAYS: [Ring0; 2] = [Ring0::Monitor, Ring0::Native];

fn kvm() -> &'static Kvm {
    static KVM: OnceLock<Kvm> = OnceLock::new();
    KVM.get_or_init(|| Kvm::open().unwrap())
}

fn kernel() -> Arc<[u8]> {
    static IMAGE: OnceLock<Arc<[u8]>> = OnceLock::new();
    Arc::clone(IMAGE.get_or_init(|| image(CLANG, &[("agentless.c", None)]).into()))
}

fn symbols() -> Symbols {
    let mut symbols = Symbols::new();
    symbols.load("kernel", kernel(), 0).unwrap();
    symbols
}

fn boot(ring0: Ring0, terms: &Terms) -> Result<Arc<Base>, BaseError> {
    let config = Config { memory_bytes: 8 << 20, ring0, ..Config::default() };
    Base::boot(kvm(), "kernel", kernel(), &config, terms, DEADLINE)
}

/// `parse` is called with the input, and returns.
fn called() -> Agentless {
    let parse = symbols().find("parse").unwrap();
    Agentless {
        snapshot: SnapshotAt::Address(parse),
        input: InputTo::Registers {
            pointer: "rdi".parse().unwrap(),
            length: Some("rsi".parse().unwrap()),
            max: Some(256),
        },
        ends: vec![EndAt::Return],
    }
}

fn panics() -> Panics {
    let point = PanicPoint {
        address: symbols().find("panic").unwrap(),
        name: "panic".to_owned(),
        when: None,
        message: vec!["rdi".parse().unwrap(), "rsi".parse().unwrap()],
    };
    Panics { points: vec![point], assertions: vec!["assertion failed: ".to_owned()], ..Panics::default() }
}

fn all_blocks() -> Vec<Block> {
    blocks(&symbols(), |name, _| matches!(name, "parse" | "deeper" | "panic" | "print"))
}

fn crash(outcome: Outcome) -> (CrashKind, Cause, u64) {
    match outcome {
        Outcome::Crash(crash) => (crash.kind, crash.cause, crash.registers.rip),
        other => panic!("no crash: {other:?}"),
    }
}

/// Which of the named functions `address` is in.
fn function(address: u64) -> String {
    symbols().places(address).pop().and_then(|place| place.function).unwrap_or_default()
}

/// An image that counts its own edges, for nobody.
#[test]
fn counters_of_a_compiler_are_found_by_their_symbols() {
    const FLAG: &str = "-fsanitize-coverage=inline-8bit-counters,pc-table";
    let image: Arc<[u8]> = image(CLANG, &[("agentless.c", Some(FLAG))]).into();
    let mut symbols = Symbols::new();
    symbols.load("kernel", Arc::clone(&image), 0).unwrap();
    let counters = symbols.sanitizer_counters().unwrap();
    let snapshot = SnapshotAt::Address(symbols.find("parse").unwrap());
    let terms = Terms { agentless: Some(Agentless { snapshot, ..called() }), ..Terms::default() };
    for ring0 in WAYS {
        let config = Config { memory_bytes: 8 << 20, ring0, ..Config::default() };
        let base = Base::boot(kvm(), "kernel", Arc::clone(&image), &config, &terms, DEADLINE).unwrap();
        assert_eq!(base.sites().len() as u64, counters.end - counters.start, "{ring0:?}");
        assert!(base.sites().iter().all(|&site| !symbols.places(site).is_empty()), "{ring0:?}");
        let mut fork = Fork::spawn(kvm(), &base, Engine::HotSet).unwrap();
        let mut counts = |input: &[u8]| {
            assert_eq!(fork.run(input, DEADLINE).unwrap(), Outcome::Done { code: 0 });
            fork.counters().to_vec()
        };
        let [hello, more, again] = [&b"hello"[..], b"BUG?..", b"hello"].map(&mut counts);
        assert_eq!(hello, again, "they are put back");
        assert_ne!(hello, more);
        assert!(hello.iter().any(|&count| count > 1), "they count: {hello:?}");
    }
}

#[test]
fn a_function_is_called_with_each_input_and_every_way_out_is_told_apart() {
    for ring0 in WAYS {
        let terms = Terms { agentless: Some(called()), panics: panics(), ..Terms::default() };
        let base = boot(ring0, &terms).unwrap();
        assert_eq!((base.input_max(), base.has_agent()), (256, false));
        let mut fork = Fork::spawn(kvm(), &base, Engine::HotSet).unwrap();
        let (before, ram) = (fork.state().unwrap(), fork.ram().to_vec());
        for _ in 0..3 {
            for well in [&b"hello"[..], b"", b"rrrrrrrr", b"BUG?.."] {
                let outcome = fork.run(well, DEADLINE).unwrap();
                assert_eq!(outcome, Outcome::Done { code: 0 }, "{ring0:?} {well:?}");
            }
            let (kind, cause, rip) = crash(fork.run(b"BUG!..", DEADLINE).unwrap());
            assert_eq!(kind, CrashKind::WildWrite, "{ring0:?}: {cause}");
            assert!(
                matches!(cause, Cause::Exception { vector: 14, address: 0x1234_5678_9000, .. }),
                "{cause}"
            );
            assert_eq!(function(rip), "deeper");
            let (kind, _, rip) = crash(fork.run(b"BUG//.", DEADLINE).unwrap());
            assert_eq!((kind, function(rip).as_str()), (CrashKind::DivideByZero, "deeper"), "{ring0:?}");
            let (kind, cause, rip) = crash(fork.run(b"BUGp.", DEADLINE).unwrap());
            assert_eq!((kind, function(rip).as_str()), (CrashKind::Assertion, "panic"), "{ring0:?}");
            assert_eq!(cause, Cause::Assertion { message: "data[3] != 'p'".to_owned() });
            assert_eq!(fork.console(), b"", "it ends before anything is printed");
            // An exception that was handled is not what an assertion is about.
            let (kind, _, _) = crash(fork.run(b"BUG3.", DEADLINE).unwrap());
            assert_eq!(kind, CrashKind::Assertion, "{ring0:?}");
            let (kind, ..) = crash(fork.run(b"BUGh.", DEADLINE).unwrap());
            assert_eq!(kind, CrashKind::KernelPanic, "{ring0:?}");
            assert_eq!(fork.run(b"BUGo.", DEADLINE).unwrap(), Outcome::Exit { code: 7 }, "{ring0:?}");
            assert_eq!(
                fork.run(b"BUGl.", Duration::from_millis(100)).unwrap(),
                Outcome::Timeout,
                "{ring0:?}"
            );
            fork.reset().unwrap();
            assert_eq!(fork.state().unwrap(), before, "{ring0:?}");
            assert!(fork.ram() == ram, "{ring0:?}: memory is not put back");
        }
    }
}

#[test]
fn what_the_console_says_ends_a_run_or_is_a_panic() {
    for ring0 in WAYS {
        let panics = Panics { console: vec!["PANIC: ".to_owned()], exits: vec![7], ..Panics::default() };
        let mut agentless = called();
        agentless.ends = vec![EndAt::Console(b"says the console".to_vec()), EndAt::Return, EndAt::Halt];
        let terms = Terms { agentless: Some(agentless), panics, ..Terms::default() };
        let base = boot(ring0, &terms).unwrap();
        let mut fork = Fork::spawn(kvm(), &base, Engine::DirtyLog).unwrap();
        for _ in 0..2 {
            let (kind, cause, _) = crash(fork.run(b"BUGp.", DEADLINE).unwrap());
            assert_eq!(kind, CrashKind::KernelPanic, "{ring0:?}");
            let said = "PANIC: assertion failed: %sdata[3] != 'p'";
            assert_eq!(cause, Cause::Panic { message: said.to_owned() }, "{ring0:?}");
            assert!(fork.console().len() < 100, "it ends with the line");
            assert_eq!(fork.run(b"BUGx.", DEADLINE).unwrap(), Outcome::Done { code: 0 }, "{ring0:?}");
            assert_eq!(fork.run(b"BUGh.", DEADLINE).unwrap(), Outcome::Done { code: 0 }, "{ring0:?}");
            let (kind, cause, _) = crash(fork.run(b"BUGo.", DEADLINE).unwrap());
            assert_eq!(
                (kind, cause.to_string().as_str()),
                (CrashKind::KernelPanic, "the image panicked: it ended with 7")
            );
        }
    }
}

#[test]
fn blocks_count_once_and_a_run_with_news_counts_all_of_them() {
    for ring0 in WAYS {
        let blocks = all_blocks();
        let terms =
            Terms { agentless: Some(called()), panics: panics(), blocks: blocks.clone(), ..Terms::default() };
        let base = boot(ring0, &terms).unwrap();
        assert_eq!(base.blocks(), (blocks.len(), 0), "{ring0:?}");
        assert_eq!(base.sites(), blocks.iter().map(|block| block.address).collect::<Vec<_>>());
        let count = |fork: &Fork| fork.counters().iter().filter(|&&count| count != 0).count();
        for engine in [Engine::HotSet, Engine::DirtyLog, Engine::CopyAll] {
            let mut fork = Fork::spawn(kvm(), &base, engine).unwrap();
            let before = fork.state().unwrap();
            fork.count_all(false);
            fork.run(b"hello", DEADLINE).unwrap();
            let first = fork.counters().to_vec();
            assert!(count(&fork) >= 4, "{ring0:?} {engine}: {first:?}");
            fork.run(b"hello", DEADLINE).unwrap();
            assert_eq!(count(&fork), 0, "{ring0:?} {engine}: nothing is news");
            // The others are found one after the other, each with all of its blocks.
            for input in [&b"Bello"[..], b"BUllo", b"BUG.."] {
                fork.run(input, DEADLINE).unwrap();
                let counted = fork.counters().to_vec();
                let mut fresh = Fork::spawn(kvm(), &base, Engine::CopyAll).unwrap();
                let outcome = fresh.run(input, DEADLINE).unwrap();
                assert_eq!(counted, fresh.counters(), "{ring0:?} {engine} {input:?}");
                assert_eq!(outcome, Outcome::Done { code: 0 });
                fork.run(input, DEADLINE).unwrap();
                assert_eq!(count(&fork), 0, "{ring0:?} {engine} {input:?}");
            }
            fork.count_all(true);
            fork.run(b"hello", DEADLINE).unwrap();
            assert_eq!(fork.counters(), first, "{ring0:?} {engine}");
            fork.count_all(false);
            fork.run(b"hello", DEADLINE).unwrap();
            assert_eq!(count(&fork), 0, "{ring0:?} {engine}");
            let (kind, ..) = crash(fork.run(b"BUG!..", DEADLINE).unwrap());
            assert_eq!(kind, CrashKind::WildWrite);
            fork.reset().unwrap();
            assert_eq!(fork.state().unwrap(), before, "{ring0:?} {engine}");
        }
    }
}

#[test]
fn data_among_the_code_has_no_blocks() {
    let symbols = symbols();
    let table = symbols.find_any("text_table").unwrap().0;
    let everything = blocks(&symbols, |_, _| true);
    let inside = |block: &Block| (table..table + 40).contains(&block.address);
    assert!(symbols.functions().any(|(name, _)| name == "text_table"), "it looks like a label in the code");
    assert!(everything.len() > all_blocks().len() && !everything.iter().any(inside));
}

#[test]
fn inputs_reach_a_buffer_with_its_length_and_the_serial_line() {
    let symbols = symbols();
    let at = |name: &str| symbols.find_any(name).unwrap().0;
    for ring0 in WAYS {
        let buffer = Agentless {
            snapshot: SnapshotAt::Console(b"kernel up\n".to_vec()),
            input: InputTo::Memory { at: at("buffer") + 1, max: 20, length: None },
            ends: vec![EndAt::Console(b"ready\n".to_vec())],
        };
        // Frozen before `buffer[0]` is written: the kernel's own first byte is kept or not.
        let base = boot(ring0, &Terms { agentless: Some(buffer), ..Terms::default() }).unwrap();
        let mut fork = Fork::spawn(kvm(), &base, Engine::HotSet).unwrap();
        assert_eq!(fork.run(b"abc", DEADLINE).unwrap(), Outcome::Done { code: 0 });
        assert!(fork.console().ends_with(b"ready\n"), "{:?}", fork.console());

        let length = Agentless {
            snapshot: SnapshotAt::Address(at("serve_line")),
            input: InputTo::Serial { max: 300 },
            ends: vec![EndAt::Console(b"ready\n".to_vec())],
        };
        let terms = Terms { agentless: Some(length), panics: panics(), ..Terms::default() };
        let base = boot(ring0, &terms).unwrap();
        let mut fork = Fork::spawn(kvm(), &base, Engine::HotSet).unwrap();
        for _ in 0..2 {
            assert_eq!(fork.run(b"hello\n", DEADLINE).unwrap(), Outcome::Done { code: 0 }, "{ring0:?}");
            let long = [&[b'a'; 200][..], b"\n"].concat();
            assert_eq!(fork.run(&long, DEADLINE).unwrap(), Outcome::Done { code: 0 }, "{ring0:?}");
            let (kind, ..) = crash(fork.run(b"BUGp.\n", DEADLINE).unwrap());
            assert_eq!(kind, CrashKind::Assertion, "{ring0:?}");
        }
    }
}

#[test]
fn an_input_is_a_frame_on_the_network_card() {
    let kernel: Arc<[u8]> = image(CLANG, &[("../devices/kernel.c", Some("-mgeneral-regs-only"))]).into();
    for ring0 in WAYS {
        let config = Config {
            append: "modern n".to_owned(),
            devices: vec![DeviceConfig::Net],
            memory_bytes: 8 << 20,
            ring0,
            ..Config::default()
        };
        let agentless = Agentless {
            snapshot: SnapshotAt::Console(b"net 525400554601\n".to_vec()),
            input: InputTo::Net { max: 1514 },
            ends: vec![EndAt::Console(b"done\n".to_vec())],
        };
        let terms = Terms { agentless: Some(agentless), ..Terms::default() };
        let base = Base::boot(kvm(), "kernel", Arc::clone(&kernel), &config, &terms, DEADLINE).unwrap();
        let mut fork = Fork::spawn(kvm(), &base, Engine::HotSet).unwrap();
        for frame in [&b"a frame"[..], b"and a longer one", b"x"] {
            assert_eq!(fork.run(frame, DEADLINE).unwrap(), Outcome::Done { code: 0 }, "{ring0:?}");
            assert_eq!(fork.console(), [frame, b"\ndone\n"].concat(), "{ring0:?}");
        }
    }
}

#[test]
fn a_place_that_is_never_reached_and_one_without_memory_are_errors() {
    let mut agentless = called();
    agentless.snapshot = SnapshotAt::Console(b"never said".to_vec());
    let config = Config { memory_bytes: 8 << 20, ..Config::default() };
    let terms = Terms { agentless: Some(agentless.clone()), ..Terms::default() };
    let soon = Duration::from_secs(2);
    let error = Base::boot(kvm(), "kernel", kernel(), &config, &terms, soon).unwrap_err();
    assert!(
        matches!(&error, BaseError::NotReached { console, .. } if console.starts_with(b"kernel up")),
        "{error}"
    );
    agentless.snapshot = SnapshotAt::After(Duration::from_millis(50));
    agentless.input = InputTo::Memory { at: 0xdead_beef_0000, max: 10, length: None };
    let terms = Terms { agentless: Some(agentless), ..Terms::default() };
    let error = Base::boot(kvm(), "kernel", kernel(), &config, &terms, soon).unwrap_err();
    assert!(matches!(error, BaseError::Place(_)), "{error}");
}
