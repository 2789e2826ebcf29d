//! Devices without state: null(4), random(4), full(4).

use crate::Kernel;
use crate::errno::{Errno, Outcome};
use crate::fd::buffers::Buffers;
use crate::fd::object::{Description, Object, POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM, Ready, Stat};
use crate::fs::file::File;

/// Which device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Null,
    Zero,
    Full,
    Random,
}

/// A device, opened. Its node is what `fstat` tells of.
pub(crate) struct Device {
    pub(crate) kind: Kind,
    pub(crate) file: File,
}

/// `makedev`.
pub(crate) const fn number(major: u64, minor: u64) -> u64 {
    major << 8 | minor
}

impl Kind {
    /// The device with this number. Documentation/admin-guide/devices.txt.
    pub(crate) fn of(device: u64) -> Option<Self> {
        Some(match (device >> 8, device & 0xff) {
            (1, 3) => Self::Null,
            (1, 5) => Self::Zero,
            (1, 7) => Self::Full,
            (1, 8 | 9) => Self::Random,
            _ => return None,
        })
    }
}

impl Object for Device {
    fn ready(&self, _now: u64) -> Ready {
        Ready { mask: POLLIN | POLLRDNORM | POLLOUT | POLLWRNORM, in_edges: 1, out_edges: 1, at: None }
    }

    fn read(&self, k: &mut Kernel, _from: &Description, _at: Option<u64>, to: &mut Buffers) -> Outcome {
        if self.kind == Kind::Null {
            return Ok(0);
        }
        let before = to.done();
        let mut piece = [0; 256];
        while to.left() > 0 {
            if self.kind == Kind::Random {
                for chunk in piece.chunks_exact_mut(8) {
                    chunk.copy_from_slice(&k.random.next().to_le_bytes());
                }
            }
            match to.put(&piece) {
                Ok(_) => {}
                Err(_) if to.done() > before => break,
                Err(fault) => return Err(fault.into()),
            }
        }
        Ok(to.done() - before)
    }

    fn write(&self, _k: &mut Kernel, _to: &Description, _at: Option<u64>, from: &mut Buffers) -> Outcome {
        if self.kind == Kind::Full && from.left() > 0 {
            return Err(Errno::ENOSPC);
        }
        let all = from.left();
        from.skip(all);
        Ok(all)
    }

    fn has_positions(&self) -> bool {
        true
    }

    /// Accepted, and without effect.
    fn seek(&self, _description: &Description, _offset: i64, _whence: u64) -> Outcome {
        Ok(0)
    }

    fn stat(&self) -> Result<Stat, Errno> {
        self.file.stat()
    }
}
