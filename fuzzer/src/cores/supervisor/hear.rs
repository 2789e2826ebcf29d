//! What the parent makes of what its processes say.

use std::time::Instant;

use serde_json::Value;

use super::Supervisor;
use crate::cmd::{note, warn};
use crate::cores::broker::News;
use crate::cores::child::{From, Heard, Place};
use crate::cores::sum::Part;
use crate::cores::{CoresError, Said};
use crate::findings::Moment;
use crate::monitor::Figures;

impl Supervisor<'_> {
    pub(super) fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Line(From { place: Place::Broker, turn }, line) if turn == self.broker.turn => {
                self.hear_broker(&line);
            }
            Heard::Line(From { place: Place::Client(number), turn }, line)
                if turn == self.seats[number].turn =>
            {
                self.seats[number].heard = Some(Instant::now());
                self.hear_client(number, &line);
            }
            Heard::End(from) => self.bury(from),
            // One that was ended for its silence has spoken up.
            Heard::Line(..) => {}
        }
    }

    fn hear_client(&mut self, number: usize, line: &str) {
        if let Ok(figures) = serde_json::from_str::<Figures>(line) {
            self.parts[number].hear(figures, Instant::now());
            return;
        }
        match serde_json::from_str::<Said>(line) {
            Ok(Said::Ended(ended)) => {
                self.parts[number].now = ended.figures;
                for (call, count) in ended.unserved {
                    *self.unserved.entry(call).or_default() += count;
                }
                self.unstable.extend(ended.unstable.into_iter().map(|edge| (edge.edge, edge)));
                self.seats[number].ended = true;
                return;
            }
            Ok(Said::Failed { message, help, blame }) => {
                self.seats[number].ended = true;
                self.fail(CoresError::Client { message, help, blame });
                return;
            }
            Err(_) => {}
        }
        let Ok(line) = serde_json::from_str::<Value>(line) else { return };
        let (Some(name), Some(sentence)) = (line["finding"].as_str(), line["sentence"].as_str()) else {
            return;
        };
        if self.findings.insert(name.to_owned()) {
            self.new_findings += 1;
            let execs = self.before + self.parts.iter().map(Part::execs).sum::<u64>();
            let at = Moment { execs, runtime: self.monitor.runtime(Instant::now()) };
            self.monitor.found_by(name, sentence, at);
        }
    }

    fn hear_broker(&mut self, line: &str) {
        self.broker.heard = Some(Instant::now());
        if let Ok(Said::Failed { message, help, blame }) = serde_json::from_str(line) {
            self.broker.ended = true;
            self.fail(CoresError::Client { message, help, blame });
            return;
        }
        match serde_json::from_str(line) {
            Ok(News::Port(port)) => {
                self.port = Some(port);
                for child in self.seats.iter_mut().filter_map(|seat| seat.child.as_mut()) {
                    child.tell(&port.to_string());
                }
            }
            Ok(News::Alive) | Err(_) => {}
            Ok(News::Serving(address)) => {
                if self.serving.replace(address) != Some(address) {
                    let reach = if address.ip().is_loopback() {
                        "for this machine alone"
                    } else {
                        "BEYOND THIS MACHINE: whoever reaches it can send inputs and read the corpus"
                    };
                    note(&format!("listening on {address}, {reach}"));
                }
            }
            Ok(News::Up(peer)) => {
                note(&format!("connected to {peer}"));
                self.unreached.remove(&peer);
                self.links.insert(peer);
                self.linked = true;
            }
            Ok(News::Down { peer, why }) => {
                if self.links.remove(&peer) {
                    note(&format!(
                        "the connection to {peer} is gone ({why}); it is made again when it can be"
                    ));
                    self.unreached.insert(peer);
                } else if self.orders.join.contains(&peer) && !self.unreached.contains(&peer) {
                    warn(&format!("{peer} cannot be reached yet ({why}); it is tried again"));
                    self.unreached.insert(peer);
                }
            }
            Ok(News::Refused { peer, why }) if self.orders.join.contains(&peer) && !self.linked => {
                self.fail(CoresError::Refused { peer, why });
            }
            Ok(News::Refused { peer, why }) => warn(&format!("{peer} is not let in: {why}")),
        }
    }
}
