//! The terms on which an image with a kernel of its own is fuzzed, from flags: where an image without an agent is
//! frozen, where inputs go, where runs end, what a crash looks like, and which code counts.

use std::path::Path;
use std::sync::Arc;

use anyhow::anyhow;
use serde::{Deserialize, Serialize};
use unifork_vmm::foreign::{Agentless, EndAt, InputTo, SnapshotAt, SymbolFile, Terms};
use unifork_vmm::introspect::Symbols;

use crate::cmd::Failure;
use crate::cmd::run::kernel::first;
use crate::units;

mod cover;
mod panics;
mod pattern;

/// The longest input that comes by a device.
const STREAM_MAX: u64 = 64 << 10;
/// And of a network card: a frame of Ethernet.
const FRAME_MAX: u64 = 1514;

/// Flags for images without an agent, and for what no image says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::Args)]
#[command(next_help_heading = "For a kernel without an agent")]
pub(crate) struct TermsArgs {
    /// Where it is frozen: symbol:NAME, addr:0x..., console:TEXT, or after:TIME
    #[arg(long, value_name = "WHERE")]
    #[serde(default)]
    pub(crate) snapshot_at: Option<String>,
    /// Where inputs go: regs:POINTER[,LENGTH][,max=N], symbol:NAME[,max=N][,len=NAME], addr:0x...,max=N,
    /// serial[,max=N], or net[,max=N]
    #[arg(long, value_name = "WHERE")]
    #[serde(default)]
    pub(crate) input_to: Option<String>,
    /// Where a run ends well: return, symbol:NAME, addr:0x..., console:TEXT, halt, or power-off, which always
    /// does; may be given again [default: return, after symbol: or addr:]
    #[arg(long, value_name = "WHERE")]
    #[serde(default)]
    pub(crate) end_at: Vec<String>,
    /// What a crash of it looks like: unikraft, hermit, solo5, nanos, linux, a file, or none [default: by its
    /// symbols]
    #[arg(long, value_name = "NAME|FILE")]
    #[serde(default)]
    pub(crate) panic_profile: Option<String>,
    /// Code whose blocks count as edges, by breakpoints: all, none, or functions, names with `*` or addresses
    /// 0x...-0x..., with commas [default: all, unless it has an agent]
    #[arg(long, value_name = "CODE", value_delimiter = ',')]
    #[serde(default)]
    pub(crate) cover: Vec<String>,
}

impl TermsArgs {
    /// The first flag of them that was given.
    pub(crate) fn given(&self) -> Option<&'static str> {
        let flags = [
            ("--snapshot-at", self.snapshot_at.is_some()),
            ("--input-to", self.input_to.is_some()),
            ("--end-at", !self.end_at.is_empty()),
            ("--panic-profile", self.panic_profile.is_some()),
            ("--cover", !self.cover.is_empty()),
        ];
        first(&flags)
    }

    /// The same from any folder.
    pub(crate) fn absolute(&self) -> Self {
        let whole = |named: &String| {
            let path = Path::new(named);
            if path.is_file() {
                std::path::absolute(path).map_or_else(|_| named.clone(), |path| path.display().to_string())
            } else {
                named.clone()
            }
        };
        Self { panic_profile: self.panic_profile.as_ref().map(whole), ..self.clone() }
    }

    /// What they mean for `image`, which is called `name`.
    pub(crate) fn resolve(
        &self,
        name: &str,
        image: &Arc<[u8]>,
        files: Vec<SymbolFile>,
    ) -> Result<Terms, Failure> {
        let mut symbols = Symbols::new();
        let known = files.iter().map(|file| (file.name.as_str(), &file.bytes, file.bias));
        for (name, bytes, bias) in known.chain([(name, image, 0)]) {
            if let Err(error) = symbols.load(name, Arc::clone(bytes), bias) {
                log::info!("no symbols: {error}");
            }
        }
        let agentless = self.agentless(&symbols)?;
        let panics = panics::find(self.panic_profile.as_deref(), &symbols)?;
        let counts = symbols.sanitizer_counters().is_some();
        let blocks = cover::find(&self.cover, agentless.is_some() && !counts, &symbols)?;
        Ok(Terms { symbols: files, agentless, panics, blocks })
    }

    fn agentless(&self, symbols: &Symbols) -> Result<Option<Agentless>, Failure> {
        let (Some(snapshot), Some(input)) = (&self.snapshot_at, &self.input_to) else {
            if self.snapshot_at.is_none() && self.input_to.is_none() && self.end_at.is_empty() {
                return Ok(None);
            }
            let error = anyhow!("an image without an agent needs both --snapshot-at and --input-to");
            return Err(
                Failure::usage(error).help("as in --snapshot-at symbol:parse --input-to regs:rdi,rsi")
            );
        };
        let snapshot =
            snapshot_at(snapshot, symbols).map_err(|text| wrong("--snapshot-at", snapshot, &text))?;
        let input = input_to(input, symbols).map_err(|text| wrong("--input-to", input, &text))?;
        let mut ends = Vec::new();
        for named in &self.end_at {
            ends.extend(end_at(named, symbols).map_err(|text| wrong("--end-at", named, &text))?);
        }
        if ends.contains(&EndAt::Return) && !matches!(snapshot, SnapshotAt::Address(_)) {
            return Err(wrong(
                "--end-at",
                "return",
                "no function is known that would return: --snapshot-at names none",
            ));
        }
        if self.end_at.is_empty() && matches!(snapshot, SnapshotAt::Address(_)) {
            ends.push(EndAt::Return);
        }
        Ok(Some(Agentless { snapshot, input, ends }))
    }
}

fn wrong(flag: &str, value: &str, text: &str) -> Failure {
    Failure::usage(anyhow!("{flag} {value}: {text}")).help("docs/agentless.md has all forms")
}

fn address(kind: &str, value: &str, symbols: &Symbols) -> Result<u64, String> {
    match kind {
        "addr" => units::address(value),
        _ => symbol(value, symbols).map(|(address, _)| address),
    }
}

fn symbol(name: &str, symbols: &Symbols) -> Result<(u64, u64), String> {
    let functions = || symbols.find(name).map(|address| (address, 0));
    symbols
        .find_any(name)
        .or_else(functions)
        .ok_or_else(|| format!("no symbol is called `{name}`; `--symbols FILE` names a file with symbols"))
}

fn snapshot_at(text: &str, symbols: &Symbols) -> Result<SnapshotAt, String> {
    match text.split_once(':') {
        Some((kind @ ("symbol" | "addr"), value)) => Ok(SnapshotAt::Address(address(kind, value, symbols)?)),
        Some(("console", value)) if !value.is_empty() => Ok(SnapshotAt::Console(value.as_bytes().to_vec())),
        Some(("after", value)) => Ok(SnapshotAt::After(units::duration(value)?)),
        _ => Err("it is symbol:NAME, addr:0x..., console:TEXT, or after:TIME".to_owned()),
    }
}

fn end_at(text: &str, symbols: &Symbols) -> Result<Option<EndAt>, String> {
    match text.split_once(':') {
        Some((kind @ ("symbol" | "addr"), value)) => Ok(Some(EndAt::Address(address(kind, value, symbols)?))),
        Some(("console", value)) if !value.is_empty() => Ok(Some(EndAt::Console(value.as_bytes().to_vec()))),
        None if text == "return" => Ok(Some(EndAt::Return)),
        None if text == "halt" => Ok(Some(EndAt::Halt)),
        // It always does.
        None if text == "power-off" => Ok(None),
        _ => Err("it is return, symbol:NAME, addr:0x..., console:TEXT, halt, or power-off".to_owned()),
    }
}

fn input_to(text: &str, symbols: &Symbols) -> Result<InputTo, String> {
    let forms = "it is regs:POINTER[,LENGTH], symbol:NAME, addr:0x..., serial, or net";
    let mut parts = text.split(',');
    let (kind, value) = parts.next().map_or(("", ""), |first| first.split_once(':').unwrap_or((first, "")));
    let (mut max, mut length_at, mut plain) = (None, None, Vec::new());
    for part in parts {
        match part.split_once('=') {
            Some((option @ "max", _)) if max.is_some() => return Err(format!("`{option}` is there twice")),
            Some((option @ "len", _)) if length_at.is_some() => {
                return Err(format!("`{option}` is there twice"));
            }
            Some(("max", value)) => max = Some(units::size(value)?),
            Some(("len", value)) => {
                let (at, bytes) = match units::address(value) {
                    Ok(address) => (address, 8),
                    Err(_) => symbol(value, symbols)?,
                };
                length_at = Some((at, if matches!(bytes, 1 | 2 | 4) { bytes } else { 8 }));
            }
            Some(_) => return Err(format!("`{part}` is none of its options: max=N, len=NAME")),
            None => plain.push(part),
        }
    }
    let memory = kind == "symbol" || kind == "addr";
    if length_at.is_some() && !memory || !plain.is_empty() && kind != "regs" || plain.len() > 1 {
        return Err(forms.to_owned());
    }
    match kind {
        "regs" => {
            let length = plain.first().map(|name| name.parse()).transpose()?;
            if length.is_none() && max.is_none() {
                return Err("without a register for the length, it needs max=N".to_owned());
            }
            let pointer = value.parse()?;
            if length == Some(pointer) {
                return Err("one register cannot take both the address and the length".to_owned());
            }
            Ok(InputTo::Registers { pointer, length, max })
        }
        "symbol" | "addr" => {
            let (at, bytes) =
                if kind == "addr" { (units::address(value)?, 0) } else { symbol(value, symbols)? };
            let max = max.or((bytes > 0).then_some(bytes));
            let max = max.ok_or("how long inputs may be is not known: add max=N")?;
            if at.checked_add(max).is_none() {
                return Err(format!("{max} bytes do not fit there: no address is so far up"));
            }
            Ok(InputTo::Memory { at, max, length: length_at })
        }
        "serial" if value.is_empty() => Ok(InputTo::Serial { max: max.unwrap_or(STREAM_MAX) }),
        "net" if value.is_empty() => Ok(InputTo::Net { max: max.unwrap_or(FRAME_MAX) }),
        _ => Err(forms.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_they_are_written() {
        let none = Symbols::new();
        assert_eq!(snapshot_at("addr:0x10", &none), Ok(SnapshotAt::Address(16)));
        assert_eq!(snapshot_at("console:a:b", &none), Ok(SnapshotAt::Console(b"a:b".to_vec())));
        assert!(snapshot_at("symbol:main", &none).unwrap_err().contains("--symbols"));
        assert!(snapshot_at("console:", &none).is_err());
        assert_eq!(end_at("power-off", &none), Ok(None));
        assert_eq!(end_at("return", &none), Ok(Some(EndAt::Return)));
        assert!(end_at("return:now", &none).is_err());
        let (pointer, length) = ("rdi".parse().unwrap(), Some("rsi".parse().unwrap()));
        assert_eq!(input_to("regs:rdi,rsi", &none), Ok(InputTo::Registers { pointer, length, max: None }));
        assert_eq!(
            input_to("regs:rdi,max=4K", &none),
            Ok(InputTo::Registers { pointer, length: None, max: Some(4096) })
        );
        assert_eq!(
            input_to("addr:0x20,max=8,len=0x40", &none),
            Ok(InputTo::Memory { at: 32, max: 8, length: Some((64, 8)) })
        );
        assert_eq!(input_to("net", &none), Ok(InputTo::Net { max: FRAME_MAX }));
        for bad in [
            "regs:rdi",
            "regs:edi,rsi",
            "addr:0x20",
            "serial:x",
            "serial,rdi",
            "net,len=0x1",
            "disk",
            "",
            "regs:rdi,rdi",
            "serial,max=4K,max=5K",
            "addr:0xffffffffffffffff,max=16",
        ] {
            assert!(input_to(bad, &none).is_err(), "{bad}");
        }
    }
}
