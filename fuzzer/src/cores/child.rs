//! A process of a campaign: this program with a role, heard line by line.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use super::{ROLE, Role};
use crate::notice::notice;

/// Which process a line is from: its place, and which of those that had it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct From {
    pub(crate) place: Place,
    pub(crate) turn: u64,
}

/// A process's place in the campaign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Client(usize),
    Broker,
}

/// What is heard.
#[derive(Debug)]
pub(crate) enum Heard {
    Line(From, String),
    /// Its stdout ended.
    End(From),
}

/// A running process. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Child {
    process: std::process::Child,
    // Open for as long as the process is to run.
    stdin: Option<ChildStdin>,
    pub(crate) from: From,
    pub(crate) started: Instant,
}

impl Child {
    /// Starts this program again, as `role`.
    pub(crate) fn start(role: &Role, from: From, heard: Sender<Heard>) -> std::io::Result<Self> {
        let role = serde_json::to_string(role).expect("a role is plain data");
        let mut process = Command::new("/proc/self/exe")
            .arg0("unifork")
            .args(std::env::args_os().skip(1))
            .env(ROLE, role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let stdin = process.stdin.take();
        let stdout = process.stdout.take().expect("it is piped");
        // What it says goes where this process's notices go: under the terminal UI, not to the terminal.
        let stderr = process.stderr.take().expect("it is piped");
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n') {
                let Ok(line) = line else { break };
                notice(&String::from_utf8_lossy(&line));
            }
        });
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                let Ok(line) = line else { break };
                if heard.send(Heard::Line(from, line)).is_err() {
                    return;
                }
            }
            // Nobody listens any more at the very end.
            let _ = heard.send(Heard::End(from));
        });
        Ok(Self { process, stdin, from, started: Instant::now() })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Writes a line to it. One that is gone is heard of otherwise.
    pub(crate) fn tell(&mut self, line: &str) {
        if let Some(stdin) = &mut self.stdin {
            let _ = writeln!(stdin, "{line}").and_then(|()| stdin.flush());
        }
    }

    /// Asks it to end.
    pub(crate) fn stop(&mut self) {
        self.stdin = None;
    }

    /// Ends it.
    pub(crate) fn kill(&mut self) {
        // One that is gone needs no killing.
        let _ = self.process.kill();
    }

    /// Waits for its end, and makes one after `patience`.
    pub(crate) fn wait(&mut self, patience: Duration) -> std::io::Result<ExitStatus> {
        self.stop();
        let start = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait()? {
                return Ok(status);
            }
            if start.elapsed() > patience {
                self.kill();
                return self.process.wait();
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
        let _ = self.process.wait();
    }
}

/// How a process ended, in words.
pub(crate) fn show_status(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("signal {signal}"),
        (None, Some(code)) => format!("exit code {code}"),
        (None, None) => "an unknown reason".to_owned(),
    }
}
