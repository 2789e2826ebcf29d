//! Groups as pages.

use std::fmt::Write as _;
use std::ops::Range;

use super::group::Group;
use super::{Lost, Sorted, text};
use crate::page::{escape, facts, page};
use crate::units::show_count;

/// Bytes of the input that are shown, and in a row: as many as fit a phone.
const SHOWN: usize = 1024;
const ROW: usize = 8;
/// Frames that are shown.
const FRAMES: usize = 40;

/// The page of all groups.
pub(super) fn index(sorted: &Sorted) -> String {
    let mut body = format!("<h1>Findings</h1>\n<p class=\"soft\">{}</p>\n", escape(&text::summary(sorted)));
    for group in &sorted.groups {
        let name = escape(&group.name);
        let _ = write!(
            body,
            "<div class=\"card\">\n<h2><a href=\"{name}/index.html\">{name}</a></h2>\n<p>{}</p>\n\
             <p><code>{}</code></p>\n<p class=\"soft\">{}, smallest {} bytes{}</p>\n</div>\n",
            escape(&group.sentence),
            escape(&text::stack(group)),
            text::findings(group),
            show_count(group.input.len() as u64),
            if group.agreed == group.runs { "" } else { ", <span class=\"bad\">unstable</span>" },
        );
    }
    if !sorted.not_reproduced.is_empty() {
        body.push_str("<h2>Not made again</h2>\n<ul>\n");
        for Lost { path, why } in &sorted.not_reproduced {
            let path = escape(&path.display().to_string());
            let _ = writeln!(body, "<li><code>{path}</code>: {}</li>", escape(why));
        }
        body.push_str("</ul>\n");
    }
    page("Findings", &body)
}

/// The page of one group.
pub(super) fn group(group: &Group) -> String {
    let mut body =
        format!("<p><a href=\"../index.html\">All findings</a></p>\n<h1>{}</h1>\n", escape(&group.name));
    body.push_str(&facts(text::facts(group).into_iter().map(|(name, value)| (name, escape(&value)))));
    section(&mut body, "Again", " class=\"wrap\"", &escape(&group.command()));
    section(&mut body, "Backtrace", " class=\"wrap\"", &frames(group));
    section(&mut body, "Code", "", &code(group));
    let registers = group.report.registers.to_string();
    // Pairs of a name and a value; each stays together, and as many are in a row as fit.
    let words: Vec<&str> = registers.split_whitespace().collect();
    let cells =
        words.chunks_exact(2).map(|pair| format!("<code>{:>3} {}</code>", escape(pair[0]), escape(pair[1])));
    let _ =
        write!(body, "<h2>Registers</h2>\n<div class=\"card grid\">{}</div>\n", cells.collect::<String>());
    input(&mut body, group);
    if !group.report.console.is_empty() {
        section(&mut body, "Console", " class=\"wrap\"", &escape(&group.report.console));
    }
    body.push_str("<h2>Findings of this group</h2>\n<ul>\n");
    for member in &group.members {
        let (name, path) = (escape(&member.name), escape(&member.path.display().to_string()));
        let bytes = show_count(member.bytes as u64);
        let _ = writeln!(body, "<li>{name}, {bytes} bytes: <code>{path}</code></li>");
    }
    body.push_str("</ul>\n");
    page(&group.name, &body)
}

fn section(body: &mut String, title: &str, class: &str, lines: &str) {
    let _ = write!(body, "<h2>{title}</h2>\n<pre{class}>{lines}</pre>\n");
}

/// The instructions; their bytes only where there is room.
fn code(group: &Group) -> String {
    let mut lines = String::new();
    for line in &group.report.disassembly.lines {
        let bytes: Vec<String> = line.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let here = if line.here { "=>" } else { "  " };
        let text = format!(
            "{here} {:#x}  <span class=\"wide\">{:<24} </span>{}",
            line.address,
            bytes.join(" "),
            escape(&line.text)
        );
        let _ = if line.here { writeln!(lines, "<b>{text}</b>") } else { writeln!(lines, "{text}") };
    }
    if let Some(note) = &group.report.disassembly.note {
        let _ = writeln!(lines, "({})", escape(note));
    }
    lines
}

/// A frame has two lines: what it is, and where in the source.
fn frames(group: &Group) -> String {
    let mut lines = String::new();
    let all = &group.report.frames;
    for (number, frame) in all.iter().take(FRAMES).enumerate() {
        let place = frame.place.as_ref();
        let function = escape(frame.function().unwrap_or("??"));
        let offset = place.map_or_else(String::new, |place| format!("+{:#x}", place.offset));
        let _ = writeln!(lines, "#{number:<2} <b>{function}</b>{offset}  {:#x}", frame.address);
        if let Some((file, line)) = place.and_then(|place| Some((place.file.as_deref()?, place.line?))) {
            let _ = writeln!(lines, "    <span class=\"soft\">{}:{line}</span>", escape(file));
        }
    }
    if all.len() > FRAMES {
        let _ = writeln!(lines, "and {} more", all.len() - FRAMES);
    }
    lines
}

/// The input in hexadecimal, with the bytes marked that reach the address.
fn input(body: &mut String, group: &Group) {
    let marked = group.facts.marked();
    let shown = &group.input[..group.input.len().min(SHOWN)];
    let mut lines = String::new();
    for (row, bytes) in shown.chunks(ROW).enumerate() {
        let start = row * ROW;
        let is_marked = |at: usize| marked.iter().any(|range: &Range<usize>| range.contains(&(start + at)));
        let _ = write!(lines, "{start:04x} ");
        for (at, byte) in bytes.iter().enumerate() {
            lines.push(' ');
            mark(&mut lines, is_marked(at), &format!("{byte:02x}"));
        }
        let _ = write!(lines, "{:width$}  ", "", width = (ROW - bytes.len()) * 3);
        for (at, &byte) in bytes.iter().enumerate() {
            let printed = if byte.is_ascii_graphic() || byte == b' ' { char::from(byte) } else { '.' };
            mark(&mut lines, is_marked(at), &escape(&printed.to_string()));
        }
        lines.push('\n');
    }
    if group.input.len() > SHOWN {
        let _ = writeln!(lines, "and {} bytes more", show_count((group.input.len() - SHOWN) as u64));
    }
    body.push_str("<h2>Input</h2>\n<p class=\"soft\"><a href=\"input\" download>The file</a>");
    if !marked.is_empty() {
        body.push_str("; <mark>marked</mark>: changing the byte changes the address");
    }
    let _ = write!(body, "</p>\n<pre>{lines}</pre>\n");
}

fn mark(to: &mut String, marked: bool, text: &str) {
    let _ = if marked { write!(to, "<mark>{text}</mark>") } else { write!(to, "{text}") };
}
