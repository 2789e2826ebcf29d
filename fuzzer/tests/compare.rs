//! `scripts/compare-campaigns.py` runs campaigns and prints its table.

mod common;

use std::process::Command;

use common::{image, root, text};

#[test]
fn two_ways_to_fuzz_are_put_side_by_side() {
    let dir = tempfile::tempdir().unwrap();
    let image = image("cjson");
    let raw = dir.path().join("raw.json");
    let script = root().join("scripts/compare-campaigns.py");
    let run = |args: &[&str]| {
        let output = Command::new("python3").arg(&script).args(args).output().expect("python3 is installed");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{out}\n{err}");
        out.into_owned()
    };
    let program = env!("CARGO_BIN_EXE_unifork");
    let limits = ["--cpu", "0.1", "--execs", "2000", "--trials", "2", "--raw", text(&raw)];
    let arms = ["--arm", "all:", "--arm", "plain:--without tokens,grammar --no-batch"];
    let table = run(&[&[text(&image), "--unifork", program], &limits[..], &arms[..]].concat());
    for arm in ["| all | 2 | ", "| plain | 2 | "] {
        assert!(table.contains(arm), "{table}");
    }
    assert_eq!(run(&["--table", text(&raw)]), table);
}
