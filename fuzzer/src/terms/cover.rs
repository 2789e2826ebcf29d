//! Which blocks of an image's code count as edges.

use std::ops::Range;

use anyhow::anyhow;
use unifork_vmm::introspect::{Block, Symbols, blocks};

use super::pattern::Pattern;
use crate::cmd::Failure;
use crate::units;

/// Blocks that are found for `--cover`.
pub(super) fn find(wanted: &[String], by_default: bool, symbols: &Symbols) -> Result<Vec<Block>, Failure> {
    let everything = [String::from("all")];
    let wanted = if wanted.is_empty() && by_default { &everything } else { wanted };
    let mut found = Vec::new();
    for part in wanted {
        let before = found.len();
        match part.as_str() {
            "none" => continue,
            "all" => found.extend(blocks(symbols, |_, _| true)),
            range if range.starts_with("0x") => {
                let range = parse_range(range).map_err(|error| wrong(part, &error))?;
                found.extend(blocks(symbols, |_, function| range.contains(&function.start)));
            }
            name => {
                let pattern = Pattern(name.to_owned());
                found.extend(blocks(symbols, |name, _| pattern.matches(name)));
            }
        }
        if found.len() == before {
            return Err(wrong(part, "no function with a symbol is there"));
        }
    }
    found.sort_by_key(|block| block.address);
    found.dedup_by_key(|block| block.address);
    Ok(found)
}

fn parse_range(text: &str) -> Result<Range<u64>, String> {
    let (start, end) =
        text.split_once('-').ok_or_else(|| format!("`{text}` is not a range, as in 0x1000-0x2000"))?;
    Ok(units::address(start)?..units::address(end)?)
}

fn wrong(part: &str, text: &str) -> Failure {
    Failure::usage(anyhow!("--cover {part}: {text}"))
        .help("`--symbols FILE` names a file with symbols; `--cover none` does without coverage of this kind")
}
