//! A frozen image, handed to other processes of one campaign as a file: all of them fork the machine that was
//! booted once, and share its memory.
//!
//! An image that is booted again need not be the same to the last byte: its time stamp counter is the host's. So
//! processes that are to agree do not boot one each. The file is between processes of one program, and is not
//! kept: it has no version and no checksums.
//!
//! Layout: the length of what follows, 8 bytes; [`Parts`] as postcard; from the next page on, memory.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::agentless::Entry;
use super::base::Base;
use super::frozen::{Frozen, MachineState};
use super::loader::Protocol;
use super::run_loop::Layout;
use super::terms::SymbolFile;
use super::watch::Watch;
use crate::addr::PAGE_BYTES;
use crate::agent::{Agent, Placement};
use crate::memory::MemoryImage;
use crate::sys::memfd;
use crate::virtio::Disk;

/// All of a [`Base`] but its memory.
#[derive(Serialize, Deserialize)]
struct Parts {
    state: MachineState,
    agent: Agent,
    protocol: Protocol,
    placement: Placement,
    loop_layout: Option<Layout>,
    name: String,
    image: Vec<u8>,
    symbols: Vec<SymbolFile>,
    entry: Entry,
    watch: Watch,
    id: u64,
    memory_bytes: u64,
    disks: Vec<PathBuf>,
}

/// Where memory begins behind `parts` bytes of postcard.
fn memory_at(parts: u64) -> u64 {
    (8 + parts).next_multiple_of(PAGE_BYTES)
}

impl Base {
    /// A sealed memory file of it, for [`Self::open_shared`].
    ///
    /// # Errors
    ///
    /// The host has no memory for it.
    pub fn share(&self) -> io::Result<File> {
        let memory = &self.frozen.memory;
        let parts = Parts {
            state: self.frozen.state.clone(),
            agent: self.frozen.agent.clone(),
            protocol: self.frozen.protocol,
            placement: self.placement.clone(),
            loop_layout: self.loop_layout,
            name: self.name.clone(),
            image: self.image.to_vec(),
            symbols: self.symbols.clone(),
            entry: self.entry.clone(),
            watch: self.watch.clone(),
            id: self.id,
            memory_bytes: memory.len(),
            disks: self
                .frozen
                .state
                .bus
                .virtio
                .disks()
                .map(std::path::absolute)
                .collect::<io::Result<_>>()?,
        };
        let parts = postcard::to_stdvec(&parts).map_err(io::Error::other)?;
        let at = memory_at(parts.len() as u64);
        let mut file = memfd::create(c"unifork-image", at + memory.len())?;
        file.write_all(&(parts.len() as u64).to_le_bytes())?;
        file.write_all(&parts)?;
        for range in memory.data_ranges() {
            let bounds = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
            let bytes = bounds.and_then(|(start, end)| memory.bytes().get(start..end)).unwrap_or_default();
            file.write_all_at(bytes, at + range.start)?;
        }
        memfd::seal(&file)?;
        Ok(file)
    }

    /// The frozen image that another process has put behind `path`.
    ///
    /// # Errors
    ///
    /// It is no such file, or a disk of the machine's is no longer there.
    pub fn open_shared(path: &Path) -> io::Result<Arc<Self>> {
        let file = File::open(path)?;
        let mut length = [0; 8];
        file.read_exact_at(&mut length, 0)?;
        let length = u64::from_le_bytes(length);
        let whole = file.metadata()?.len();
        let short = || io::Error::new(io::ErrorKind::InvalidData, "it is no frozen image");
        if memory_at(length.min(whole)) > whole {
            return Err(short());
        }
        let mut parts = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        file.read_exact_at(&mut parts, 8)?;
        let mut parts: Parts = postcard::from_bytes(&parts).map_err(io::Error::other)?;
        let disks = parts.disks.iter().map(|path| Disk::open(path)).collect::<io::Result<Vec<_>>>()?;
        if !parts.state.bus.virtio.attach(&disks) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a disk of the machine's has another size",
            ));
        }
        let at = memory_at(length);
        if at.checked_add(parts.memory_bytes) != Some(whole) {
            return Err(short());
        }
        let memory = MemoryImage::map(file, at, parts.memory_bytes).map_err(io::Error::other)?;
        let frozen = Frozen { memory, state: parts.state, agent: parts.agent, protocol: parts.protocol };
        Ok(Arc::new(Self {
            frozen: Arc::new(frozen),
            placement: parts.placement,
            loop_layout: parts.loop_layout,
            name: parts.name,
            image: parts.image.into(),
            symbols: parts.symbols,
            entry: parts.entry,
            watch: parts.watch,
            id: parts.id,
        }))
    }
}
