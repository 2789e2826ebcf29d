//! A fork's network card: what comes in is part of its input, and what goes out is part of the run's record.
//!
//! ```text
//!   reset ─► prepare(input), deliver(frame) … ─► run_prepared ─► frames()
//! ```

use super::Fork;

impl Fork {
    /// Hands `frame` to the image's first network card, for the next [`Self::run_prepared`]; the fork is as it was when it was
    /// made or [`Self::reset`], but for what was prepared and delivered since. The frame is in the image's memory
    /// at once, with an interrupt, if the image has room for it, and waits in the card if not.
    ///
    /// False when the machine has no card, when the frame is longer than
    /// [`FRAME_BYTES_MAX`](crate::virtio::FRAME_BYTES_MAX), and when too many are waiting.
    pub fn deliver(&mut self, frame: &[u8]) -> bool {
        let machine = &mut self.machine;
        let taken = machine.bus.virtio().push_frame(&mut machine.memory, 0, frame);
        if taken && !self.base.watch.blocks.is_empty() {
            // The run may have to be made again, to count what it comes to.
            self.delivered.push(frame.to_vec());
        }
        taken
    }

    /// Whether the image has a network card.
    pub fn has_net(&mut self) -> bool {
        self.machine.bus.virtio().cards() > 0
    }

    /// The frames that the image sent in the last run, card by card, the first 4 MiB of each.
    #[must_use]
    pub fn frames(&self) -> &[Vec<u8>] {
        &self.frames
    }

    /// Plants a mistake in every later reset, for the test of the soundness tests.
    #[cfg(feature = "mutants")]
    #[doc(hidden)]
    pub fn plant(&mut self, mutation: crate::reset::Mutation) {
        self.resetter.planted.set(mutation);
    }

    pub(super) fn take_frames(&mut self) {
        let frames = self.machine.bus.virtio().take_frames();
        self.frames = frames.into_iter().map(|(_, frame)| frame).collect();
    }
}
