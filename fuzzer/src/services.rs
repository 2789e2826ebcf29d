//! The host's side of `unifork run`: the terminal, standard input, and connections to published ports.
//!
//! Nothing is touched that was not asked for: an address is listened on only if `--publish` names it,
//! and standard input is read only when the program wants to read it.

mod connection;

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use unifork_abi::{STDIN_HANDLE, ServiceHeader, ToGuest, ToHost};
use unifork_vmm::Services;
use unifork_vmm::services::{BadMessage, Message, Terminals, push};

use crate::signals;
use connection::Connection;

/// Connections at a time, at most; more wait on the host.
const CONNECTIONS_MAX: usize = 4096;
/// A waiting host looks at the stop flag this often, for a signal that came just before it waited.
const NAP: Duration = Duration::from_millis(100);
/// How long what the program has sent may take to leave when it has ended.
const FAREWELL: Duration = Duration::from_secs(2);

/// `--publish ADDR:PORT[:GUESTPORT]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Publish {
    pub(crate) host: SocketAddr,
    pub(crate) guest_port: u16,
}

impl Publish {
    /// Reads the flag.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let whole = text.parse::<SocketAddr>().map(|host| Self { host, guest_port: host.port() });
        let split = || {
            let (host, port) = text.rsplit_once(':')?;
            Some(Self { host: host.parse().ok()?, guest_port: port.parse().ok()? })
        };
        whole.ok().or_else(split).filter(|publish| publish.guest_port != 0).ok_or_else(|| {
            format!("`{text}` is not ADDRESS:PORT or ADDRESS:PORT:GUESTPORT, as in 127.0.0.1:6379")
        })
    }
}

struct Listener {
    socket: TcpListener,
    guest_port: u16,
    // The program listens.
    open: bool,
}

/// What `unifork run` gives a VM.
pub(crate) struct HostServices {
    show: bool,
    listeners: Vec<Listener>,
    connections: BTreeMap<u32, Connection>,
    next_handle: u32,
    input_credit: usize,
    input_ended: bool,
}

impl HostServices {
    /// Listens on the addresses. `show`: the console goes to standard output as it comes.
    pub(crate) fn open(publish: &[Publish], show: bool) -> io::Result<Self> {
        let mut listeners = Vec::new();
        for &Publish { host, guest_port } in publish {
            let failed = |error: io::Error| io::Error::new(error.kind(), format!("{host}: {error}"));
            let socket = TcpListener::bind(host).map_err(failed)?;
            socket.set_nonblocking(true)?;
            listeners.push(Listener { socket, guest_port, open: false });
        }
        Ok(Self {
            show,
            listeners,
            connections: BTreeMap::new(),
            next_handle: STDIN_HANDLE + 1,
            input_credit: 0,
            input_ended: false,
        })
    }

    /// The program has ended: lets go what it has sent.
    pub(crate) fn finish(&mut self) {
        let until = Instant::now() + FAREWELL;
        for connection in self.connections.values_mut() {
            connection.close();
        }
        loop {
            self.connections.retain(|_, connection| !connection.is_over());
            let left = until.saturating_duration_since(Instant::now());
            if self.connections.is_empty() || left.is_zero() || signals::stop_requested() {
                return;
            }
            let _ = self.poll(Some(left));
            for connection in self.connections.values_mut() {
                connection.flush();
            }
        }
    }

    fn obey(&mut self, message: &Message<'_>) -> Result<(), BadMessage> {
        let ServiceHeader { handle, value, .. } = message.header;
        let kind = ToHost::from_number(message.header.kind).ok_or(BadMessage)?;
        match kind {
            ToHost::Listen | ToHost::Unlisten => {
                for listener in &mut self.listeners {
                    if u32::from(listener.guest_port) == value {
                        listener.open = kind == ToHost::Listen;
                    }
                }
            }
            ToHost::Credit if handle == STDIN_HANDLE => self.input_credit += value as usize,
            // A connection that the host knows to be over is no news to it.
            _ => {
                if let Some(connection) = self.connections.get_mut(&handle) {
                    match kind {
                        ToHost::Send => connection.send(message.data),
                        ToHost::Shutdown => connection.shutdown(),
                        ToHost::Close => connection.close(),
                        _ => connection.credit += value as usize,
                    }
                }
            }
        }
        Ok(())
    }

    /// Says what has come.
    fn report(&mut self, room: usize) -> Vec<u8> {
        let mut answer = Vec::new();
        self.accept(room, &mut answer);
        self.read_input(room, &mut answer);
        for (&handle, connection) in &mut self.connections {
            connection.report(handle, room, &mut answer);
        }
        self.connections.retain(|_, connection| !connection.is_over());
        answer
    }

    fn accept(&mut self, room: usize, answer: &mut Vec<u8>) {
        for listener in self.listeners.iter().filter(|listener| listener.open) {
            while self.connections.len() < CONNECTIONS_MAX && answer.len() + 64 < room {
                let Ok((stream, peer)) = listener.socket.accept() else { break };
                let Ok(connection) = Connection::new(stream) else { continue };
                let mut data = peer.port().to_be_bytes().to_vec();
                match peer.ip() {
                    std::net::IpAddr::V4(ip) => data.extend_from_slice(&ip.octets()),
                    std::net::IpAddr::V6(ip) => data.extend_from_slice(&ip.octets()),
                }
                let header = header(ToGuest::Accepted, self.next_handle, listener.guest_port.into());
                push(answer, header, &data);
                self.connections.insert(self.next_handle, connection);
                self.next_handle = self.next_handle.wrapping_add(1).max(STDIN_HANDLE + 1);
            }
        }
    }

    fn read_input(&mut self, room: usize, answer: &mut Vec<u8>) {
        let count = self.input_credit.min(room.saturating_sub(answer.len() + 64)).min(16 << 10);
        if count == 0 || self.input_ended || !readable(io::stdin().as_fd()) {
            return;
        }
        let mut data = vec![0; count];
        // One read: what a terminal or a pipe has now.
        match io::stdin().lock().read(&mut data) {
            Ok(0) | Err(_) => {
                self.input_ended = true;
                push(answer, header(ToGuest::End, STDIN_HANDLE, 0), &[]);
            }
            Ok(count) => {
                self.input_credit -= count;
                push(answer, header(ToGuest::Data, STDIN_HANDLE, 0), &data[..count]);
            }
        }
    }

    /// Waits until something can be reported.
    fn poll(&self, wait: Option<Duration>) -> bool {
        let stdin = io::stdin();
        let mut fds = Vec::new();
        if self.connections.len() < CONNECTIONS_MAX {
            let open = self.listeners.iter().filter(|listener| listener.open);
            fds.extend(open.map(|listener| PollFd::new(&listener.socket, PollFlags::IN)));
        }
        if self.input_credit > 0 && !self.input_ended {
            fds.push(PollFd::new(&stdin, PollFlags::IN));
        }
        fds.extend(self.connections.values().filter_map(Connection::poll_fd));
        let wait = wait.map_or(NAP, |wait| wait.min(NAP));
        let wait = Timespec::try_from(wait).ok();
        rustix::event::poll(&mut fds, wait.as_ref()).is_ok_and(|ready| ready > 0)
    }
}

fn readable(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    rustix::event::poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

fn header(kind: ToGuest, handle: u32, value: u32) -> ServiceHeader {
    ServiceHeader { kind: kind as u32, handle, bytes: 0, value }
}

impl Services for HostServices {
    fn terminals(&self) -> Terminals {
        Terminals { input: io::stdin().is_terminal(), output: self.show && io::stdout().is_terminal() }
    }

    fn console(&mut self, bytes: &[u8]) {
        if self.show {
            // Bytes, as the program wrote them; a closed pipe is not worth a message.
            let mut out = io::stdout().lock();
            let _ = out.write_all(bytes).and_then(|()| out.flush());
        }
    }

    fn stopped(&self) -> bool {
        signals::stop_requested()
    }

    fn exchange(
        &mut self,
        said: &[Message<'_>],
        wait: Option<Duration>,
        room: usize,
    ) -> Result<Vec<u8>, BadMessage> {
        for message in said {
            self.obey(message)?;
        }
        let started = Instant::now();
        loop {
            let answer = self.report(room);
            let left = wait.map(|wait| wait.saturating_sub(started.elapsed()));
            if !answer.is_empty() || left == Some(Duration::ZERO) || signals::stop_requested() {
                return Ok(answer);
            }
            self.poll(left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_addresses_are_read() {
        let parse = |text| Publish::parse(text).map(|p| (p.host.to_string(), p.guest_port));
        assert_eq!(parse("127.0.0.1:6379"), Ok(("127.0.0.1:6379".into(), 6379)));
        assert_eq!(parse("127.0.0.1:8080:80"), Ok(("127.0.0.1:8080".into(), 80)));
        assert_eq!(parse("[::1]:8080:80"), Ok(("[::1]:8080".into(), 80)));
        assert_eq!(parse("127.0.0.1:0:80"), Ok(("127.0.0.1:0".into(), 80)));
        for bad in ["", "6379", "127.0.0.1", "127.0.0.1:99999", "127.0.0.1:1:0", "localhost:1"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
