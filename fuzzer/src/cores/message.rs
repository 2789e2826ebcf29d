//! What clients and machines tell each other: inputs that were kept, and findings.

use libafl_bolts::hash_std;
use libafl_bolts::llmp::Tag;
use serde::{Deserialize, Serialize};

/// The tag of all our messages; no other crosses from machine to machine.
pub(crate) const TAG: Tag = Tag(0x5546_0001);

/// One message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Message {
    /// An input that somebody's queue has.
    Entry {
        /// The first part of its file's name there.
        number: u64,
        bytes: Vec<u8>,
    },
    /// A finding that somebody's folder has.
    Finding {
        name: String,
        /// Its `report.json`.
        report: Vec<u8>,
        input: Vec<u8>,
    },
}

impl Message {
    /// As it is sent.
    pub(crate) fn encode(&self) -> Vec<u8> {
        postcard::to_allocvec(self).expect("a message is plain data")
    }

    /// Reads a message; none if it is none, or has something behind it.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        postcard::take_from_bytes(bytes).ok().and_then(|(message, rest)| rest.is_empty().then_some(message))
    }

    /// The same for messages that say the same: an input is its bytes, a finding its name.
    pub(crate) fn key(&self) -> u64 {
        match self {
            Self::Entry { bytes, .. } => hash_std(bytes),
            Self::Finding { name, .. } => !hash_std(name.as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_back_and_anything_else_is_refused() {
        let entry = Message::Entry { number: 7, bytes: b"input".to_vec() };
        let finding =
            Message::Finding { name: "abort-1".into(), report: b"{}".to_vec(), input: b"input".to_vec() };
        for message in [&entry, &finding] {
            let mut bytes = message.encode();
            assert_eq!(Message::decode(&bytes).as_ref(), Some(message));
            bytes.push(0);
            assert_eq!(Message::decode(&bytes), None);
            assert_eq!(Message::decode(&bytes[..bytes.len() - 2]), None);
        }
        assert_eq!(entry.key(), Message::Entry { number: 8, bytes: b"input".to_vec() }.key());
        assert_ne!(entry.key(), finding.key());
    }
}
