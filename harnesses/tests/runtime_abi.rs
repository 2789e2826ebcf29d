//! `guest/runtime/abi.h` says in C what `guest/abi` says in Rust.

use std::fs;
use std::path::Path;

/// The value of a `#define` with an integer suffix and a comment taken off.
fn define(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guest/runtime/abi.h");
    let text = fs::read_to_string(path).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("#define ")?.strip_prefix(name)?.strip_prefix(' '))
        .unwrap_or_else(|| panic!("abi.h does not define {name}"));
    line.split("/*").next().unwrap().trim().to_owned()
}

fn number(name: &str) -> u64 {
    let text = define(name);
    let digits = text.trim_end_matches(['u', 'l']);
    match digits.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).unwrap(),
        None => digits.parse().unwrap(),
    }
}

#[test]
fn constants_are_the_same_in_c_and_in_rust() {
    assert_eq!(number("UF_ABI_VERSION"), u64::from(unifork_abi::ABI_VERSION));
    assert_eq!(number("UF_AT_UNIFORK"), unifork_abi::AT_UNIFORK);
    assert_eq!(number("UF_SYS_UNIFORK_ASSERT"), unifork_abi::SYS_UNIFORK_ASSERT);
    assert_eq!(number("UF_INPUT_ALIGN"), unifork_abi::INPUT_ALIGN);
    assert_eq!(number("UF_PAGE_BYTES"), unifork_abi::PAGE_BYTES);
    assert_eq!(number("UF_COMPARISONS_VA"), unifork_abi::COMPARISONS_VA);
    assert_eq!(number("UF_COMPARISONS_MAX"), unifork_abi::COMPARISONS_MAX as u64);
    assert_eq!(number("UF_COMPARISONS_PER_SITE_MAX"), u64::from(unifork_abi::COMPARISONS_PER_SITE_MAX));
    assert_eq!(number("UF_COMPARISON_SITES"), unifork_abi::COMPARISON_SITES as u64);
    assert_eq!(number("UF_COMPARISON_BYTES"), unifork_abi::COMPARISON_BYTES as u64);
    let magic = format!("{}\0", define("UF_IMAGE_MAGIC").trim_matches('"'));
    assert_eq!(magic.as_bytes(), unifork_abi::IMAGE_MAGIC);
}

/// The offsets that abi.h asserts at compile time, so that a change here cannot be missed there.
#[test]
fn layouts_are_the_same_in_c_and_in_rust() {
    use std::mem::offset_of;
    use unifork_abi::{Comparison, ComparisonLog, ImageHeader, Vector};
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guest/runtime/abi.h");
    let text = fs::read_to_string(path).unwrap();
    for (what, value) in [
        ("sizeof(struct uf_vector)", size_of::<Vector>()),
        ("offsetof(struct uf_vector, input)", offset_of!(Vector, input)),
        ("offsetof(struct uf_vector, done)", offset_of!(Vector, done)),
        ("offsetof(struct uf_vector, call)", offset_of!(Vector, call)),
        ("sizeof(struct uf_image_header)", size_of::<ImageHeader>()),
        ("offsetof(struct uf_image_header, abi_version)", offset_of!(ImageHeader, abi_version)),
        ("offsetof(struct uf_image_header, flags)", offset_of!(ImageHeader, flags)),
        ("sizeof(struct uf_comparison_log)", size_of::<ComparisonLog>()),
        ("offsetof(struct uf_comparison_log, sites)", offset_of!(ComparisonLog, sites)),
        ("sizeof(struct uf_comparison)", size_of::<Comparison>()),
        ("offsetof(struct uf_comparison, kind)", offset_of!(Comparison, kind)),
        ("offsetof(struct uf_comparison, left)", offset_of!(Comparison, left)),
    ] {
        let assertion = format!("_Static_assert({what} == {value},");
        assert!(text.contains(&assertion), "abi.h does not say {assertion}");
    }
}

/// A file of guest/runtime that is not embedded would be missing from every image.
#[test]
fn every_file_of_the_runtime_is_embedded() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guest/runtime");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    let mut embedded: Vec<_> = unifork_guest::RUNTIME.iter().map(|(name, _)| (*name).to_owned()).collect();
    embedded.sort();
    assert_eq!(embedded, found);
}
