//! What is said on stderr while a campaign runs. Under the terminal UI it is shown there, and printed when
//! the terminal is the shell's again.

use std::io::{self, IsTerminal as _, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::monitor::board::Board;

/// The UI that has the terminal, and what is to be printed afterwards.
#[derive(Debug)]
struct Held {
    board: Arc<Board>,
    later: Vec<String>,
    // stderr is this terminal, so nothing may be printed now.
    same_terminal: bool,
}

/// Notices that are kept for later at most; the UI shows all, `stderr` in a file gets all.
const LATER_MAX: usize = 200;

static HELD: Mutex<Option<Held>> = Mutex::new(None);

fn held() -> MutexGuard<'static, Option<Held>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says `text`, one or more lines.
pub(crate) fn notice(text: &str) {
    let text = text.trim_end();
    let mut held = held();
    if let Some(held) = held.as_mut() {
        held.board.notice(text.to_owned());
        if held.same_terminal {
            if held.later.len() < LATER_MAX {
                held.later.push(text.to_owned());
            }
            return;
        }
    }
    // A closed stderr leaves nowhere to say it.
    let _ = writeln!(io::stderr(), "{text}");
}

/// From here on, notices go to `board`.
pub(crate) fn hold(board: Arc<Board>) {
    *held() = Some(Held { board, later: Vec::new(), same_terminal: io::stderr().is_terminal() });
}

/// From here on they go to stderr again, first of all those that were held back.
pub(crate) fn release() {
    let Some(held) = held().take() else { return };
    for text in held.later {
        let _ = writeln!(io::stderr(), "{text}");
    }
}

/// Where the logger writes.
#[derive(Debug, Default)]
pub(crate) struct Log {
    line: Vec<u8>,
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        if self.line.ends_with(b"\n") {
            notice(&String::from_utf8_lossy(&self.line));
            self.line.clear();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
