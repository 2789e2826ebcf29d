//! Every figure, with its unit and what it is: for `--metrics` and for `docs/watching.md`.

/// How a figure moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Up and down.
    Gauge,
    /// Up only, though it may start again at zero with a session.
    Counter,
}

/// One figure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    /// Its name in `stats.jsonl`.
    pub(crate) name: &'static str,
    /// Its name in Prometheus' text format.
    pub(crate) metric: &'static str,
    pub(crate) kind: Kind,
    /// Its unit in `stats.jsonl`, which is also that of the metric.
    pub(crate) unit: &'static str,
    /// What it is.
    pub(crate) text: &'static str,
}

macro_rules! fields {
    ($(#[$doc:meta])* $table:ident: $($name:ident $metric:ident $kind:ident $unit:literal $text:literal;)*) => {
        $(#[$doc])*
        pub(crate) const $table: &[Field] = &[$(Field {
            name: stringify!($name),
            metric: concat!("unifork_", stringify!($metric)),
            kind: Kind::$kind,
            unit: $unit,
            text: $text,
        },)*];
    };
}

fields! {
    /// Those of the whole campaign, in the order of a line of `stats.jsonl`.
    FIELDS:
    unix unix_seconds Gauge "seconds since 1970" "when the line was written";
    runtime_s runtime_seconds_total Counter "seconds" "time of fuzzing, earlier sessions included";
    cpu_s cpu_seconds_total Counter "seconds" "processor time, this session";
    rss_bytes resident_bytes Gauge "bytes" "memory in use, by all processes that fuzz";
    execs execs_total Counter "executions" "runs, earlier sessions included";
    execs_per_s execs_per_second Gauge "executions a second" "since the line before";
    guest_us exec_guest_microseconds Gauge "microseconds an execution" "in the guest, since the line before; in a batch, this includes what the guest itself puts back";
    reset_us exec_reset_microseconds Gauge "microseconds an execution" "in the host's reset, since the line before";
    engine_us exec_engine_microseconds Gauge "microseconds an execution" "all the rest, since the line before: mutation, judging, traced and audited runs, confirming findings, files";
    guest_s guest_seconds_total Counter "seconds" "in the guest, this session";
    reset_s reset_seconds_total Counter "seconds" "in the host's reset, this session";
    engine_s engine_seconds_total Counter "seconds" "all the rest, this session";
    corpus corpus Gauge "inputs" "in the corpus";
    edges edges Gauge "edges" "of the application that were reached";
    edges_total edges_known Gauge "edges" "of the application, in all";
    kernel_edges kernel_edges Gauge "edges" "of the libOS that were seen reached";
    kernel_edges_total kernel_edges_known Gauge "edges" "of the libOS, in all";
    findings findings Gauge "findings" "kept, earlier sessions included";
    duplicates duplicates_total Counter "runs" "of this session that ended in a finding that was known";
    unrepeated unrepeated_total Counter "runs" "of this session that timed out, and did not in a fresh fork";
    stability stability_ratio Gauge "of one" "share of the edges reached whose counts repeat";
    unstable unstable_edges Gauge "edges" "whose counts do not repeat, and which count as new no more";
    reset_pages_per_run reset_pages_per_run Gauge "pages" "put back by the host for each run, on average of this session";
    hot_pages hot_pages Gauge "pages" "that are always put back: the hot set";
    hot_hit_rate hot_hit_ratio Gauge "of one" "share of resets that found no other page dirty";
    batch_size batch_runs Gauge "runs" "in the next batch; 0: there are no batches";
    batches batches_total Counter "batches" "of this session";
    batched batched_runs_total Counter "runs" "of this session that were made in batches";
    spoiled spoiled_batches_total Counter "batches" "of this session that were thrown away";
    audits audits_total Counter "runs" "of this session that were made again in a new fork";
    audit_differences audit_differences_total Counter "runs" "of those that were not the same: any is a defect";
    audits_skipped audits_skipped_total Counter "runs" "of this session that were to be audited and could not be";
    restarts restarts_total Counter "restarts" "clients of this session that died and were started again";
    imported imported_total Counter "inputs" "of this session that were kept, and came from other clients and machines";
    links links Gauge "machines" "that are connected";
}

fields! {
    /// Those of one client of several, in `clients`; `core` is the label of the others.
    CLIENT_FIELDS:
    core client_core Gauge "number" "the core it runs on";
    pid client_pid Gauge "number" "its process; 0 while it has none";
    execs client_execs_total Counter "executions" "runs of this session";
    execs_per_s client_execs_per_second Gauge "executions a second" "since the line before";
    corpus client_corpus Gauge "inputs" "in its corpus";
    imported client_imported_total Counter "inputs" "of other clients and machines that it kept";
    edges client_edges Gauge "edges" "of the application that it reached";
    stability client_stability_ratio Gauge "of one" "share of the edges reached whose counts repeat";
    batch_size client_batch_runs Gauge "runs" "in its next batch";
    hot_pages client_hot_pages Gauge "pages" "in its hot set";
    restarts client_restarts_total Counter "restarts" "how often it died and was started again";
}

/// The rows of a table in `docs/watching.md`.
#[cfg(test)]
fn table(fields: &[Field]) -> String {
    let mut text = String::from("| field | unit | what | metric |\n|---|---|---|---|\n");
    for Field { name, metric, unit, text: what, .. } in fields {
        text += &format!("| `{name}` | {unit} | {what} | `{metric}` |\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::monitor::{ClientFigures, Figures};

    #[test]
    fn every_figure_is_described_once() {
        let names = |value: serde_json::Value| -> BTreeSet<String> {
            value.as_object().unwrap().keys().cloned().collect()
        };
        let described = |fields: &[Field]| fields.iter().map(|field| field.name.to_owned()).collect();
        assert_eq!(names(serde_json::to_value(Figures::default()).unwrap()), described(FIELDS));
        let client = serde_json::to_value(ClientFigures::default()).unwrap();
        assert_eq!(names(client), described(CLIENT_FIELDS));
        for Field { metric, kind, .. } in FIELDS.iter().chain(CLIENT_FIELDS) {
            assert_eq!(metric.ends_with("_total"), *kind == Kind::Counter, "{metric}");
        }
    }

    #[test]
    fn the_page_about_watching_has_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/watching.md");
        let mut made = std::fs::read_to_string(path).unwrap();
        for (name, fields) in [("FIELDS", FIELDS), ("CLIENT_FIELDS", CLIENT_FIELDS)] {
            let begin = format!("<!-- {name} of fuzzer/src/monitor/fields.rs -->\n\n");
            let (before, rest) = made.split_once(&begin).expect("the page says where the table begins");
            let (_, after) = rest.split_once("\n\n").expect("an empty line ends the table");
            made = format!("{before}{begin}{}\n{after}", table(fields));
        }
        if std::env::var_os("UNIFORK_UPDATE").is_some() {
            std::fs::write(path, &made).unwrap();
        }
        let page = std::fs::read_to_string(path).unwrap();
        assert_eq!(page, made, "run this test with UNIFORK_UPDATE=1");
    }
}
