//! Files: the console on descriptors 0, 1 and 2, and nothing else yet. There is no file system, so
//! every path is `ENOENT`, as in an empty root.

use unifork_hal::{User, write_console};

use crate::errno::{Errno, Outcome};

const DESCRIPTORS: u64 = 3;
const IOV_MAX: u64 = 1024;
/// Bytes per call at most, as on Linux.
const BYTES_MAX: u64 = 0x7fff_f000;
const PATH_BYTES_MAX: u64 = 4096;

const TCGETS: u64 = 0x5401;
const TIOCGWINSZ: u64 = 0x5413;
const AT_EMPTY_PATH: u64 = 0x1000;

pub(crate) struct Files {
    // Bit n: descriptor n is open.
    open: u64,
}

impl Files {
    pub(crate) const fn new() -> Self {
        Self { open: 0b111 }
    }

    fn check(&self, fd: u64) -> Result<(), Errno> {
        let open = fd < DESCRIPTORS && self.open >> fd & 1 == 1;
        if open { Ok(()) } else { Err(Errno::EBADF) }
    }

    /// The console has no keyboard: end of file.
    pub(crate) fn read(&self, fd: u64, to: u64, bytes: u64) -> Outcome {
        self.check(fd)?;
        User::writable(to, bytes.min(BYTES_MAX))?;
        Ok(0)
    }

    pub(crate) fn write(&self, fd: u64, from: u64, bytes: u64) -> Outcome {
        self.check(fd)?;
        let data = User::readable(from, bytes.min(BYTES_MAX))?;
        data.for_each_piece(write_console);
        Ok(data.len())
    }

    pub(crate) fn readv(&self, fd: u64, vector: u64, count: u64) -> Outcome {
        self.check(fd)?;
        self.each(vector, count, |at, bytes| User::writable(at, bytes).map(|_| 0))
    }

    pub(crate) fn writev(&self, fd: u64, vector: u64, count: u64) -> Outcome {
        self.check(fd)?;
        self.each(vector, count, |at, bytes| {
            let data = User::readable(at, bytes)?;
            data.for_each_piece(write_console);
            Ok(bytes)
        })
    }

    fn each(
        &self,
        vector: u64,
        count: u64,
        mut f: impl FnMut(u64, u64) -> Result<u64, unifork_hal::Fault>,
    ) -> Outcome {
        if count > IOV_MAX {
            return Err(Errno::EINVAL);
        }
        let vector = User::readable(vector, count * 16)?;
        let mut total = 0;
        for i in 0..count {
            let room = BYTES_MAX - total;
            match f(vector.word(i * 16), vector.word(i * 16 + 8).min(room)) {
                Ok(bytes) => total += bytes,
                // What was written before the bad part counts, as on Linux.
                Err(_) if total > 0 => break,
                Err(fault) => return Err(fault.into()),
            }
        }
        Ok(total)
    }

    pub(crate) fn close(&mut self, fd: u64) -> Outcome {
        self.check(fd)?;
        self.open &= !(1 << fd);
        Ok(0)
    }

    pub(crate) fn lseek(&self, fd: u64) -> Outcome {
        self.check(fd)?;
        Err(Errno::ESPIPE)
    }

    pub(crate) fn ioctl(&self, fd: u64, request: u64, argument: u64) -> Outcome {
        self.check(fd)?;
        match request {
            TIOCGWINSZ => {
                // 24 rows of 80 columns; pixels are not known.
                User::writable(argument, 8)?.write(&[24, 0, 80, 0, 0, 0, 0, 0]);
                Ok(0)
            }
            TCGETS => {
                let mut termios = [0u8; 36];
                termios[..4].copy_from_slice(&0o2_400u32.to_le_bytes()); // ICRNL IXON
                termios[4..8].copy_from_slice(&5u32.to_le_bytes()); // OPOST ONLCR
                termios[8..12].copy_from_slice(&0o277u32.to_le_bytes()); // B38400 CS8 CREAD
                termios[12..16].copy_from_slice(&0o105_073u32.to_le_bytes()); // ISIG ICANON ECHO ...
                User::writable(argument, 36)?.write(&termios);
                Ok(0)
            }
            _ => Err(Errno::ENOTTY),
        }
    }

    pub(crate) fn fcntl(&self, fd: u64, command: u64) -> Outcome {
        self.check(fd)?;
        match command {
            1 | 2 | 4 => Ok(0), // F_GETFD F_SETFD F_SETFL
            3 => Ok(2),         // F_GETFL: O_RDWR
            _ => Err(Errno::EINVAL),
        }
    }

    pub(crate) fn fstat(&self, fd: u64, to: u64) -> Outcome {
        self.check(fd)?;
        let mut stat = [0u8; 144];
        stat[8..16].copy_from_slice(&(5 + fd).to_le_bytes()); // inode
        stat[16..24].copy_from_slice(&1u64.to_le_bytes()); // links
        stat[24..28].copy_from_slice(&0o020_620u32.to_le_bytes()); // a character device
        stat[40..48].copy_from_slice(&0x501u64.to_le_bytes()); // /dev/console
        stat[56..64].copy_from_slice(&1024u64.to_le_bytes()); // block size
        User::writable(to, 144)?.write(&stat);
        Ok(0)
    }

    pub(crate) fn newfstatat(&self, fd: u64, path: u64, to: u64, flags: u64) -> Outcome {
        let empty = User::readable(path, 1).is_ok_and(|p| first_byte(&p) == 0);
        if empty && flags & AT_EMPTY_PATH != 0 {
            return self.fstat(fd, to);
        }
        no_such_path(path)
    }

    /// `poll`: the console takes bytes at once and has none to give, which reading says at once.
    pub(crate) fn poll(&self, entries: u64, count: u64) -> Outcome {
        const POLLNVAL: u16 = 0x20;
        const READY: u16 = 1 | 4;
        if count > 1024 {
            return Err(Errno::EINVAL);
        }
        let all = User::writable(entries, count * 8)?;
        let mut ready = 0;
        for i in 0..count {
            let entry = all.word(i * 8);
            let (fd, wanted) = (entry as u32, (entry >> 32) as u16);
            let got = match self.check(fd.into()) {
                _ if fd.cast_signed() < 0 => 0,
                Ok(()) => wanted & READY,
                Err(_) => POLLNVAL,
            };
            User::writable(entries + i * 8 + 6, 2)?.write(&got.to_le_bytes());
            ready += u64::from(got != 0);
        }
        Ok(ready)
    }
}

/// Any path, in a root without files.
pub(crate) fn no_such_path(path: u64) -> Outcome {
    for at in 0..PATH_BYTES_MAX {
        if first_byte(&User::readable(path.wrapping_add(at), 1)?) == 0 {
            return Err(Errno::ENOENT);
        }
    }
    Err(Errno::EINVAL)
}

fn first_byte(user: &User) -> u8 {
    let mut byte = 0;
    user.for_each_piece(|piece| byte = piece.first().copied().unwrap_or(0));
    byte
}
