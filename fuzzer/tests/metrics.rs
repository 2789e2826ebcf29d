//! `--metrics`: what is served is what is logged.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;

use common::{image, names, run, text, unifork, wait_until};
use serde_json::Value;

/// Field and metric of each figure, as the page for people has them.
fn described() -> BTreeMap<String, String> {
    let page = fs::read_to_string(common::root().join("docs/watching.md")).unwrap();
    let cells = |line: &str| -> Vec<String> {
        line.split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect()
    };
    let rows = page.lines().filter(|line| {
        line.starts_with("| `") && line.contains("`unifork_") && !line.contains("`unifork_client_")
    });
    rows.map(cells).map(|cells| (cells[1].clone(), cells[4].clone())).collect()
}

fn get(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "{request} HTTP/1.0\r\nHost: {address}\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn what_is_scraped_is_what_is_logged() {
    let (image, dir) = (image("planted/noop"), tempfile::tempdir().unwrap());
    let args = ["--json", "fuzz", text(&image), "--output", text(dir.path()), "--metrics", "0"];
    let mut child = unifork(&args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    let address = loop {
        let line = said.next().expect("it says where the figures are").unwrap();
        if let Some(rest) = line.strip_prefix("unifork: figures at http://") {
            break rest.strip_suffix("/metrics").unwrap().to_owned();
        }
    };
    assert!(address.starts_with("127.0.0.1:"), "{address}");
    let mut answer = String::new();
    wait_until("figures", || {
        answer = get(&address, "GET /metrics");
        answer.contains("\nunifork_execs_total ")
    });
    let missing = get(&address, "GET /else");
    let refused = get(&address, "POST /metrics");
    let pid = child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0));

    assert!(answer.starts_with("HTTP/1.") && answer.contains(" 200 OK"), "{answer}");
    assert!(answer.contains("Content-Type: text/plain; version=0.0.4"), "{answer}");
    assert!(missing.contains(" 404 ") && refused.contains(" 405 "), "{missing}\n{refused}");
    let served: BTreeMap<&str, Value> = answer
        .lines()
        .filter(|line| line.starts_with("unifork_") && !line.starts_with("unifork_info"))
        .map(|line| line.split_once(' ').unwrap())
        .map(|(name, value)| (name, serde_json::from_str(value).unwrap()))
        .collect();
    let log = fs::read_to_string(dir.path().join("stats.jsonl")).unwrap();
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let execs = &served["unifork_execs_total"];
    let logged = lines.into_iter().find(|line| line["execs"] == *execs).expect("the same line");
    let described = described();
    assert_eq!(described.len(), served.len());
    for (field, metric) in &described {
        assert_eq!(Some(&logged[field]), served.get(metric.as_str()), "{field} {metric}");
    }
    assert_eq!(logged.as_object().unwrap().len(), described.len());
}

#[test]
fn a_port_that_is_taken_is_said_before_anything_begins() {
    let (image, dir) = (image("planted/noop"), tempfile::tempdir().unwrap());
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = dir.path().join("c");
    let args = ["fuzz", text(&image), "--output", text(&output), "--execs", "10", "--metrics", &address];
    let ran = run(&args).expect(2);
    assert!(ran.stderr.starts_with(&format!("unifork: cannot listen on {address}")), "{}", ran.stderr);
    assert_eq!(ran.stderr.lines().count(), 2, "{}", ran.stderr);
    assert_eq!(names(dir.path()), Vec::<String>::new());
}

#[test]
fn listening_beyond_loopback_is_said() {
    let (image, dir) = (image("planted/noop"), tempfile::tempdir().unwrap());
    let fuzz = |address| {
        run(&["fuzz", text(&image), "--output", text(dir.path()), "--execs", "10", "--metrics", address])
            .expect(0)
    };
    assert!(fuzz("0.0.0.0:0").stderr.contains("warning: they can be read from other machines"));
    assert!(!fuzz("127.0.0.1:0").stderr.contains("warning"));
}
