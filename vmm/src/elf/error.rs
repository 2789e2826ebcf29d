//! Files that cannot be loaded: what they are instead, and what to do about it.

use std::io;
use std::path::PathBuf;

use object::elf;
use thiserror::Error;
use unifork_abi::ABI_VERSION;

/// What a script is for whose first line names nothing.
const NO_INTERPRETER: &str = "an interpreter that it does not name";
/// Bytes of a script's first line that Linux looks at (`BINPRM_BUF_SIZE`).
const INTERPRETER_LINE_MAX: usize = 256;

/// Why a file cannot be loaded.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not an ELF file, or one whose headers point outside of it.
    #[error("{name} is not a usable ELF file: {reason}")]
    Malformed {
        /// The file.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// Some other kind of file.
    #[error("{name} is not an ELF executable: {what}")]
    NotElf {
        /// The file.
        name: String,
        /// What it is instead.
        what: String,
    },
    /// Text for an interpreter.
    #[error("{name} is a script, for {interpreter}")]
    Script {
        /// The file.
        name: String,
        /// What its first line names.
        interpreter: String,
    },
    /// Another architecture.
    #[error("{name} is for {}, not for x86-64", architecture(*machine))]
    WrongMachine {
        /// The file.
        name: String,
        /// `e_machine`.
        machine: u16,
    },
    /// For x86-64's older modes, or its x32 ABI.
    #[error("{name} is a 32-bit executable, not one for x86-64")]
    ThirtyTwoBits {
        /// The file.
        name: String,
    },
    /// It asks for a dynamic linker.
    #[error("{name} is dynamically linked: it asks for {interpreter}")]
    Dynamic {
        /// The file.
        name: String,
        /// What `PT_INTERP` names.
        interpreter: String,
    },
    /// A segment lies where it may not.
    #[error(
        "{name}: segment {start:#x}..{end:#x} is outside of {low:#x}..{high:#x}; link it lower, or smaller"
    )]
    Outside {
        /// The file.
        name: String,
        /// First address of the segment.
        start: u64,
        /// First address past it.
        end: u64,
        /// Lowest address allowed.
        low: u64,
        /// First address past the highest allowed.
        high: u64,
    },
    /// Two segments claim the same bytes.
    #[error("{name}: two segments overlap at {at:#x}")]
    Overlap {
        /// The file.
        name: String,
        /// Where.
        at: u64,
    },
    /// Counters share a page with other data, which would then never be put back.
    #[error("{name}: the coverage counters share a page with {section}; link it with `unifork build`")]
    SharedCounters {
        /// The file.
        name: String,
        /// The section that shares.
        section: String,
    },
    /// Built against another version of the runtime.
    #[error("{name} was built for ABI version {found}, this build uses {ABI_VERSION}; build it again")]
    Version {
        /// The file.
        name: String,
        /// The version in the file.
        found: u32,
    },
}

impl ImageError {
    /// What to do about it.
    #[must_use]
    pub fn help(&self) -> String {
        match self {
            Self::Script { interpreter, .. } if interpreter == NO_INTERPRETER => {
                "name one in its first line, and run that, linked statically, with the script in its root"
                    .to_owned()
            }
            Self::Script { interpreter, .. } => {
                format!(
                    "run its interpreter, linked statically, with the script in its root: {interpreter} SCRIPT"
                )
            }
            Self::Dynamic { .. } => {
                "link it statically (-static), or pass a static build of the program".to_owned()
            }
            Self::WrongMachine { .. } | Self::ThirtyTwoBits { .. } => {
                "build it for 64-bit x86, as with --target=x86_64-linux-musl".to_owned()
            }
            _ => "an image is a static x86-64 Linux ELF; `unifork build` makes one from a libFuzzer harness"
                .to_owned(),
        }
    }
}

/// The usual name of an `e_machine`.
fn architecture(machine: u16) -> String {
    let known = [
        (elf::EM_386, "32-bit x86"),
        (elf::EM_ARM, "32-bit ARM"),
        (elf::EM_AARCH64, "aarch64"),
        (elf::EM_RISCV, "RISC-V"),
        (elf::EM_PPC64, "64-bit PowerPC"),
        (elf::EM_S390, "s390"),
        (elf::EM_MIPS, "MIPS"),
    ];
    let found = known.iter().find(|(number, _)| number.0 == machine);
    found.map_or_else(
        || format!("another architecture (ELF machine {machine})"),
        |(_, name)| (*name).to_owned(),
    )
}

/// Says what a file is that is not a 64-bit ELF file, as the kernel's loaders would find out.
pub(super) fn check_kind(name: &str, bytes: &[u8]) -> Result<(), ImageError> {
    const CLASS: usize = 4;
    let name = name.to_owned();
    if let Some(line) = bytes.strip_prefix(b"#!") {
        let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let line = String::from_utf8_lossy(&line[..line.len().min(INTERPRETER_LINE_MAX)]).trim().to_owned();
        let interpreter = if line.is_empty() { NO_INTERPRETER.to_owned() } else { line };
        return Err(ImageError::Script { name, interpreter });
    }
    let what = match bytes {
        [] => "it is empty",
        _ if !bytes.starts_with(b"\x7fELF") => {
            "it does not begin with the letters ELF, as all executables do"
        }
        _ if bytes.len() <= CLASS => "it ends behind its first letters: it is truncated",
        _ if bytes[CLASS] == elf::ELFCLASS32.0 => {
            // At the same place in files of both classes.
            let machine = bytes.get(18..20).map_or(0, |found| u16::from_le_bytes([found[0], found[1]]));
            let of_x86 = [elf::EM_386.0, elf::EM_X86_64.0].contains(&machine);
            return Err(if of_x86 {
                ImageError::ThirtyTwoBits { name }
            } else {
                ImageError::WrongMachine { name, machine }
            });
        }
        _ => return Ok(()),
    };
    Err(ImageError::NotElf { name, what: what.to_owned() })
}
