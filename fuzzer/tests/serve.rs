//! `unifork serve`: forks over a socket, whatever the clients are like.

mod common;

use std::fs;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use common::{image, run, text};

const HELLO: &[u8] = &[1];
const FORK: &[u8] = &[2];

/// A running server, ended when it is dropped.
struct Server {
    child: Child,
    socket: PathBuf,
    tcp: String,
    _folder: tempfile::TempDir,
}

impl Server {
    fn start(harness: &str, more: &[&str]) -> Self {
        let image = image(harness);
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let mut args = vec!["--json", "serve", text(&image), "--unix", text(&socket), "--tcp", "0"];
        args.extend(more);
        let mut child = common::unifork(&args).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let said: serde_json::Value = serde_json::from_str(&line).unwrap();
        let tcp = said["listening"][1].as_str().unwrap().strip_prefix("tcp:").unwrap().to_owned();
        Self { child, socket, tcp, _folder: folder }
    }

    fn unix(&self) -> Client<UnixStream> {
        let stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Client(stream)
    }

    fn tcp(&self) -> Client<TcpStream> {
        let stream = TcpStream::connect(&self.tcp).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Client(stream)
    }

    /// It is there, and does what is asked.
    #[track_caller]
    fn assert_well(&self) {
        let mut client = self.unix();
        let fork = client.fork();
        assert_eq!(client.run(fork, 0, b"x").0, 0);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended.
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

struct Client<S>(S);

impl<S: Read + Write> Client<S> {
    fn send(&mut self, body: &[u8]) {
        let frame = [&u32::try_from(body.len()).unwrap().to_le_bytes(), body].concat();
        self.0.write_all(&frame).unwrap();
    }

    /// An answer's body; none when the connection has ended.
    fn answer(&mut self) -> Option<Vec<u8>> {
        let mut length = [0; 4];
        self.0.read_exact(&mut length).ok()?;
        let mut body = vec![0; u32::from_le_bytes(length) as usize];
        self.0.read_exact(&mut body).ok()?;
        Some(body)
    }

    fn ask(&mut self, body: &[u8]) -> Vec<u8> {
        self.send(body);
        self.answer().expect("an answer")
    }

    /// The code of the error that `body` is answered with.
    #[track_caller]
    fn refused(&mut self, body: &[u8]) -> u8 {
        let answer = self.ask(body);
        assert_eq!(answer[0], 1, "{body:?} was answered with {answer:?}");
        assert!(std::str::from_utf8(&answer[2..]).is_ok_and(|sentence| !sentence.is_empty()));
        answer[1]
    }

    #[track_caller]
    fn fork(&mut self) -> u32 {
        let answer = self.ask(FORK);
        assert_eq!((answer[0], answer.len()), (0, 5), "{answer:?}");
        u32::from_le_bytes(answer[1..5].try_into().unwrap())
    }

    /// Kind, code, counters and text of a run.
    #[track_caller]
    fn run(&mut self, fork: u32, deadline_ms: u32, input: &[u8]) -> (u8, i64, u64, String) {
        let answer = self.ask(&run_of(fork, deadline_ms, input));
        assert_eq!(answer[0], 0, "{}", String::from_utf8_lossy(&answer));
        let word = |at: usize| answer[at..at + 8].try_into().unwrap();
        let text = String::from_utf8(answer[28..].to_vec()).unwrap();
        assert_eq!(usize::from(u16::from_le_bytes([answer[26], answer[27]])), text.len());
        (answer[1], i64::from_le_bytes(word(2)), u64::from_le_bytes(word(10)), text)
    }
}

fn run_of(fork: u32, deadline_ms: u32, input: &[u8]) -> Vec<u8> {
    [&[3], &fork.to_le_bytes()[..], &deadline_ms.to_le_bytes(), input].concat()
}

#[test]
fn a_client_gets_forks_and_runs_inputs_on_them() {
    let server = Server::start("planted/null-write", &[]);
    let hello = server.tcp().ask(HELLO);
    assert_eq!((hello[0], hello.len()), (0, 25));
    assert_eq!(hello[1..5], 1u32.to_le_bytes(), "version");
    let mut client = server.unix();
    let (one, other) = (client.fork(), client.fork());
    assert_ne!(one, other);
    let first = client.run(one, 0, b"ordinary");
    assert_eq!((first.0, first.1), (0, 0));
    assert_eq!(client.run(one, 0, b"NUL").0, 3);
    assert_eq!(client.run(one, 0, b"NUL").3, "null-write");
    assert_eq!(client.run(one, 0, b"ordinary"), first, "what ran before does not matter");
    assert_eq!(client.run(other, 0, b"ordinary"), first, "nor does which fork");
    assert_ne!(client.run(other, 0, b"NU").2, first.2, "another path has other counters");
    let reset = client.ask(&[&[4], &other.to_le_bytes()[..]].concat());
    assert_eq!((reset[0], reset.len()), (0, 5));
    assert_eq!(client.ask(&[&[5], &one.to_le_bytes()[..]].concat()), [0]);
    assert_eq!(client.refused(&run_of(one, 0, b"x")), 3, "a fork that was released");
    // Requests may be sent before answers are read.
    for _ in 0..100 {
        client.send(&run_of(other, 0, b"ordinary"));
    }
    for _ in 0..100 {
        assert_eq!(client.answer().unwrap()[1], 0);
    }
}

#[test]
fn a_bad_request_is_answered_and_the_connection_goes_on() {
    let server = Server::start("planted/noop", &["--forks", "2", "--input-max", "4K"]);
    let mut client = server.tcp();
    let fork = client.fork();
    for (body, code) in [
        (&[][..], 2),
        (&[0], 1),
        (&[255, 1, 2, 3], 1),
        (&[1, 0], 2),
        (&[2, 0], 2),
        (&[3], 2),
        (&[3, 1, 0, 0, 0, 0, 0, 0], 2),
        (&[4, 1], 2),
        (&[5, 1, 0, 0, 0, 0], 2),
        (&[4, 9, 9, 9, 9], 3),
        (&[5, 0, 0, 0, 0], 3),
    ] {
        assert_eq!(client.refused(body), code, "{body:?}");
    }
    assert_eq!(client.refused(&run_of(fork + 1, 0, b"x")), 3);
    assert_eq!(client.refused(&run_of(fork, 0, &[0; 4097])), 2, "an input that is too long");
    assert_eq!(client.run(fork, 0, &[0; 4096]).0, 0);
    client.fork();
    assert_eq!(client.refused(FORK), 4, "one fork too many");
    assert_eq!(server.unix().refused(&run_of(fork, 0, b"x")), 3, "another connection's fork");
    assert_eq!(client.run(fork, 0, b"x").0, 0);
}

#[test]
fn a_run_that_does_not_end_is_ended() {
    let server = Server::start("planted/infinite-loop", &["--deadline", "300ms"]);
    let mut client = server.unix();
    let fork = client.fork();
    let trigger = fs::read_dir(common::root().join("harnesses/planted/infinite-loop")).unwrap();
    let source =
        trigger.map(|file| file.unwrap().path()).find(|path| path.extension().is_some_and(|e| e == "c"));
    let source = fs::read_to_string(source.unwrap()).unwrap();
    let byte = |at: usize| {
        let test = source.split(&format!("data[{at}] == '")).nth(1).expect("the harness tests bytes");
        test.as_bytes()[0]
    };
    let input: Vec<u8> = (0..source.matches("data[").count()).map(byte).collect();
    for deadline_ms in [0, 50, u32::MAX] {
        let start = Instant::now();
        assert_eq!(client.run(fork, deadline_ms, &input).0, 2, "{deadline_ms} ms, {input:?}");
        assert!(start.elapsed() < Duration::from_secs(20), "nobody gets more than the server's deadline");
    }
    assert_eq!(client.run(fork, 0, b"").0, 0);
}

#[test]
fn frames_that_are_nonsense_end_their_own_connection_alone() {
    let server = Server::start("planted/noop", &[]);
    let mut steady = server.unix();
    let fork = steady.fork();
    // Too long, by a little and by all.
    for length in [(1 << 20) + 17, u32::MAX] {
        let mut client = server.tcp();
        client.0.write_all(&length.to_le_bytes()).unwrap();
        let answer = client.answer().expect("it is told why");
        assert_eq!(answer[..2], [1, 2], "{answer:?}");
        assert_eq!(client.answer(), None, "the connection ends");
    }
    // Cut off everywhere, and gone before the answer.
    let frame = [&9u32.to_le_bytes()[..], &run_of(1, 0, b"")].concat();
    for length in 0..frame.len() {
        let mut client = server.tcp();
        client.0.write_all(&frame[..length]).unwrap();
    }
    for _ in 0..20 {
        server.tcp().send(FORK);
    }
    // Anything at all.
    let mut seed = 7u64;
    for _ in 0..60 {
        let mut bytes = Vec::new();
        for _ in 0..64 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // Mostly small numbers, so that many frames have a length that is there.
            bytes.extend_from_slice(&(seed >> 32 & 7).to_le_bytes()[..if seed >> 63 == 1 { 4 } else { 1 }]);
        }
        if let Ok(mut stream) = TcpStream::connect(&server.tcp) {
            // It may be refused before all is written.
            let _cut = stream.write_all(&bytes);
        }
        assert_eq!(steady.run(fork, 0, b"x").0, 0, "the others do not notice");
    }
    server.assert_well();
}

#[test]
fn those_who_sit_on_connections_are_refused_more_and_sent_away() {
    let server = Server::start("planted/noop", &["--connections", "3", "--idle", "1s"]);
    let mut sitting: Vec<_> = (0..3).map(|_| server.tcp()).collect();
    for client in &mut sitting {
        assert_eq!(client.ask(HELLO)[0], 0);
    }
    let refused = server.unix().answer().expect("it is told why");
    assert_eq!(refused[..2], [1, 4], "{}", String::from_utf8_lossy(&refused));
    // One has begun a frame, the others say nothing: all are gone within the server's patience.
    sitting[0].0.write_all(&[9]).unwrap();
    for client in &mut sitting {
        assert_eq!(client.answer(), None);
    }
    std::thread::sleep(Duration::from_millis(100));
    server.assert_well();
}

#[test]
fn a_client_that_does_not_read_keeps_nobody_waiting() {
    let server = Server::start("planted/noop", &[]);
    let mut deaf = server.unix();
    deaf.0.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let frame = [1, 0, 0, 0, 1].repeat(1000);
    // Until no more fits into the sockets' buffers.
    while deaf.0.write_all(&frame).is_ok() {}
    server.assert_well();
}

#[test]
fn the_socket_is_its_owners_and_goes_with_the_server() {
    let mut server = Server::start("planted/noop", &[]);
    assert_eq!(fs::metadata(&server.socket).unwrap().permissions().mode() & 0o777, 0o600);
    let args = |socket: &Path| {
        ["serve".to_owned(), text(&image("planted/noop")).into(), "--unix".into(), text(socket).into()]
    };
    let taken = args(&server.socket);
    let taken: Vec<&str> = taken.iter().map(String::as_str).collect();
    assert!(run(&taken).expect(2).stderr.contains("cannot listen on"), "another server listens there");
    let killed = std::process::Command::new("kill").arg(server.child.id().to_string()).status().unwrap();
    assert!(killed.success());
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
    assert!(!server.socket.exists());
    // A socket that nobody listens on any more makes way, another file does not.
    drop(std::os::unix::net::UnixListener::bind(&server.socket).unwrap());
    let mut again = common::unifork(&taken).stdout(Stdio::null()).spawn().unwrap();
    common::wait_until("the second server", || UnixStream::connect(&server.socket).is_ok());
    again.kill().unwrap();
    again.wait().unwrap();
    fs::remove_file(&server.socket).unwrap();
    fs::write(&server.socket, b"mine").unwrap();
    run(&taken).expect(2);
    assert_eq!(fs::read(&server.socket).unwrap(), b"mine");
}

#[test]
fn other_machines_are_let_in_only_when_that_is_asked_for() {
    let image = image("planted/noop");
    let ran = run(&["serve", text(&image), "--tcp", "0.0.0.0:0"]).expect(2);
    assert!(ran.stderr.contains("--public"), "{}", ran.stderr);
    run(&["serve", text(&image), "--tcp", "somewhere"]).expect(2);
    run(&["serve", "/nonexistent.img"]).expect(2);
    let mut public = common::unifork(&["serve", text(&image), "--tcp", "0.0.0.0:0", "--public"]);
    let mut child = public.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(line.contains("other machines can reach it"), "{line}");
}
