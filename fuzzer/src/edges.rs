//! Where the application's edges are in its source: the compiler's table of addresses beside the
//! counters, and debug information.

use std::sync::Arc;

use object::{Object as _, ObjectSymbol as _};
use serde::{Deserialize, Serialize};
use unifork_vmm::Snapshot;
use unifork_vmm::introspect::Symbols;

use crate::fork::Frozen;

/// Bytes of one entry of the table: an address and flags.
const ENTRY_BYTES: u64 = 16;

/// One edge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Edge {
    /// Its counter.
    pub(crate) edge: usize,
    /// The first instruction behind it, zero where the image does not say.
    pub(crate) address: u64,
    pub(crate) function: Option<String>,
    pub(crate) file: Option<String>,
    pub(crate) line: Option<u32>,
}

impl Edge {
    /// `file:line function`, as far as it is known.
    pub(crate) fn place(&self) -> String {
        let function = self.function.as_deref().unwrap_or("?");
        match (&self.file, self.line) {
            (Some(file), Some(line)) => format!("{file}:{line} {function}"),
            _ => format!("0x{:x} {function}", self.address),
        }
    }
}

/// The edges of the application in `frozen` whose counters are `edges`. Reads debug information: for
/// reports, not for every run.
pub(crate) fn find(frozen: &Frozen, edges: impl IntoIterator<Item = usize>) -> Vec<Edge> {
    let table = match frozen {
        Frozen::Own(snapshot) => table(snapshot),
        Frozen::Foreign(_) => None,
    };
    let mut symbols = Symbols::new();
    for (name, bytes, bias) in frozen.images() {
        if let Err(error) = symbols.load(name, Arc::clone(bytes), bias) {
            log::warn!("no symbols: {error}");
        }
    }
    let find = |edge: usize| {
        let address = match frozen {
            Frozen::Own(snapshot) => {
                // From memory, not from the file: there, start-up code has relocated it.
                let entry = table.and_then(|table| table.checked_add(edge as u64 * ENTRY_BYTES));
                entry.and_then(|at| read_u64(snapshot, at)).unwrap_or(0)
            }
            Frozen::Foreign(base) => base.sites().get(edge).copied().unwrap_or(0),
        };
        let place = symbols.places(address).into_iter().next();
        let (function, file, line) = place.map_or((None, None, None), |p| (p.function, p.file, p.line));
        Edge { edge, address, function, file, line }
    };
    edges.into_iter().map(find).collect()
}

/// Where the table of addresses is.
fn table(snapshot: &Snapshot) -> Option<u64> {
    let file = object::File::parse(&snapshot.app_elf()[..]).ok()?;
    let start = file.symbol_by_name("__start___sancov_pcs")?;
    Some(start.address().wrapping_add(snapshot.info().app_bias))
}

fn read_u64(snapshot: &Snapshot, address: u64) -> Option<u64> {
    let from = usize::try_from(snapshot.info().layout.translate(address)?.0).ok()?;
    let bytes = snapshot.memory().bytes().get(from..from.checked_add(8)?)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}
