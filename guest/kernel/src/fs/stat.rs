//! `stat` and its relatives.

use unifork_fs::{NodeId, Time};

use crate::Kernel;
use crate::errno::{Errno, Outcome};
use crate::fd::control::write_stat;
use crate::fd::object::Stat;
use crate::fs::place::{
    AT_EMPTY_PATH, AT_NO_AUTOMOUNT, AT_STATX_SYNC_TYPE, AT_SYMLINK_NOFOLLOW, CWD, Target, target,
};
use crate::fs::{device, tree};
use crate::time::clock::SECOND_NS;
use crate::user::write_bytes;

const BLOCK_BYTES: u64 = 4096;

/// What a node is.
pub(crate) fn of_node(node: NodeId) -> Result<Stat, Errno> {
    let stat = tree(|fs| fs.stat(node))?;
    // Before 1970 is not told.
    let ns = |time: Time| u64::try_from(time.seconds).unwrap_or(0) * SECOND_NS + u64::from(time.nanos);
    Ok(Stat {
        device: device::number(0, u64::from(stat.device) + 20),
        inode: stat.ino,
        mode: stat.mode,
        links: stat.links.into(),
        user: stat.uid,
        group: stat.gid,
        special: stat.rdev,
        size: stat.size,
        block_bytes: BLOCK_BYTES,
        blocks: stat.blocks,
        times: [ns(stat.atime), ns(stat.mtime), ns(stat.ctime), 0],
    })
}

fn of(target: Target) -> Result<Stat, Errno> {
    match target {
        Target::Node(node) => of_node(node),
        Target::Open(description) => description.object.stat(),
    }
}

/// `stat`, `lstat`.
pub(crate) fn stat(k: &mut Kernel, path: u64, to: u64, follow: bool) -> Outcome {
    let stat = of(target(k, CWD, path, 0, follow)?)?;
    write_stat(to, &stat)?;
    Ok(0)
}

/// `newfstatat`.
pub(crate) fn newfstatat(k: &mut Kernel, directory: u64, path: u64, to: u64, flags: u64) -> Outcome {
    if flags as u32 as u64 & !(AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let stat = of(target(k, directory, path, flags, flags & AT_SYMLINK_NOFOLLOW == 0)?)?;
    write_stat(to, &stat)?;
    Ok(0)
}

/// `statx`: the basic fields, whatever was asked for.
pub(crate) fn statx(k: &mut Kernel, [directory, path, flags, mask, to, _]: [u64; 6]) -> Outcome {
    const STATX_BASIC_STATS: u32 = 0x7ff;
    const STATX_RESERVED: u64 = 0x8000_0000;
    let known = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH | AT_STATX_SYNC_TYPE;
    let both = flags & AT_STATX_SYNC_TYPE == AT_STATX_SYNC_TYPE;
    if flags as u32 as u64 & !known != 0 || mask & STATX_RESERVED != 0 || both {
        return Err(Errno::EINVAL);
    }
    let stat = of(target(k, directory, path, flags, flags & AT_SYMLINK_NOFOLLOW == 0)?)?;
    let mut bytes = [0u8; 256];
    let mut half = |at: usize, value: u64| bytes[at..at + 4].copy_from_slice(&(value as u32).to_le_bytes());
    half(0, STATX_BASIC_STATS.into());
    half(4, stat.block_bytes);
    half(16, stat.links);
    half(20, stat.user.into());
    half(24, stat.group.into());
    half(28, stat.mode.into());
    for (at, number) in [(128, stat.special), (136, stat.device)] {
        half(at, number >> 8 & 0xfff);
        half(at + 4, number & 0xff | number >> 12 & 0xfff00);
    }
    // Accessed, changed, modified; no time of birth.
    for (at, time) in [(64, stat.times[0]), (96, stat.times[2]), (112, stat.times[1])] {
        half(at, time / SECOND_NS);
        half(at + 8, time % SECOND_NS);
    }
    let mut word = |at: usize, value: u64| bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    word(32, stat.inode);
    word(40, stat.size);
    word(48, stat.blocks);
    write_bytes(to, &bytes)?;
    Ok(0)
}

/// `statfs`.
pub(crate) fn statfs(k: &mut Kernel, path: u64, to: u64) -> Outcome {
    target(k, CWD, path, 0, true)?;
    write_statfs(to)
}

/// `fstatfs`.
pub(crate) fn fstatfs(k: &mut Kernel, fd: u64, to: u64) -> Outcome {
    k.files.get(fd)?;
    write_statfs(to)
}

fn write_statfs(to: u64) -> Outcome {
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    let ((total, left), nodes) = tree(|fs| (fs.space(), fs.node_count()));
    let free_nodes = left / BLOCK_BYTES;
    let words = [
        TMPFS_MAGIC,
        BLOCK_BYTES,
        total / BLOCK_BYTES,
        left / BLOCK_BYTES,
        left / BLOCK_BYTES,
        nodes + free_nodes,
        free_nodes,
        0, // id
        255,
        BLOCK_BYTES,
        0x20, // flags: valid
    ];
    let mut bytes = [0; 120];
    for (chunk, word) in bytes.chunks_exact_mut(8).zip(words) {
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    write_bytes(to, &bytes)?;
    Ok(0)
}
