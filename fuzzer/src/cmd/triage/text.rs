//! Groups in words.

use std::fmt::Write as _;
use std::ops::Range;

use unifork_abi::LOWEST_VA;
use unifork_vmm::introspect::AccessKind;

use super::facts::{Held, Rip};
use super::group::Group;
use super::{Lost, Sorted};
use crate::units::{plural, show_count};

/// Registers that are named one by one because bytes of the input reach them.
const REGISTERS_MAX: usize = 6;
/// Ranges of bytes that are written out.
const RANGES_MAX: usize = 8;

/// `index.txt`.
pub(super) fn index(sorted: &Sorted) -> String {
    let mut text = format!("{}\n", summary(sorted));
    for group in &sorted.groups {
        let _ = writeln!(text, "\n{}\n  {}", group.name, group.sentence);
        let _ = writeln!(text, "  {}", stack(group));
        let _ =
            writeln!(text, "  {}, smallest {} bytes", findings(group), show_count(group.input.len() as u64));
    }
    if !sorted.not_reproduced.is_empty() {
        text.push_str("\nnot made again:\n");
        for Lost { path, why } in &sorted.not_reproduced {
            let _ = writeln!(text, "  {}: {why}", path.display());
        }
    }
    text
}

/// How many of what.
pub(super) fn summary(sorted: &Sorted) -> String {
    let members = sorted.groups.iter().map(|group| group.members.len()).sum();
    format!("{} in {}", plural(members, "finding"), plural(sorted.groups.len(), "group"))
}

/// `report.txt`.
pub(super) fn group(group: &Group) -> String {
    let mut text = format!("{}\n\n", group.name);
    for (name, value) in facts(group) {
        let _ = writeln!(text, "{name:<9} {value}");
    }
    let _ = writeln!(text, "{:<9} {}", "again", group.command());
    let _ = write!(text, "\n{}", group.report);
    text.push_str("\nfindings of this group:\n");
    for member in &group.members {
        let bytes = show_count(member.bytes as u64);
        let _ = writeln!(text, "  {bytes:>9} bytes  {}  {}", member.name, member.path.display());
    }
    text
}

pub(super) fn findings(group: &Group) -> String {
    plural(group.members.len(), "finding")
}

/// The normalised stack in a line.
pub(super) fn stack(group: &Group) -> String {
    let mut text = group.stack.join(" < ");
    if let Some(place) = &group.place {
        let _ = write!(text, " ({place})");
    }
    text
}

/// What is known, with a name for each.
pub(super) fn facts(group: &Group) -> Vec<(&'static str, String)> {
    let facts = &group.facts;
    let repeats = if group.agreed == group.runs {
        format!("yes, in {} of {} fresh forks", group.agreed, group.runs)
    } else {
        format!("unstable: {} of {} fresh forks", group.agreed, group.runs)
    };
    let mut all = vec![
        ("what", group.sentence.clone()),
        ("where", stack(group)),
        ("repeats", repeats),
        ("input", format!("{} bytes", show_count(group.input.len() as u64))),
        ("image", group.image.display().to_string()),
    ];
    if let Some(access) = &facts.access {
        let near = if facts.near_null {
            format!("; near null: below {LOWEST_VA:#x}, where nothing is ever mapped")
        } else {
            String::new()
        };
        all.push(("access", format!("{access}{near}")));
    }
    match facts.rip {
        Rip::InCode => {}
        Rip::Wild => {
            all.push(("rip", "left the program; no byte of the input is seen to decide where to".into()))
        }
        Rip::Controlled => all.push(("rip", "controlled: it goes where bytes of the input say".into())),
    }
    if !facts.held.is_empty() {
        all.push(("holds", facts.held.iter().map(held).collect::<Vec<_>>().join("; ")));
    }
    if facts.bytes_changed > 0 {
        all.push(("reaches", reaches(group)));
    }
    all
}

fn held(held: &Held) -> String {
    let Range { start, end } = held.at;
    let order = if held.big_endian { ", most significant first" } else { "" };
    format!("{} is {:#x}, bytes {start} to {} of the input{order}", held.register, held.value, end - 1)
}

/// Which bytes of the input have a say in what.
fn reaches(group: &Group) -> String {
    let facts = &group.facts;
    let wanted = |what: &str| facts.access.as_ref().is_some_and(|access| access.operand.contains(what));
    let jumped = facts.access.as_ref().is_some_and(|access| access.kind == AccessKind::Execute);
    let mut reaches: Vec<_> = facts.reach.iter().collect();
    // After the address, the registers that it is made of.
    reaches.sort_by_key(|reach| (reach.what != "address", !wanted(reach.what)));
    let listed: Vec<String> = reaches
        .iter()
        .filter(|reach| !(jumped && reach.what == "rip"))
        .take(REGISTERS_MAX)
        .map(|reach| {
            let what = if reach.what == "address" { "the address" } else { reach.what };
            format!("{what}: {}", bytes(&reach.bytes))
        })
        .collect();
    let all = group.input.len();
    let part = if facts.bytes_changed < all {
        format!(
            " (the first {} of {} bytes were changed)",
            show_count(facts.bytes_changed as u64),
            show_count(all as u64)
        )
    } else {
        String::new()
    };
    if listed.is_empty() {
        return format!("no byte is seen to change the address or a register{part}");
    }
    format!("{}{part}", listed.join("; "))
}

fn bytes(ranges: &[Range<usize>]) -> String {
    let show = |range: &Range<usize>| {
        if range.len() == 1 { range.start.to_string() } else { format!("{}-{}", range.start, range.end - 1) }
    };
    let shown: Vec<String> = ranges.iter().take(RANGES_MAX).map(show).collect();
    let single = ranges.iter().map(ExactSizeIterator::len).sum::<usize>() == 1;
    let noun = if single { "byte" } else { "bytes" };
    let more = if ranges.len() > RANGES_MAX { " and more" } else { "" };
    format!("{noun} {}{more}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_bytes_are_short() {
        assert_eq!(bytes(std::slice::from_ref(&(4..5))), "byte 4");
        assert_eq!(bytes(&[0..4, 9..10]), "bytes 0-3, 9");
        let many: Vec<_> = (0..20).map(|at| at * 2..at * 2 + 1).collect();
        assert_eq!(bytes(&many), "bytes 0, 2, 4, 6, 8, 10, 12, 14 and more");
    }
}
