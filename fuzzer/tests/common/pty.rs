//! The program on a terminal of its own.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};

/// Time that anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A program and the terminal that it controls.
pub(crate) struct OnTerminal {
    child: Child,
    master: Option<File>,
    slave: OwnedFd,
    before: String,
    said: Arc<Mutex<Vec<u8>>>,
    hung_up: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl OnTerminal {
    /// Starts `command` on a new terminal of 80x24 that knows colours and UTF-8.
    pub(crate) fn start(command: &mut Command) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let path = ptsname(&master, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let slave = rustix::fs::open(path.as_c_str(), flags, Mode::empty()).unwrap();
        let stdio = || Stdio::from(slave.try_clone().unwrap());
        command
            .stdin(stdio())
            .stdout(stdio())
            .stderr(stdio())
            .env("TERM", "xterm-256color")
            .env("LC_ALL", "C.UTF-8")
            .env_remove("NO_COLOR");
        let own = || -> std::io::Result<()> {
            rustix::process::setsid()?;
            // SAFETY: descriptor 0 is open: it is the slave.
            let stdin = unsafe { std::os::fd::BorrowedFd::borrow_raw(0) };
            Ok(rustix::process::ioctl_tiocsctty(stdin)?)
        };
        // SAFETY: the closure makes system calls only.
        unsafe { command.pre_exec(own) };
        let mut on = Self {
            before: modes(&tcgetattr(&slave).unwrap()),
            child: command.spawn().unwrap(),
            said: Arc::default(),
            hung_up: Arc::default(),
            reader: None,
            master: Some(File::from(master)),
            slave,
        };
        on.resize(80, 24);
        on.reader = Some(on.listen());
        on
    }

    fn master(&self) -> &File {
        self.master.as_ref().expect("the terminal is open")
    }

    pub(crate) fn resize(&mut self, columns: u16, rows: u16) {
        let size = Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(self.master().as_fd(), size).unwrap();
    }

    pub(crate) fn write(&mut self, keys: &[u8]) {
        self.master().write_all(keys).unwrap();
    }

    pub(crate) fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.child.id()).unwrap();
        // SAFETY: `kill` has no precondition; the child is not reaped yet, so the id is its own.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }

    /// All that was written so far.
    pub(crate) fn said(&self) -> String {
        String::from_utf8_lossy(&self.said.lock().unwrap()).into_owned()
    }

    /// Waits until `text` was written.
    #[track_caller]
    pub(crate) fn expect(&mut self, text: &str) {
        let start = Instant::now();
        while !self.said().contains(text) {
            let ended = self.child.try_wait().unwrap();
            let gone = ended.is_some() && start.elapsed() > Duration::from_secs(5);
            assert!(!gone && start.elapsed() < PATIENCE, "no {text:?} ({ended:?}) in\n{}", self.said());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Whether the terminal is in another mode than at first.
    pub(crate) fn is_taken(&self) -> bool {
        modes(&tcgetattr(&self.slave).unwrap()) != self.before
    }

    /// Closes the terminal, as when its window is closed: the kernel tells the program by SIGHUP.
    pub(crate) fn close(&mut self) {
        self.hung_up.store(true, Ordering::Relaxed);
        self.reader.take().map(JoinHandle::join).transpose().expect("the reader does not panic");
        self.master = None;
    }

    /// Reads all that is written, until the terminal is closed.
    fn listen(&self) -> JoinHandle<()> {
        let (mut master, said) = (self.master().try_clone().unwrap(), self.said.clone());
        let hung_up = self.hung_up.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            let nap = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
            while !hung_up.load(Ordering::Relaxed) {
                let mut ready = [PollFd::new(&master, PollFlags::IN)];
                if poll(&mut ready, Some(&nap)).unwrap() == 0 {
                    continue;
                }
                // Reading fails when the last one who has the other end is gone.
                let Ok(count @ 1..) = master.read(&mut buffer) else { return };
                said.lock().unwrap().extend_from_slice(&buffer[..count]);
            }
        })
    }

    /// Waits for the end: the exit code, or 128 and the signal.
    pub(crate) fn finish(&mut self) -> i32 {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
            }
            assert!(start.elapsed() < PATIENCE, "it does not end\n{}", self.said());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        self.hung_up.store(true, Ordering::Relaxed);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn modes(termios: &Termios) -> String {
    format!("{termios:?}")
}
