//! The terminal UI of `unifork fuzz`: a thread that draws what the campaign puts on its
//! [`Board`](crate::monitor::board::Board), and reads keys.
//!
//! The campaign never waits for it: a slow terminal holds up this thread alone. It is read from the board
//! what is shown, so it makes no difference whether one process fuzzes or many.
//!
//! crossterm only turns frames into escape sequences. Its event loop is not used: it would handle SIGWINCH,
//! and a signal interrupts `KVM_RUN`. The size is asked for before each frame, and keys are bytes.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use ratatui::backend::CrosstermBackend;
use ratatui::layout::Rect;
use ratatui::{Terminal, TerminalOptions, Viewport};
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::monitor::board::Board;
use crate::{notice, signals};

mod ascii;
mod draw;
mod model;
pub(crate) mod terminal;
mod theme;

use model::Model;
use theme::Theme;

/// A frame is drawn at least this often, if anything has changed: the size of the terminal is no news.
const LOOK: Duration = Duration::from_millis(250);
/// How long the end waits for the last frame.
const FAREWELL: Duration = Duration::from_secs(1);

/// How `unifork fuzz` shows a campaign.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Ui {
    /// The terminal UI on a terminal, else lines
    #[default]
    Auto,
    /// The terminal UI
    Tui,
    /// A line a second
    Lines,
}

impl Ui {
    /// Whether the terminal UI is to be used; an error says why it cannot be.
    pub(crate) fn wanted(self) -> Result<bool, &'static str> {
        let cannot = cannot();
        match (self, cannot) {
            (Self::Lines, _) | (Self::Auto, Some(_)) => Ok(false),
            (Self::Auto | Self::Tui, None) => Ok(true),
            (Self::Tui, Some(why)) => Err(why),
        }
    }
}

/// Why the terminal UI cannot be used here.
fn cannot() -> Option<&'static str> {
    let out = rustix::stdio::stdout();
    if !std::io::stdout().is_terminal() {
        return Some("standard output is not a terminal");
    }
    if std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb") {
        return Some("the terminal cannot move its cursor (TERM is unset or dumb)");
    }
    // In the background, taking the terminal would stop the program.
    let foreground = rustix::termios::tcgetpgrp(out).is_ok_and(|group| group == rustix::process::getpgrp());
    (!foreground).then_some("the program runs in the background of its terminal")
}

/// What is shown beside the figures.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// What is fuzzed.
    pub(crate) name: String,
    /// The folder of the campaign.
    pub(crate) folder: PathBuf,
}

/// The UI, while it has the terminal. Dropping it gives the terminal back.
#[derive(Debug)]
pub(crate) struct Shown {
    board: Arc<Board>,
    thread: Option<JoinHandle<()>>,
}

/// Takes the terminal and shows what comes on `board`.
pub(crate) fn show(board: Arc<Board>, facts: Facts) -> std::io::Result<Shown> {
    terminal::take().inspect_err(|_| terminal::restore())?;
    notice::hold(board.clone());
    let mut shown = Shown { board: board.clone(), thread: None };
    let thread = std::thread::Builder::new().name("ui".to_owned());
    shown.thread = Some(signals::blocked(|| thread.spawn(move || run(&board, facts)))?);
    Ok(shown)
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.board.close();
        if let Some(thread) = self.thread.take() {
            let start = Instant::now();
            // A terminal that takes nothing more must not keep the program from ending.
            while !thread.is_finished() && start.elapsed() < FAREWELL {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        terminal::restore_after_frame();
        notice::release();
    }
}

fn run(board: &Board, facts: Facts) {
    let mut model = Model::new(facts);
    let mut screen = Canvas::new(Theme::of_environment());
    let mut keys = std::io::stdin().is_terminal();
    let mut drawn = Instant::now();
    screen.draw(&model);
    model.load();
    loop {
        wait(board, &mut keys);
        if keys {
            keys = read_keys();
        }
        let news = board.news();
        let closed = news.closed;
        let mut changed = model.take(news);
        changed |= screen.resized() || drawn.elapsed() >= Duration::from_secs(1);
        if !terminal::is_active() {
            return;
        }
        if changed || closed {
            screen.draw(&model);
            drawn = Instant::now();
        }
        if closed {
            return;
        }
    }
}

/// Waits for news, a key or the next look.
fn wait(board: &Board, keys: &mut bool) {
    let stdin = rustix::stdio::stdin();
    let mut fds: Vec<PollFd<'_>> =
        board.bell().map(|bell| PollFd::from_borrowed_fd(bell, PollFlags::IN)).into_iter().collect();
    if *keys {
        fds.push(PollFd::from_borrowed_fd(stdin, PollFlags::IN));
    }
    let timeout = Timespec::try_from(LOOK).ok();
    // An error is as good as nothing: all is looked at in any case.
    let _ = rustix::event::poll(&mut fds, timeout.as_ref());
    if *keys {
        *keys = fds.last().is_some_and(|fd| !fd.revents().intersects(PollFlags::ERR | PollFlags::NVAL));
    }
}

/// Obeys what was typed. False when nothing will be any more.
fn read_keys() -> bool {
    let stdin = rustix::stdio::stdin();
    let mut ready = [PollFd::from_borrowed_fd(stdin, PollFlags::IN)];
    if !rustix::event::poll(&mut ready, Some(&Timespec::default())).is_ok_and(|count| count > 0) {
        return true;
    }
    let mut typed = [0; 64];
    match rustix::io::read(stdin, &mut typed) {
        Ok(0) | Err(_) => false,
        Ok(count) => {
            // Ctrl-C is a signal, but not where the terminal's driver does without.
            if typed[..count].iter().any(|key| matches!(key, b'q' | b'Q' | 0x03)) {
                signals::request_stop();
            }
            true
        }
    }
}

/// Frames on the terminal.
struct Canvas {
    terminal: Option<Terminal<CrosstermBackend<terminal::Screen>>>,
    size: (u16, u16),
    theme: Theme,
}

impl Canvas {
    fn new(theme: Theme) -> Self {
        let mut canvas = Self { terminal: None, size: (0, 0), theme };
        canvas.resized();
        canvas
    }

    /// Whether the terminal has another size than the frame before. If so, all of the next is drawn.
    fn resized(&mut self) -> bool {
        let size = rustix::termios::tcgetwinsize(rustix::stdio::stdout()).map_or((80, 24), |size| {
            // A terminal that does not know, or a joke.
            if size.ws_col == 0 || size.ws_row == 0 { (80, 24) } else { (size.ws_col, size.ws_row) }
        });
        if size == self.size {
            return false;
        }
        self.size = size;
        let viewport = Viewport::Fixed(Rect::new(0, 0, size.0, size.1));
        let backend = CrosstermBackend::new(terminal::Screen::default());
        self.terminal = Terminal::with_options(backend, TerminalOptions { viewport }).ok();
        terminal::clear();
        true
    }

    fn draw(&mut self, model: &Model) {
        let theme = self.theme;
        let Some(terminal) = &mut self.terminal else { return };
        // A terminal that is gone: SIGHUP says so, too, and ends the campaign.
        let _ = terminal.draw(|frame| draw::draw(frame, model, theme));
    }
}
