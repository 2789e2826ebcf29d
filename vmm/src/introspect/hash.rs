//! Names for crashes, so that those with one cause are kept together.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::frame::{Frame, Method, runs};

/// How many functions make a signature. Fewer merge different bugs; more split one bug by the way it was
/// reached. libFuzzer's and ClusterFuzz's users settle on three to five.
const NAMES: usize = 5;

/// How many frames from the top plumbing is looked for.
const PLUMBING_FRAMES: usize = 32;

/// Functions that end the program because of something their caller found out. They, and whatever they
/// call, say nothing about the cause.
const PLUMBING: [&str; 20] = [
    "abort",
    "raise",
    "gsignal",
    "pthread_kill",
    "__assert_fail",
    "__assert_fail_base",
    "__stack_chk_fail",
    "__stack_chk_fail_local",
    "__fortify_fail",
    "__chk_fail",
    "__libc_message",
    "__cxa_throw",
    "__cxa_rethrow",
    "__cxa_pure_virtual",
    "std::terminate()",
    "rust_begin_unwind",
    "rust_panic",
    "__rust_start_panic",
    "unifork_report",
    "unifork_report_assertion",
];

/// The same, by how the name begins: Rust's panics and the sanitizers' reports.
const PLUMBING_PREFIXES: [&str; 12] = [
    "core::panicking::",
    "std::panicking::begin_panic",
    "std::panicking::panic_handler",
    "std::panicking::panic_with_hook",
    "__rustc::rust_begin_unwind",
    "std::process::abort",
    "core::option::expect_failed",
    "core::option::unwrap_failed",
    "core::result::unwrap_failed",
    "core::slice::index::",
    "__ubsan_handle_",
    "__asan_report_",
];

/// The harness: its callers are the fuzz driver, and the same for every crash.
const HARNESS: &str = "LLVMFuzzerTestOneInput";

/// What runs before a Rust program's or thread's own code ends with this function, which is there to say so.
const RUST_STARTUP: &str = "std::sys::backtrace::__rust_begin_short_backtrace";

/// What runs before a program's own code.
const STARTUP: [&str; 6] =
    ["main", "__libc_start_main", "libc_start_main_stage2", "__libc_start_call_main", "_start_c", "_start"];

/// A short name for a crash: a hash of its [`signature`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StackHash(pub u64);

impl fmt::Display for StackHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The hash of [`signature`]. It is the same for every build of the program in which the functions have
/// the same names and are inlined alike or have debug information.
pub fn stack_hash(frames: &[Frame]) -> StackHash {
    /// FNV-1a's offset basis and prime for 64 bits.
    const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    let names = signature(frames);
    // Each name ends with a byte that is in none of them.
    let bytes = names.iter().flat_map(|name| name.bytes().chain([0xff]));
    StackHash(bytes.fold(BASIS, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME)))
}

/// The functions that tell this crash from another, innermost first and at most five: without those that
/// end the program, without the fuzz driver, recursion shown once.
pub fn signature(frames: &[Frame]) -> Vec<String> {
    let names: Vec<String> = frames.iter().map(name).collect();
    let top = names.iter().take(PLUMBING_FRAMES).rposition(|name| is_plumbing(name)).map_or(0, |at| at + 1);
    let bottom = bottom(&names);
    let own = names.get(top..bottom).filter(|own| !own.is_empty()).unwrap_or(&names);
    let folded = runs(own).into_iter().filter_map(|run| own.get(run.start..run.start + run.period));
    folded.flatten().take(NAMES).cloned().collect()
}

/// How many frames from the top are the program's own.
fn bottom(names: &[String]) -> usize {
    if let Some(harness) = names.iter().rposition(|name| name == HARNESS) {
        return harness + 1;
    }
    if let Some(startup) = names.iter().position(|name| name.starts_with(RUST_STARTUP)) {
        return startup;
    }
    let startup = names.iter().rev().take_while(|name| STARTUP.contains(&name.as_str())).count();
    // `main` is the program's, and a crash in it has nothing else.
    let main = names.iter().rposition(|name| name == "main").map_or(0, |at| at + 1);
    (names.len() - startup).max(main)
}

/// A frame's function without what changes from build to build.
fn name(frame: &Frame) -> String {
    match (&frame.place, frame.function()) {
        (_, Some(name)) => without_clone_suffix(name).to_owned(),
        (Some(place), None) => format!("{}!??", place.module),
        (None, None) if frame.method == Method::Start => "wild jump".to_owned(),
        (None, None) => "??".to_owned(),
    }
}

/// `f` for `f.cold`, `f.part.0` and the like, which are as the optimiser pleases.
fn without_clone_suffix(name: &str) -> &str {
    const SUFFIXES: [&str; 6] = [".cold", ".part.", ".isra.", ".constprop.", ".llvm.", " [clone"];
    let end = SUFFIXES.iter().filter_map(|suffix| name.find(suffix)).filter(|at| *at > 0).min();
    end.and_then(|end| name.get(..end)).unwrap_or(name).trim_end()
}

fn is_plumbing(name: &str) -> bool {
    PLUMBING.contains(&name) || PLUMBING_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::super::symbols::Place;
    use super::*;

    fn frames(names: &[&str]) -> Vec<Frame> {
        let frame = |(index, name): (usize, &&str)| {
            let address = 0x1000 + index as u64;
            let place = Place {
                module: "app".to_owned(),
                function: Some((*name).to_owned()),
                offset: 1,
                file: None,
                line: None,
                column: None,
            };
            Frame { address, stack: address, method: Method::Cfi, place: Some(place) }
        };
        names.iter().enumerate().map(frame).collect()
    }

    #[test]
    fn a_signature_is_the_programs_own_functions() {
        let crash = [
            "kernel::tkill",
            "raise",
            "abort",
            "__assert_fail",
            "png_row",
            "png_read",
            "LLVMFuzzerTestOneInput",
            "main",
            "_start",
        ];
        assert_eq!(signature(&frames(&crash)), ["png_row", "png_read", "LLVMFuzzerTestOneInput"]);
    }

    #[test]
    fn a_kernel_bug_under_an_application_keeps_the_kernels_functions() {
        let crash = ["kernel::read", "read", "f", "main", "_start"];
        assert_eq!(signature(&frames(&crash)), ["kernel::read", "read", "f", "main"]);
    }

    #[test]
    fn recursion_counts_once_however_deep() {
        let deep = frames(&["leaf", "f", "g", "f", "g", "f", "g", "main"]);
        let shallow = frames(&["leaf", "f", "g", "f", "g", "main"]);
        assert_eq!(stack_hash(&deep), stack_hash(&shallow));
        assert_eq!(signature(&deep), ["leaf", "f", "g", "main"]);
    }

    #[test]
    fn addresses_and_the_optimisers_suffixes_do_not_count() {
        let mut moved = frames(&["f.cold", "g.part.0", "main"]);
        moved.iter_mut().for_each(|frame| frame.address += 0x4000);
        assert_eq!(stack_hash(&moved), stack_hash(&frames(&["f", "g", "main"])));
        assert_ne!(stack_hash(&moved), stack_hash(&frames(&["g", "f", "main"])));
        assert_ne!(stack_hash(&frames(&["ab", "c"])), stack_hash(&frames(&["a", "bc"])));
    }

    #[test]
    fn a_crash_with_no_function_of_its_own_keeps_what_there_is() {
        assert_eq!(signature(&frames(&["abort", "_start"])), ["abort", "_start"]);
        assert!(signature(&[]).is_empty());
        let wild = Frame { address: 0, stack: 0, method: Method::Start, place: None };
        assert_eq!(signature(&[wild]), ["wild jump"]);
    }

    #[test]
    fn the_hash_never_changes() {
        // Findings on disk are named after it.
        assert_eq!(stack_hash(&frames(&["f", "main"])).to_string(), "58b998b1b94695cc");
    }
}
