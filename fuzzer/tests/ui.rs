//! The terminal UI on a real terminal, and what is said where there is none.

mod common;

use std::path::Path;

use common::pty::OnTerminal;
use common::{image, names, run, text, unifork, wait_until};

const ENTER: &str = "\u{1b}[?1049h";
const LEAVE: &str = "\u{1b}[?1049l";

/// A campaign on a terminal, with its UI up and figures in it.
fn campaign(name: &str, folder: &Path, more: &[&str]) -> OnTerminal {
    let image = image(name);
    let mut terminal =
        OnTerminal::start(&mut unifork(&[&["fuzz", text(&image), "--output", text(folder)], more].concat()));
    terminal.expect(ENTER);
    terminal.expect("of fuzzing");
    assert!(terminal.is_taken());
    terminal
}

/// What the terminal shows after the UI has left it.
fn after(terminal: &OnTerminal) -> String {
    let said = terminal.said();
    let (_, after) = said.rsplit_once(LEAVE).unwrap_or_else(|| panic!("the other screen stays\n{said}"));
    assert!(!after.contains(ENTER));
    after.to_owned()
}

#[test]
fn q_saves_and_sums_up_and_gives_the_terminal_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut terminal = campaign("planted/noop", dir.path(), &[]);
    for wanted in ["speed", "edges over time", "campaign", "cores", "findings 0", "q: save and stop"] {
        terminal.expect(wanted);
    }
    assert!(!terminal.said().contains("\u{1b}[25;"), "a row below the last");
    terminal.resize(120, 30);
    terminal.expect("\u{1b}[30;");
    terminal.write(b"xq");
    assert_eq!(terminal.finish(), 0);
    terminal.expect("no findings");
    assert!(!terminal.is_taken());
    let after = after(&terminal);
    assert!(after.contains("executions in ") && !after.contains('\u{1b}'), "{after:?}");
    assert!(dir.path().join("state.postcard").exists());
}

#[test]
fn keys_and_signals_that_end_a_campaign_give_the_terminal_back() {
    // Ctrl-C, once and twice; what `kill` sends.
    for how in ["ctrl-c", "twice", "term"] {
        let dir = tempfile::tempdir().unwrap();
        let mut terminal = campaign("planted/noop", dir.path(), &[]);
        match how {
            "ctrl-c" => terminal.write(b"\x03"),
            "twice" => terminal.write(b"\x03\x03"),
            _ => terminal.signal(libc::SIGTERM),
        }
        let code = terminal.finish();
        // Whether the second one comes in time is chance.
        assert!(code == 0 || (how == "twice" && code == 128 + libc::SIGINT), "{how}: {code}");
        terminal.expect(LEAVE);
        assert!(!terminal.is_taken(), "{how}");
        after(&terminal);
    }
}

#[test]
fn a_terminal_that_closes_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut terminal = campaign("cjson", dir.path(), &[]);
    wait_until("the first inputs", || !names(&dir.path().join("queue")).is_empty());
    terminal.close();
    assert_eq!(terminal.finish(), 0);
    assert!(dir.path().join("state.postcard").exists());
}

#[test]
fn what_cannot_go_on_is_said_on_the_screen_that_stays() {
    let dir = tempfile::tempdir().unwrap();
    let image = image("planted/null-write");
    let (seeds, output) = (dir.path().join("seeds"), dir.path().join("out"));
    std::fs::create_dir(&seeds).unwrap();
    std::fs::write(seeds.join("bad"), b"NUL").unwrap();
    let args = ["fuzz", text(&image), "--seeds", text(&seeds), "--output", text(&output)];
    let mut terminal = OnTerminal::start(&mut unifork(&args));
    assert_eq!(terminal.finish(), 2);
    terminal.expect("none ends well: 1 crash");
    assert!(!terminal.is_taken());
    assert!(after(&terminal).contains("none ends well"), "{}", terminal.said());
}

#[test]
fn without_a_terminal_there_are_lines_and_nothing_to_steer_one() {
    let image = image("planted/noop");
    let dir = tempfile::tempdir().unwrap();
    let fuzz = |ui: &[&str]| {
        run(&[&["fuzz", text(&image), "--output", text(dir.path()), "--for", "2s"], ui].concat())
    };
    let ran = fuzz(&[]).expect(0);
    assert!(ran.stdout.contains(" execs  "), "{}", ran.stdout);
    let control = |text: &str| text.chars().any(|c| c.is_control() && c != '\n');
    assert!(!control(&ran.stdout) && !control(&ran.stderr), "{} {}", ran.stdout, ran.stderr);
    let ran = fuzz(&["--ui", "tui"]).expect(2);
    assert!(ran.stderr.contains("standard output is not a terminal"), "{}", ran.stderr);
}

#[test]
fn lines_can_be_had_on_a_terminal_too() {
    let image = image("planted/noop");
    let dir = tempfile::tempdir().unwrap();
    let args = ["fuzz", text(&image), "--output", text(dir.path()), "--for", "2s", "--ui", "lines"];
    let mut terminal = OnTerminal::start(&mut unifork(&args));
    assert_eq!(terminal.finish(), 0);
    terminal.expect("no findings");
    assert!(!terminal.said().contains('\u{1b}') && terminal.said().contains(" execs  "));
}
