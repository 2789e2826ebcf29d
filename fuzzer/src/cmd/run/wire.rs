//! A machine's network card, connected to a socket of the host's: each frame is a datagram.
//!
//! A datagram that nobody takes is lost, as a frame is on a wire.

use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use unifork_vmm::virtio::FRAME_BYTES_MAX;

use super::devices::Wire;
use crate::cmd::{BlameExt as _, Failure};

/// The machine's end of a wire.
#[derive(Debug)]
pub(crate) struct Plug {
    socket: Socket,
    buffer: Vec<u8>,
}

#[derive(Debug)]
enum Socket {
    Udp(UdpSocket),
    Unix { socket: UnixDatagram, local: PathBuf, remote: PathBuf },
}

impl Plug {
    /// Connects to `wire`; `None` when there is nothing at it.
    pub(crate) fn connect(wire: &Wire) -> Result<Option<Self>, Failure> {
        let socket = match wire {
            Wire::Isolated => return Ok(None),
            Wire::Udp(local, remote) => {
                let open = || {
                    let socket = UdpSocket::bind(local)?;
                    socket.connect(remote)?;
                    socket.set_nonblocking(true)?;
                    io::Result::Ok(socket)
                };
                let socket =
                    open().with_context(|| format!("cannot send from {local} to {remote}")).or_usage();
                Socket::Udp(
                    socket
                        .map_err(|failure| failure.help("give --net an address and a port that are free"))?,
                )
            }
            Wire::Unix(local, remote) => Socket::unix(local, remote)?,
        };
        Ok(Some(Self { socket, buffer: vec![0; FRAME_BYTES_MAX + 1] }))
    }

    pub(crate) fn send(&self, frame: &[u8]) {
        let _sent_or_lost = match &self.socket {
            Socket::Udp(socket) => socket.send(frame),
            Socket::Unix { socket, remote, .. } => socket.send_to(frame, remote),
        };
    }

    /// A frame that has come.
    pub(crate) fn receive(&mut self) -> Option<Vec<u8>> {
        loop {
            let received = match &self.socket {
                Socket::Udp(socket) => socket.recv(&mut self.buffer),
                Socket::Unix { socket, .. } => socket.recv(&mut self.buffer),
            };
            match received {
                // What is longer than any frame is none.
                Ok(bytes) if bytes > FRAME_BYTES_MAX => {}
                Ok(bytes) => return Some(self.buffer[..bytes].to_vec()),
                // Nobody listened to what was sent before.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(_) => return None,
            }
        }
    }
}

impl AsFd for Plug {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Udp(socket) => socket.as_fd(),
            Socket::Unix { socket, .. } => socket.as_fd(),
        }
    }
}

impl Socket {
    fn unix(local: &Path, remote: &Path) -> Result<Self, Failure> {
        let open = || {
            let socket = UnixDatagram::bind(local)?;
            socket.set_nonblocking(true)?;
            io::Result::Ok(socket)
        };
        let socket = open().with_context(|| format!("cannot make the socket {}", local.display())).or_usage();
        let socket = socket.map_err(|failure| {
            failure.help("remove what is left there of an earlier run, or give --net another path")
        })?;
        Ok(Self::Unix { socket, local: local.to_owned(), remote: remote.to_owned() })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Self::Unix { local, .. } = self {
            // Somebody else may have removed it.
            let _gone = std::fs::remove_file(local);
        }
    }
}
