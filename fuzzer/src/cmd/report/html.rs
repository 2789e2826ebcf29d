//! The page.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use super::chart::chart;
use super::links::Links;
use super::read::{Finding, Point, Read, Stand, sessions};
use crate::monitor::Figures;
use crate::page::{escape, facts, page};
use crate::units::{plural, show_clock, show_count, show_size};

/// Findings on the page, and unstable edges.
const LISTED_MAX: usize = 500;

/// All of it.
pub(super) fn page_of(read: &Read, links: &Links) -> String {
    let name = escape(&read.name);
    let mut body = format!("<h1>{name}</h1>\n<p class=\"soft\">{}</p>\n", stand(read));
    if let Some(figures) = &read.last {
        if figures.audit_differences > 0 {
            let _ = writeln!(
                body,
                "<p class=\"bad\">{} of {} audited runs were not what they are in a new fork: do not trust this campaign.</p>",
                show_count(figures.audit_differences),
                show_count(figures.audits)
            );
        }
        body.push_str(&facts(summary(figures).into_iter().map(|(name, text)| (name, escape(&text)))));
    } else {
        body.push_str("<p>There are no figures yet.</p>\n");
    }
    curves(&mut body, &read.points);
    findings(&mut body, read, links);
    slowest(&mut body, read, links);
    unserved(&mut body, read);
    unstable(&mut body, &read.unstable);
    machine(&mut body, read);
    if !read.damage.is_empty() {
        body.push_str("<h2>What is missing</h2>\n<ul>\n");
        for damage in &read.damage {
            let _ = writeln!(body, "<li>{}</li>", escape(damage));
        }
        body.push_str("</ul>\n");
    }
    let version = env!("CARGO_PKG_VERSION");
    let _ = writeln!(body, "<p class=\"soft\">Made by unifork {version}, {}.</p>", date(read.unix));
    page(&format!("{} - unifork", read.name), &body)
}

fn stand(read: &Read) -> String {
    let how = match &read.stand {
        Stand::Running(pid) => format!("Running, as process {pid}"),
        Stand::Ended(by) if by == "signal" => "Stopped by hand".to_owned(),
        Stand::Ended(_) => "Ended by its limit".to_owned(),
        Stand::CutOff => "Did not come to its end: killed, or an error".to_owned(),
    };
    let last =
        read.last.as_ref().map_or_else(String::new, |last| format!("; last figures {}", date(last.unix)));
    let count = if read.sessions == 0 { String::new() } else { format!(", {}", sessions(read.sessions)) };
    format!("{how}{count}{last}.")
}

fn summary(figures: &Figures) -> Vec<(&'static str, String)> {
    let percent = 100.0 * figures.edges as f64 / figures.edges_total.max(1) as f64;
    let average = figures.execs as f64 / figures.runtime_s.max(1e-9);
    let busy = (figures.guest_s + figures.reset_s + figures.engine_s).max(1e-9);
    let share = |part: f64| 100.0 * part / busy;
    let batches = match figures.batches {
        0 => "none: inputs run one by one".to_owned(),
        batches => format!(
            "{} of {:.0} runs on average, {} thrown away",
            show_count(batches),
            figures.batched as f64 / batches as f64,
            show_count(figures.spoiled)
        ),
    };
    let audits = match (figures.audits, figures.audit_differences) {
        (0, _) => "none".to_owned(),
        (audits, 0) => format!("{} runs made again in a new fork, all the same", show_count(audits)),
        (audits, differ) => format!("{} of {} DIFFER", show_count(differ), show_count(audits)),
    };
    let mut list = vec![
        ("executions", format!("{}, {}/s on average", show_count(figures.execs), show_count(average as u64))),
        ("fuzzing", clock(figures.runtime_s)),
        (
            "time",
            format!(
                "guest {:.1} %, reset {:.1} %, engine {:.1} % (last session)",
                share(figures.guest_s),
                share(figures.reset_s),
                share(figures.engine_s)
            ),
        ),
        (
            "edges",
            format!(
                "{} of {} ({percent:.1} %){}",
                show_count(figures.edges as u64),
                show_count(figures.edges_total as u64),
                match figures.kernel_edges_total {
                    0 => String::new(),
                    all => format!(
                        "; of the libOS, {} of {}",
                        show_count(figures.kernel_edges as u64),
                        show_count(all as u64)
                    ),
                }
            ),
        ),
        ("corpus", plural(figures.corpus, "input")),
        ("stability", format!("{:.1} % of the edges repeat their counts", 100.0 * figures.stability)),
        (
            "cost",
            format!(
                "{} of processor time in the last session, {} of memory",
                clock(figures.cpu_s),
                show_size(figures.rss_bytes)
            ),
        ),
        (
            "hot set",
            format!("{}, hit rate {:.1} %", plural(figures.hot_pages, "page"), 100.0 * figures.hot_hit_rate),
        ),
        ("batches", batches),
        ("audits", audits),
    ];
    if figures.unrepeated > 0 {
        list.push((
            "not kept",
            format!("{} timeouts that did not repeat in a fresh fork", show_count(figures.unrepeated)),
        ));
    }
    list
}

fn curves(body: &mut String, points: &[Point]) {
    let of = |value: fn(&Point) -> usize| -> Vec<(f64, f64)> {
        points.iter().map(|point| (point.at, value(point) as f64)).collect()
    };
    // Of what was run between two points, so that leaving points out loses none.
    let speed: Vec<_> = points
        .windows(2)
        .filter(|pair| pair[1].at > pair[0].at)
        .map(|pair| {
            let execs = pair[1].execs.saturating_sub(pair[0].execs);
            (pair[1].at, (execs as f64 / (pair[1].at - pair[0].at)).round())
        })
        .collect();
    let span = (points.first().map_or(0.0, |first| first.at), points.last().map_or(0.0, |last| last.at));
    let chart = |title, points: &[(f64, f64)], steps| chart(title, points, span, steps);
    body.push_str("<h2>Over time</h2>\n<div class=\"charts\">\n");
    body.push_str(&chart("Executions a second", &speed, false));
    body.push_str(&chart("Edges reached", &of(|point| point.edges), true));
    body.push_str(&chart("Inputs in the corpus", &of(|point| point.corpus), true));
    body.push_str(&chart("Findings", &of(|point| point.findings), true));
    let memory: Vec<_> = points.iter().map(|point| (point.at, (point.rss_bytes >> 20) as f64)).collect();
    body.push_str(&chart("Memory, MiB", &memory, true));
    body.push_str("</div>\n");
}

fn findings(body: &mut String, read: &Read, links: &Links) {
    let all = &read.findings;
    let _ = writeln!(body, "<h2>Findings: {}</h2>", show_count(all.len() as u64));
    if all.is_empty() {
        body.push_str("<p class=\"soft\">None.</p>\n");
        return;
    }
    let repeats = read.last.as_ref().map_or(0, |last| last.duplicates);
    let _ = writeln!(
        body,
        "<p class=\"soft\">{} runs of the last session repeated one.{}</p>",
        show_count(repeats),
        if read.triaged {
            format!(" <a href=\"{}\">In groups</a>", links.to("triage/index.html"))
        } else {
            " <code>unifork triage</code> groups them, and writes a page for each.".to_owned()
        }
    );
    body.push_str("<ul class=\"list\">\n");
    for finding in all.iter().take(LISTED_MAX) {
        let _ = writeln!(body, "<li>{}</li>", item(finding, links));
    }
    body.push_str("</ul>\n");
    if all.len() > LISTED_MAX {
        let more = show_count((all.len() - LISTED_MAX) as u64);
        let _ =
            writeln!(body, "<p>And {more} more in <a href=\"{0}/\">findings</a>.</p>", links.to("findings"));
    }
}

fn item(finding: &Finding, links: &Links) -> String {
    let page = match &finding.group {
        Some(group) => Path::new("triage").join(group).join("index.html"),
        None => Path::new("findings").join(&finding.folder).join("report.txt"),
    };
    let unstable = if finding.agreed == finding.confirmations {
        ""
    } else {
        ", <span class=\"bad\">does not repeat each time</span>"
    };
    format!(
        "<a href=\"{}\">{}</a>\n<p>{}</p>\n<p class=\"soft\">after {}, {} executions; {} bytes{unstable}</p>",
        links.to(page),
        escape(&finding.folder),
        escape(&finding.sentence),
        clock(finding.runtime_s),
        show_count(finding.execs),
        show_count(finding.input_bytes as u64),
    )
}

fn slowest(body: &mut String, read: &Read, links: &Links) {
    body.push_str("<h2>Slowest inputs</h2>\n");
    let mut rows = String::new();
    for slow in read.detail.slowest.iter() {
        let Some(file) = read.queue.get(&slow.hash) else { continue };
        let time = if slow.run_us < 10_000.0 {
            format!("{:.0} us", slow.run_us)
        } else {
            format!("{:.1} ms", slow.run_us / 1e3)
        };
        let _ = writeln!(
            rows,
            "<li>{time}: <a href=\"{}\">{}</a>, {} bytes</li>",
            links.to(Path::new("queue").join(file)),
            escape(file),
            show_count(slow.bytes as u64)
        );
    }
    if rows.is_empty() {
        body.push_str("<p class=\"soft\">None are recorded.</p>\n");
    } else {
        let _ = write!(
            body,
            "<p class=\"soft\">Of the corpus; the time of the run, by itself, that brought it there.</p>\n<ul>\n{rows}</ul>\n"
        );
    }
}

fn unserved(body: &mut String, read: &Read) {
    body.push_str("<h2>System calls that are not served</h2>\n");
    let mut calls: Vec<_> = read.detail.unserved.iter().collect();
    if calls.is_empty() {
        body.push_str("<p class=\"soft\">None are recorded.</p>\n");
        return;
    }
    calls.sort_by_key(|&(name, &count)| (std::cmp::Reverse(count), name.clone()));
    let list: Vec<_> =
        calls.iter().map(|(name, count)| format!("{} x{}", escape(name), show_count(**count))).collect();
    let _ = writeln!(body, "<p>{}</p>\n<p class=\"soft\">They return ENOSYS.</p>", list.join(", "));
}

/// Nothing where there are none, as in nearly all campaigns.
fn unstable(body: &mut String, edges: &[String]) {
    if edges.is_empty() {
        return;
    }
    let _ = writeln!(body, "<h2>Edges whose counts do not repeat: {}</h2>", show_count(edges.len() as u64));
    body.push_str("<p class=\"soft\">They count as new no more.</p>\n<ul class=\"list\">\n");
    for edge in edges.iter().take(LISTED_MAX) {
        let _ = writeln!(body, "<li><code>{}</code></li>", escape(edge));
    }
    body.push_str("</ul>\n");
    if edges.len() > LISTED_MAX {
        let more = show_count((edges.len() - LISTED_MAX) as u64);
        let _ = writeln!(body, "<p>And {more} more in <code>unstable.txt</code>.</p>");
    }
}

fn machine(body: &mut String, read: &Read) {
    body.push_str("<h2>Machine</h2>\n");
    let Some(session) = &read.session else {
        body.push_str("<p class=\"soft\">The log does not say.</p>\n");
        return;
    };
    let machine = &session.machine;
    let mut list = vec![
        ("unifork", escape(&session.version)),
        ("command", format!("<code>{}</code>", escape(&session.command.join(" ")))),
        ("begun", date(session.unix)),
        (
            "image",
            format!(
                "{} (snapshot {})",
                escape(&machine.image.display().to_string()),
                escape(&machine.snapshot)
            ),
        ),
        (
            "guest",
            escape(&format!(
                "{} of memory, inputs up to {}, {} ms per run, engine {}",
                show_size(machine.memory_bytes),
                show_size(machine.input_max),
                show_count(machine.deadline_ms),
                machine.engine
            )),
        ),
        ("from", format!("{}, {}", plural(session.seeds, "seed"), plural(session.tokens, "token"))),
    ];
    list.extend(session.host.iter().map(|(name, value)| (name.as_str(), escape(value))));
    body.push_str(&facts(list));
}

fn clock(seconds: f64) -> String {
    show_clock(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

/// `2026-11-21 07:15 UTC`.
fn date(unix: u64) -> String {
    // Civil from days: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
    let (days, seconds) = (unix / 86_400, unix % 86_400);
    let days = days.min(100_000_000) + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (day, month) = (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let year = era * 400 + year + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02} {:02}:{:02} UTC", seconds / 3600, seconds / 60 % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date(0), "1970-01-01 00:00 UTC");
        assert_eq!(date(951_782_399), "2000-02-28 23:59 UTC");
        assert_eq!(date(951_782_400), "2000-02-29 00:00 UTC");
        assert_eq!(date(1_767_225_599), "2025-12-31 23:59 UTC");
    }
}
