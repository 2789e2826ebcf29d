//! What is said about an image from outside: all that an agent would say itself, and what no image says.
//!
//! Addresses are linear, in the page tables of the moment of the snapshot.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use kvm_bindings::kvm_regs;
use serde::{Deserialize, Serialize};

use crate::introspect::Block;

/// The terms on which an image is run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// Files with its symbols, before the image's own. The image that boots is often stripped.
    pub symbols: Vec<SymbolFile>,
    /// For an image without an agent: what an agent would say.
    pub agentless: Option<Agentless>,
    /// What a crash of it looks like, besides what the machine sees itself.
    pub panics: Panics,
    /// Blocks of its code that count as edges: each is noticed by a breakpoint, once.
    pub blocks: Vec<Block>,
}

/// A file with symbols and debug information of code in the image.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SymbolFile {
    /// What it is called.
    pub name: String,
    /// The file: ELF, for x86-64.
    pub bytes: Arc<[u8]>,
    /// How far above where it was linked its code runs.
    pub bias: u64,
}

impl fmt::Debug for SymbolFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("SymbolFile");
        shown.field("name", &self.name).field("bias", &self.bias).finish_non_exhaustive()
    }
}

/// Where an image without an agent is frozen, where its inputs go, and where its runs end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agentless {
    /// Where it is frozen.
    pub snapshot: SnapshotAt,
    /// Where inputs go.
    pub input: InputTo,
    /// Where a run is over and has ended well; besides, when the image ends its machine.
    pub ends: Vec<EndAt>,
}

/// When an image without an agent is frozen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SnapshotAt {
    /// Before the instruction here is executed for the first time.
    Address(u64),
    /// When it has written this to its console.
    Console(Vec<u8>),
    /// When it has run for so long, by the host's clock.
    After(Duration),
}

/// Where inputs go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum InputTo {
    /// To memory.
    Memory {
        /// The first byte.
        at: u64,
        /// The longest input.
        max: u64,
        /// Where its length goes: address, and bytes (1, 2, 4 or 8).
        length: Option<(u64, u64)>,
    },
    /// To where a register points at the snapshot.
    Registers {
        /// That register.
        pointer: Register,
        /// The one that the length goes to.
        length: Option<Register>,
        /// The longest input; unless given, the length that is in its register at the snapshot.
        max: Option<u64>,
    },
    /// To the first network card, as a frame.
    Net {
        /// The longest input.
        max: u64,
    },
    /// To the serial line, as if it were typed.
    Serial {
        /// The longest input.
        max: u64,
    },
}

/// Where a run ends well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EndAt {
    /// Before the instruction here.
    Address(u64),
    /// When the function returns before whose first instruction the image was frozen.
    Return,
    /// When it has written this to its console.
    Console(Vec<u8>),
    /// When it halts with interrupts off, which is a panic otherwise.
    Halt,
}

/// What a crash of an image looks like.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Panics {
    /// The profile that says so; empty for none.
    pub name: String,
    /// Places that are reached only then.
    pub points: Vec<PanicPoint>,
    /// Parts of a line on the console that is printed only then. The run ends with the line.
    pub console: Vec<String>,
    /// What begins the message of an assertion that does not hold.
    pub assertions: Vec<String>,
    /// What is written to the debug-exit port only then.
    pub exits: Vec<u32>,
}

/// A place that an image reaches when it crashes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PanicPoint {
    /// Its address.
    pub address: u64,
    /// What it is called.
    pub name: String,
    /// It is a crash only if this register, cut to so many bits, has this value.
    pub when: Option<(Register, u32, u64)>,
    /// Registers that point to what it says: a text, whose `%s` are replaced by the others.
    pub message: Vec<Register>,
}

/// A general register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Register(u8);

const NAMES: [&str; 16] = [
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
    "r15",
];

impl Register {
    pub(crate) fn of(self, regs: &mut kvm_regs) -> &mut u64 {
        match self.0 {
            0 => &mut regs.rax,
            1 => &mut regs.rbx,
            2 => &mut regs.rcx,
            3 => &mut regs.rdx,
            4 => &mut regs.rsi,
            5 => &mut regs.rdi,
            6 => &mut regs.rbp,
            7 => &mut regs.rsp,
            8 => &mut regs.r8,
            9 => &mut regs.r9,
            10 => &mut regs.r10,
            11 => &mut regs.r11,
            12 => &mut regs.r12,
            13 => &mut regs.r13,
            14 => &mut regs.r14,
            _ => &mut regs.r15,
        }
    }
}

impl FromStr for Register {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let number = (0..).zip(NAMES).find(|(_, known)| *known == name).map(|(number, _)| Self(number));
        number.ok_or_else(|| format!("no register is called `{name}`: use rax to r15"))
    }
}

impl fmt::Display for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(NAMES.get(usize::from(self.0)).unwrap_or(&"?"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_register_has_its_own_place_and_name() {
        let mut regs = kvm_regs::default();
        for (value, name) in (1..).zip(NAMES) {
            let register: Register = name.parse().unwrap();
            assert_eq!(register.to_string(), name);
            *register.of(&mut regs) = value;
        }
        for (value, name) in (1..).zip(NAMES) {
            assert_eq!(*name.parse::<Register>().unwrap().of(&mut regs), value, "{name}");
        }
        assert_eq!((regs.rdi, regs.rsi, regs.r15), (6, 5, 16));
        assert!("eax".parse::<Register>().is_err());
    }
}
