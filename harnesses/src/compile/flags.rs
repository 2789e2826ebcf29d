//! The user's clang flags: which are for the compiler, which for the linker, and which an image
//! cannot be built with.

use std::path::PathBuf;

use thiserror::Error;

use crate::manifest::Language;

/// A flag that no image can be built with.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{flag}: {why}")]
pub struct FlagsError {
    /// The flag as given.
    pub flag: String,
    /// Why, and what to do instead.
    pub why: String,
}

/// The user's flags, sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// For the compiler, in order.
    pub compile: Vec<String>,
    /// For the linker, in order.
    pub link: Vec<String>,
    /// Arguments that are no flags: sources, objects and libraries.
    pub files: Vec<PathBuf>,
    /// Whether something asks for C++ (`-x c++`, `-lstdc++`).
    pub cxx: bool,
}

/// Flags whose value is the next argument.
const WITH_VALUE: [&str; 16] = [
    "-I",
    "-D",
    "-U",
    "-L",
    "-l",
    "-x",
    "-isystem",
    "-iquote",
    "-idirafter",
    "-include",
    "-imacros",
    "-Xclang",
    "-mllvm",
    "-Xlinker",
    "-z",
    "-target",
];

/// Flags that concern both compiling and linking.
const FOR_BOTH: [&str; 6] = ["-pthread", "-flto", "-fno-lto", "-stdlib=", "--sysroot=", "-fopenmp"];

/// Flags that say what an image is anyway.
const IMPLIED: [&str; 4] = ["-static", "-no-pie", "-nopie", "-c"];

impl Flags {
    /// Sorts arguments as given behind `--`.
    ///
    /// # Errors
    ///
    /// [`FlagsError`] names the first flag that cannot be.
    pub fn parse(arguments: &[String]) -> Result<Self, FlagsError> {
        let mut flags = Self::default();
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            if !argument.starts_with('-') || argument == "-" {
                flags.files.push(argument.into());
                continue;
            }
            if let Some(why) = refusal(argument) {
                return Err(FlagsError { flag: argument.clone(), why: why.into() });
            }
            let value = if WITH_VALUE.contains(&argument.as_str()) {
                let Some(value) = rest.next() else {
                    return Err(FlagsError { flag: argument.clone(), why: "needs a value behind it".into() });
                };
                Some(value)
            } else {
                None
            };
            flags.add(argument, value)?;
        }
        Ok(flags)
    }

    fn add(&mut self, flag: &str, value: Option<&String>) -> Result<(), FlagsError> {
        if flag == "-target" {
            let target = format!("--target={}", value.map_or("", String::as_str));
            return refusal(&target).map_or(Ok(()), |why| {
                Err(FlagsError { flag: format!("-target {target}"), why: why.into() })
            });
        }
        if IMPLIED.contains(&flag) || flag.starts_with("--target=") {
            return Ok(());
        }
        if let Some(list) = flag.strip_prefix("-fsanitize=") {
            return self.add_sanitizers(flag, list);
        }
        self.cxx |= (flag == "-x" && value.is_some_and(|value| value == "c++")) || flag == "-lstdc++";
        let linker = ["-L", "-l", "-Wl,", "-Xlinker", "-z"].iter().any(|prefix| flag.starts_with(prefix));
        let both = FOR_BOTH.iter().any(|prefix| flag.starts_with(prefix));
        let pair = std::iter::once(flag.to_owned()).chain(value.cloned());
        if linker || both {
            self.link.extend(pair.clone());
        }
        if !linker {
            self.compile.extend(pair);
        }
        Ok(())
    }

    /// libFuzzer's own driver is what the runtime replaces, and its instrumentation is on already;
    /// undefined-behaviour checks work when they trap.
    fn add_sanitizers(&mut self, flag: &str, list: &str) -> Result<(), FlagsError> {
        let mut kept = Vec::new();
        for sanitizer in list.split(',') {
            match sanitizer {
                "fuzzer" | "fuzzer-no-link" => {}
                "address" | "hwaddress" | "memory" | "thread" | "leak" | "dataflow" => {
                    return Err(FlagsError {
                        flag: flag.into(),
                        why: format!(
                            "the {sanitizer} sanitizer is not supported yet: its runtime cannot be linked \
                             into a static image; leave it out (page faults, aborts and traps are still found), \
                             or use -fsanitize=undefined"
                        ),
                    });
                }
                other => kept.push(other),
            }
        }
        if !kept.is_empty() {
            let kept = kept.join(",");
            // Without a runtime to print, a check that fails must stop the program itself.
            self.compile.extend([format!("-fsanitize={kept}"), format!("-fsanitize-trap={kept}")]);
        }
        Ok(())
    }

    /// The compiler's flags for a source of this language (`None`: assembler). `-std=` goes only to
    /// the language it is of, so that C and C++ can be built together.
    pub(super) fn compile_for(&self, language: Option<Language>) -> Vec<String> {
        let fits = |flag: &&String| match flag.strip_prefix("-std=") {
            Some(standard) => language == Some(standard_language(standard)),
            None => true,
        };
        self.compile.iter().filter(fits).cloned().collect()
    }
}

fn standard_language(standard: &str) -> Language {
    if standard.contains("++") { Language::Cxx } else { Language::C }
}

/// Why a flag cannot be, or `None`.
fn refusal(flag: &str) -> Option<&'static str> {
    const STATIC: &str = "an image is a static program at a fixed address; leave it out, and give libraries \
                          as sources, .o or .a files";
    const DRIVEN: &str =
        "compiling, linking and naming the output is what `unifork build` does; leave it out";
    const X86_64: &str = "images are for x86-64 Linux only; leave it out";
    match flag {
        "-shared" | "-dynamic" | "-rdynamic" | "-pie" | "-static-pie" | "-Wl,-Bdynamic" | "-Wl,-pie"
        | "-Wl,-shared" => Some(STATIC),
        "-E" | "-S" | "-M" | "-MM" | "-fsyntax-only" => Some(DRIVEN),
        "-m32" | "-mx32" | "-m16" => Some(X86_64),
        _ if flag.starts_with("-o") => Some(DRIVEN),
        _ if flag.starts_with("-fuse-ld=") && flag != "-fuse-ld=lld" => {
            Some("images are linked with lld; leave it out")
        }
        _ => {
            let target = flag.strip_prefix("--target=")?;
            let linux = (target.starts_with("x86_64-") || target.starts_with("amd64-"))
                && target.contains("linux")
                && !target.contains("android")
                && !target.ends_with("x32");
            if linux { None } else { Some(X86_64) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Flags, FlagsError> {
        Flags::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn flags_go_to_the_compiler_or_the_linker_and_the_rest_are_files() {
        let flags =
            parse("-Iinc -D X=1 -O2 -Llib -l foo -Wl,-z,now -pthread lib.a more.c -std=c++17").unwrap();
        assert_eq!(flags.compile, ["-Iinc", "-D", "X=1", "-O2", "-pthread", "-std=c++17"]);
        assert_eq!(flags.link, ["-Llib", "-l", "foo", "-Wl,-z,now", "-pthread"]);
        assert_eq!(flags.files, [PathBuf::from("lib.a"), PathBuf::from("more.c")]);
    }

    #[test]
    fn the_flags_of_a_libfuzzer_build_are_taken_as_they_are() {
        assert_eq!(parse("-g -fsanitize=fuzzer -static").unwrap().compile, ["-g"]);
        let undefined = parse("-fsanitize=fuzzer,undefined").unwrap();
        assert_eq!(undefined.compile, ["-fsanitize=undefined", "-fsanitize-trap=undefined"]);
        assert_eq!(undefined.link, [""; 0]);
    }

    #[test]
    fn a_standard_goes_only_to_its_own_language() {
        let flags = parse("-std=c++17 -std=c11 -O2").unwrap();
        assert_eq!(flags.compile_for(Some(Language::C)), ["-std=c11", "-O2"]);
        assert_eq!(flags.compile_for(Some(Language::Cxx)), ["-std=c++17", "-O2"]);
        assert_eq!(flags.compile_for(None), ["-O2"]);
    }

    #[test]
    fn what_cannot_be_in_an_image_is_refused_with_what_to_do() {
        for (line, part) in [
            ("-shared", "static program"),
            ("-pie", "static program"),
            ("-o x", "leave it out"),
            ("-m32", "x86-64"),
            ("--target=aarch64-linux-gnu", "x86-64"),
            ("-target riscv64-linux", "x86-64"),
            ("-fsanitize=address", "not supported yet"),
            ("-fsanitize=fuzzer,address", "not supported yet"),
            ("-fuse-ld=gold", "lld"),
            ("-I", "needs a value"),
        ] {
            let error = parse(line).expect_err(line).to_string();
            assert!(error.contains(part), "{line}: {error}");
        }
        assert!(parse("--target=x86_64-linux-gnu").unwrap().compile.is_empty());
        assert!(parse("-target x86_64-pc-linux-gnu").unwrap().compile.is_empty());
    }
}
