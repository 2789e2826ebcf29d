//! The terminal while the UI has it, or a guest its keys, and how it is given back on every way out.
//!
//! [`restore`] may be called from anywhere, signal handlers included, and does its work once. It is called
//! when the UI ends, by the panic hook, before an error is printed, at `exit`, and by the handlers of signals
//! that end the process at once.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, Once, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::termios::{self, InputModes, LocalModes, OptionalActions, SpecialCodeIndex, Termios};

/// The other screen, no cursor.
const ENTER: &[u8] = b"\x1b[?1049h\x1b[?25l\x1b[2J";
/// No colours, the cursor, the screen of before.
const LEAVE: &[u8] = b"\x1b[0m\x1b[?25h\x1b[?1049l";
/// What disables a special character.
const DISABLED: u8 = 0;

static ACTIVE: AtomicBool = AtomicBool::new(false);
static SAVED: OnceLock<Termios> = OnceLock::new();
/// A guest has the keys, and how the terminal was before.
static KEYS: AtomicBool = AtomicBool::new(false);
static KEYS_SAVED: OnceLock<Termios> = OnceLock::new();
/// Held while a frame is written, so that none comes after the terminal was given back.
static WRITING: Mutex<()> = Mutex::new(());

/// Whether the UI has the terminal.
pub(crate) fn is_active() -> bool {
    ACTIVE.load(Ordering::SeqCst)
}

/// Takes the terminal that is standard output: keys come one by one and are not shown. Signals by keys stay,
/// but for those that stop the program or dump core.
pub(crate) fn take() -> io::Result<()> {
    let out = rustix::stdio::stdout();
    let saved = termios::tcgetattr(out)?;
    let mut raw = SAVED.get_or_init(|| saved).clone();
    raw.local_modes -= LocalModes::ICANON | LocalModes::ECHO | LocalModes::IEXTEN;
    raw.input_modes -= InputModes::IXON;
    for code in [SpecialCodeIndex::VSUSP, SpecialCodeIndex::VQUIT] {
        raw.special_codes[code] = DISABLED;
    }
    raw.special_codes[SpecialCodeIndex::VMIN] = 1;
    raw.special_codes[SpecialCodeIndex::VTIME] = 0;
    at_every_end();
    ACTIVE.store(true, Ordering::SeqCst);
    termios::tcsetattr(out, OptionalActions::Now, &raw).map_err(io::Error::from).and_then(|()| write(ENTER))
}

/// The keys of the terminal that is standard input, for a guest, until this is dropped: each comes at once and as it
/// is, and is not shown, as with QEMU's `-serial stdio`. Signals by keys stay, as in [`take`].
#[derive(Debug)]
pub(crate) struct Keys(());

impl Keys {
    /// Takes them, where there is a terminal and this is not a job in its background.
    pub(crate) fn take() -> Option<Self> {
        let input = rustix::stdio::stdin();
        let saved = termios::tcgetattr(input).ok()?;
        if termios::tcgetpgrp(input).ok()? != rustix::process::getpgrp() {
            return None;
        }
        let mut raw = KEYS_SAVED.get_or_init(|| saved).clone();
        raw.local_modes -= LocalModes::ICANON | LocalModes::ECHO | LocalModes::ECHONL | LocalModes::IEXTEN;
        raw.input_modes -= InputModes::IGNBRK
            | InputModes::BRKINT
            | InputModes::PARMRK
            | InputModes::ISTRIP
            | InputModes::INLCR
            | InputModes::IGNCR
            | InputModes::ICRNL
            | InputModes::IXON;
        for code in [SpecialCodeIndex::VSUSP, SpecialCodeIndex::VQUIT] {
            raw.special_codes[code] = DISABLED;
        }
        raw.special_codes[SpecialCodeIndex::VMIN] = 1;
        raw.special_codes[SpecialCodeIndex::VTIME] = 0;
        at_every_end();
        KEYS.store(true, Ordering::SeqCst);
        let _as_it_was_if_not = termios::tcsetattr(input, OptionalActions::Now, &raw);
        Some(Self(()))
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the terminal back, if the UI or a guest has it. Async-signal-safe: system calls and atomics.
pub(crate) fn restore() {
    if KEYS.swap(false, Ordering::SeqCst)
        && let Some(saved) = KEYS_SAVED.get()
    {
        let _ = termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, saved);
    }
    if !ACTIVE.swap(false, Ordering::SeqCst) {
        return;
    }
    let _ = write(LEAVE);
    if let Some(saved) = SAVED.get() {
        let _ = termios::tcsetattr(rustix::stdio::stdout(), OptionalActions::Now, saved);
    }
}

/// [`restore`], after the frame that is being written, if that does not take long.
pub(crate) fn restore_after_frame() {
    let start = Instant::now();
    let mut writing = WRITING.try_lock();
    while writing.is_err() && start.elapsed() < Duration::from_secs(1) {
        std::thread::sleep(Duration::from_millis(1));
        writing = WRITING.try_lock();
    }
    restore();
}

fn write(mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(rustix::stdio::stdout(), bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Sees to it that a panic and `exit` give the terminal back.
fn at_every_end() {
    extern "C" fn at_exit() {
        restore();
    }
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore_after_frame();
            crate::notice::release();
            before(info);
        }));
        // SAFETY: the function is never unloaded and does not unwind.
        let _only_fails_without_memory = unsafe { libc::atexit(at_exit) };
    });
}

/// What ratatui draws on: a frame reaches the terminal whole, at `flush`, or not at all.
#[derive(Debug, Default)]
pub(crate) struct Screen {
    frame: Vec<u8>,
}

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.frame.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _writing = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
        let written = if is_active() { write(&self.frame) } else { Ok(()) };
        self.frame.clear();
        written
    }
}

/// Empties the screen, for a first frame or one of another size.
pub(crate) fn clear() {
    let _writing = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    if is_active() {
        let _ = write(b"\x1b[0m\x1b[2J");
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::process::{Command, Stdio};

    use rustix::fs::{Mode, OFlags};
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

    use super::*;

    const CHILD: &str = "UNIFORK_TEST_TAKES_THE_TERMINAL";

    #[test]
    fn a_panic_and_an_exit_give_the_terminal_back() {
        match std::env::var(CHILD).as_deref() {
            Ok("panic") => take().map(|()| panic!("planted")).unwrap(),
            Ok(_) => take().map(|()| std::process::exit(7)).unwrap(),
            Err(_) => {}
        }
        for how in ["panic", "exit"] {
            let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
            grantpt(&master).unwrap();
            unlockpt(&master).unwrap();
            let path = ptsname(&master, Vec::new()).unwrap();
            let slave =
                rustix::fs::open(path.as_c_str(), OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
            let before = format!("{:?}", termios::tcgetattr(&slave).unwrap());
            let stdio = || Stdio::from(slave.try_clone().unwrap());
            let status = Command::new(std::env::current_exe().unwrap())
                .args([
                    "--exact",
                    "ui::terminal::tests::a_panic_and_an_exit_give_the_terminal_back",
                    "--nocapture",
                ])
                .env(CHILD, how)
                .stdin(stdio())
                .stdout(stdio())
                .stderr(stdio())
                .status()
                .unwrap();
            assert!(!status.success());
            assert_eq!(format!("{:?}", termios::tcgetattr(&slave).unwrap()), before, "{how}");
            drop(slave);
            let mut said = Vec::new();
            // It ends with an error, since nobody has the other end any more.
            let _ = std::fs::File::from(master).read_to_end(&mut said);
            let said = String::from_utf8_lossy(&said).into_owned();
            let (shown, after) = said.rsplit_once("\u{1b}[?1049l").expect(how);
            assert!(shown.contains("\u{1b}[?1049h"), "{said}");
            assert_eq!(after.contains("planted"), how == "panic", "{said}");
        }
    }
}
