//! `stats.jsonl` read back: all of it for a report, some of it for a curve.

use std::io::{self, BufRead, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use serde_json::Value;
use unifork_vmm::regular;

use super::Figures;

/// No line is longer; what is, is damage.
const LINE_BYTES_MAX: u64 = 4 << 20;
/// A log of up to this many bytes is read whole for a curve.
const WHOLE_BYTES_MAX: u64 = 1 << 20;

/// A line of the log.
#[derive(Debug)]
pub(crate) enum Entry {
    /// Figures, once a second.
    Figures(Box<Figures>),
    /// Something else that was worth a line.
    Other(Value),
}

/// Reads all of `path` and hands over each line with its number, from 1, or what is wrong with it.
pub(crate) fn read(path: &Path, mut each: impl FnMut(u64, Result<Entry, &'static str>)) -> io::Result<()> {
    let mut file = BufReader::new(regular::open(path)?);
    let (mut line, mut number) = (Vec::new(), 0);
    loop {
        line.clear();
        if file.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        number += 1;
        let whole = line.ends_with(b"\n");
        if !whole && line.len() as u64 == LINE_BYTES_MAX {
            skip_line(&mut file)?;
            each(number, Err("it is longer than any line of figures"));
        } else if line.trim_ascii().is_empty() {
            // The end of half a line may be followed by an empty one.
        } else if let Some(entry) = parse(&line) {
            each(number, Ok(entry));
        } else {
            each(number, Err(if whole { "it is not JSON of figures" } else { "it is cut off" }));
        }
    }
}

fn skip_line(file: &mut impl BufRead) -> io::Result<()> {
    loop {
        let buffer = file.fill_buf()?;
        let (count, done) = match buffer.iter().position(|&byte| byte == b'\n') {
            Some(at) => (at + 1, true),
            None => (buffer.len(), buffer.is_empty()),
        };
        file.consume(count);
        if done {
            return Ok(());
        }
    }
}

fn parse(line: &[u8]) -> Option<Entry> {
    if let Ok(figures) = serde_json::from_slice::<Figures>(line) {
        return figures.runtime_s.is_finite().then(|| Entry::Figures(Box::new(figures)));
    }
    serde_json::from_slice(line).ok().filter(Value::is_object).map(Entry::Other)
}

/// About `count` lines of figures from all over `path`, in order. None if there is no such file.
pub(crate) fn sample(path: &Path, count: usize) -> Vec<Figures> {
    let mut found = Vec::new();
    let mut keep = |figures: Figures| {
        if found.last().is_none_or(|last: &Figures| last.runtime_s < figures.runtime_s) {
            found.push(figures);
        }
    };
    let Ok(mut file) = regular::open(path) else { return found };
    let bytes = file.metadata().map_or(0, |metadata| metadata.len());
    if bytes <= WHOLE_BYTES_MAX {
        // An error in the middle leaves what came before it.
        let _ = read(path, |_, entry| {
            if let Ok(Entry::Figures(figures)) = entry {
                keep(*figures);
            }
        });
        return found;
    }
    for step in 0..count as u64 {
        let line = || -> io::Result<Option<Figures>> {
            file.seek(SeekFrom::Start(bytes / count as u64 * step))?;
            let mut lines = BufReader::new(file.by_ref().take(64 << 10)).split(b'\n');
            // Half a line comes first, unless this is the start.
            let line = if step == 0 { lines.next() } else { lines.nth(1) };
            Ok(line.transpose()?.and_then(|line| serde_json::from_slice(&line).ok()))
        };
        if let Ok(Some(figures)) = { line }() {
            keep(figures);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(lines: impl Iterator<Item = String>) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stats.jsonl");
        std::fs::write(&path, lines.collect::<String>()).unwrap();
        (dir, path)
    }

    fn figures(runtime_s: u32) -> String {
        let figures = Figures { runtime_s: runtime_s.into(), ..Figures::default() };
        serde_json::to_string(&figures).unwrap() + "\n"
    }

    #[test]
    fn lines_are_told_apart_and_damage_is_named_by_its_line() {
        let long = "x".repeat(LINE_BYTES_MAX as usize + 7) + "\n";
        let lines =
            [figures(1), "{\"session\":{}}\n".into(), "nonsense\n".into(), "\n".into(), long, figures(2)];
        let (_dir, path) = log(lines.into_iter().chain([figures(3)[..20].to_owned()]));
        let mut told = Vec::new();
        read(&path, |number, entry| {
            told.push((number, entry.map(|entry| matches!(entry, Entry::Figures(_)))));
        })
        .unwrap();
        let damaged: Vec<_> = told.iter().filter(|line| line.1.is_err()).map(|line| line.0).collect();
        assert_eq!(damaged, [3, 5, 7], "{told:?}");
        assert_eq!((&told[0], &told[1], &told[4]), (&(1, Ok(true)), &(2, Ok(false)), &(6, Ok(true))));
        assert_eq!(told[5], (7, Err("it is cut off")));
    }

    #[test]
    fn a_sample_of_a_long_log_is_spread_over_it() {
        let (_dir, path) = log((0..5000).map(figures));
        assert!(std::fs::metadata(&path).unwrap().len() > WHOLE_BYTES_MAX);
        let times: Vec<f64> = sample(&path, 100).iter().map(|figures| figures.runtime_s).collect();
        assert!(times.is_sorted() && times[0] == 0.0, "{times:?}");
        assert!((90..=100).contains(&times.len()) && *times.last().unwrap() > 4800.0, "{times:?}");
        let (_dir, path) = log((0..50).map(figures));
        assert_eq!(sample(&path, 10).len(), 50);
        assert_eq!(sample(Path::new("/nonexistent"), 10).len(), 0);
    }
}
