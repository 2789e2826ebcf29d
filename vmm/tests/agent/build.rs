//! Compiles the kernels in this folder.

use std::path::Path;
use std::process::Command;

pub(crate) const CLANG: &str = "clang-16";

/// A kernel of these sources, each with further flags or none, for the Linux 64-bit boot protocol.
pub(crate) fn image(compiler: &str, sources: &[(&str, Option<&str>)]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let run = |command: &mut Command| {
        let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        assert!(output.status.success(), "{command:?}:\n{}", String::from_utf8_lossy(&output.stderr));
    };
    let objects = sources.iter().map(|(source, flags)| {
        let name = Path::new(source).file_name().unwrap();
        let object = folder.path().join(name).with_extension("o");
        let mut compile = Command::new(compiler);
        compile.args(["-c", "-O1", "-ffreestanding", "-fno-pic", "-fno-stack-protector", "-mno-red-zone"]);
        compile.args(["-mno-sse", "-fcf-protection=none", "-Wall", "-Wextra", "-Werror"]);
        compile.arg("-I").arg(root.join("../guest/runtime/include")).arg("-o").arg(&object).args(*flags);
        run(compile.arg(root.join("tests/agent").join(source)));
        object
    });
    let objects: Vec<_> = objects.collect();
    let image = folder.path().join("kernel");
    let mut link = Command::new("ld");
    link.args(["-static", "-nostdlib", "-Ttext-segment=0x200000", "-z", "noexecstack", "-o"]);
    run(link.arg(&image).args(objects));
    std::fs::read(image).unwrap()
}
