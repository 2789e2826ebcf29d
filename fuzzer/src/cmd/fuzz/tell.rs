//! What a campaign says before it begins and after it has ended.

use std::fmt::Write as _;
use std::time::Duration;

use unifork_vmm::{Engine, EngineFigure};

use super::Args;
use crate::campaign::{SeedReport, Summary};
use crate::cmd::warn;
use crate::fork::Frozen;
use crate::machine::BootFacts;
use crate::opened::Opened;
use crate::output::Output;
use crate::seeds::Seeds;
use crate::syscalls;
use crate::units::{plural, show_clock, show_count, show_size};

pub(super) fn opening(
    args: &Args,
    machine: &Opened,
    engine: Engine,
    figures: &[EngineFigure],
    output: &Output,
    seeds: &Seeds,
    tokens: usize,
) -> String {
    let frozen = &machine.frozen;
    let mut text = format!("fuzzing {}", args.image.display());
    if let Some(boot) = &machine.boot {
        let _ = write!(text, ", booted and frozen in {:.0} ms", boot.elapsed.as_secs_f64() * 1e3);
    }
    let _ = writeln!(
        text,
        "\n  machine {}, inputs up to {}, {} per run, engine {engine}{}",
        show_size(frozen.memory_bytes()),
        show_size(frozen.input_max()),
        show_deadline(args.deadline),
        match frozen {
            Frozen::Own(_) => "",
            Frozen::Foreign(base) if base.is_monitored() => ", run by the monitor",
            Frozen::Foreign(_) => ", run at ring 0",
        },
    );
    if !figures.is_empty() {
        let measured: Vec<String> = figures
            .iter()
            .map(|figure| format!("{} {:.0} us", figure.engine, figure.run_ns as f64 / 1e3))
            .collect();
        let batches =
            if engine == Engine::HotSet && !args.no_batch { "; only hot-set runs batches" } else { "" };
        let _ = writeln!(text, "  measured, a run one by one: {}{batches}", measured.join(", "));
    }
    let edges = show_count(frozen.counter_count() as u64);
    let _ = writeln!(
        text,
        "  {edges} edges{}, {}, {}",
        by_breakpoints(frozen),
        plural(seeds.usable.len(), "seed"),
        plural(tokens, "token")
    );
    let _ = writeln!(text, "  campaign in {}", output.root().display());
    text
}

/// What of the edges is counted by breakpoints, and what a crash is.
fn by_breakpoints(frozen: &Frozen) -> String {
    let Frozen::Foreign(base) = frozen else { return String::new() };
    let mut text = match base.blocks() {
        (0, _) => String::new(),
        (blocks, 0) => format!(" ({} of them by breakpoints)", show_count(blocks as u64)),
        (blocks, left_out) => format!(
            " ({} of them by breakpoints, {left_out} left out, where memory is not as the file)",
            show_count(blocks as u64)
        ),
    };
    if !base.panic_profile().is_empty() {
        let _ = write!(text, ", panic profile {}", base.panic_profile());
    }
    text
}

fn show_deadline(deadline: Duration) -> String {
    if deadline.subsec_nanos() == 0 {
        format!("{} s", deadline.as_secs())
    } else {
        format!("{} ms", deadline.as_millis())
    }
}

/// Says which seeds are of no use.
pub(super) fn warn_of_seeds(report: &SeedReport) {
    let lists = [
        ("the harness crashes", &report.crashed),
        ("the harness does not end in time", &report.hung),
        ("the harness returns -1", &report.refused),
    ];
    for (what, paths) in lists {
        let Some(first) = paths.first() else { continue };
        warn(&format!(
            "{} left out, since {what}; the first is {}",
            plural(paths.len(), "seed"),
            first.display()
        ));
    }
}

pub(super) fn closing(summary: &Summary, boot: Option<&BootFacts>) -> String {
    let figures = &summary.figures;
    let seconds = summary.session.as_secs_f64().max(1e-9);
    let mut text = String::from("\n");
    let _ = writeln!(
        text,
        "{} executions in {}: {}/s on average",
        show_count(summary.runs),
        show_clock(summary.session),
        show_count((summary.runs as f64 / seconds) as u64)
    );
    let percent = 100.0 * figures.edges as f64 / figures.edges_total.max(1) as f64;
    let kernel = match figures.kernel_edges_total {
        0 => String::new(),
        all => {
            format!("libOS edges {} of {}, ", show_count(figures.kernel_edges as u64), show_count(all as u64))
        }
    };
    let _ = writeln!(
        text,
        "corpus {}, edges {} of {} ({percent:.1} %), {kernel}stability {:.1} %",
        show_count(figures.corpus as u64),
        show_count(figures.edges as u64),
        show_count(figures.edges_total as u64),
        100.0 * figures.stability
    );
    let _ = writeln!(
        text,
        "pages put back by the host per run: {:.1}, hot set {}, hit rate {:.1} %",
        figures.reset_pages_per_run,
        plural(figures.hot_pages, "page"),
        100.0 * figures.hot_hit_rate
    );
    if !figures.clients.is_empty() {
        let rows: Vec<String> = figures
            .clients
            .iter()
            .map(|client| format!("core {} {}", client.core, show_count(client.execs)))
            .collect();
        let restarts = match figures.restarts {
            0 => String::new(),
            count => format!("; {} after a client died", plural(count as usize, "restart")),
        };
        let _ = writeln!(text, "executions by client: {}{restarts}", rows.join(", "));
    }
    if figures.batches > 0 {
        let _ = writeln!(
            text,
            "batches: {} of {:.0} runs on average, {} thrown away",
            show_count(figures.batches),
            figures.batched as f64 / figures.batches as f64,
            show_count(figures.spoiled)
        );
    }
    if figures.audits > 0 {
        let verdict = match figures.audit_differences {
            0 => "all the same".to_owned(),
            count => format!("{} DIFFER: do not trust this campaign", show_count(count)),
        };
        let skipped = match figures.audits_skipped {
            0 => String::new(),
            count => format!("; {} more were due and could not be made", show_count(count)),
        };
        let _ = writeln!(
            text,
            "audits: {} runs made again in a new fork, {verdict}{skipped}",
            show_count(figures.audits)
        );
    }
    let unserved = unserved(summary, boot);
    if !unserved.is_empty() {
        let _ = writeln!(text, "{}: {}", syscalls::NOT_SERVED, syscalls::list(&unserved));
    }
    if let Some(first) = summary.unstable.first() {
        let _ = writeln!(
            text,
            "unstable: {}, which count as new no more (unstable.txt); the first is {}",
            plural(summary.unstable.len(), "edge"),
            first.place()
        );
    }
    if figures.unrepeated > 0 {
        let _ =
            writeln!(text, "{} timeouts did not repeat in a fresh fork and are not kept", figures.unrepeated);
    }
    if summary.findings.is_empty() {
        let _ = writeln!(text, "no findings");
        return text;
    }
    let duplicates = show_count(figures.duplicates);
    let _ = writeln!(
        text,
        "findings: {}, and {duplicates} runs that repeated one. See them with",
        figures.findings
    );
    for folder in &summary.findings {
        let _ = writeln!(text, "  unifork repro {}", folder.display());
    }
    text
}

/// The boot's and the runs' unserved calls together.
fn unserved(summary: &Summary, boot: Option<&BootFacts>) -> Vec<(u64, u32)> {
    let mut counts = std::collections::BTreeMap::new();
    for &(number, count) in boot.iter().flat_map(|boot| &boot.unserved).chain(&summary.unserved) {
        *counts.entry(number).or_insert(0u32) += count;
    }
    counts.into_iter().collect()
}

pub(super) fn closing_json(summary: &Summary) -> String {
    let unserved: Vec<_> =
        summary.unserved.iter().map(|&(number, count)| (syscalls::name(number), count)).collect();
    let line = serde_json::json!({
        "summary": summary.figures,
        "session_s": summary.session.as_secs_f64(),
        "session_execs": summary.runs,
        "new_findings": summary.new_findings,
        "findings": summary.findings,
        "unserved": unserved,
        "unstable": summary.unstable,
    });
    format!("{line}\n")
}
