//! Linking an image, and explaining why it did not link.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use object::{Object as _, ObjectSymbol as _};

use super::{BuildError, Libc, Toolchain, io_error};

/// The C library's functions that the runtime's compare.c stands before.
const WRAPPED: [&str; 9] =
    ["memcmp", "bcmp", "strcmp", "strncmp", "strcasecmp", "strncasecmp", "strstr", "strcasestr", "memmem"];

/// What is linked.
pub(super) struct Inputs<'a> {
    /// Objects that were compiled now.
    pub(super) objects: &'a [PathBuf],
    /// The user's `.o` and `.a` files.
    pub(super) linked: &'a [PathBuf],
    /// The user's linker flags.
    pub(super) flags: &'a [String],
    /// The runtime's linker-script fragment.
    pub(super) script: &'a Path,
    /// The result.
    pub(super) output: &'a Path,
}

/// Links. Returns what the linker printed nonetheless.
pub(super) fn link(toolchain: &Toolchain, inputs: &Inputs<'_>) -> Result<String, BuildError> {
    let (front, back) = toolchain.link_flags();
    let mut command = Command::new(toolchain.clang());
    command.args(front).args(inputs.objects).args(inputs.linked).args(inputs.flags);
    command.args(WRAPPED.map(|name| format!("-Wl,--wrap={name}")));
    command.args(back);
    command.arg(format!("-Wl,-T,{}", inputs.script.display())).arg("-Wl,--build-id=sha1");
    command.arg("-o").arg(inputs.output);
    let output = command.output().map_err(io_error("run", toolchain.clang()))?;
    let diagnostics = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() {
        return Ok(diagnostics);
    }
    let mangled_entry = inputs.objects.iter().chain(inputs.linked).any(|path| has_mangled_entry(path));
    let hint = hint(&diagnostics, toolchain.libc(), mangled_entry);
    Err(BuildError::Link { diagnostics, hint })
}

/// Whether an object defines LLVMFuzzerTestOneInput as a C++ function.
fn has_mangled_entry(path: &Path) -> bool {
    let Ok(bytes) = fs::read(path) else { return false };
    let Ok(file) = object::File::parse(&*bytes) else { return false };
    file.symbols()
        .any(|symbol| symbol.name().is_ok_and(|name| name.starts_with("_Z22LLVMFuzzerTestOneInput")))
}

/// What to change, when the cause is how images are built.
fn hint(diagnostics: &str, libc: Libc, mangled_entry: bool) -> Option<String> {
    let undefined: Vec<&str> = diagnostics
        .lines()
        .filter_map(|line| line.split_once("undefined symbol: ").map(|(_, symbol)| symbol.trim()))
        .collect();
    if undefined.contains(&"LLVMFuzzerTestOneInput") {
        return Some(if mangled_entry {
            "declare it extern \"C\": extern \"C\" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)"
                .into()
        } else {
            "none of the files defines int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size), the function \
             that is called with each input; add the harness's file"
                .into()
        });
    }
    if diagnostics.contains("duplicate symbol: main") {
        return Some(
            "the image's main is unifork's; leave out the file with this one, or rename it with -Dmain=…"
                .into(),
        );
    }
    if let Some(library) = diagnostics
        .lines()
        .find_map(|line| line.split_once("unable to find library -l").map(|(_, name)| name.trim()))
    {
        return Some(match libc {
            Libc::Musl => format!(
                "an image is static, so lib{library}.a is needed, built for musl. Best give the library's sources \
                 as files: then it is covered too. A lib{library}.a that Debian installs is for glibc: add --libc glibc"
            ),
            Libc::Glibc => format!(
                "an image is static, so lib{library}.a is needed: install the library's -dev package if that has \
                 it, name its folder with -L, or give the library's sources as files: then it is covered too"
            ),
        });
    }
    if diagnostics.contains("attempted static link of dynamic object") {
        return Some("an image is static; give the library's sources or its .a file".into());
    }
    let cxx = |symbol: &&str| {
        ["std::", "operator new", "operator delete", "__cxa_", "__gxx_personality"]
            .iter()
            .any(|part| symbol.contains(part))
    };
    if libc == Libc::Musl && undefined.iter().any(cxx) {
        return Some("an object or library is C++: add --libc glibc, which links libstdc++ too".into());
    }
    let glibc = |symbol: &&str| symbol.ends_with("_chk") || symbol.starts_with("__isoc");
    if libc == Libc::Musl && undefined.iter().any(glibc) {
        return Some(
            "an object or library was compiled for glibc: give its sources as files, or add --libc glibc"
                .into(),
        );
    }
    if undefined.iter().any(|symbol| symbol.starts_with("__asan_") || symbol.starts_with("__msan_")) {
        return Some(
            "an object or library was compiled with a sanitizer that is not supported yet: compile it without".into(),
        );
    }
    if undefined.iter().any(|symbol| symbol.starts_with("__sanitizer_cov_")) {
        return Some(
            "an object or library was compiled with another kind of coverage: compile it with \
             -fsanitize-coverage=inline-8bit-counters,pc-table"
                .into(),
        );
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_that_is_ours_has_a_hint_and_the_others_have_none() {
        let undefined =
            |symbol: &str| format!("ld.lld: error: undefined symbol: {symbol}\n>>> referenced by x.c\n");
        for (text, libc, part) in [
            (undefined("LLVMFuzzerTestOneInput"), Libc::Musl, "none of the files"),
            ("ld.lld: error: duplicate symbol: main\n".into(), Libc::Musl, "rename it"),
            ("ld.lld: error: unable to find library -lfoo\n".into(), Libc::Musl, "libfoo.a"),
            ("ld.lld: error: unable to find library -lfoo\n".into(), Libc::Glibc, "-dev package"),
            (undefined("std::terminate()"), Libc::Musl, "--libc glibc"),
            (undefined("__printf_chk"), Libc::Musl, "compiled for glibc"),
            (undefined("__asan_init"), Libc::Glibc, "sanitizer"),
            (undefined("__sanitizer_cov_trace_pc_guard"), Libc::Musl, "inline-8bit-counters"),
        ] {
            let hint = hint(&text, libc, false).unwrap_or_default();
            assert!(hint.contains(part), "{text}: {hint}");
        }
        assert!(
            hint(&undefined("LLVMFuzzerTestOneInput"), Libc::Glibc, true).unwrap().contains("extern \"C\"")
        );
        assert_eq!(hint(&undefined("inflate"), Libc::Musl, false), None);
    }
}
