//! Function names as people write them.

use std::fmt;

/// The longest mangled name that is demangled. Real ones stay below: libstdc++'s longest are about 2 KiB.
const MANGLED_BYTES_MAX: usize = 16 << 10;

/// The longest demangled name. C++ substitutions let a short damaged name stand for one that grows
/// exponentially; a name above this is shown mangled.
const DEMANGLED_BYTES_MAX: usize = 64 << 10;

/// Text from an image's tables with control characters escaped: whoever made the image does not get to
/// drive the terminal that a report is shown on.
pub(super) fn printable(text: &str) -> String {
    let escape = |character: char| match character.is_control() {
        true => character.escape_default().to_string(),
        false => character.to_string(),
    };
    if text.contains(char::is_control) { text.chars().map(escape).collect() } else { text.to_owned() }
}

/// The demangled form of a Rust or C++ name; any other name as it is.
///
/// Rust's trailing hash is left out, because it changes from build to build.
pub(super) fn demangle(raw: &str) -> String {
    printable(&demangle_unchecked(raw))
}

fn demangle_unchecked(raw: &str) -> String {
    if raw.len() > MANGLED_BYTES_MAX {
        return raw.to_owned();
    }
    if let Ok(name) = rustc_demangle::try_demangle(raw)
        && let Some(text) = limited(|out| fmt::write(out, format_args!("{name:#}")))
    {
        return text;
    }
    // Only what has the Itanium ABI's prefix: the demangler also takes bare types, so that a C function
    // called `f` would become `float`.
    if !raw.starts_with("_Z") {
        return raw.to_owned();
    }
    let options = cpp_demangle::DemangleOptions::default();
    cpp_demangle::Symbol::new(raw)
        .ok()
        .and_then(|symbol| limited(|out| symbol.structured_demangle(out, &options)))
        .unwrap_or_else(|| raw.to_owned())
}

/// What `write` writes, unless it fails or is longer than [`DEMANGLED_BYTES_MAX`].
fn limited(write: impl FnOnce(&mut Limited) -> fmt::Result) -> Option<String> {
    let mut out = Limited(String::new());
    write(&mut out).ok()?;
    Some(out.0)
}

/// A string that refuses to grow above [`DEMANGLED_BYTES_MAX`].
struct Limited(String);

impl fmt::Write for Limited {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.0.len() + text.len() > DEMANGLED_BYTES_MAX {
            return Err(fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_three_languages_are_shown_as_they_are_written() {
        assert_eq!(demangle("f"), "f");
        assert_eq!(demangle("png_read_row"), "png_read_row");
        assert_eq!(demangle("_ZN5space3fooEibc"), "space::foo(int, bool, char)");
        assert_eq!(demangle("_ZN4core9panicking5panic17h0123456789abcdefE"), "core::panicking::panic");
        assert_eq!(demangle("_RNvC6_123foo3bar"), "123foo::bar");
    }

    #[test]
    fn a_name_that_cannot_be_demangled_is_kept() {
        assert_eq!(demangle("_ZN5space3fo"), "_ZN5space3fo");
        let long = "_Z".repeat(MANGLED_BYTES_MAX);
        assert_eq!(demangle(&long), long);
    }

    #[test]
    fn a_name_that_would_grow_exponentially_is_kept() {
        // Each parameter is a pair of two of the one before. Every `4pair` and every pair made with it
        // takes the next number, so that the pairs have odd ones; S0_ is number 1.
        let mut name = "_Z1f4pairIiiE".to_owned();
        for level in 0..34 {
            let last = format!("S{}_", base36(2 * level));
            name.push_str(&format!("4pairI{last}{last}E"));
        }
        assert_eq!(demangle(&name), name);
    }

    fn base36(n: u32) -> String {
        let digits = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ";
        let digit = |n: u32| char::from(digits[n as usize]);
        if n < 36 { digit(n).to_string() } else { format!("{}{}", digit(n / 36), digit(n % 36)) }
    }

    #[test]
    fn damaged_names_neither_panic_nor_take_long() {
        use rand::rngs::StdRng;
        use rand::{RngExt as _, SeedableRng as _};
        const SEEDS: [&str; 6] = [
            "_ZNSt6vectorISt10unique_ptrIN6shapes5ShapeESt14default_deleteIS2_EESaIS5_EE17_M_realloc_insertIJS5_EEEvN9__gnu_cxx17__normal_iteratorIPS5_S7_EEDpOT_",
            "_ZZ4mainENK3$_0clEPi",
            "_ZNKSt8functionIFvRKSsEEclES1_",
            "_ZN4core3ops8function6FnOnce40call_once$u7b$$u7b$vtable.shim$u7d$$u7d$17h0123456789abcdefE",
            "_RNvMsr_NtCs3ssYzQotkvD_3std4pathNtB5_7PathBuf3newCs15kBYyAo9fc_7mycrate",
            "_RINvNtCs1_4core3ptr13drop_in_placeINtNtB4_6option6OptionNtNtCs2_5alloc6string6StringEECs3_3app",
        ];
        let rounds =
            std::env::var("INTROSPECT_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(20_000);
        let mut random = StdRng::seed_from_u64(1);
        for _ in 0..rounds {
            let mut name = SEEDS[random.random_range(0..SEEDS.len())].as_bytes().to_vec();
            for _ in 0..random.random_range(1..12) {
                let at = random.random_range(0..name.len());
                match random.random_range(0..3) {
                    0 => name[at] = random.random_range(0x20..0x7f),
                    1 => {
                        let other = SEEDS[random.random_range(0..SEEDS.len())].as_bytes();
                        let from = random.random_range(0..other.len());
                        let to = random.random_range(from..other.len());
                        name.splice(at..at, other[from..to].iter().copied());
                    }
                    _ => name.truncate(at.max(4)),
                }
            }
            let started = std::time::Instant::now();
            let name = String::from_utf8_lossy(&name);
            let shown = demangle(&name);
            assert!(started.elapsed().as_secs() < 5, "{name} took {:?}", started.elapsed());
            assert!(!shown.contains(char::is_control));
        }
    }
}
