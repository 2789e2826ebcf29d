//! What a Rust program asks of its system, most of it in one file.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{mpsc, Arc, Condvar, Mutex, RwLock};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

fn threads() {
    let total = Arc::new(Mutex::new(0u64));
    let count = Arc::new(AtomicU64::new(0));
    let handles: Vec<_> = (0..8u64)
        .map(|i| {
            let (total, count) = (Arc::clone(&total), Arc::clone(&count));
            thread::Builder::new()
                .name(format!("worker {i}"))
                .spawn(move || {
                    for j in 0..1000 {
                        *total.lock().unwrap() += i * j;
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    thread::current().name().map(str::to_owned)
                })
                .unwrap()
        })
        .collect();
    for handle in handles {
        println!("{} ended", handle.join().unwrap().unwrap());
    }
    println!("total {} of {}", total.lock().unwrap(), count.load(Ordering::Relaxed));

    let (send, receive) = mpsc::channel();
    for i in 0..3 {
        let send = send.clone();
        thread::spawn(move || send.send(i * i).unwrap());
    }
    drop(send);
    let mut got: Vec<i32> = receive.iter().collect();
    got.sort_unstable();
    println!("received {got:?}");

    let pair = Arc::new((Mutex::new(false), Condvar::new()));
    let other = Arc::clone(&pair);
    let waker = thread::spawn(move || {
        thread::sleep(Duration::from_millis(20));
        *other.0.lock().unwrap() = true;
        other.1.notify_all();
    });
    let mut ready = pair.0.lock().unwrap();
    while !*ready {
        ready = pair.1.wait(ready).unwrap();
    }
    waker.join().unwrap();
    let lock = RwLock::new(5);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| assert_eq!(*lock.read().unwrap(), 5));
        }
    });
    println!("scope ended, parallelism {}", thread::available_parallelism().is_ok());
}

fn files() -> std::io::Result<()> {
    fs::create_dir_all("data/inner")?;
    fs::write("data/numbers", (0..100).map(|i| format!("{i}\n")).collect::<String>())?;
    let mut file = fs::OpenOptions::new().read(true).append(true).open("data/numbers")?;
    writeln!(file, "last")?;
    file.seek(SeekFrom::Start(0))?;
    let lines: Vec<_> = BufReader::new(&file).lines().collect::<Result<_, _>>()?;
    println!("{} lines, {} and {}", lines.len(), lines[0], lines[100]);
    fs::copy("data/numbers", "data/inner/copy")?;
    fs::rename("data/inner/copy", "data/inner/moved")?;
    fs::hard_link("data/inner/moved", "data/inner/linked")?;
    std::os::unix::fs::symlink("inner/linked", "data/link")?;
    let meta = fs::metadata("data/link")?;
    println!("{} bytes, file {}, link {}", meta.len(), meta.is_file(), fs::symlink_metadata("data/link")?.is_symlink());
    let mut names: Vec<_> = fs::read_dir("data")?.map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    println!("{names:?}");
    let mut text = String::new();
    fs::File::open("data/link")?.read_to_string(&mut text)?;
    println!("{} bytes through the link", text.len());
    println!("{:?}", fs::read("missing").unwrap_err().kind());
    println!("{:?}", fs::create_dir("data").unwrap_err().kind());
    println!("{:?}", fs::remove_dir("data").unwrap_err().kind());
    let age = SystemTime::now().duration_since(meta.modified()?).unwrap_or_default();
    println!("fresh {}", age < Duration::from_secs(60));
    fs::remove_dir_all("data")?;
    println!("gone {}", !std::path::Path::new("data").exists());
    Ok(())
}

fn sockets() -> std::io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let address = listener.local_addr()?;
    let client = thread::spawn(move || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(b"question\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    });
    let (mut stream, _) = listener.accept()?;
    let mut line = String::new();
    BufReader::new(stream.try_clone()?).read_line(&mut line)?;
    stream.write_all(format!("answer to {}", line.trim()).as_bytes())?;
    drop(stream);
    println!("{}", client.join().unwrap()?);
    Ok(())
}

fn main() {
    let start = Instant::now();
    // The usual message has the thread's number in it.
    std::panic::set_hook(Box::new(|info| eprintln!("panic: {info}")));
    let mut counts: HashMap<String, usize> = HashMap::new();
    for word in "the quick brown fox jumps over the lazy dog the end".split(' ') {
        *counts.entry(word.to_owned()).or_default() += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort();
    println!("{counts:?}");
    threads();
    files().unwrap();
    sockets().unwrap();
    println!("arguments {:?}", std::env::args().skip(1).collect::<Vec<_>>());
    println!("A is {:?}", std::env::var("A"));
    let caught = std::panic::catch_unwind(|| {
        let numbers = [1, 2, 3];
        let at = std::hint::black_box(7);
        numbers[at]
    });
    println!("a panic was caught: {}", caught.is_err());
    let in_thread = thread::spawn(|| panic!("in a thread")).join();
    println!("and one in a thread: {}", in_thread.is_err());
    thread::sleep(Duration::from_millis(5));
    println!("time passed: {}", start.elapsed() >= Duration::from_millis(25));
    std::process::exit(42);
}
