//! What stands between LLMP and other machines.
//!
//! ```text
//!  broker ◄─ loopback ─► gate ◄─ TCP, framed, kept alive ─► gate ◄─ loopback ─► broker
//!  (join)                                                                     (serve)
//! ```
//!
//! LibAFL's brokers talk to one another over TCP, but listen on all addresses or on loopback alone, take
//! whatever comes for a message, allocate what a length says, lose their place when a read times out in
//! the middle of one, and do not notice a connection that is silently gone. So they only ever talk to
//! the gate of their own machine. It asks who is there, passes whole frames of the kinds we send, of
//! bounded length, says that it is alive when there is nothing to pass, and gives up a connection that
//! has been silent.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream, ToSocketAddrs as _};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use libafl_bolts::llmp::{TcpRequest, TcpResponse};
use serde::Deserialize;

use super::message::TAG;

/// A gate says that it is there when it has had nothing to say for this long,
const ALIVE: Duration = Duration::from_secs(1);
/// and gives the other up after this long without a word.
const SILENCE: Duration = Duration::from_secs(6);
/// Time for a connection to be made.
const CONNECT: Duration = Duration::from_secs(4);
/// Time before another attempt.
const RETRY: Duration = Duration::from_secs(1);
/// The longest frame: above the longest input with its report.
const FRAME_BYTES_MAX: usize = 64 << 20;
/// What a gate says first, followed by the number of the machine it fuzzes.
const HELLO: [u8; 16] = *b"unifork link 1\r\n";

/// What becomes of connections.
#[derive(Debug)]
pub(crate) enum Report {
    /// One is there.
    Up(String),
    /// One is gone, and why.
    Down(String, String),
    /// There is somebody, but not for us.
    Refused(String, String),
    /// The broker is to connect to this port of loopback: there is a gate to another behind it.
    Connect(u16),
}

/// One machine's gate.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    /// Which frozen machine the campaign forks; others are not let in.
    pub(crate) machine: u64,
    /// Where the broker listens.
    pub(crate) broker: u16,
    pub(crate) reports: Sender<Report>,
}

/// Which side of a connection is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Serving,
    Joining,
}

impl Gate {
    /// Lets others in at `listener`, for as long as the process lives.
    pub(crate) fn serve(&self, listener: TcpListener) {
        let gate = self.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let gate = gate.clone();
                thread::spawn(move || {
                    let peer = stream.peer_addr().map_or_else(|_| "?".to_owned(), |peer| peer.to_string());
                    gate.told(&peer, gate.admit(stream, &peer));
                });
            }
        });
    }

    /// Connects to `address`, again and again, for as long as the process lives.
    pub(crate) fn join(&self, address: String) {
        let gate = self.clone();
        thread::spawn(move || {
            loop {
                gate.told(&address, gate.reach(&address));
                thread::sleep(RETRY);
            }
        });
    }

    fn told(&self, peer: &str, ended: Result<(), GateError>) {
        let report = match ended {
            Ok(()) => Report::Down(peer.to_owned(), "closed".to_owned()),
            Err(GateError::Io(error)) => Report::Down(peer.to_owned(), error.to_string()),
            Err(GateError::Stranger(why)) => Report::Refused(peer.to_owned(), why),
        };
        // The broker's thread ends with the process.
        let _ = self.reports.send(report);
    }

    fn admit(&self, mut remote: TcpStream, peer: &str) -> Result<(), GateError> {
        prepare(&remote)?;
        let theirs = read_hello(&mut remote);
        // They are told who is here even if they are not to come in.
        remote.write_all(&self.hello())?;
        self.check(theirs?)?;
        let local = TcpStream::connect_timeout(&(Ipv4Addr::LOCALHOST, self.broker).into(), CONNECT)?;
        let _ = self.reports.send(Report::Up(peer.to_owned()));
        relay(remote, local, Side::Serving)?;
        Ok(())
    }

    fn reach(&self, name: &str) -> Result<(), GateError> {
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in name.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, CONNECT) {
                Ok(stream) => return self.enter(stream, name),
                Err(error) => last = error,
            }
        }
        Err(last.into())
    }

    fn enter(&self, mut remote: TcpStream, peer: &str) -> Result<(), GateError> {
        prepare(&remote)?;
        remote.write_all(&self.hello())?;
        self.check(read_hello(&mut remote)?)?;
        let door = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let _ = self.reports.send(Report::Connect(door.local_addr()?.port()));
        let local = accept_for(&door, CONNECT)?;
        let _ = self.reports.send(Report::Up(peer.to_owned()));
        relay(remote, local, Side::Joining)?;
        Ok(())
    }

    fn hello(&self) -> [u8; 24] {
        let mut hello = [0; 24];
        hello[..16].copy_from_slice(&HELLO);
        hello[16..].copy_from_slice(&self.machine.to_le_bytes());
        hello
    }

    fn check(&self, theirs: u64) -> Result<(), GateError> {
        if theirs == self.machine {
            return Ok(());
        }
        let ours = self.machine;
        Err(GateError::Stranger(format!(
            "it fuzzes another machine ({theirs:016x}, here {ours:016x}): image, unifork, --memory and --input-max must be the same"
        )))
    }
}

/// Why a connection ended.
#[derive(Debug)]
enum GateError {
    Io(io::Error),
    Stranger(String),
}

impl From<io::Error> for GateError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn prepare(remote: &TcpStream) -> io::Result<()> {
    remote.set_nodelay(true)?;
    remote.set_write_timeout(Some(SILENCE))
}

fn read_hello(remote: &mut TcpStream) -> Result<u64, GateError> {
    let mut hello = [0; 24];
    fill(remote, &mut hello, SILENCE)?;
    if hello[..16] != HELLO {
        return Err(GateError::Stranger("it is no unifork campaign of this version".to_owned()));
    }
    let number = hello.last_chunk().expect("a hello is longer than its number");
    Ok(u64::from_le_bytes(*number))
}

/// Waits for somebody to connect.
fn accept_for(door: &TcpListener, patience: Duration) -> io::Result<TcpStream> {
    door.set_nonblocking(true)?;
    let start = Instant::now();
    loop {
        match door.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && start.elapsed() < patience => {
                thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(error),
        }
    }
}

/// Passes frames both ways until either end is gone.
fn relay(remote: TcpStream, local: TcpStream, side: Side) -> io::Result<()> {
    let (mut from_local, mut to_remote) = (local.try_clone()?, remote.try_clone()?);
    let outward = thread::spawn(move || {
        let ended = pass_out(&mut from_local, &mut to_remote);
        close(&from_local, &to_remote);
        ended
    });
    let (mut remote, mut local) = (remote, local);
    let inward = pass_in(&mut remote, &mut local, side);
    close(&local, &remote);
    let outward = outward.join().unwrap_or_else(|_| Err(io::Error::other("the gate failed")));
    // Whoever ended it first knows why; the other only saw it closed.
    match (inward, outward) {
        (Err(error), _) | (Ok(()), Err(error)) => Err(error),
        (Ok(()), Ok(())) => Ok(()),
    }
}

fn close(one: &TcpStream, other: &TcpStream) {
    // A stream that is already closed is what is wanted.
    let _ = one.shutdown(Shutdown::Both);
    let _ = other.shutdown(Shutdown::Both);
}

fn pass_out(local: &mut TcpStream, remote: &mut TcpStream) -> io::Result<()> {
    loop {
        match read_frame(local, ALIVE)? {
            Some(frame) => remote.write_all(&frame)?,
            // A frame of no bytes says nothing but that we are here.
            None => remote.write_all(&[0; 4])?,
        }
    }
}

fn pass_in(remote: &mut TcpStream, local: &mut TcpStream, side: Side) -> io::Result<()> {
    let mut frames = 0u64;
    loop {
        let Some(frame) = read_frame(remote, SILENCE)? else {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it says nothing any more"));
        };
        let body = &frame[4..];
        if body.is_empty() {
            continue;
        }
        if !is_expected(body, side, frames) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it sends what no unifork sends"));
        }
        local.write_all(&frame)?;
        frames += 1;
    }
}

/// Messages of brokers to one another, as LibAFL writes them (`TcpRemoteNewMessage`).
#[derive(Deserialize)]
struct Passed<'a> {
    _client: u32,
    tag: u32,
    _flags: u32,
    _payload: &'a [u8],
}

/// Whether the frame number `at` from the other machine is one that its broker may send.
fn is_expected(body: &[u8], side: Side, at: u64) -> bool {
    match (side, at) {
        (Side::Serving, 0) => {
            matches!(postcard::from_bytes(body), Ok(TcpRequest::RemoteBrokerHello { .. }))
        }
        (Side::Joining, 0) => {
            matches!(postcard::from_bytes(body), Ok(TcpResponse::BrokerConnectHello { .. }))
        }
        (Side::Joining, 1) => {
            matches!(postcard::from_bytes(body), Ok(TcpResponse::RemoteBrokerAccepted { .. }))
        }
        _ => postcard::from_bytes::<Passed<'_>>(body).is_ok_and(|message| message.tag == TAG.0),
    }
}

/// A frame with its length before it; none when nothing begins for `patience`.
fn read_frame(from: &mut TcpStream, patience: Duration) -> io::Result<Option<Vec<u8>>> {
    let mut frame = vec![0; 4];
    from.set_read_timeout(Some(patience))?;
    let first = loop {
        match from.read(&mut frame) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => break count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if is_timeout(&error) => return Ok(None),
            Err(error) => return Err(error),
        }
    };
    fill(from, &mut frame[first..], SILENCE)?;
    let bytes = u32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]) as usize;
    if bytes > FRAME_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {bytes} bytes")));
    }
    frame.resize(4 + bytes, 0);
    fill(from, &mut frame[4..], SILENCE)?;
    Ok(Some(frame))
}

/// Reads all of `buffer`, waiting at most `patience` for each piece of it.
fn fill(from: &mut TcpStream, buffer: &mut [u8], patience: Duration) -> io::Result<()> {
    from.set_read_timeout(Some(patience))?;
    from.read_exact(buffer)
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (one, listener.accept().unwrap().0)
    }

    #[test]
    fn frames_come_whole_and_long_ones_are_refused() {
        let (mut sender, mut receiver) = pair();
        let writer = thread::spawn(move || {
            for byte in [0, 0, 0, 3, b'a', b'b', b'c', 0, 0, 0, 0] {
                sender.write_all(&[byte]).unwrap();
                thread::sleep(Duration::from_millis(2));
            }
            sender.write_all(&u32::MAX.to_be_bytes()).unwrap();
            sender
        });
        let frame = |receiver: &mut TcpStream| read_frame(receiver, SILENCE);
        assert_eq!(frame(&mut receiver).unwrap().unwrap(), b"\0\0\0\x03abc");
        assert_eq!(frame(&mut receiver).unwrap().unwrap(), [0; 4]);
        assert_eq!(frame(&mut receiver).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let _still_open = writer.join().unwrap();
        assert_eq!(read_frame(&mut receiver, Duration::from_millis(20)).unwrap(), None);
    }

    #[test]
    fn only_what_a_broker_sends_is_expected() {
        #[derive(serde::Serialize)]
        struct Sent(u32, u32, u32, Vec<u8>);
        let message = |tag| postcard::to_allocvec(&Sent(1, tag, 2, b"payload".to_vec())).unwrap();
        let hello = postcard::to_allocvec(&TcpRequest::RemoteBrokerHello { hostname: "h".into() }).unwrap();
        assert!(is_expected(&hello, Side::Serving, 0));
        assert!(!is_expected(&message(TAG.0), Side::Serving, 0));
        assert!(is_expected(&message(TAG.0), Side::Serving, 1));
        // LLMP's own: "this machine is exiting", "map this memory".
        for tag in [0x013C_5171, 0x0C11_E471] {
            assert!(!is_expected(&message(tag), Side::Serving, 1));
        }
        assert!(!is_expected(b"", Side::Joining, 0) && !is_expected(b"nonsense", Side::Joining, 2));
    }

    #[test]
    fn strangers_are_told_apart() {
        let (reports, reported) = channel();
        let gate = |machine| Gate { machine, broker: 1, reports: reports.clone() };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        gate(1).serve(listener);
        let Err(GateError::Stranger(why)) = gate(2).reach(&address) else { panic!("let in") };
        assert!(why.contains("another machine"), "{why}");
        assert!(matches!(reported.recv().unwrap(), Report::Refused(..)));
        let mut other = TcpStream::connect(&address).unwrap();
        other.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        assert!(matches!(reported.recv().unwrap(), Report::Refused(..)));
    }
}
