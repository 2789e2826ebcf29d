//! What a client of several does between two rounds: says what is new here, and runs what others say.

use libafl::HasFeedback as _;
use libafl::fuzzer::ExecuteInputResult;

use super::{Campaign, CampaignError};
use crate::cores::message::Message;

/// Inputs of other clients that are run between two rounds at most.
const IMPORTS_MAX: usize = 64;

impl Campaign {
    /// Tells other clients what is new here.
    pub(super) fn tell(&mut self) {
        let Some(link) = &mut self.link else { return };
        for fresh in self.fuzzer.feedback_mut().queue.take_fresh() {
            link.send(&Message::Entry { number: fresh.number, bytes: fresh.bytes });
        }
        for name in self.executor.findings.take_fresh() {
            if let Some(message) = self.executor.findings.message(&name) {
                link.send(&message);
            }
        }
    }

    /// Tells other clients what is new here, and runs what they tell. False when the campaign is to stop.
    pub(super) fn exchange(&mut self) -> Result<bool, CampaignError> {
        self.tell();
        let Some(mut link) = self.link.take() else { return Ok(true) };
        let mut goes_on = true;
        let mut imports = 0;
        while goes_on && imports < IMPORTS_MAX {
            match link.receive() {
                None => break,
                Some(Message::Finding { name, report, input }) => {
                    self.executor.adopt(&name, &report, &input)?;
                }
                Some(Message::Entry { bytes, .. }) if self.fuzzer.feedback_mut().queue.has(&bytes) => {}
                Some(Message::Entry { number, bytes }) => {
                    imports += 1;
                    self.fuzzer.feedback_mut().import = Some(number);
                    let evaluated = self.evaluate(&bytes)?;
                    self.fuzzer.feedback_mut().import = None;
                    goes_on = evaluated.is_some();
                    let kept = evaluated == Some(ExecuteInputResult::Corpus);
                    self.executor.tally.imported += u64::from(kept);
                }
            }
        }
        self.link = Some(link);
        Ok(goes_on)
    }
}
