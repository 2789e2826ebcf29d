//! Compiles the programs under `programs/`.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

const MUSL: &str = "/usr/lib/x86_64-linux-musl";

/// What compiles, and against which libc. All link statically.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Toolchain {
    /// gcc against musl.
    MuslGcc,
    /// clang and lld against musl: what harnesses are built with.
    MuslClang,
    /// clang against glibc, whose objects have call-frame information.
    Glibc,
    /// The same, as an executable that is relocated when it is loaded.
    GlibcPie,
    /// clang++ against glibc.
    Cxx,
}

/// A program on disk, for as long as this lives.
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    _folder: TempDir,
}

/// Compiles `programs/SOURCE`.
pub(crate) fn build(toolchain: Toolchain, source: &str, flags: &[&str]) -> Program {
    let (program, source) = Program::place(source);
    let compiler = match toolchain {
        Toolchain::MuslGcc => "musl-gcc",
        Toolchain::MuslClang | Toolchain::Glibc | Toolchain::GlibcPie => "clang-16",
        Toolchain::Cxx => "clang++-16",
    };
    let mut compile = Command::new(compiler);
    compile.args(flags).arg(source);
    if toolchain == Toolchain::MuslClang {
        let object = program.path.with_extension("o");
        compile.args([
            "--target=x86_64-linux-musl",
            "-isystem",
            "/usr/include/x86_64-linux-musl",
            "-c",
            "-o",
        ]);
        run(compile.arg(&object));
        let start = ["crt1.o", "crti.o"].map(|name| format!("{MUSL}/{name}"));
        let end = ["libc.a", "crtn.o"].map(|name| format!("{MUSL}/{name}"));
        run(Command::new("ld.lld-16")
            .args(["-static", "-o"])
            .arg(&program.path)
            .args(start)
            .arg(&object)
            .args(end));
    } else {
        let link: &[&str] = match toolchain {
            Toolchain::GlibcPie => &["-static-pie", "-fPIE"],
            _ => &["-static", "-no-pie"],
        };
        run(compile.args(link).arg("-o").arg(&program.path));
    }
    program
}

/// Runs a command that must succeed.
pub(crate) fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Program {
    /// A place for a program that is yet to be built, and where its source is.
    pub(crate) fn place(source: &str) -> (Self, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/introspect/programs").join(source);
        (Self { path: folder.path().join("program"), _folder: folder }, source)
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        std::fs::read(&self.path).unwrap()
    }

    /// The program without what `strip` is told to remove.
    pub(crate) fn stripped(&self, flag: &str) -> Vec<u8> {
        let path = self.path.with_extension("stripped");
        run(Command::new("strip").arg(flag).arg("-o").arg(&path).arg(&self.path));
        std::fs::read(path).unwrap()
    }
}
