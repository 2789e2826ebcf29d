//! What a measurement says, in every form it is asked for: a table, JSON, CSV, a plot.
//!
//! Each form names the machine, and each figure that varies comes with its spread.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use serde::Serialize;
use serde_json::{Map, Value, json};
use unifork_vmm::bench::Sample;

use super::plot::{self, Picture};
use crate::cmd::{BlameExt as _, Failure, say};

/// Where figures go besides the terminal.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct OutputArgs {
    /// Also write the figures to FILE; a second table goes to FILE-NAME.csv
    #[arg(long, value_name = "FILE.csv")]
    csv: Option<PathBuf>,
    /// Also draw them; .svg or .png, and may be given again
    #[arg(long, value_name = "FILE.svg", value_parser = plot::path)]
    plot: Vec<PathBuf>,
}

/// What to do about a file that cannot be written.
const FOLDER_HELP: &str = "check that the folder exists and may be written";

impl OutputArgs {
    /// Notices before anything is measured that there is no folder for a file.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        for path in self.csv.iter().chain(&self.plot) {
            let folder = folder_of(path);
            if !folder.is_dir() {
                let error =
                    anyhow::anyhow!("cannot write {}: no folder {}", path.display(), folder.display());
                return Err(Failure::usage(error).help(FOLDER_HELP));
            }
        }
        Ok(())
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Where and when something was measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Host {
    cpu: String,
    kernel: String,
    kvm: String,
    date: String,
    /// Runnable processes, on average over a minute, when the measurement began and when it ended.
    load: [f64; 2],
}

impl Host {
    /// This machine, now.
    pub(crate) fn here() -> Self {
        let facts = crate::cmd::doctor::facts();
        let fact = |name: &str| {
            facts.iter().find(|(found, _)| *found == name).map_or_else(String::new, |(_, fact)| fact.clone())
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self {
            cpu: fact("CPU"),
            kernel: fact("kernel"),
            kvm: fact("KVM"),
            date: date(now),
            load: [load(); 2],
        }
    }

    /// In one line.
    pub(crate) fn line(&self) -> String {
        let Self { cpu, kernel, kvm, date, load: [before, after] } = self;
        let kvm = kvm.split_once(';').map_or(kvm.as_str(), |(name, _)| name);
        format!("{date}; {cpu}; kernel {kernel}; {kvm}; load {before:.1}, then {after:.1}")
    }
}

fn load() -> f64 {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0)
}

/// `2026-01-31 12:00 UTC` of a time in seconds since 1970.
fn date(seconds: u64) -> String {
    // Howard Hinnant's civil_from_days: eras of 400 years that begin on 1 March.
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02} {:02}:{:02} UTC", second / 3600, second / 60 % 60)
}

/// One field of a table.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Cell {
    /// A name.
    Text(String),
    /// A figure, shown with so many digits behind the point.
    Number(f64, usize),
    /// p50, p90 and p99 of a sample, those that it is large enough for.
    Percentiles([Option<f64>; 3]),
    /// Median, least and most of a few repetitions.
    Range([f64; 3]),
    /// Does not apply.
    Blank,
}

impl Cell {
    /// A name.
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// The percentiles of a sample in microseconds; blank without one.
    pub(crate) fn micros(sample: Option<&Sample>) -> Self {
        sample.map_or(Self::Blank, |sample| {
            Self::Percentiles(percentiles(sample.count(), |percent| {
                sample.percentile(percent).as_secs_f64() * 1e6
            }))
        })
    }

    /// Median, least and most of `values`; blank without any.
    pub(crate) fn range(values: &[f64]) -> Self {
        let mut values = values.to_vec();
        values.sort_unstable_by(f64::total_cmp);
        match values.as_slice() {
            [] => Self::Blank,
            [first, .., last] => Self::Range([values[values.len() / 2], *first, *last]),
            [only] => Self::Range([*only; 3]),
        }
    }

    /// The figure that stands for it.
    pub(crate) fn middle(&self) -> Option<f64> {
        match self {
            Self::Number(value, _) | Self::Range([value, ..]) => Some(*value),
            Self::Percentiles([value, ..]) => *value,
            Self::Text(_) | Self::Blank => None,
        }
    }

    fn show(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Number(value, digits) => show_number(*value, *digits),
            Self::Percentiles(values) => values.map(|value| value.map_or("-".into(), short)).join("/"),
            Self::Range([middle, least, most]) => {
                format!("{} ({}-{})", short(*middle), short(*least), short(*most))
            }
            Self::Blank => "-".into(),
        }
    }

    /// Its columns in a CSV file, and keys in JSON, given that of the table.
    fn fields(&self, name: &str) -> Vec<(String, Value)> {
        let three = |names: [&str; 3], values: [Option<f64>; 3]| {
            names
                .iter()
                .zip(values)
                .map(|(suffix, value)| (format!("{name} {suffix}"), json!(value)))
                .collect()
        };
        match self {
            Self::Text(text) => vec![(name.into(), json!(text))],
            Self::Number(value, _) => vec![(name.into(), json!(value))],
            Self::Percentiles(values) => three(["p50", "p90", "p99"], *values),
            Self::Range(values) => three(["median", "min", "max"], values.map(Some)),
            Self::Blank => vec![(name.into(), Value::Null)],
        }
    }
}

/// p50, p90 and p99 of `count` samples, where `of` says what a percentile is. The last tenth or hundredth
/// of them must be one at least, or its percentile would be but the largest.
pub(crate) fn percentiles(count: usize, of: impl Fn(usize) -> f64) -> [Option<f64>; 3] {
    [(50, 1), (90, 10), (99, 100)].map(|(percent, least)| (count >= least).then(|| of(percent)))
}

/// Three significant digits, or all in front of the point.
fn short(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    show_number(value, digits)
}

fn show_number(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    let (whole, rest) = text.split_once('.').map_or((text.as_str(), ""), |(whole, rest)| (whole, rest));
    let grouped = whole.parse::<u64>().map_or_else(|_| whole.to_owned(), crate::units::show_count);
    if rest.is_empty() { grouped } else { format!("{grouped}.{rest}") }
}

/// Figures of one kind.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    /// Key in JSON, part of a file's name.
    pub(crate) name: &'static str,
    /// Said above it.
    pub(crate) title: String,
    /// Names of the columns, with units.
    pub(crate) columns: Vec<&'static str>,
    /// As long as `columns`, each.
    pub(crate) rows: Vec<Vec<Cell>>,
}

impl Table {
    fn show(&self) -> String {
        let mut lines: Vec<Vec<String>> = vec![self.columns.iter().map(|name| (*name).to_owned()).collect()];
        lines.extend(self.rows.iter().map(|row| row.iter().map(Cell::show).collect()));
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let left: Vec<bool> = (0..widths.len()).map(|column| self.is_text(column)).collect();
        let mut text = format!("{}\n", self.title);
        for line in &lines {
            let mut shown = String::new();
            for ((field, &width), &left) in line.iter().zip(&widths).zip(&left) {
                let _ = if left {
                    write!(shown, "  {field:<width$}")
                } else {
                    write!(shown, "  {field:>width$}")
                };
            }
            let _ = writeln!(text, "{}", shown.trim_end());
        }
        text
    }

    fn is_text(&self, column: usize) -> bool {
        self.rows.iter().any(|row| matches!(row[column], Cell::Text(_)))
    }

    fn json(&self) -> Value {
        let object = |row: &Vec<Cell>| {
            let fields = self.columns.iter().zip(row).flat_map(|(name, cell)| cell.fields(name));
            Value::Object(fields.collect::<Map<String, Value>>())
        };
        Value::Array(self.rows.iter().map(object).collect())
    }

    fn csv(&self, host: &Host) -> String {
        let mut text = format!("# {}; {}\n", self.title, host.line());
        // A cell that is blank in one row may have three fields in another.
        let widest = |column: usize| {
            let fields = self.rows.iter().map(|row| row[column].fields(self.columns[column]));
            fields.max_by_key(Vec::len).unwrap_or_default()
        };
        let names: Vec<String> =
            (0..self.columns.len()).flat_map(widest).map(|(name, _)| quote(&name)).collect();
        let _ = writeln!(text, "{}", names.join(","));
        for row in &self.rows {
            let mut fields = Vec::new();
            for (column, cell) in row.iter().enumerate() {
                let found = cell.fields(self.columns[column]);
                let missing = widest(column).len() - found.len();
                fields.extend(found.into_iter().map(|(_, value)| match value {
                    Value::String(text) => quote(&text),
                    Value::Null => String::new(),
                    other => other.to_string(),
                }));
                fields.extend(std::iter::repeat_n(String::new(), missing));
            }
            let _ = writeln!(text, "{}", fields.join(","));
        }
        text
    }
}

fn quote(text: &str) -> String {
    if text.contains([',', '"', '\n']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

/// A measurement, done.
#[derive(Debug)]
pub(crate) struct Report {
    /// Where.
    pub(crate) host: Host,
    /// The main table first.
    pub(crate) tables: Vec<Table>,
    /// What is to be known about the figures, one sentence each.
    pub(crate) notes: Vec<String>,
    /// What `--plot` draws.
    pub(crate) picture: Option<Picture>,
}

impl Report {
    /// Says it, and writes the files that were asked for. What was measured is said in any case: a file
    /// that cannot be written does not take the others with it.
    pub(crate) fn publish(mut self, output: &OutputArgs, json: bool) -> Result<(), Failure> {
        self.host.load[1] = load();
        say(&if json { self.json() } else { self.text() });
        let mut outcome = Ok(());
        for (i, table) in self.tables.iter().enumerate() {
            if let Some(path) = &output.csv {
                let path = if i == 0 { path.clone() } else { beside(path, table.name) };
                outcome = outcome.and(write(&path, table.csv(&self.host).as_bytes()));
            }
        }
        if let Some(picture) = &mut self.picture {
            picture.caption = self.host.line();
            for path in &output.plot {
                let drawn =
                    plot::draw(picture, path).with_context(|| format!("cannot draw {}", path.display()));
                outcome = outcome.and(drawn.or_host().and_then(|bytes| write(path, &bytes)));
            }
        }
        outcome
    }

    fn json(&self) -> String {
        let tables: Map<String, Value> =
            self.tables.iter().map(|table| (table.name.to_owned(), table.json())).collect();
        format!("{}\n", json!({ "host": self.host, "tables": tables, "notes": self.notes }))
    }

    fn text(&self) -> String {
        let mut text = format!("{}\n", self.host.line());
        for table in &self.tables {
            let _ = write!(text, "\n{}", table.show());
        }
        if !self.notes.is_empty() {
            text.push('\n');
        }
        self.notes.iter().for_each(|note| text += &format!("{note}\n"));
        text
    }
}

/// `DIR/figures-memory.csv` of `DIR/figures.csv`.
fn beside(path: &Path, name: &str) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{stem}-{name}.csv"))
}

/// Writes a file whole or not at all.
fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let folder = folder_of(path);
    // As any program would create it: what the umask leaves of this.
    let permissions = fs::Permissions::from_mode(0o666);
    let made = tempfile::Builder::new().permissions(permissions).tempfile_in(folder);
    let wrote = made.and_then(|mut file| {
        file.write_all(bytes)?;
        file.persist(path).map_err(|error| error.error)
    });
    let wrote = wrote.with_context(|| format!("cannot write {}", path.display())).or_host();
    wrote.map(drop).map_err(|failure| failure.help(FOLDER_HELP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date(0), "1970-01-01 00:00 UTC");
        assert_eq!(date(951_782_400 + 3_660), "2000-02-29 01:01 UTC");
        assert_eq!(date(1_767_225_599), "2025-12-31 23:59 UTC");
    }

    /// The largest of four times was printed as p90 and as p99.
    #[test]
    fn percentiles_that_a_sample_is_too_small_for_are_not_said() {
        let cell = |count: u64| {
            let times = (1..=count).map(std::time::Duration::from_micros).collect();
            Cell::micros(Sample::new(times).as_ref())
        };
        assert_eq!(cell(4).show(), "3.00/-/-");
        assert_eq!(cell(4).fields("t")[1], ("t p90".into(), Value::Null));
        assert_eq!(cell(9).show(), "5.00/-/-");
        assert_eq!(cell(10).show(), "6.00/10.0/-");
        assert_eq!(cell(99).show(), "50.0/90.0/-");
        assert_eq!(cell(100).show(), "51.0/91.0/100");
        assert_eq!(cell(4).middle(), Some(3.0));
    }

    #[test]
    fn every_row_of_a_csv_file_has_a_field_for_every_column() {
        let host =
            Host { cpu: "x".into(), kernel: "k".into(), kvm: "m".into(), date: "d".into(), load: [0.0; 2] };
        let rows = vec![
            vec![Cell::text("a,b"), Cell::Blank, Cell::Number(1234.5, 1)],
            vec![
                Cell::text("c"),
                Cell::Percentiles([1.0, 2.0, 3.0].map(Some)),
                Cell::range(&[3.0, 1.0, 2.0]),
            ],
        ];
        let table = Table { name: "t", title: "T".into(), columns: vec!["n", "us", "x"], rows };
        let csv = table.csv(&host);
        let mut lines = csv.lines().skip(1);
        assert_eq!(lines.next(), Some("n,us p50,us p90,us p99,x median,x min,x max"));
        assert_eq!(lines.next(), Some("\"a,b\",,,,1234.5,,"));
        assert_eq!(lines.next(), Some("c,1.0,2.0,3.0,2.0,1.0,3.0"));
        assert!(table.show().contains("1,234.5"), "{}", table.show());
        assert!(table.show().contains("2.00 (1.00-3.00)"), "{}", table.show());
    }
}
