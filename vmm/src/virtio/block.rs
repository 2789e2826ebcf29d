//! A disk: an image file that is only read, under what the guest has written.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_ID_BYTES,
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID,
    VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
};

use super::device::Served;
use super::ring::{Broken, Request};
use crate::memory::device::DeviceMemory;

const SECTOR_BYTES: u64 = 512;
/// What the guest writes is kept in pieces of this size.
const CLUSTER_BYTES: u64 = 4096;
/// Type, reserved, sector.
const HEADER_BYTES: usize = 16;
/// Segments of a request that the driver may use; the queue has two more descriptors than that.
const SEGMENTS_MAX: u32 = 254;
const ID: &[u8; VIRTIO_BLK_ID_BYTES as usize] = b"unifork disk\0\0\0\0\0\0\0\0";

/// An image file. Nothing is ever written to it.
pub struct Disk {
    path: PathBuf,
    file: File,
    bytes: u64,
}

// Of a machine's description, which must be the same for the same machine.
impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl Disk {
    /// Opens the image at `path`. It must not change for as long as machines use it.
    ///
    /// # Errors
    ///
    /// What the system says when it cannot be opened, or is not a regular file.
    pub fn open(path: &Path) -> io::Result<Arc<Self>> {
        let file = crate::regular::open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Arc::new(Self { path: path.to_owned(), file, bytes }))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of it; a sector that the file ends in ends with zeros.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A checksum of all of it.
    ///
    /// # Errors
    ///
    /// What the system says when it cannot be read.
    pub fn checksum(&self) -> io::Result<u32> {
        let mut buffer = vec![0; 1 << 20];
        let (mut at, mut sum) = (0, 0);
        while at < self.bytes {
            let piece = buffer.len().min(usize::try_from(self.bytes - at).unwrap_or(usize::MAX));
            self.read(at, &mut buffer[..piece])?;
            sum = crc32c::crc32c_append(sum, &buffer[..piece]);
            at += piece as u64;
        }
        Ok(sum)
    }

    /// Reads as much as there is; the rest of `out` is zeroed.
    fn read(&self, mut at: u64, out: &mut [u8]) -> io::Result<()> {
        let mut rest = out;
        while !rest.is_empty() {
            match self.file.read_at(rest, at) {
                Ok(0) => {
                    rest.fill(0);
                    return Ok(());
                }
                Ok(count) => {
                    rest = &mut rest[count..];
                    at += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// The file behind a disk. Which one is not the machine's state: a machine that is restored is given it.
#[derive(Clone, Debug, Default)]
struct Behind(Option<Arc<Disk>>);

impl PartialEq for Behind {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Behind {}

type Cluster = Arc<[u8]>;

/// A disk's model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Block {
    #[serde(skip)]
    behind: Behind,
    bytes: u64,
    read_only: bool,
    // What the guest has written, by number of the cluster. Shared with the snapshot until it writes.
    written: Arc<BTreeMap<u64, Cluster>>,
}

impl Block {
    pub(crate) fn new(disk: Arc<Disk>, read_only: bool) -> Self {
        let bytes = disk.bytes.next_multiple_of(SECTOR_BYTES);
        Self { behind: Behind(Some(disk)), bytes, read_only, written: Arc::default() }
    }

    /// Puts `disk` behind a model that was read from a file; false when it has another size.
    pub(crate) fn attach(&mut self, disk: Arc<Disk>) -> bool {
        let fits = disk.bytes.next_multiple_of(SECTOR_BYTES) == self.bytes;
        self.behind = Behind(Some(disk));
        fits
    }

    pub(crate) fn path(&self) -> Option<&Path> {
        self.behind.0.as_deref().map(Disk::path)
    }

    pub(crate) fn features(&self) -> u64 {
        let read_only = if self.read_only { 1 << VIRTIO_BLK_F_RO } else { 0 };
        read_only | 1 << VIRTIO_BLK_F_SEG_MAX | 1 << VIRTIO_BLK_F_BLK_SIZE | 1 << VIRTIO_BLK_F_FLUSH
    }

    /// `struct virtio_blk_config` as far as its features go.
    pub(crate) fn config(&self) -> Vec<u8> {
        let mut config = Vec::with_capacity(24);
        config.extend((self.bytes / SECTOR_BYTES).to_le_bytes());
        config.extend(0u32.to_le_bytes()); // size_max: not offered
        config.extend(SEGMENTS_MAX.to_le_bytes());
        config.extend([0; 4]); // geometry: not offered
        config.extend(512u32.to_le_bytes());
        config
    }

    pub(crate) fn serve(&mut self, request: &Request, memory: &DeviceMemory<'_>) -> Result<Served, Broken> {
        let said = request.gather(memory)?;
        // The status is the last byte of the answer; without it there is nobody to tell.
        let room = request.writable_bytes().checked_sub(1).ok_or(Broken)?;
        let Some((header, data)) = said.split_at_checked(HEADER_BYTES) else { return Err(Broken) };
        let word = |at: usize| header[at..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        let sector = u64::from(word(8)) | u64::from(word(12)) << 32;
        let (status, written) = match word(0) {
            VIRTIO_BLK_T_IN => match place(sector, room).and_then(|at| self.read(at, room)) {
                Some(bytes) => {
                    request.scatter(memory, 0, &bytes)?;
                    (VIRTIO_BLK_S_OK, room)
                }
                None => (VIRTIO_BLK_S_IOERR, 0),
            },
            VIRTIO_BLK_T_OUT if place(sector, data.len()).is_some_and(|at| self.write(at, data)) => {
                (VIRTIO_BLK_S_OK, 0)
            }
            VIRTIO_BLK_T_OUT => (VIRTIO_BLK_S_IOERR, 0),
            VIRTIO_BLK_T_FLUSH => (VIRTIO_BLK_S_OK, 0),
            VIRTIO_BLK_T_GET_ID => {
                let id = &ID[..ID.len().min(room)];
                request.scatter(memory, 0, id)?;
                (VIRTIO_BLK_S_OK, id.len())
            }
            _ => (VIRTIO_BLK_S_UNSUPP, 0),
        };
        request.scatter(memory, room, &[status as u8])?;
        Ok(Served::Done(u32::try_from(written + 1).unwrap_or(u32::MAX)))
    }

    /// Bytes of the disk: whole sectors.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether all of a range is on the disk.
    pub(crate) fn has(&self, at: u64, bytes: u64) -> bool {
        at.checked_add(bytes).is_some_and(|end| end <= self.bytes)
    }

    /// `bytes` bytes from byte `at` on, if they are on the disk and can be read.
    pub(crate) fn read(&self, at: u64, bytes: usize) -> Option<Vec<u8>> {
        if !self.has(at, bytes as u64) {
            return None;
        }
        let mut out = vec![0; bytes];
        self.behind.0.as_ref()?.read(at, &mut out).ok()?;
        let clusters = at / CLUSTER_BYTES..(at + bytes as u64).div_ceil(CLUSTER_BYTES);
        for (&number, cluster) in self.written.range(clusters) {
            let from = number * CLUSTER_BYTES;
            let (skip, to) = (at.saturating_sub(from) as usize, from.saturating_sub(at) as usize);
            let count = (cluster.len() - skip).min(out.len() - to);
            out[to..to + count].copy_from_slice(&cluster[skip..skip + count]);
        }
        Some(out)
    }

    /// Writes `data` from byte `at` on; false when that is not on the disk, or cannot be written.
    pub(crate) fn write(&mut self, mut at: u64, data: &[u8]) -> bool {
        if self.read_only || !self.has(at, data.len() as u64) {
            return false;
        }
        let Some(disk) = &self.behind.0 else { return false };
        let written = Arc::make_mut(&mut self.written);
        let mut rest = data;
        while !rest.is_empty() {
            let (number, skip) = (at / CLUSTER_BYTES, (at % CLUSTER_BYTES) as usize);
            let (now, later) = rest.split_at(rest.len().min(CLUSTER_BYTES as usize - skip));
            let mut cluster = vec![0; CLUSTER_BYTES as usize];
            match written.get(&number) {
                Some(before) => cluster.copy_from_slice(before),
                None if disk.read(number * CLUSTER_BYTES, &mut cluster).is_err() => return false,
                None => {}
            }
            cluster[skip..skip + now.len()].copy_from_slice(now);
            written.insert(number, cluster.into());
            at += now.len() as u64;
            rest = later;
        }
        true
    }
}

/// First byte of a range of whole sectors.
fn place(sector: u64, bytes: usize) -> Option<u64> {
    (bytes as u64).is_multiple_of(SECTOR_BYTES).then_some(sector.checked_mul(SECTOR_BYTES)?)
}
