//! What a machine is connected to.

use std::time::Duration;

/// What a machine is connected to while it runs.
pub trait Outside {
    /// The machine has written this to its console.
    fn console(&mut self, bytes: &[u8]);

    /// What was typed, at most `room` bytes of it.
    fn typed(&mut self, room: usize) -> Vec<u8>;

    /// Whether something will still be typed.
    fn listens(&self) -> bool;

    /// Whether the run is to end now.
    fn stopped(&self) -> bool;

    /// The machine has sent this on network card number `card`.
    fn sent(&mut self, card: usize, frame: &[u8]) {
        let _nobody_is_there = (card, frame);
    }

    /// A frame for network card number `card`, if one has come.
    fn arrived(&mut self, card: usize) -> Option<Vec<u8>> {
        let _nothing_comes = card;
        None
    }

    /// Whether frames may come.
    fn is_connected(&self) -> bool {
        false
    }

    /// The machine waits: returns when a frame has come, when something was typed if it `takes_typed`, or when `at_most`
    /// has passed.
    fn wait(&mut self, at_most: Duration, takes_typed: bool) {
        let _nothing_to_wait_for = takes_typed;
        std::thread::sleep(at_most);
    }
}

/// Nobody: what is written to the console is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recorder {
    /// What was written.
    pub console: Vec<u8>,
}

/// Bytes of console that a [`Recorder`] keeps, at most.
const RECORDED_MAX: usize = 1 << 20;

impl Outside for Recorder {
    fn console(&mut self, bytes: &[u8]) {
        let room = RECORDED_MAX - self.console.len();
        self.console.extend_from_slice(&bytes[..room.min(bytes.len())]);
    }
    fn typed(&mut self, _room: usize) -> Vec<u8> {
        Vec::new()
    }
    fn listens(&self) -> bool {
        false
    }
    fn stopped(&self) -> bool {
        false
    }
}
