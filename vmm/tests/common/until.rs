//! A machine's outside that stops it once it has said something.

use unifork_vmm::foreign::Outside;

/// Keeps the console, and stops the machine when `at` is on it.
pub(crate) struct Until {
    pub(crate) console: Vec<u8>,
    pub(crate) at: &'static str,
}

impl Outside for Until {
    fn console(&mut self, bytes: &[u8]) {
        self.console.extend_from_slice(bytes);
    }
    fn typed(&mut self, _room: usize) -> Vec<u8> {
        Vec::new()
    }
    fn listens(&self) -> bool {
        false
    }
    fn stopped(&self) -> bool {
        self.console.windows(self.at.len()).any(|window| window == self.at.as_bytes())
    }
}
