//! Building a harness for another fuzzer.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use unifork_harnesses::BuildRequest;

/// A `main` that runs the harness once, on what is on stdin.
pub(super) const ONE_RUN: &str = "\
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
__attribute__((weak)) int LLVMFuzzerInitialize(int *argc, char ***argv);
int main(int argc, char **argv) {
    static uint8_t input[1 << 20];
    if (LLVMFuzzerInitialize) LLVMFuzzerInitialize(&argc, &argv);
    size_t size = fread(input, 1, sizeof input, stdin);
    LLVMFuzzerTestOneInput(input, size);
    return 0;
}
";

/// What images are compiled with, coverage aside.
const COMMON: [&str; 3] = ["-g", "-O1", "-fno-omit-frame-pointer"];

/// What to call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Compilers<'a> {
    pub(super) c: &'a str,
    pub(super) cxx: &'a str,
    /// Flags for each file, and for the program.
    pub(super) compile: &'a [&'a str],
    pub(super) link: &'a [&'a str],
}

/// Compiles what `request` names, and `main` if one is given, to a program in `folder`.
pub(super) fn compile(
    request: &BuildRequest,
    compilers: &Compilers<'_>,
    main: Option<&str>,
    folder: &Path,
) -> Result<PathBuf, String> {
    let mut files: Vec<(PathBuf, &[String])> =
        request.units.iter().map(|unit| (unit.path.clone(), unit.flags.as_slice())).collect();
    if let Some(main) = main {
        let path = folder.join("main.c");
        fs::write(&path, main).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        files.push((path, &[]));
    }
    let mut objects = Vec::new();
    for (i, (file, flags)) in files.iter().enumerate() {
        let object = folder.join(format!("{i}.o"));
        let is_c = file.extension().is_some_and(|extension| extension == "c");
        let mut command = Command::new(if is_c { compilers.c } else { compilers.cxx });
        command.args(COMMON).args(*flags).args(&request.flags.compile).args(compilers.compile);
        command.arg("-c").arg(file).arg("-o").arg(&object);
        call(&mut command)?;
        objects.push(object);
    }
    let program = folder.join("program");
    let mut command = Command::new(compilers.cxx);
    command.args(&objects).args(&request.linked).args(compilers.link).args(&request.flags.link);
    command.args(["-lstdc++", "-lm", "-o"]).arg(&program);
    call(&mut command)?;
    Ok(program)
}

fn call(command: &mut Command) -> Result<(), String> {
    let called = command.env("AFL_QUIET", "1").stdin(Stdio::null()).output();
    let output =
        called.map_err(|error| format!("cannot run {}: {error}", command.get_program().display()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let error = said.lines().find(|line| line.contains("error")).or(said.lines().next());
    Err(format!("it does not build: {}", error.unwrap_or("the compiler failed").trim()))
}
