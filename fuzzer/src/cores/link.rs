//! A client's end of the exchange: an LLMP client of this machine's broker, for as long as there is one.
//!
//! Everything that is told is on disk before, and a broker that is started again reads it from there. So
//! a broker that dies, or messages lost with one, only delay what the others hear.

use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use libafl_bolts::Error;
use libafl_bolts::llmp::LlmpClient;
use libafl_bolts::shmem::ShMemProvider as _;
use libafl_bolts::shmem::unix_shmem::UnixShMem;

use super::message::{Message, TAG};
use super::segments::Segments;

/// Time before a broker that failed is asked again.
const RETRY: Duration = Duration::from_secs(1);

/// What each step of attaching to a broker may take.
const PATIENCE: Duration = Duration::from_secs(2);

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
            match attach(port) {
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

/// Attaches to the broker at `port`, or finds out that there is none.
///
/// LLMP asks a port that refuses again and again, for ever, and a broker that was killed has another port when it
/// is back. So it gets a port that never refuses, and what it says there is passed on to a connection
/// that is made, and waited for, no longer than [`PATIENCE`].
fn attach(port: u16) -> Result<LlmpClient<UnixShMem, Segments>, Error> {
    let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let broker = TcpStream::connect_timeout(&at(port), PATIENCE)?;
    broker.set_read_timeout(Some(PATIENCE))?;
    broker.set_write_timeout(Some(PATIENCE))?;
    let listener = TcpListener::bind(at(0))?;
    let own = listener.local_addr()?.port();
    thread::spawn(move || {
        if let Err(error) = listener.accept().and_then(|(client, _)| pass_on(&client, &broker)) {
            log::debug!("attaching: {error}");
        }
    });
    LlmpClient::create_attach_to_tcp(Segments::new()?, own)
}

/// Passes on what both say until one of them ends, or the broker says nothing for too long.
fn pass_on(client: &TcpStream, broker: &TcpStream) -> io::Result<()> {
    let (mut from_client, mut to_broker) = (client.try_clone()?, broker.try_clone()?);
    let there = thread::spawn(move || {
        let _ended = io::copy(&mut from_client, &mut to_broker);
        let _gone = to_broker.shutdown(Shutdown::Both);
    });
    let (mut from_broker, mut to_client) = (broker, client);
    let ended = io::copy(&mut from_broker, &mut to_client);
    let _gone = client.shutdown(Shutdown::Both);
    let _passed = there.join();
    ended.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive(port: u16) -> Option<Message> {
        Link::new(Arc::new(AtomicU32::new(port.into()))).receive()
    }

    #[test]
    fn a_broker_that_is_gone_is_not_waited_for() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        assert!(receive(port).is_none());
    }

    #[test]
    fn a_broker_that_dies_or_says_nothing_is_given_up() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        // The kernel accepts; nobody speaks.
        assert!(receive(port).is_none());
        let dies = thread::spawn(move || drop(listener.accept().unwrap()));
        assert!(receive(port).is_none());
        dies.join().unwrap();
    }
}
