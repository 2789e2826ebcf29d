//! The console: standard input, and where the program's output goes.
//!
//! With a host that has services it is the terminal, file or pipe that `unifork run` was started on; else
//! a terminal without a keyboard.

use unifork_hal::write_console;

use crate::Kernel;
use crate::errno::{Errno, Outcome};
use crate::fd::buffers::Buffers;
use crate::fd::object::{Description, Object, POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM, Ready, Stat};
use crate::host;
use crate::sched::PID;
use crate::user::{write_bytes, write_u32};

// include/uapi/asm-generic/ioctls.h
const TCGETS: u64 = 0x5401;
const TCSETS: u64 = 0x5402;
const TCSETSW: u64 = 0x5403;
const TCSETSF: u64 = 0x5404;
const TIOCGPGRP: u64 = 0x540f;
const TIOCSPGRP: u64 = 0x5410;
const TIOCGWINSZ: u64 = 0x5413;
const FIONREAD: u64 = 0x541b;

/// The console.
pub(crate) struct Console {
    // Standard input's end of it.
    input: bool,
}

impl Console {
    pub(crate) fn new(input: bool) -> Self {
        Self { input }
    }
}

impl Object for Console {
    /// It takes bytes at once. Without a host it has none to give, which reading says at once.
    fn ready(&self, _now: u64) -> Ready {
        let input = if host::input_ready() { POLLIN | POLLRDNORM } else { 0 };
        Ready { mask: input | POLLOUT | POLLWRNORM, in_edges: host::input_edges(), out_edges: 1, at: None }
    }

    fn read(&self, _k: &mut Kernel, _from: &Description, _at: Option<u64>, to: &mut Buffers) -> Outcome {
        host::read_input(to)
    }

    fn write(&self, _k: &mut Kernel, _to: &Description, _at: Option<u64>, from: &mut Buffers) -> Outcome {
        let mut piece = [0; 1024];
        while from.left() > 0 {
            match from.take(&mut piece) {
                Ok(count) => write_console(&piece[..count]),
                // What was written before the bad part counts, as on Linux.
                Err(_) if from.done() > 0 => break,
                Err(fault) => return Err(fault.into()),
            }
        }
        Ok(from.done())
    }

    fn ioctl(&self, _k: &mut Kernel, request: u64, argument: u64) -> Outcome {
        if !host::is_terminal(self.input) && request != FIONREAD {
            return Err(Errno::ENOTTY);
        }
        match request {
            // 24 rows of 80 columns; pixels are not known.
            TIOCGWINSZ => write_bytes(argument, &[24, 0, 80, 0, 0, 0, 0, 0])?,
            TCGETS => write_bytes(argument, &termios())?,
            // Nothing that a program could set makes a difference.
            TCSETS | TCSETSW | TCSETSF | TIOCSPGRP => {}
            TIOCGPGRP => write_u32(argument, PID)?,
            FIONREAD => write_u32(argument, host::input_bytes())?,
            _ => return Err(Errno::ENOTTY),
        }
        Ok(0)
    }

    fn stat(&self) -> Result<Stat, Errno> {
        if !host::is_terminal(self.input) {
            // A pipe.
            return Ok(Stat { inode: 5, mode: 0o010_600, links: 1, block_bytes: 4096, ..Stat::default() });
        }
        Ok(Stat {
            inode: 5,
            mode: 0o020_620, // a character device
            links: 1,
            special: 0x501, // /dev/console
            block_bytes: 1024,
            ..Stat::default()
        })
    }
}

/// `struct termios` as a terminal in its usual mode has it.
fn termios() -> [u8; 36] {
    let mut termios = [0; 36];
    termios[..4].copy_from_slice(&0o2_400u32.to_le_bytes()); // ICRNL IXON
    termios[4..8].copy_from_slice(&5u32.to_le_bytes()); // OPOST ONLCR
    termios[8..12].copy_from_slice(&0o277u32.to_le_bytes()); // B38400 CS8 CREAD
    termios[12..16].copy_from_slice(&0o105_073u32.to_le_bytes()); // ISIG ICANON ECHO ...
    termios
}
