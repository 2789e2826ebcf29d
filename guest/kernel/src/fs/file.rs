//! Regular files and directories, opened.

use unifork_fs::{FILE_BYTES_MAX, NodeId, NodeKind};
use unifork_hal::Fault;

use crate::Kernel;
use crate::errno::{Errno, Outcome};
use crate::fd::buffers::Buffers;
use crate::fd::object::{
    Description, O_APPEND, Object, POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM, Ready, Stat,
};
use crate::fs::{map, tree, with};
use crate::user::write_u32;

const SEEK_SET: u64 = 0;
const SEEK_CUR: u64 = 1;
const SEEK_END: u64 = 2;
const SEEK_DATA: u64 = 3;
const SEEK_HOLE: u64 = 4;
const FIONREAD: u64 = 0x541b;

/// An opened node of the tree; pinned for as long as this lives.
pub(crate) struct File {
    pub(crate) node: NodeId,
    pub(crate) is_directory: bool,
}

impl File {
    /// Takes over a pin.
    pub(crate) fn pinned(node: NodeId) -> Self {
        let is_directory = tree(|fs| fs.kind(node)) == Ok(NodeKind::Directory);
        Self { node, is_directory }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        tree(|fs| fs.unpin(self.node));
    }
}

impl Object for File {
    /// A file never makes anyone wait.
    fn ready(&self, _now: u64) -> Ready {
        Ready { mask: POLLIN | POLLRDNORM | POLLOUT | POLLWRNORM, in_edges: 1, out_edges: 1, at: None }
    }

    fn read(&self, k: &mut Kernel, from: &Description, at: Option<u64>, to: &mut Buffers) -> Outcome {
        let offset = at.unwrap_or(from.offset.get());
        map::write_back(k, self.node, offset, to.left());
        let mut fault: Result<(), Fault> = Ok(());
        let before = to.done();
        let wanted = to.left();
        with(k, |fs| {
            fs.read(self.node, offset, wanted, |piece| {
                if fault.is_ok() {
                    fault = to.put(piece).map(|_| ());
                }
            })
        })?;
        let done = to.done() - before;
        if done == 0 {
            fault?;
        }
        if at.is_none() {
            from.offset.set(offset + done);
        }
        Ok(done)
    }

    fn write(&self, k: &mut Kernel, to: &Description, at: Option<u64>, from: &mut Buffers) -> Outcome {
        let append = to.has(O_APPEND);
        let offset = match at {
            // Linux: pwrite appends, too. pwrite(2), bugs.
            _ if append => tree(|fs| fs.size(self.node))?,
            Some(at) => at,
            None => to.offset.get(),
        };
        let wanted = from.left();
        if wanted > 0 && offset >= FILE_BYTES_MAX {
            return Err(Errno::EFBIG);
        }
        let wanted = wanted.min(FILE_BYTES_MAX - offset.min(FILE_BYTES_MAX));
        // A buffer that cannot be read ends the write before it, so how far it goes is found out first.
        let before = from.done();
        let mut fault: Result<(), Fault> = Ok(());
        let mut page = [0; 4096];
        let mut done = 0;
        while done < wanted && fault.is_ok() {
            let count = (4096 - (offset + done) % 4096).min(wanted - done) as usize;
            let start = from.done();
            fault = from.take(&mut page[..count]).map(|_| ());
            let count = (from.done() - start) as usize;
            if count == 0 {
                break;
            }
            let mut rest = &page[..count];
            let put = with(k, |fs| {
                fs.write(self.node, offset + done, count as u64, |piece| {
                    let (now, later) = rest.split_at(piece.len());
                    piece.copy_from_slice(now);
                    rest = later;
                })
            });
            match put {
                Ok(put) => done += put,
                Err(_) if done > 0 => break,
                Err(error) => return Err(error.into()),
            }
            if rest.len() < count && !rest.is_empty() {
                break;
            }
        }
        if done == 0 && from.done() == before {
            fault?;
        }
        map::refill(k, self.node, offset, done);
        if at.is_none() {
            to.offset.set(offset + done);
        }
        Ok(done)
    }

    fn has_positions(&self) -> bool {
        true
    }

    fn seek(&self, description: &Description, offset: i64, whence: u64) -> Outcome {
        let base = match whence {
            SEEK_SET => 0,
            SEEK_CUR => description.offset.get().cast_signed(),
            SEEK_END if self.is_directory => i64::MAX,
            SEEK_END => tree(|fs| fs.size(self.node))?.cast_signed(),
            SEEK_DATA | SEEK_HOLE if !self.is_directory => {
                let from = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
                let found = tree(|fs| fs.seek(self.node, from, whence == SEEK_HOLE))?;
                description.offset.set(found);
                return Ok(found);
            }
            _ => return Err(Errno::EINVAL),
        };
        let to = base.checked_add(offset).ok_or(Errno::EINVAL)?;
        let to = u64::try_from(to).map_err(|_| Errno::EINVAL)?;
        description.offset.set(to);
        Ok(to)
    }

    fn ioctl(&self, _k: &mut Kernel, request: u64, argument: u64) -> Outcome {
        if request != FIONREAD || self.is_directory {
            return Err(Errno::ENOTTY);
        }
        let size = tree(|fs| fs.size(self.node))?;
        write_u32(argument, u32::try_from(size).unwrap_or(u32::MAX))?;
        Ok(0)
    }

    fn stat(&self) -> Result<Stat, Errno> {
        super::stat::of_node(self.node)
    }

    fn closed(&self, description: &Description) {
        super::lock::release(description.id);
    }
}
