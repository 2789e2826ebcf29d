//! What `unifork run` gives a program from outside: files, standard input, connections.

mod common;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::linux::{Libc, compile as compile_source};
use common::{root, text, unifork};

/// Builds a C program for the guest.
fn compile(name: &str) -> PathBuf {
    compile_source(&root().join("fuzzer/tests/guests").join(format!("{name}.c")), Libc::Musl, &[])
}

#[test]
fn a_program_finds_the_files_of_a_folder_and_of_an_archive_and_its_input() {
    let program = compile("reader");
    let files = tempfile::tempdir().unwrap();
    fs::create_dir(files.path().join("data")).unwrap();
    fs::write(files.path().join("data/words"), "one two three\n").unwrap();
    std::os::unix::fs::symlink("data/words", files.path().join("link")).unwrap();
    let archive = files.path().join("archive.tar");
    let tar =
        Command::new("tar").args(["-cf", text(&archive), "-C", text(files.path()), "data", "link"]).status();
    assert!(tar.unwrap().success());
    for given in [files.path(), archive.as_path()] {
        let mut run = unifork(&["run", "--timeout", "30s", "--root", text(given), text(&program)]);
        let mut child = run.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"first\nsecond\n").unwrap();
        let out = child.wait_with_output().unwrap();
        assert_eq!(
            String::from_utf8_lossy(&out.stdout),
            "link: one two three\nmissing: No such file or directory\ninput: first\ninput: second\nwritten: kept\n"
        );
        assert_eq!(out.status.code(), Some(0));
    }
    // What the program writes is the guest's alone.
    assert_eq!(fs::read(files.path().join("data/words")).unwrap(), b"one two three\n");
    assert!(!files.path().join("new").exists());
}

#[test]
fn a_root_that_is_none_is_refused_in_one_sentence() {
    let program = compile("reader");
    for (given, sentence) in
        [("/nonexistent", "cannot read /nonexistent"), (text(&program), "is neither a directory")]
    {
        let out = unifork(&["run", "--root", given, text(&program)]).output().unwrap();
        assert_eq!(out.status.code(), Some(125));
        assert!(String::from_utf8_lossy(&out.stderr).contains(sentence), "{out:?}");
    }
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn clients_of_the_host_reach_a_server_in_the_guest() {
    let program = compile("echo");
    let port = free_port();
    let publish = format!("127.0.0.1:{port}:7777");
    let mut run = unifork(&["run", "--timeout", "60s", "--publish", &publish, text(&program)]);
    let mut server = Server(run.stdout(Stdio::piped()).spawn().unwrap());
    // The console streams: the server says so, and does not end.
    let mut ready = [0; 6];
    server.0.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    assert_eq!(&ready, b"ready\n");
    let connect = || {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    };
    // Several at once, and more than any buffer holds.
    let mut clients: Vec<TcpStream> = (0..5).map(|_| connect()).collect();
    for (i, client) in clients.iter_mut().enumerate() {
        client.write_all(format!("hello {i}").as_bytes()).unwrap();
    }
    for (i, client) in clients.iter_mut().enumerate().rev() {
        let mut answer = [0; 7];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(answer, *format!("hello {i}").as_bytes());
    }
    let sent: Vec<u8> = (0..1_000_000u32).map(|i| (i / 7) as u8).collect();
    let mut writer = clients[0].try_clone().unwrap();
    let copy = sent.clone();
    let writing = std::thread::spawn(move || {
        writer.write_all(&copy).unwrap();
        writer.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let mut received = Vec::new();
    clients[0].read_to_end(&mut received).unwrap();
    writing.join().unwrap();
    assert!(received == sent, "{} bytes came back", received.len());
    // A client that asks for the end gets it, and the last words arrive.
    clients[1].write_all(b"quit").unwrap();
    let mut last = Vec::new();
    clients[1].read_to_end(&mut last).unwrap();
    assert_eq!(last, b"bye");
    let started = Instant::now();
    let status = server.0.wait().unwrap();
    assert_eq!(status.code(), Some(7));
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn an_address_that_is_taken_is_said_plainly() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let publish = taken.local_addr().unwrap().to_string();
    let program = compile("echo");
    let out = unifork(&["run", "--publish", &publish, text(&program)]).output().unwrap();
    assert_eq!(out.status.code(), Some(125));
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(said.contains("cannot listen") && said.contains(&publish), "{said}");
}
