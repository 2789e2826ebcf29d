//! `unifork build`'s engine with real compilers: what comes out, and what is said when nothing can.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use object::{Object as _, ObjectSection as _, ObjectSymbol as _};
use unifork_harnesses::compile::Toolchain;
use unifork_harnesses::{BuildError, BuildRequest, Built, Libc, build};

const ENTRY: &str = "int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)";

/// A folder with sources, and an output in it.
struct Project {
    folder: tempfile::TempDir,
}

impl Project {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a source with the two headers every harness needs in front.
    fn source(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, format!("#include <stddef.h>\n#include <stdint.h>\n{text}\n")).unwrap();
        path
    }

    fn request(&self, files: &[PathBuf], arguments: &str) -> Result<BuildRequest, BuildError> {
        let arguments: Vec<String> = arguments.split_whitespace().map(str::to_owned).collect();
        BuildRequest::new(files, &arguments, self.path("out.img"))
    }

    fn build(&self, files: &[PathBuf], arguments: &str) -> Result<Built, BuildError> {
        build(&self.request(files, arguments)?)
    }

    /// The error, and what was printed with it; nothing may have been written.
    fn refused(&self, files: &[PathBuf], arguments: &str) -> String {
        let error = self.build(files, arguments).expect_err("must not build");
        assert!(!self.path("out.img").exists());
        let (printed, hint) = error.diagnostics().unwrap_or_default();
        format!("{error}\n{printed}\nhint: {}", hint.unwrap_or("none"))
    }
}

fn clang() -> Command {
    Command::new(Toolchain::find(Libc::Glibc).unwrap().clang())
}

/// Runs an image on one input on plain Linux and returns what it printed.
fn run(image: &Path, input: &[u8]) -> String {
    let file = image.with_extension("input");
    fs::write(&file, input).unwrap();
    let output = Command::new(image).arg(&file).output().unwrap();
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn harness(body: &str) -> String {
    format!("{ENTRY}\n{{\n    (void)data;\n    (void)size;\n{body}\n    return 0;\n}}")
}

#[test]
fn a_harness_in_c_is_a_static_musl_image_with_coverage_symbols_and_debug_information() {
    let project = Project::new();
    let body = "    if (size > 0 && data[0] == 'x') return -1;";
    let source = project.source("harness.c", &harness(body));
    let built = project.build(&[source], "").unwrap();
    assert_eq!(built.libc, Libc::Musl);
    assert!(built.counters >= 3, "{}", built.counters);
    assert_eq!(built.warnings, "");

    let bytes = fs::read(&built.image).unwrap();
    let elf = object::File::parse(&*bytes).unwrap();
    let symbol = |name: &str| elf.symbols().find(|s| s.name() == Ok(name)).map(|s| s.address());
    let start = symbol("__start___sancov_cntrs").unwrap();
    let stop = symbol("__stop___sancov_cntrs").unwrap();
    assert_eq!(usize::try_from(stop - start).unwrap(), built.counters);
    assert!(symbol("LLVMFuzzerTestOneInput").is_some());
    assert!(elf.section_by_name(".debug_line").is_some());

    // Nothing shares the counters' pages.
    let pages = start..stop.next_multiple_of(4096);
    assert!(pages.start.is_multiple_of(4096));
    for section in elf.sections().filter(|s| s.address() != 0 && s.name() != Ok("__sancov_cntrs")) {
        let end = section.address() + section.size();
        assert!(
            end <= pages.start || section.address() >= pages.end,
            "{:?} is on the counters' pages",
            section.name()
        );
    }
}

/// The promise of counters.ld does not depend on the linker: the same objects by GNU ld.
#[test]
fn counters_have_pages_of_their_own_with_gnu_ld_too() {
    let project = Project::new();
    let source = project.source("harness.c", &harness("    if (size > 3) return -1;"));
    let runtime = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guest/runtime");
    let object = project.path("harness.o");
    let succeed = |command: &mut Command| assert!(command.status().unwrap().success());
    succeed(
        clang().args(["-O1", "-fno-pie", "-fsanitize-coverage=inline-8bit-counters,pc-table", "-c"]).args([
            &source,
            Path::new("-o"),
            &object,
        ]),
    );
    let mut link = clang();
    link.args(["-O1", "-static", "-no-pie", "-fno-pie", "-fuse-ld=bfd", "-Wno-unused-command-line-argument"])
        .arg(&object);
    for file in ["assert.c", "compare.c", "driver.c", "image.c", "sancov.c", "standalone.c"] {
        link.arg(runtime.join(file));
    }
    for name in
        ["memcmp", "bcmp", "strcmp", "strncmp", "strcasecmp", "strncasecmp", "strstr", "strcasestr", "memmem"]
    {
        link.arg(format!("-Wl,--wrap={name}"));
    }
    let image = project.path("bfd.img");
    link.arg(format!("-Wl,-T,{}", runtime.join("counters.ld").display())).arg("-o").arg(&image);
    succeed(&mut link);

    let bytes = fs::read(&image).unwrap();
    let elf = object::File::parse(&*bytes).unwrap();
    let section = elf.section_by_name("__sancov_cntrs").unwrap();
    assert!(section.address().is_multiple_of(4096) && section.size() == 4096);
    assert!(run(&image, b"four").contains("Executed"));
}

#[test]
fn a_harness_in_cxx_is_a_static_glibc_image_and_may_be_mixed_with_c() {
    let project = Project::new();
    let main = project.source(
        "harness.cc",
        &format!(
            "#include <stdexcept>\n#include <string>\nextern \"C\" int helper(int);\n\
             static const std::string prefix = \"it is \";\n\
             extern \"C\" {ENTRY}\n{{\n try {{ if (size) throw std::runtime_error(prefix + \"caught\"); }}\n\
             catch (const std::exception &e) {{ return helper(e.what()[0]) + data[0] * 0; }}\n return 0;\n}}"
        ),
    );
    let helper = project.source("helper.c", "int helper(int c) { int class = c; return class == 'i'; }");
    let built = project.build(&[main, helper], "-std=c++17 -std=c11").unwrap();
    assert_eq!(built.libc, Libc::Glibc);
    assert!(run(&built.image, b"x").contains("Executed"));
}

#[test]
fn building_twice_gives_the_same_bytes() {
    let project = Project::new();
    let source =
        project.source("harness.c", &format!("#include <unifork.h>\n{}", harness("UNIFORK_ASSERT(1);")));
    let first = fs::read(project.build(std::slice::from_ref(&source), "").unwrap().image).unwrap();
    fs::remove_file(project.path("out.img")).unwrap();
    let second = fs::read(project.build(&[source], "").unwrap().image).unwrap();
    assert!(first == second);
}

#[test]
fn objects_and_archives_are_linked_and_user_flags_win_over_ours() {
    let project = Project::new();
    let source =
        project.source("harness.c", &format!("int in_library(void);\n{}", harness("return in_library();")));
    let library = project.source("library.c", "int in_library(void) { return ANSWER; }");
    let object = project.path("library.o");
    let archive = project.path("liblibrary.a");
    let compiled =
        clang().args(["-DANSWER=7", "-fno-pie", "-c"]).args([&library, Path::new("-o"), &object]).status();
    assert!(compiled.unwrap().success());
    assert!(Command::new("ar").arg("rcs").args([&archive, &object]).status().unwrap().success());

    project.build(&[source.clone(), object], "-O0").unwrap();
    project.build(&[source.clone(), archive], "").unwrap();
    let search = format!("-L{} -l library", project.folder.path().display());
    project.build(&[source], &search).unwrap();
}

#[test]
fn only_what_changed_is_compiled_again_when_objects_are_kept() {
    let project = Project::new();
    fs::write(project.path("value.h"), "#define VALUE 1\n").unwrap();
    let source = project.source("harness.c", &format!("#include \"value.h\"\n{}", harness("return VALUE;")));
    let other = project.source("other.c", "int other;");
    let mut request = project.request(&[source, other], "").unwrap();
    request.object_cache = Some(project.path("objects"));

    let first = build(&request).unwrap();
    assert_eq!((first.reused, first.compiled), (0, 9), "two files and seven of the runtime");
    let again = build(&request).unwrap();
    assert_eq!((again.reused, again.compiled), (9, 0));
    fs::write(project.path("value.h"), "#define VALUE 2\n").unwrap();
    let changed = build(&request).unwrap();
    assert_eq!((changed.reused, changed.compiled), (8, 1));
    request.flags.compile.push("-O2".into());
    let optimised = build(&request).unwrap();
    assert_eq!((optimised.reused, optimised.compiled), (7, 2), "the runtime is not the user's");
}

#[test]
fn seeds_and_dictionary_come_to_lie_beside_the_image() {
    let project = Project::new();
    let source = project.source("harness.c", &harness(""));
    fs::create_dir(project.path("in")).unwrap();
    fs::write(project.path("in/one"), "1").unwrap();
    fs::write(project.path("words"), "\"word\"\n").unwrap();
    let mut request = project.request(&[source], "").unwrap();
    request.seeds = Some(project.path("in"));
    request.dictionary = Some(project.path("words"));
    let built = build(&request).unwrap();
    assert_eq!(built.seeds, Some(project.path("out.seeds")));
    assert_eq!(fs::read(project.path("out.seeds/one")).unwrap(), b"1");
    assert_eq!(fs::read(project.path("out.dict")).unwrap(), b"\"word\"\n");
}

#[test]
fn what_clang_says_is_passed_on() {
    let project = Project::new();
    let source = project.source("harness.c", &harness("    undeclared = 1;"));
    let said = project.refused(&[source], "");
    assert!(said.contains("error: use of undeclared identifier 'undeclared'"), "{said}");
    assert!(said.contains("hint: none"), "{said}");
}

#[test]
fn causes_that_are_ours_come_with_what_to_change() {
    let project = Project::new();
    let good = project.source("good.c", &harness(""));
    let no_entry = project.source("no_entry.c", "int something_else;");
    let mangled = project.source("mangled.cc", &harness(""));
    let own_main = project.source("own_main.c", &format!("{}\nint main(void) {{ return 0; }}", harness("")));
    let header = project.source("header.c", &format!("#include <nowhere.h>\n{}", harness("")));
    for (files, arguments, part) in [
        (vec![no_entry.clone()], "", "none of the files defines int LLVMFuzzerTestOneInput"),
        (vec![mangled], "", "extern \"C\""),
        (vec![own_main], "", "the image's main is unifork's"),
        (vec![header], "", "name the folder of nowhere.h with -I"),
        (vec![good.clone()], "-lnowhere", "libnowhere.a is needed, built for musl"),
        (vec![good.clone()], "-shared", "an image is a static program"),
        (vec![good.clone()], "-fsanitize=address", "address sanitizer is not supported yet"),
        (vec![good.clone()], "--target=aarch64-linux-gnu", "x86-64 Linux only"),
        (vec![good.clone()], "-fno-sanitize-coverage=inline-8bit-counters,pc-table", "no coverage:"),
        (vec![good.clone()], "-Wl,-Ttext=0x70000000", "is outside of what a guest has for it"),
        (vec![project.path("nowhere.c")], "", "no such file"),
        (vec![project.path("library.so")], "", "an image is static"),
        (vec![project.path("notes.txt")], "", "not a C or C++ source"),
        (vec![], "", "no source files"),
    ] {
        let said = project.refused(&files, arguments);
        assert!(said.contains(part), "{files:?} {arguments}: {said}");
    }
}

#[test]
fn outputs_and_seeds_that_cannot_be_are_refused_before_compiling() {
    let project = Project::new();
    let source = project.source("harness.c", &harness(""));
    let mut request = project.request(&[source], "").unwrap();
    request.seeds = Some(project.path("nowhere"));
    assert!(build(&request).unwrap_err().to_string().contains("no such file"));
    fs::create_dir(project.path("empty")).unwrap();
    request.seeds = Some(project.path("empty"));
    assert!(build(&request).unwrap_err().to_string().contains("has no files"));
    request.seeds = None;
    request.dictionary = Some(project.path("nowhere"));
    assert!(build(&request).unwrap_err().to_string().contains("no such file"));
    request.dictionary = None;
    request.output = project.path("out");
    assert!(build(&request).unwrap_err().to_string().contains("must end in .img"));
}

#[test]
fn a_build_that_fails_leaves_the_old_image() {
    let project = Project::new();
    let source = project.source("harness.c", &harness(""));
    let built = project.build(std::slice::from_ref(&source), "").unwrap();
    let before = fs::read(&built.image).unwrap();
    project.source("harness.c", "#error no more");
    project.build(&[source], "").unwrap_err();
    assert!(fs::read(&built.image).unwrap() == before);
}

/// A harness that was written for libFuzzer, built the way its own build line says.
#[test]
fn the_flags_of_a_libfuzzer_build_line_are_enough() {
    let project = Project::new();
    let source = project.source("harness.c", &harness("    if (size > 2 && data[1] == 7) __builtin_trap();"));
    project.build(&[source], "-g -O2 -fsanitize=fuzzer,undefined -fno-sanitize-recover=undefined").unwrap();
}
