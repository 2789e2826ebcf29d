//! The commands, and how each of them may end.
//!
//! | code | meaning |
//! |-----:|---------|
//! |    0 | done |
//! |    1 | a negative result: not reproduced, nothing found with `--until finding` |
//! |    2 | usage or bad input: a flag, an image, a folder |
//! |    3 | the host: no usable /dev/kvm, a full disk, a failing ioctl |
//!
//! `docs/exit-codes.md` says it for users; `unifork run` alone passes the guest's own code on.

pub(crate) mod bench;
pub(crate) mod build;
pub(crate) mod cmin;
pub(crate) mod doctor;
pub(crate) mod export;
pub(crate) mod fuzz;
pub(crate) mod progress;
pub(crate) mod report;
pub(crate) mod repro;
pub(crate) mod run;
pub(crate) mod serve;
pub(crate) mod snapshot;
pub(crate) mod subject;
pub(crate) mod tmin;
pub(crate) mod triage;

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

use unifork_vmm::{BootError, Engine};

use crate::machine::MachineError;

/// How a command that did not fail ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// What was asked for was done.
    Done,
    /// The question was answered, with no: not reproduced, nothing found.
    Negative,
    /// The guest program's own exit code, passed on by `unifork run`.
    Guest(u8),
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        match status {
            Status::Done => Self::SUCCESS,
            Status::Negative => Self::from(1),
            Status::Guest(code) => Self::from(code),
        }
    }
}

/// Whose fault a failure is, which is also its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blame {
    /// What the user gave: flags, images, folders.
    Usage = 2,
    /// The machine this runs on.
    Host = 3,
    /// As [`Blame::Host`] and [`Blame::Usage`], for `unifork run`, whose low codes are the guest's.
    OfRun = 125,
}

/// A failed command: what went wrong, whose fault it is, and what to do about it.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) blame: Blame,
    pub(crate) error: anyhow::Error,
    pub(crate) help: Option<String>,
}

impl Failure {
    /// A failure the user can mend.
    pub(crate) fn usage(error: impl Into<anyhow::Error>) -> Self {
        Self { blame: Blame::Usage, error: error.into(), help: None }
    }

    /// A failure of the host.
    pub(crate) fn host(error: impl Into<anyhow::Error>) -> Self {
        Self { blame: Blame::Host, error: error.into(), help: None }
    }

    /// Adds what to do about it.
    #[must_use]
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Prints the whole chain on one line, then the help, and gives the exit code.
    pub(crate) fn print(&self, json: bool) -> ExitCode {
        // An error would be lost with the UI's screen.
        crate::ui::terminal::restore_after_frame();
        crate::notice::release();
        let message = self.message();
        let code = self.blame as u8;
        if json {
            let line = serde_json::json!({ "error": message, "help": self.help, "exit_code": code });
            say(&format!("{line}\n"));
        }
        let mut text = format!("unifork: {message}\n");
        if let Some(help) = &self.help {
            let _ = writeln!(text, "  help: {help}");
        }
        // A closed stderr leaves nowhere to say it; the exit code still tells.
        let _ = std::io::stderr().write_all(text.as_bytes());
        ExitCode::from(code)
    }

    /// Every error of the chain, outermost first. A source whose text its parent already
    /// contains is not said twice.
    pub(crate) fn message(&self) -> String {
        let mut message = String::new();
        for cause in self.error.chain() {
            let text = cause.to_string();
            if message.is_empty() {
                message = text;
            } else if !message.contains(&text) {
                let _ = write!(message, ": {text}");
            }
        }
        message
    }
}

/// Reads the command line; or prints what it asks for (help, the version) or what is wrong with it.
pub(crate) fn parse<C: clap::Parser>() -> Result<C, ExitCode> {
    C::try_parse().map_err(|error| {
        if !error.use_stderr() {
            return match error.print() {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::from(blame_of_parser(Blame::Host) as u8),
            };
        }
        let blame = blame_of_parser(Blame::Usage);
        if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
            let _ = error.print();
            return ExitCode::from(blame as u8);
        }
        let (message, help) = of_parser(&error.to_string());
        let json = std::env::args_os().any(|argument| argument == "--json");
        let error = anyhow::anyhow!(message);
        Failure { blame, error, help: Some(help) }.print(json)
    })
}

/// `blame`, unless the command line is that of `unifork run`.
fn blame_of_parser(blame: Blame) -> Blame {
    let command = std::env::args_os().skip(1).find(|word| !word.as_encoded_bytes().starts_with(b"-"));
    if command.is_some_and(|command| command == "run") { Blame::OfRun } else { blame }
}

/// The parser's first paragraph, without its label, and what it says behind it, each as one line.
fn of_parser(text: &str) -> (String, String) {
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let (message, rest) = text.split_once("\n\n").unwrap_or((text, ""));
    let line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let parts: Vec<_> =
        rest.split("\n\n").map(|part| line(part.trim_start().trim_start_matches("tip: "))).collect();
    (line(message), parts.join("; "))
}

/// Says whose fault an error is, since that decides the exit code. There is no blanket
/// conversion, so that every `?` in `cmd/` has had the question asked.
pub(crate) trait BlameExt<T> {
    /// The user's: exit code 2.
    fn or_usage(self) -> Result<T, Failure>;
    /// The host's: exit code 3.
    fn or_host(self) -> Result<T, Failure>;
}

impl<T, E: Into<anyhow::Error>> BlameExt<T> for Result<T, E> {
    fn or_usage(self) -> Result<T, Failure> {
        self.map_err(Failure::usage)
    }
    fn or_host(self) -> Result<T, Failure> {
        self.map_err(Failure::host)
    }
}

/// Writes to stdout. A closed pipe (`unifork … | head`) is not an error worth a message.
pub(crate) fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Says a warning, on stderr or where the terminal UI shows it.
pub(crate) fn warn(text: &str) {
    note(&format!("warning: {text}"));
}

/// Says something, on stderr or where the terminal UI shows it.
pub(crate) fn note(text: &str) {
    crate::notice::notice(&format!("unifork: {text}"));
}

/// The engine that is used unless another is asked for.
pub(crate) fn default_engine() -> Engine {
    Engine::HotSet
}

/// Whose fault it is that there is no machine, and what to do about it.
pub(crate) fn machine_failure(error: MachineError) -> Failure {
    if let MachineError::Image { source, .. } | MachineError::Boot { source: BootError::Image(source), .. } =
        &error
    {
        let help = source.help();
        return Failure::usage(error).help(help);
    }
    let (blame, help) = match &error {
        MachineError::Kvm(_) => (Blame::Host, "`unifork doctor` says what this host offers"),
        MachineError::Read { .. } => (Blame::Usage, "check the path; `unifork build` makes images"),
        MachineError::Snapshot { .. } => (Blame::Usage, "take it again with `unifork snapshot IMAGE`"),
        MachineError::Boot { source: BootError::Plan(_) | BootError::Stack(_), .. } => {
            (Blame::Usage, "give it more memory (--memory) or shorter inputs (--input-max)")
        }
        MachineError::Image { .. } | MachineError::Boot { .. } => {
            (Blame::Host, "`unifork doctor` says what this host offers")
        }
        MachineError::NoInput { .. } => (
            Blame::Usage,
            "it is a program rather than a harness, or its set-up fails: see what it does with `unifork run`",
        ),
    };
    Failure { blame, error: error.into(), help: Some(help.to_owned()) }
}

/// Ends the process because the machine that it is at work with turned out to be damaged. Files are
/// whole at any time, as for `kill -9`.
pub(crate) fn end_with(error: MachineError, json: bool) {
    let failure = machine_failure(error);
    let _code = failure.print(json);
    std::process::exit(failure.blame as i32);
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn what_the_parser_says_is_an_error_and_a_help() {
        let said = "error: unexpected argument '--fro' found\n\n  tip: a similar argument exists: '--for'\n\nUsage: unifork fuzz <IMAGE>\n\nFor more information, try '--help'.\n";
        let (message, help) = of_parser(said);
        assert_eq!(message, "unexpected argument '--fro' found");
        assert_eq!(
            help,
            "a similar argument exists: '--for'; Usage: unifork fuzz <IMAGE>; For more information, try '--help'."
        );
    }

    #[test]
    fn the_chain_is_one_line_without_repetition() {
        let inner: Result<(), _> = Err(std::io::Error::from_raw_os_error(libc::ENOSPC));
        let error = inner.context("cannot write out/queue").unwrap_err();
        let failure = Failure::host(error);
        let message = failure.message();
        assert!(message.starts_with("cannot write out/queue: No space left"), "{message}");
        assert_eq!(message.lines().count(), 1);
    }
}
