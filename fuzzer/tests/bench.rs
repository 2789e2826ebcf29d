//! `unifork bench`: every measurement is made, and says the same in every form.

mod common;

use std::fs;
use std::path::Path;

use common::{Ran, image, root, run, text, unifork};
use serde_json::Value;

/// Runs `unifork bench ARGS` with every form of output, checks those, and gives the JSON.
fn bench(args: &[&str], folder: &Path) -> Value {
    let file = |name: &str| text(&folder.join(name)).to_owned();
    let (csv, svg, png) = (file("x.csv"), file("x.svg"), file("x.png"));
    let mut all = vec!["--json", "bench"];
    all.extend(args);
    all.extend(["--csv", &csv, "--plot", &svg, "--plot", &png]);
    let report = run(&all).expect(0).json();
    for fact in ["cpu", "kernel", "kvm", "date"] {
        assert_ne!(report["host"][fact].as_str().unwrap_or_default(), "", "{fact}");
    }
    let drawn = fs::read_to_string(&svg).unwrap();
    let kernel = report["host"]["kernel"].as_str().unwrap();
    assert!(drawn.starts_with("<svg") && drawn.contains(kernel), "the picture names the machine");
    assert!(fs::read(&png).unwrap().starts_with(b"\x89PNG"));
    let csv = fs::read_to_string(&csv).unwrap();
    assert!(csv.starts_with("# ") && csv.contains(kernel), "{csv}");
    let mut lines = csv.lines().skip(1);
    // No name here has a comma in it but those of the ways to a fork or a call, which are quoted.
    let fields = |line: &str| {
        line.replace("pooled, ", "").replace("TCP, ", "").replace("guest, ", "").split(',').count()
    };
    let columns = fields(lines.next().unwrap());
    let rows = lines.inspect(|line| assert_eq!(fields(line), columns, "{line}")).count();
    let name = args[0];
    assert_eq!(rows, report["tables"][name].as_array().unwrap().len());
    report
}

fn number(row: &Value, key: &str) -> f64 {
    row[key].as_f64().unwrap_or_else(|| panic!("no {key} in {row}"))
}

#[test]
fn spawn_times_every_way_phase_by_phase() {
    let image = image("planted/noop");
    let dir = tempfile::tempdir().unwrap();
    let report = bench(&["spawn", text(&image), "--rounds", "20", "--alive", "12,1"], dir.path());
    let rows = report["tables"]["spawn"].as_array().unwrap();
    let ways: Vec<_> =
        rows.iter().map(|row| (row["way"].as_str().unwrap(), number(row, "alive") as u32)).collect();
    let few = ["new fork", "pooled, retargeted", "pooled, kept", "reset"];
    let mut expected = vec![("cold boot", 1), ("restore from file", 1)];
    expected.extend(few.map(|way| (way, 1)));
    expected.extend(few.map(|way| (way, 12)));
    assert_eq!(ways, expected);
    for row in rows {
        let way = row["way"].as_str().unwrap();
        assert!(number(row, "first p50") > 0.0 && number(row, "run p50") > 0.0, "{row}");
        let whole = number(row, "to first instruction p50");
        assert!(number(row, "first p50") < whole, "{row}");
        // Half of the samples are of the first instruction; of the slow ways there are four in all.
        let p90 = &row["to first instruction p90"];
        assert_eq!(p90.is_number(), !matches!(way, "cold boot" | "restore from file"), "{row}");
        assert!(p90.as_f64().is_none_or(|p90| whole <= p90), "{row}");
        assert!(row["to first instruction p99"].is_null(), "{row}");
        assert_eq!(row["image p50"].is_number(), matches!(way, "cold boot" | "restore from file"), "{row}");
        let makes_a_vm = !few[1..].contains(&way);
        for phase in ["vm p50", "vcpu p50"] {
            assert_eq!(row[phase].is_number(), makes_a_vm, "{phase}: {row}");
        }
    }
    let memory = report["tables"]["memory"].as_array().unwrap();
    let of = |what: &str| memory.iter().find(|row| row["dirtied by"] == what).unwrap();
    let dirtied = number(of("16 pages"), "private KiB") - number(of("0 pages"), "private KiB");
    assert!((56.0..=96.0).contains(&dirtied), "16 pages are 64 KiB: {dirtied}");
    assert!(number(&report["tables"]["guest"][0], "image KiB") > 1.0);
    assert!(dir.path().join("x-memory.csv").exists());
}

/// A name without a slash was looked for on PATH, and the image's row left out.
#[test]
fn an_image_in_the_current_folder_is_started_like_any_other() {
    let image = image("planted/noop");
    let name = text(Path::new(image.file_name().unwrap()));
    let args = ["--json", "bench", "spawn", name, "--rounds", "2", "--alive", "1", "--peers"];
    let output = unifork(&args).current_dir(image.parent().unwrap()).output().unwrap();
    let report = Ran::new(&args, output).expect(0).json();
    let peers: Vec<_> =
        report["tables"]["peers"].as_array().unwrap().iter().map(|row| &row["peer"]).collect();
    assert!(peers.iter().any(|peer| *peer == "fork + exec of the image"), "{peers:?}: {}", report["notes"]);
}

/// The folder for the figures vanished while they were measured, and nothing at all was said of them.
#[test]
fn figures_that_cannot_be_written_are_said_all_the_same() {
    common::need_kvm();
    let dir = tempfile::tempdir().unwrap();
    let svg = dir.path().join("x.svg");
    let args = ["bench", "reset", "--pages", "1", "--engine", "hot-set", "--for", "5ms"];
    // A folder that is there, and in which nobody can make a file.
    let args = [&args[..], &["--csv", "/proc/x.csv", "--plot", text(&svg)]].concat();
    let ran = run(&args).expect(3);
    assert!(ran.stdout.contains("hot-set"), "{}", ran.stdout);
    assert_eq!(ran.stderr.lines().filter(|line| line.contains("/proc/x.csv")).count(), 1, "{}", ran.stderr);
    assert!(svg.exists(), "the other file is written");
}

#[test]
fn more_forks_than_this_process_may_have_are_said_to_be_too_many() {
    let args = ["--json", "bench", "spawn", "--rounds", "2", "--alive", "1,100000000"];
    let report = run(&args).expect(0).json();
    assert!(report["notes"].to_string().contains("100,000,000 forks"), "{report}");
    run(&["bench", "spawn", "--alive", "100000000"]).expect(2);
}

#[test]
fn reset_sweeps_every_engine_beside_a_plain_copy() {
    let dir = tempfile::tempdir().unwrap();
    let report = bench(&["reset", "--pages", "200,1,20", "--for", "20ms"], dir.path());
    let rows = report["tables"]["reset"].as_array().unwrap();
    for engine in ["plain copy", "copy-all", "dirty-log", "dirty-ring", "hot-set"] {
        let of = |row: &&Value| row["engine"] == engine;
        let pages: Vec<_> = rows.iter().filter(of).map(|row| number(row, "pages") as u32).collect();
        assert_eq!(pages, [1, 20, 200], "{engine}");
        assert!(rows.iter().filter(of).all(|row| number(row, "reset us p50") > 0.0), "{engine}");
    }
    let fits = report["tables"]["fit"].as_array().unwrap();
    assert_eq!(fits.len(), 2 * 5, "{fits:?}");
}

#[test]
fn exec_measures_engines_and_batches_on_one_core_and_two() {
    let image = image("planted/noop");
    let dir = tempfile::tempdir().unwrap();
    let args = ["exec", text(&image), "--for", "200ms", "--repeat", "2", "--cores", "1,2", "--peers"];
    let report = bench(&args, dir.path());
    let rows = report["tables"]["exec"].as_array().unwrap();
    let modes: Vec<_> =
        rows.iter().map(|row| (row["mode"].as_str().unwrap(), number(row, "cores") as u32)).collect();
    assert_eq!(modes, [("dirty-log", 1), ("dirty-ring", 1), ("hot-set", 1), ("batches", 1), ("batches", 2)]);
    for row in rows {
        assert!(
            number(row, "exec/s min") > 0.0 && number(row, "exec/s min") <= number(row, "exec/s max"),
            "{row}"
        );
        assert!(number(row, "run us") > 0.0, "{row}");
        assert_eq!(row["x one core"].is_number(), row["cores"] == 2.0, "{row}");
    }
    assert!(report["notes"].to_string().contains("give the harness's folder"), "{report}");
}

#[test]
fn every_peer_is_measured_or_said_to_be_missing() {
    common::need_kvm();
    let harness = root().join("harnesses/planted/noop");
    let args =
        ["--json", "bench", "exec", text(&harness), "--engine", "hot-set", "--no-batch", "--cores", "1"];
    let args = [&args[..], &["--for", "300ms", "--repeat", "1", "--peers"]].concat();
    let report = run(&args).expect(0).json();
    let measured = report["tables"]["peers"].to_string();
    let notes = report["notes"].to_string();
    for peer in ["libFuzzer", "AFL++ persistent", "AFL++ fork server", "fork + exec"] {
        assert!(measured.contains(peer) != notes.contains(peer), "{peer}: {report}");
    }
    assert!(measured.contains("fork + exec"), "it needs nothing: {notes}");
}

#[test]
fn control_times_a_call_and_both_sockets() {
    let image = image("planted/noop");
    let dir = tempfile::tempdir().unwrap();
    let report = bench(&["control", text(&image), "--rounds", "20"], dir.path());
    let rows = report["tables"]["control"].as_array().unwrap();
    let through: Vec<_> = rows.iter().map(|row| row["through"].as_str().unwrap()).collect();
    assert_eq!(through, ["call", "Unix socket", "TCP, loopback"]);
    assert!(rows.iter().all(|row| number(row, "of it replica p50") <= number(row, "run p50")));
}

#[test]
fn syscall_times_every_way_and_rewritten_calls_do_not_trap() {
    common::need_kvm();
    let dir = tempfile::tempdir().unwrap();
    let report = bench(&["syscall", "--rounds", "2", "--work", "20"], dir.path());
    let rows = report["tables"]["syscall"].as_array().unwrap();
    let names: Vec<_> =
        rows.iter().map(|row| (row["call"].as_str().unwrap(), row["way"].as_str().unwrap())).collect();
    let ways = ["native", "guest, trapping", "guest, direct"];
    let expected = ["ioctl(TIOCGWINSZ)", "getppid"].map(|call| ways.map(|way| (call, way))).concat();
    assert_eq!(names, expected);
    let time = |call: usize, way: usize| number(&rows[3 * call + way], "ns p50");
    for call in 0..2 {
        assert!(
            time(call, 0) > 0.0 && time(call, 2) < time(call, 1),
            "a jump is cheaper than a trap: {rows:?}"
        );
    }
    let work = report["tables"]["work"].as_array().unwrap();
    assert_eq!(work.iter().map(|row| row["way"].as_str().unwrap()).collect::<Vec<_>>(), ways);
    assert!(work.iter().all(|row| number(row, "itself x native") > 0.0), "{work:?}");
}

#[test]
fn bad_arguments_are_usage_errors() {
    for args in [
        &["bench", "spawn", "--plot", "x.jpg"][..],
        &["bench", "spawn", "--rounds", "0"],
        &["bench", "spawn", "--alive", "0"],
        &["bench", "spawn", "/nonexistent.img"],
        &["bench", "reset", "--pages", "0"],
        &["bench", "reset", "--pages", "1000000"],
        &[
            "bench",
            "reset",
            "--pages",
            "1",
            "--engine",
            "hot-set",
            "--for",
            "5ms",
            "--csv",
            "/proc/none/x.csv",
        ],
        &["bench", "exec", "/nonexistent.img"],
        &["bench", "exec", "x.img", "--cores", "0"],
        &["bench", "control", "/nonexistent.img"],
        &["bench", "syscall", "--rounds", "0"],
    ] {
        let ran = run(args).expect(2);
        assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
    }
}
