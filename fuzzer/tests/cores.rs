//! Campaigns on several cores: clients share what they find, and whatever dies, nothing is lost.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use common::campaign::{Running, contents, kill, last_figures, left_over, orphaned_segments};
use common::{image, names, run, text, unifork, wait_until};

/// The command of a campaign of two clients. On a machine of one core the test says so.
fn two_cores(image: &Path, output: &Path, more: &[&str]) -> Command {
    let args = ["--json", "fuzz", text(image), "--output", text(output), "--cores", "2"];
    unifork(&[&args[..], more].concat())
}

fn hashes(queue: &Path) -> Vec<String> {
    let hash = |name: &String| name.split_once('-').expect("a queue's file").1.to_owned();
    names(queue).iter().filter(|name| !name.starts_with('.')).map(hash).collect()
}

#[track_caller]
fn assert_nothing_left(output: &Path) {
    wait_until("the end of all processes", || left_over(output).is_empty());
    assert_eq!(orphaned_segments(), []);
}

#[test]
fn two_cores_share_their_corpus_and_the_executions_asked_for() {
    let image = image("cjson");
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("out");
    let ran = Running::start(two_cores(&image, &output, &["--seed", "1", "--execs", "60001"]), &output).end();
    let summary = ran.expect(0).json()["summary"].clone();
    assert_eq!(summary["execs"], 60_001, "{summary}");
    let execs: Vec<_> = summary["clients"]
        .as_array()
        .unwrap()
        .iter()
        .map(|client| client["execs"].as_u64().unwrap())
        .collect();
    assert_eq!(execs, [30_001, 30_000]);
    assert!(summary["imported"].as_u64().unwrap() > 10, "they keep what the other found: {summary}");
    let hashes = hashes(&output.join("queue"));
    assert_eq!(summary["corpus"].as_u64().unwrap(), hashes.len() as u64);
    let unique: BTreeSet<_> = hashes.iter().collect();
    // What both find at the same moment is there twice.
    assert!(hashes.len() - unique.len() <= hashes.len() / 20, "{} of {}", unique.len(), hashes.len());
    assert_nothing_left(&output);
}

#[test]
fn two_cores_find_a_bug_and_stop_at_it() {
    let image = image("planted/null-write");
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("out");
    let ran =
        Running::start(two_cores(&image, &output, &["--seed", "1", "--until", "finding"]), &output).end();
    let summary = ran.expect(0).json();
    assert_eq!(summary["new_findings"], 1, "{summary}");
    let found = names(&output.join("findings"));
    assert!(found.len() == 1 && found[0].starts_with("null-write-"), "{found:?}");
    run(&["repro", text(&output.join("findings").join(&found[0])), "--runs", "3"]).expect(0);
    assert_nothing_left(&output);
}

#[test]
fn a_killed_client_is_started_again_and_nothing_is_lost() {
    let image = image("cjson");
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("out");
    let running = Running::start(two_cores(&image, &output, &["--seed", "1"]), &output);
    running.wait_for_execs(0);
    let mut kept = Vec::new();
    for round in 1..=3u64 {
        wait_until("both clients", || running.parts("Client").len() == 2);
        let victim = running.parts("Client")[usize::try_from(round).unwrap() % 2];
        kill("KILL", &victim.to_string());
        let now = contents(&output.join("queue"));
        assert!(kept.iter().all(|entry| now.contains(entry)), "round {round}");
        kept = now;
        wait_until("a new client", || {
            let figures = last_figures(&output);
            let alive = |client: &serde_json::Value| client["pid"] != 0 && client["execs_per_s"] != 0.0;
            figures["restarts"] == round && figures["clients"].as_array().unwrap().iter().all(alive)
        });
    }
    running.signal("INT", false);
    let ran = running.end().expect(0);
    assert_eq!(ran.stderr.matches("died (signal 9) and is started again").count(), 3, "{}", ran.stderr);
    assert_eq!(ran.json()["summary"]["restarts"], 3);
    let now = contents(&output.join("queue"));
    assert!(!kept.is_empty() && kept.iter().all(|entry| now.contains(entry)));
    assert_nothing_left(&output);
}

#[test]
fn a_killed_broker_is_replaced_and_the_clients_hear_of_one_another_again() {
    let image = image("cjson");
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("out");
    let running = Running::start(two_cores(&image, &output, &["--seed", "1"]), &output);
    running.wait_for_execs(0);
    let broker = running.parts("Broker");
    assert_eq!(broker.len(), 1);
    kill("KILL", &broker[0].to_string());
    wait_until("another broker", || running.parts("Broker").iter().any(|&pid| pid != broker[0]));
    let imported = || last_figures(&output)["imported"].as_u64().unwrap();
    let before = imported();
    wait_until("inputs that cross", || imported() > before);
    running.signal("INT", false);
    let ran = running.end().expect(0);
    assert!(ran.stderr.contains("the broker died (signal 9) and is started again"), "{}", ran.stderr);
    assert_eq!(ran.json()["summary"]["restarts"], 0, "no client had to be started again");
    assert_nothing_left(&output);
}

#[test]
fn an_interrupt_of_the_whole_group_saves_and_sums_up() {
    let image = image("planted/noop");
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("out");
    let running = Running::start(two_cores(&image, &output, &["--seed", "1"]), &output);
    running.wait_for_execs(0);
    // As a terminal does it.
    running.signal("INT", true);
    let ran = running.end().expect(0);
    let summary = ran.json();
    assert!(summary["session_execs"].as_u64().unwrap() > 0, "{summary}");
    assert_eq!(summary["summary"]["restarts"], 0, "{}", ran.stderr);
    for state in ["state.postcard", "state-1.postcard"] {
        assert!(output.join(state).exists(), "{state}");
    }
    assert_nothing_left(&output);
}

#[test]
fn kill_9_of_everything_loses_nothing_and_any_number_of_cores_resumes() {
    let image = image("cjson");
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("out");
    let mut kept: Vec<(String, Vec<u8>)> = Vec::new();
    let mut execs = 0;
    for cores in ["2", "1", "2"] {
        let args = ["--json", "fuzz", text(&image), "--output", text(&output), "--cores", cores];
        let running = Running::start(unifork(&args), &output);
        running.wait_for_execs(execs);
        running.signal("KILL", true);
        let _killed = running.end();
        let now = contents(&output.join("queue"));
        for (name, bytes) in &kept {
            assert!(now.contains(&(name.clone(), bytes.clone())), "on {cores} cores: {name}");
        }
        kept = now;
        let counted = last_figures(&output)["execs"].as_u64().unwrap();
        assert!(counted > execs, "it counts on");
        execs = counted;
        assert_nothing_left(&output);
    }
    let limit = (execs + 4_000).to_string();
    let ran = Running::start(two_cores(&image, &output, &["--execs", &limit]), &output).end().expect(0);
    assert_eq!(ran.json()["summary"]["execs"], execs + 4_000);
    assert!(ran.stderr.contains("resuming after"), "{}", ran.stderr);
    let leftovers: Vec<_> = ["queue", "findings"]
        .iter()
        .flat_map(|folder| names(&output.join(folder)))
        .filter(|name| name.starts_with('.'))
        .collect();
    assert_eq!(leftovers, Vec::<String>::new());
}

#[test]
fn clients_whose_parent_is_killed_save_and_end_and_only_then_the_folder_is_free() {
    let image = image("cjson");
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("out");
    let running = Running::start(two_cores(&image, &output, &["--seed", "1"]), &output);
    running.wait_for_execs(0);
    let refused = run(&["fuzz", text(&image), "--output", text(&output), "--for", "1s"]).expect(2);
    assert!(
        refused.stderr.contains(&format!("another campaign (process {})", running.pid())),
        "{}",
        refused.stderr
    );
    running.signal("KILL", false);
    let _killed = running.end();
    let args = ["--json", "fuzz", text(&image), "--output", text(&output), "--seed", "1", "--for", "1s"];
    let ran = run(&args).expect(0);
    for state in ["state.postcard", "state-1.postcard"] {
        assert!(output.join(state).exists(), "{state}");
    }
    assert!(!ran.stderr.contains("no saved state is used"), "{}", ran.stderr);
    assert_nothing_left(&output);
}

#[test]
fn seeds_that_all_crash_are_said_once() {
    let image = image("planted/null-write");
    let dir = tempfile::tempdir().unwrap();
    let (seeds, output) = (dir.path().join("seeds"), dir.path().join("out"));
    fs::create_dir(&seeds).unwrap();
    fs::write(seeds.join("bad"), b"NUL").unwrap();
    let ran = Running::start(two_cores(&image, &output, &["--seeds", text(&seeds)]), &output).end().expect(2);
    assert_eq!(ran.stderr.matches("none ends well: 1 crash").count(), 1, "{}", ran.stderr);
    assert_eq!(names(&output.join("findings")).len(), 1, "the crash is kept nevertheless");
    assert_nothing_left(&output);
}

/// A terminal that is closed: the kernel hangs up, and there is nobody to write to.
#[test]
fn a_terminal_that_closes_ends_the_campaign_with_its_state_saved() {
    let image = image("planted/noop");
    for cores in ["1", "2"] {
        let dir = tempfile::tempdir().unwrap();
        let output = dir.path().join("out");
        let (terminal, end) = pseudo_terminal();
        let args = ["fuzz", text(&image), "--output", text(&output), "--cores", cores];
        let mut command = unifork(&args);
        command.stdout(end.try_clone().unwrap()).stderr(end.try_clone().unwrap());
        let controlling = end.try_clone().unwrap();
        let take_terminal = move || {
            rustix::process::setsid()?;
            Ok(rustix::process::ioctl_tiocsctty(&controlling)?)
        };
        // SAFETY: between fork and exec it makes two system calls, and allocates nothing.
        unsafe { command.pre_exec(take_terminal) };
        let mut child = command.spawn().unwrap();
        drop((command, end));
        wait_until("the first figures", || last_figures(&output)["execs"].as_u64() > Some(0));
        drop(terminal);
        let status = child.wait().unwrap();
        assert_eq!(status.code(), Some(0), "on {cores} cores: {status}");
        assert!(output.join("state.postcard").exists(), "on {cores} cores");
        assert_nothing_left(&output);
    }
}

/// Both ends of a new pseudo-terminal.
fn pseudo_terminal() -> (OwnedFd, OwnedFd) {
    let (mut one, mut other) = (0, 0);
    let none = std::ptr::null_mut();
    // SAFETY: both numbers are written, and nothing is asked of name, settings or size.
    let opened = unsafe { libc::openpty(&mut one, &mut other, none, none.cast(), none.cast()) };
    assert_eq!(opened, 0, "{}", std::io::Error::last_os_error());
    for fd in [one, other] {
        // SAFETY: the descriptor is open; it is not to be inherited.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    // SAFETY: it is open and owned by nobody else.
    let own = |fd| unsafe { OwnedFd::from_raw_fd(fd) };
    (own(one), own(other))
}
