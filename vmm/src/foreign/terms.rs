//! What is said about an image from outside: all that an agent would say itself, and what no image says.

use std::fmt;
use std::sync::Arc;

/// The terms on which an image is run.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    /// Files with its symbols, before the image's own. The image that boots is often stripped.
    pub symbols: Vec<SymbolFile>,
}

/// A file with symbols and debug information of code in the image.
#[derive(Clone)]
pub struct SymbolFile {
    /// What it is called.
    pub name: String,
    /// The file: ELF, for x86-64.
    pub bytes: Arc<[u8]>,
    /// How far above where it was linked its code runs.
    pub bias: u64,
}

impl fmt::Debug for SymbolFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("SymbolFile");
        shown.field("name", &self.name).field("bias", &self.bias).finish_non_exhaustive()
    }
}
