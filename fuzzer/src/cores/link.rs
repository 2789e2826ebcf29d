//! A client's end of the exchange: an LLMP client of this machine's broker, for as long as there is one.
//!
//! Everything that is told is on disk before, and a broker that is started again reads it from there. So
//! a broker that dies, or messages lost with one, only delay what the others hear.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use libafl_bolts::llmp::LlmpClient;
use libafl_bolts::shmem::ShMemProvider as _;
use libafl_bolts::shmem::unix_shmem::UnixShMem;

use super::message::{Message, TAG};
use super::segments::Segments;

/// Time before a broker that failed is asked again.
const RETRY: Duration = Duration::from_secs(1);

/// Where the broker is, told by the parent; 0 while there is none.
pub(crate) type Port = Arc<AtomicU32>;

/// The end.
#[derive(Debug)]
pub(crate) struct Link {
    port: Port,
    // The broker's port with its client.
    client: Option<(u16, LlmpClient<UnixShMem, Segments>)>,
    retry: Instant,
}

impl Link {
    /// A link to whatever broker `port` names.
    pub(crate) fn new(port: Port) -> Self {
        Self { port, client: None, retry: Instant::now() }
    }

    /// Attaches to the broker of the moment. A load and a comparison when it is attached.
    fn client(&mut self) -> Option<&mut LlmpClient<UnixShMem, Segments>> {
        let port = u16::try_from(self.port.load(Ordering::Relaxed)).unwrap_or(0);
        if self.client.as_ref().is_none_or(|(attached, _)| *attached != port) {
            self.client = None;
            if port == 0 || Instant::now() < self.retry {
                return None;
            }
            // The broker keeps all that was said, so whoever attaches late hears it, too.
            match Segments::new().and_then(|segments| LlmpClient::create_attach_to_tcp(segments, port)) {
                Ok(client) => self.client = Some((port, client)),
                Err(error) => {
                    log::warn!("cannot attach to the broker: {error}");
                    self.retry = Instant::now() + RETRY;
                }
            }
        }
        self.client.as_mut().map(|(_, client)| client)
    }

    fn lost(&mut self, why: &str) {
        log::warn!("the broker is lost: {why}");
        self.client = None;
        self.retry = Instant::now() + RETRY;
    }

    /// Tells the others.
    pub(crate) fn send(&mut self, message: &Message) {
        let Some(client) = self.client() else { return };
        // LLMP panics when the broker does not keep up, or is gone.
        let sent = catch_unwind(AssertUnwindSafe(|| client.send_buf(TAG, &message.encode())));
        match sent {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.lost(&error.to_string()),
            Err(_) => self.lost("it does not read what is sent"),
        }
    }

    /// What somebody told, if there is more.
    pub(crate) fn receive(&mut self) -> Option<Message> {
        loop {
            let client = self.client()?;
            match client.recv_buf() {
                Ok(Some((_, TAG, bytes))) => {
                    if let Some(message) = Message::decode(bytes) {
                        return Some(message);
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(error) => {
                    let why = error.to_string();
                    self.lost(&why);
                    return None;
                }
            }
        }
    }
}
