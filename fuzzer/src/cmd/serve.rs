//! `unifork serve`: forks of one machine, for programs that ask over a socket.
//!
//! Exit codes: 0 stopped by a signal; 2 bad input: an image, an address; 3 the host failed.

pub(crate) mod protocol;
pub(crate) mod server;

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use unifork_vmm::{Engine, Kvm};

use super::{BlameExt as _, Failure, Status, default_engine, machine_failure, say};
use crate::machine::{self, MachineArgs};
use crate::{signals, units};
use server::{Limits, Server};

/// How soon a signal is noticed.
const TICK: Duration = Duration::from_millis(50);

/// Flags of `unifork serve`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  unifork serve cjson.img --unix /run/user/1000/cjson.sock
  unifork serve cjson.snap --tcp 9000

Without --unix and --tcp: a TCP port of 127.0.0.1 that is free, which the first line names. The protocol
is that of docs/serve.md. Whoever can connect can run inputs, and has no other power: the Unix socket is
its owner's alone, but a TCP port of loopback is every local user's.

Exit codes: 0 stopped by a signal; 2 bad input: an image, an address; 3 the host failed.")]
pub(crate) struct Args {
    /// The image or snapshot file
    image: PathBuf,
    /// Listen on a Unix socket at PATH
    #[arg(long, value_name = "PATH")]
    unix: Option<PathBuf>,
    /// Listen on a TCP port of 127.0.0.1, or on an address
    #[arg(long, value_name = "[ADDR:]PORT", value_parser = address)]
    tcp: Option<SocketAddr>,
    /// Allow a TCP address that other machines can reach
    #[arg(long)]
    public: bool,
    /// Longest run; clients may ask for shorter ones
    #[arg(long, default_value = "1s", value_parser = units::duration, value_name = "TIME")]
    deadline: Duration,
    /// Reset engine
    #[arg(long, default_value_t = default_engine())]
    engine: Engine,
    /// Connections at once
    #[arg(long, default_value_t = 64, value_name = "N")]
    connections: usize,
    /// Forks of one connection
    #[arg(long, default_value_t = 16, value_name = "N")]
    forks: usize,
    /// Time after which a connection that asks for nothing is closed
    #[arg(long, default_value = "10m", value_parser = units::duration, value_name = "TIME")]
    idle: Duration,
    #[command(flatten)]
    machine: MachineArgs,
}

/// Parses `9000`, `127.0.0.1:9000`, `[::1]:9000`.
fn address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(port) = text.parse() {
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    }
    text.parse()
        .map_err(|_| format!("`{text}` is neither a port nor an address with one, as in 127.0.0.1:9000"))
}

/// Runs the command.
pub(crate) fn run(args: &Args, json: bool) -> Result<Status, Failure> {
    let default = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
    let tcp = args.tcp.or_else(|| args.unix.is_none().then_some(default));
    if let Some(tcp) = tcp.filter(|tcp| !tcp.ip().is_loopback() && !args.public) {
        return Err(Failure::usage(anyhow!("{tcp} can be reached from other machines"))
            .help("whoever connects can run inputs; say --public if that is meant"));
    }
    // Both names are taken before the machine is booted, so that a bad one is known at once.
    let tcp = tcp.map(|tcp| TcpListener::bind(tcp).with_context(|| format!("cannot listen on {tcp}")));
    let tcp = tcp.transpose().or_usage().map_err(|failure| failure.help("name another port with --tcp"))?;
    let socket = args.unix.as_deref().map(Socket::bind).transpose()?;
    let machine = machine::open(&args.image, &args.machine).map_err(machine_failure)?;
    let kvm = Kvm::open().map_err(|error| machine_failure(error.into()))?;
    let limits = Limits {
        connections: args.connections,
        forks: args.forks,
        deadline: args.deadline,
        idle: args.idle,
        kept: args.forks,
    };
    let server = Server::new(kvm, machine.snapshot, args.engine, limits).or_host()?;
    signals::catch();
    let mut places = Vec::new();
    if let Some(socket) = &socket {
        server.listen_unix(socket.listener.try_clone().context("cannot listen").or_host()?);
        places.push(format!("unix:{}", socket.path.display()));
    }
    if let Some(listener) = tcp {
        let at = listener.local_addr().context("cannot listen").or_host()?;
        server.listen_tcp(listener);
        let reach = if at.ip().is_loopback() { "" } else { " (other machines can reach it)" };
        places.push(format!("tcp:{at}{reach}"));
    }
    if json {
        say(&format!("{}\n", serde_json::json!({ "listening": places })));
    } else {
        say(&format!("listening on {}\n", places.join(" and ")));
    }
    while !signals::stop_requested() {
        thread::sleep(TICK);
    }
    Ok(Status::Done)
}

/// A Unix socket, gone from the file system when it is dropped.
#[derive(Debug)]
struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Binds one that only its owner may connect to. One that nobody listens on any more makes way.
    fn bind(path: &Path) -> Result<Self, Failure> {
        let is_socket = fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
        if is_socket
            && UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
        {
            // If it cannot be removed, binding says so.
            let _removed = fs::remove_file(path);
        }
        let bound = UnixListener::bind(path).and_then(|listener| {
            fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
            Ok(listener)
        });
        let listener = bound
            .with_context(|| format!("cannot listen on {}", path.display()))
            .or_usage()
            .map_err(|failure| failure.help("name a path in a folder of yours where nothing is yet"))?;
        Ok(Self { listener, path: path.to_path_buf() })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Whoever removed it has done what was to be done.
        let _removed = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_of_loopback() {
        assert_eq!(address("9000"), Ok("127.0.0.1:9000".parse().unwrap()));
        assert_eq!(address("[::1]:1"), Ok("[::1]:1".parse().unwrap()));
        assert!(address("example").is_err());
    }
}
