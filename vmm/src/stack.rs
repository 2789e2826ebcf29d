//! The application's initial stack: arguments, environment and auxiliary vector.
//!
//! # Sources
//!
//! System V ABI, AMD64 supplement, 3.4.1 (initial stack); Linux `fs/binfmt_elf.c`,
//! `create_elf_tables`; `include/uapi/linux/auxvec.h`.

use thiserror::Error;

/// Bytes of argument and environment strings at most.
const STRINGS_BYTES_MAX: usize = 128 << 10;

/// Arguments and environment that do not fit.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum StackError {
    /// Too many bytes of strings.
    #[error("arguments and environment take {bytes} bytes, at most {STRINGS_BYTES_MAX} are allowed")]
    TooLong {
        /// How many.
        bytes: usize,
    },
    /// A string has a NUL inside.
    #[error("an argument or environment variable contains a NUL byte")]
    Nul,
}

/// What the stack is made from.
#[derive(Clone, Debug)]
pub(crate) struct Contents<'a> {
    pub args: &'a [String],
    pub env: &'a [String],
    /// Pairs of type and value; `AT_RANDOM`, `AT_EXECFN`, `AT_PLATFORM` and `AT_NULL` are added.
    pub auxv: &'a [(u64, u64)],
    pub random: [u8; 16],
}

const AT_NULL: u64 = 0;
const AT_PLATFORM: u64 = 15;
const AT_RANDOM: u64 = 25;
const AT_EXECFN: u64 = 31;

/// The bytes that end at `top`, and the initial stack pointer, which is their first address.
pub(crate) fn build(contents: &Contents<'_>, top: u64) -> Result<(Vec<u8>, u64), StackError> {
    let mut strings = Vec::new();
    let mut push = |text: &[u8]| {
        let at = strings.len();
        strings.extend_from_slice(text);
        strings.push(0);
        at as u64
    };
    if contents.args.iter().chain(contents.env).any(|s| s.contains('\0')) {
        return Err(StackError::Nul);
    }
    let args: Vec<u64> = contents.args.iter().map(|s| push(s.as_bytes())).collect();
    let env: Vec<u64> = contents.env.iter().map(|s| push(s.as_bytes())).collect();
    let platform = push(b"x86_64");
    let random = strings.len() as u64;
    strings.extend_from_slice(&contents.random);
    if strings.len() > STRINGS_BYTES_MAX {
        return Err(StackError::TooLong { bytes: strings.len() });
    }
    let base = (top - strings.len() as u64) & !15;
    let mut words = vec![args.len() as u64];
    words.extend(args.iter().map(|offset| base + offset));
    words.push(0);
    words.extend(env.iter().map(|offset| base + offset));
    words.push(0);
    let execfn = args.first().map_or(0, |offset| base + offset);
    let own = [(AT_PLATFORM, base + platform), (AT_RANDOM, base + random), (AT_EXECFN, execfn), (AT_NULL, 0)];
    words.extend(contents.auxv.iter().chain(&own).flat_map(|&(kind, value)| [kind, value]));
    let sp = (base - words.len() as u64 * 8) & !15;
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.resize((base - sp) as usize, 0);
    bytes.extend_from_slice(&strings);
    bytes.resize((top - sp) as usize, 0);
    Ok((bytes, sp))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_finds_its_arguments_where_the_abi_says() {
        let args = ["prog".to_owned(), "x".to_owned()];
        let env = ["A=b".to_owned()];
        let contents = Contents { args: &args, env: &env, auxv: &[(6, 4096)], random: [9; 16] };
        let top = 0x8000;
        let (bytes, sp) = build(&contents, top).unwrap();
        assert_eq!((sp % 16, sp + bytes.len() as u64), (0, top));
        let word = |i: usize| u64::from_le_bytes(bytes[i * 8..i * 8 + 8].try_into().unwrap());
        let text = |at: u64| {
            let from = (at - sp) as usize;
            let len = bytes[from..].iter().position(|&b| b == 0).unwrap();
            std::str::from_utf8(&bytes[from..from + len]).unwrap()
        };
        assert_eq!(word(0), 2);
        assert_eq!((text(word(1)), text(word(2)), word(3)), ("prog", "x", 0));
        assert_eq!((text(word(4)), word(5)), ("A=b", 0));
        assert_eq!((word(6), word(7)), (6, 4096));
        assert_eq!(word(10), AT_RANDOM);
        assert_eq!(bytes[(word(11) - sp) as usize], 9);
    }

    #[test]
    fn strings_that_are_too_long_or_broken_are_refused() {
        let long = ["x".repeat(STRINGS_BYTES_MAX)];
        let build_with =
            |args: &[String]| build(&Contents { args, env: &[], auxv: &[], random: [0; 16] }, 1 << 20);
        assert!(matches!(build_with(&long), Err(StackError::TooLong { .. })));
        assert_eq!(build_with(&["a\0b".to_owned()]), Err(StackError::Nul));
    }
}
