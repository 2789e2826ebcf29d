//! Every program in every variant is built, and is what it is to be: static, and position-independent or not.

use std::fs;
use std::path::Path;

use unifork_harnesses::fetch::Cache;
use unifork_harnesses::program;

const ET_EXEC: u8 = 2;
const ET_DYN: u8 = 3;
const PT_INTERP: u32 = 3;

#[test]
fn every_program_is_built_statically() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs");
    let cache = Cache::for_harness(&root);
    let programs = program::list(&root).unwrap();
    assert!(programs.len() >= 10, "{}", programs.len());
    for program in programs {
        for variant in program.variants() {
            let made = program.build(variant, &cache).unwrap_or_else(|error| panic!("{error}"));
            let mut count = 0;
            for entry in fs::read_dir(&made).unwrap() {
                let path = entry.unwrap().path();
                let elf = fs::read(&path).unwrap();
                let name = path.display();
                assert!(elf.starts_with(b"\x7fELF"), "{name} is no executable");
                let kind = if variant.name.ends_with("-pie") { ET_DYN } else { ET_EXEC };
                assert_eq!(elf[16], kind, "{name}: position-independent or not");
                assert!(!segments(&elf).contains(&PT_INTERP), "{name} is dynamic");
                count += 1;
            }
            assert!(count > 0, "{} made nothing", program.name);
        }
    }
}

/// The types of the program headers.
fn segments(elf: &[u8]) -> Vec<u32> {
    let number = |at: usize, bytes: usize| {
        elf[at..at + bytes].iter().rev().fold(0usize, |number, byte| number << 8 | usize::from(*byte))
    };
    let (table, entry, count) = (number(32, 8), number(54, 2), number(56, 2));
    (0..count).map(|i| number(table + i * entry, 4) as u32).collect()
}
