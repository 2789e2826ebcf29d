//! `unifork report`: of real campaigns in every state, and of folders that nobody would wish for.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use common::{html, image, names, run, text, unifork, wait_until};
use serde_json::{Value, json};

/// Makes the page of `campaign` and checks it.
fn page(campaign: &Path) -> (String, Vec<String>) {
    run(&["report", text(campaign)]).expect(0);
    let page = fs::read_to_string(campaign.join("report.html")).unwrap();
    let links = html::check(&page);
    (page, links)
}

/// A folder that looks like a campaign's. `lines` are those of its log.
fn made_up(lines: &[String]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let campaign = dir.path().join("made up.campaign");
    fs::create_dir_all(campaign.join("findings")).unwrap();
    fs::write(campaign.join("stats.jsonl"), lines.concat()).unwrap();
    (dir, campaign)
}

fn figures(runtime_s: u64) -> String {
    let line = json!({
        "unix": 1_700_000_000 + runtime_s, "runtime_s": runtime_s as f64, "execs": runtime_s * 1000,
        "execs_per_s": 1000.0, "corpus": 5, "edges": 7 + runtime_s, "edges_total": 1000, "kernel_edges": 1,
        "kernel_edges_total": 2, "findings": 1, "duplicates": 3, "unrepeated": 0, "stability": 1.0,
        "reset_pages_per_run": 2.5,
    });
    format!("{line}\n")
}

fn finding(campaign: &Path, name: &str, sentence: &str) {
    let folder = campaign.join("findings").join(name);
    fs::create_dir_all(&folder).unwrap();
    let record = json!({
        "name": name, "sentence": sentence, "agreed": 1, "confirmations": 3, "input_bytes": 9, "execs": 1000,
        "runtime_s": 1.0,
    });
    fs::write(folder.join("report.json"), record.to_string()).unwrap();
    fs::write(folder.join("report.txt"), sentence).unwrap();
}

#[test]
fn a_campaign_is_on_one_page_and_its_links_lead_somewhere() {
    let (image, dir) = (image("planted/null-write"), tempfile::tempdir().unwrap());
    let campaign = dir.path().join("c");
    let args = ["--execs", "60000", "--seed", "1", "--audit", "1000", "--output", text(&campaign)];
    let summary = run(&[&["--json", "fuzz", text(&image)], &args[..]].concat()).expect(0).json();
    let execs = summary["summary"]["execs"].as_u64().unwrap();
    let found = names(&campaign.join("findings"));
    assert!(!found.is_empty());
    let (first, links) = page(&campaign);
    for wanted in [
        "Executions a second",
        "Edges reached",
        "Inputs in the corpus",
        "<svg ",
        "Ended by its limit, 1 session",
        "page fault: write to",
        "Slowest inputs",
        "System calls that are not served",
        "runs made again in a new fork, all the same",
        "engine hot-set",
        "--audit 1000",
        env!("CARGO_PKG_VERSION"),
        "prefers-color-scheme",
        "viewport",
        fs::read_to_string("/proc/sys/kernel/osrelease").unwrap().trim(),
    ] {
        assert!(first.contains(wanted), "no {wanted:?} in\n{first}");
    }
    let digits: String = first.chars().filter(|&c| c != ',').collect();
    assert!(digits.contains(&execs.to_string()), "{execs}");
    assert!(links.contains(&format!("findings/{}/report.txt", found[0])), "{links:?}");
    assert!(links.iter().any(|link| link.starts_with("queue/")), "{links:?}");

    run(&["triage", text(&campaign)]).expect(0);
    let (_, links) = page(&campaign);
    let pages = names(&campaign.join("triage"));
    let of_triage = format!("triage/{}/index.html", pages.last().unwrap());
    assert!(links.contains(&of_triage), "{links:?}");
    // From elsewhere, too.
    let pages = dir.path().join("my pages");
    fs::create_dir(&pages).unwrap();
    run(&["report", text(&campaign), "-o", text(&pages.join("one.html"))]).expect(0);
    let elsewhere = html::check(&fs::read_to_string(pages.join("one.html")).unwrap());
    for (folder, links) in [(&campaign, links), (&pages, elsewhere)] {
        for link in links {
            assert!(folder.join(&link).exists(), "{link} leads nowhere");
        }
    }
    assert_eq!(names(&pages), ["one.html"]);
}

#[test]
fn a_campaign_that_runs_and_one_that_was_killed_have_their_page() {
    let (image, dir) = (image("planted/noop"), tempfile::tempdir().unwrap());
    let args = ["--json", "fuzz", text(&image), "--output", text(dir.path())];
    let mut child = unifork(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let log = dir.path().join("stats.jsonl");
    wait_until("two lines of figures", || {
        fs::read_to_string(&log).unwrap_or_default().matches("\"execs\":").count() >= 2
    });
    let (running, _) = page(dir.path());
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(running.contains(&format!("Running, as process {}", child.id())), "{running}");
    let (killed, _) = page(dir.path());
    assert!(killed.contains("Did not come to its end"), "{killed}");
}

#[test]
fn what_a_guest_or_a_file_says_is_text() {
    let session = json!({ "session": {
        "unix": 1, "version": "<b>", "command": ["unifork", "<i>\u{1b}[2J"], "host": [["CPU", "\"><script>"]],
        "machine": { "image": "/tmp/<u>", "name": "x", "snapshot": "'\"", "memory_bytes": 1, "input_max": 1,
            "deadline_ms": 1, "engine": "<s>" },
        "seeds": 1, "tokens": 0, "audit": null } });
    let (_dir, campaign) = made_up(&[format!("{session}\n"), figures(1)]);
    finding(&campaign, "a\"><script>alert(1)<!--&-x", "assertion failed: </p><script src=//x> & \u{7} 'y'");
    let detail = json!({ "unserved": { "<script>": 3 }, "slowest": [] });
    fs::write(campaign.join("detail-0.json"), detail.to_string()).unwrap();
    let (page, links) = page(&campaign);
    assert!(page.contains("&lt;/p&gt;&lt;script src=//x&gt; &amp; \\u{7} &#39;y&#39;"), "{page}");
    assert!(links[0].starts_with("findings/a%22%3E%3Cscript%3E"), "{links:?}");
    assert!(page.contains("does not repeat each time"));
}

#[test]
fn damage_is_named_and_the_rest_is_shown() {
    let lines = [figures(1), "nonsense\n".into(), figures(2), figures(500), figures(3), "{\"unix\":1".into()];
    let (_dir, campaign) = made_up(&lines);
    let broken = campaign.join("findings/broken");
    fs::create_dir(&broken).unwrap();
    fs::write(broken.join("report.json"), "{").unwrap();
    fs::write(campaign.join("detail-0.json"), "]").unwrap();
    let told = run(&["--json", "report", text(&campaign)]).expect(0);
    let damage: Vec<String> = serde_json::from_value(told.json()["damage"].clone()).unwrap();
    for wanted in [
        "line 2 of",
        "line 5 of",
        "line 6 of",
        "no line of figures between 0:02 and 8:20",
        "broken/report.json cannot be used",
        "detail-0.json cannot be used",
    ] {
        assert_eq!(damage.iter().filter(|text| text.contains(wanted)).count(), 1, "{wanted}: {damage:#?}");
        assert!(told.stderr.contains(wanted), "{}", told.stderr);
    }
    let (page, _) = page(&campaign);
    assert!(page.contains("What is missing") && page.contains("500,000, "), "{page}");
    assert_eq!(told.json()["figures"]["execs"], 500_000);
}

#[test]
fn nothing_one_sample_and_thousands_of_findings_have_their_page() {
    let (_dir, campaign) = made_up(&[]);
    let (empty, _) = page(&campaign);
    for wanted in ["There are no figures yet", "Findings: 0", "None are recorded", "The log does not say"] {
        assert!(empty.contains(wanted), "{empty}");
    }
    let (_dir, campaign) = made_up(&[figures(1)]);
    assert!(page(&campaign).0.contains("<circle"));
    for number in 0..3000 {
        finding(
            &campaign,
            &format!("null-write-{number:08x}"),
            "page fault: write to 0x0, which is not mapped",
        );
    }
    let (many, links) = page(&campaign);
    assert!(many.contains("Findings: 3,000") && many.contains("And 2,500 more in"), "{}", many.len());
    assert!(links.len() < 600 && many.len() < 400_000, "{}", many.len());
}

#[test]
fn a_page_is_written_whole_or_not_at_all() {
    let (dir, campaign) = made_up(&[figures(1)]);
    let (mine, none) = (dir.path().join("mine"), dir.path().join("none/page.html"));
    fs::create_dir(&mine).unwrap();
    for args in [
        vec!["report", text(&mine)],
        vec!["report", "/nonexistent"],
        vec!["report", text(&campaign), "-o", text(&none)],
        vec!["report", text(&campaign), "-o", text(&mine)],
    ] {
        let ran = run(&args).expect(2);
        assert!(ran.stderr.lines().count() == 2 && ran.stderr.starts_with("unifork: "), "{}", ran.stderr);
    }
    // A file system that takes no files.
    let ran = run(&["report", text(&campaign), "-o", "/proc/report.html"]).expect(3);
    assert!(ran.stderr.starts_with("unifork: cannot "), "{}", ran.stderr);
    assert_eq!(names(&campaign), ["findings", "stats.jsonl"]);
    assert_eq!(names(&mine), Vec::<String>::new());
    let value: Value = run(&["--json", "report", text(&campaign)]).expect(0).json();
    assert_eq!(value["written"], text(&campaign.join("report.html")));
    assert_eq!(names(&campaign), ["findings", "report.html", "stats.jsonl"]);
}
