//! Unmodified programs, run on the host and in a guest: same output, same exit code, and no system call that
//! is not served. Which programs there are, and how they are built, is in `harnesses/programs`.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::linux::{Ended, finish};
use common::{need_kvm, root, text, unifork};
use unifork_harnesses::fetch::Cache;
use unifork_harnesses::program::Program;

const DEADLINE: Duration = Duration::from_secs(300);

/// Every variant of a program, built: its name and the executable.
fn executables(program: &str, file: &str) -> Vec<(String, PathBuf)> {
    let folder = root().join("harnesses/programs").join(program);
    let program = Program::read(&folder).unwrap();
    let cache = Cache::for_harness(&folder);
    let built = |variant| program.build(variant, &cache).unwrap_or_else(|error| panic!("{error}"));
    program.variants().map(|variant| (variant.name.to_owned(), built(variant).join(file))).collect()
}

/// Files that a program finds.
type Files = [(&'static str, &'static str)];

fn folder_with(files: &Files) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        fs::write(folder.path().join(name), content).unwrap();
    }
    folder
}

/// Runs a program on the host as in a guest: with stdout and stderr in one stream, and without an environment.
fn with_one_stream(program: &Path, args: &[&str], folder: &Path) -> Ended {
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec \"$@\" 2>&1", "sh", text(program)]).args(args);
    finish(shell.current_dir(folder).env_clear(), DEADLINE)
}

/// Runs every variant on both sides. Both run it by one name, which some print.
fn same(program: &str, file: &str, args: &[&str], files: &Files) {
    need_kvm();
    for (variant, path) in executables(program, file) {
        let here = folder_with(files);
        let host = with_one_stream(&path, args, here.path());
        let there = folder_with(files);
        let mut all = vec!["run", "--timeout", "300s", "--root", text(there.path()), text(&path)];
        all.extend(args);
        let guest = finish(&mut unifork(&all), DEADLINE);
        let what = format!("{program}, {variant}, {args:?}");
        assert_eq!(guest.stderr, "", "{what}: nothing is left unserved, and nothing else is to be said");
        assert_eq!(guest.stdout, host.stdout, "{what}");
        assert_eq!(guest.code, host.code, "{what}");
        assert!(!host.stdout.is_empty(), "{what} says nothing on the host");
    }
}

#[test]
fn hello() {
    same("hello", "hello", &[], &[]);
    same("hello", "hello", &["one", "two words", ""], &[]);
}

#[test]
fn hello_in_cxx() {
    same("hello-cxx", "hello", &[], &[]);
}

#[test]
fn rust_with_its_standard_library() {
    same("rust", "rust", &["an argument"], &[]);
}

#[test]
fn numerical_kernels() {
    same("kernels", "kernels", &["40"], &[]);
}

const SQL: &str = "\
CREATE TABLE people(id INTEGER PRIMARY KEY, name TEXT NOT NULL, age INT);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
  INSERT INTO people SELECT i, 'person ' || (i * 7919 % 1000), i * 31 % 90 FROM n;
CREATE INDEX by_age ON people(age);
SELECT count(*), sum(age), max(name) FROM people WHERE age BETWEEN 20 AND 40;
BEGIN; DELETE FROM people WHERE id % 3 = 0; ROLLBACK;
BEGIN; UPDATE people SET age = age + 1 WHERE id % 5 = 0; COMMIT;
SELECT age, count(*) FROM people GROUP BY age ORDER BY 2 DESC, 1 LIMIT 5;
CREATE VIRTUAL TABLE words USING fts5(body);
INSERT INTO words SELECT name || ' likes ' || CASE id % 3 WHEN 0 THEN 'apples' WHEN 1 THEN 'pears' ELSE 'plums' END FROM people;
SELECT count(*) FROM words WHERE words MATCH 'pears';
SELECT json_group_array(id) FROM (SELECT id FROM people ORDER BY name, id LIMIT 5);
SELECT printf('%.3f', avg(age)), round(2.0 / 3, 6), hex(substr(name, 1, 3)) FROM people;
SELECT missing FROM people;
VACUUM;
PRAGMA integrity_check;
PRAGMA page_count;
.mode box
SELECT id, name FROM people LIMIT 2;
.tables
.exit 3
";

#[test]
fn sqlite_in_memory_and_on_a_file() {
    same("sqlite", "sqlite3", &[":memory:", ".read script.sql"], &[("script.sql", SQL)]);
    same("sqlite", "sqlite3", &["people.db", ".read script.sql"], &[("script.sql", SQL)]);
    let wal = "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES(1),(2); \
               PRAGMA wal_checkpoint; SELECT sum(x) FROM t;";
    same("sqlite", "sqlite3", &["wal.db", wal], &[]);
}

const LUA: &str = r##"
local words = {}
for word in ("the quick brown fox jumps over the lazy dog"):gmatch("%a+") do words[#words + 1] = word end
table.sort(words)
print(table.concat(words, " "))
local function fib(n) if n < 2 then return n end return fib(n - 1) + fib(n - 2) end
print(fib(22), 2^53, 7 // 2, 1 / 3, math.maxinteger)
local file <close> = assert(io.open("out.txt", "w"))
for i = 1, 1000 do file:write(i, "\n") end
file:flush()
local sum = 0
for line in io.lines("out.txt") do sum = sum + tonumber(line) end
print(sum, file:seek("cur"))
print(os.rename("out.txt", "moved.txt"), os.remove("moved.txt"), os.remove("moved.txt"))
print(pcall(error, { code = 5 }), select("#", pcall(error)))
local co = coroutine.wrap(function(a) local b = coroutine.yield(a + 1); return b * 2 end)
print(co(1), co(20))
print(string.format("%q %5.2f %x", "a\nb", 3.14159, 255), #arg, arg[1])
print(os.time({ year = 2024, month = 5, day = 6, hour = 7 }), os.date("!%Y-%m-%d", 86400), os.getenv("NOTHING"))
local big = {}
for i = 1, 200000 do big[i] = i * i % 1009 end
collectgarbage()
print(#big, big[77777], collectgarbage("count") > 100)
print(require("module").answer)
print(io.open("missing"))
os.exit(7)
"##;

#[test]
fn lua() {
    let files = [("script.lua", LUA), ("module.lua", "return { answer = 42 }\n")];
    same("lua", "lua", &["script.lua", "argument"], &files);
    same("lua", "lua", &["-e", "error('not caught')"], &[]);
    same("lua", "lua", &["-v"], &[]);
}

const JS: &str = r#"
function fib(n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }
print(fib(18), 0.1 + 0.2, 1 / 3, [3, 1, 2].sort().join());
var o = JSON.parse('{"a": [1, 2, {"b": null}], "c": "\\u00e9"}');
print(JSON.stringify(o), o.c.length);
print("2024-05-06".replace(/(\d+)-(\d+)-(\d+)/, "$3.$2.$1"), /fo+/.test("foo"));
try { null.x; } catch (e) { print(e); }
var text = "";
for (var i = 0; i < 5000; i++) text += i;
print(text.length, text.charCodeAt(4000), Math.sin(1), Date.UTC(2024, 1, 29));
print(read("data.txt").split("\n").length);
print(isNaN(Date.now()));
gc();
missing();
"#;

#[test]
fn mujs() {
    same("mujs", "mujs", &["script.js", "argument"], &[("script.js", JS), ("data.txt", "a\nb\nc\n")]);
}

#[test]
fn jq() {
    let data = r#"{"people":[{"name":"Ann","age":31,"tags":["a","b"]},{"name":"Bob","age":25,"tags":[]},
        {"name":"Cy","age":40,"tags":["b"]}],"π":3.14159}"#;
    let filter = r#".people | (map(.age) | add), (sort_by(.age) | map(.name)), (group_by(.tags | length) | map(length)),
        (.[] | select(.age > 30) | {name, older: (.age + 1), up: (.name | ascii_upcase)}), (map(.tags) | flatten | unique),
        ([limit(5; range(10))] | map(. * 1.5)), (now > 0), ("a,b" | split(",")), (tojson | length), ([.[] | .missing?] | tostring)"#;
    let files = [("data.json", data), ("filter.jq", filter)];
    let files: &'static Files = Box::leak(Box::new(files));
    same("jq", "jq", &["-f", "filter.jq", "data.json"], files);
    same("jq", "jq", &["-c", ".", "data.json"], files);
    same("jq", "jq", &[".people[0].name.x", "data.json"], files);
    same("jq", "jq", &["-n", "[1,2] | .["], files);
}

/// A server, ended when it is dropped.
struct Server {
    child: Child,
    port: u16,
    // Its files.
    _folder: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        // Ended already, perhaps.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// What it leaves, once it was told to end.
    fn ended(mut self) -> Ended {
        let start = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(start.elapsed() < DEADLINE, "the server does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut ended = Ended { code: 0, stdout: String::new(), stderr: String::new() };
        ended.code = self.child.wait().unwrap().code().unwrap_or(-1);
        self.child.stderr.take().unwrap().read_to_string(&mut ended.stderr).unwrap();
        ended
    }
}

/// A port that nobody uses.
fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// Starts a server in a guest, its port `inside` published, and waits until it answers.
fn serve(program: &Path, args: &[&str], inside: u16, folder: tempfile::TempDir) -> Server {
    let port = free_port();
    let publish = format!("127.0.0.1:{port}:{inside}");
    let mut all =
        vec!["run", "--root", text(folder.path()), "--publish", &publish, "--mem", "256M", text(program)];
    all.extend(args);
    let child = unifork(&all).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut server = Server { child, port, _folder: folder };
    let start = Instant::now();
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
        if let Some(status) = server.child.try_wait().unwrap() {
            panic!("the server ended: {status}\n{}", server.ended().stderr);
        }
        assert!(start.elapsed() < DEADLINE, "the server does not answer");
        std::thread::sleep(Duration::from_millis(5));
    }
    server
}

/// What redis-cli says to each of these, on a server of its own.
const REDIS: &[&[&str]] = &[
    &["PING"],
    &["SET", "key", "value"],
    &["GET", "key"],
    &["APPEND", "key", " and more"],
    &["STRLEN", "key"],
    &["INCRBY", "counter", "41"],
    &["INCR", "counter"],
    &["RPUSH", "list", "a", "b", "c"],
    &["LRANGE", "list", "0", "-1"],
    &["HSET", "hash", "one", "1", "two", "2"],
    &["HGETALL", "hash"],
    &["SADD", "set", "x", "y", "x"],
    &["ZADD", "sorted", "2", "b", "1", "a"],
    &["ZRANGE", "sorted", "0", "-1", "WITHSCORES"],
    &["EVAL", "local s = 0 for i = 1, 1000 do s = s + i end return {s, redis.call('GET', 'key')}", "0"],
    &["SET", "brief", "x", "PX", "100000"],
    &["EXISTS", "brief", "missing"],
    &["TYPE", "hash"],
    &["GET", "list"],
    &["NO-SUCH-COMMAND"],
    &["DBSIZE"],
    &["SETRANGE", "large", "100000", "end"],
    &["STRLEN", "large"],
    &["CONFIG", "GET", "maxmemory"],
    &["XADD", "stream", "1-1", "field", "value"],
    &["XRANGE", "stream", "-", "+"],
    &["FLUSHALL"],
    &["DBSIZE"],
];

const REDIS_ARGS: &[&str] = &["--save", "", "--appendonly", "no", "--port"];

fn redis_cli(folder: &Path, port: u16, command: &[&str]) -> Ended {
    finish(Command::new(folder.join("redis-cli")).args(["-p", &port.to_string()]).args(command), DEADLINE)
}

#[test]
fn redis_serves_clients_on_the_host() {
    need_kvm();
    for (variant, server) in executables("redis", "redis-server") {
        let folder = server.parent().unwrap();
        let mut args = REDIS_ARGS.to_vec();
        args.push("6379");
        let guest = serve(&server, &args, 6379, tempfile::tempdir().unwrap());

        let here = tempfile::tempdir().unwrap();
        let port = free_port();
        let child = Command::new(&server)
            .args(REDIS_ARGS)
            .arg(port.to_string())
            .current_dir(here.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let host = Server { child, port, _folder: here };
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            std::thread::sleep(Duration::from_millis(5));
        }
        for command in REDIS {
            let (expected, found) =
                (redis_cli(folder, host.port, command), redis_cli(folder, guest.port, command));
            assert_eq!(found, expected, "{variant}: {command:?}");
        }
        // Many clients at once, with answers that come in many pieces.
        let benchmark = finish(
            Command::new(folder.join("redis-benchmark"))
                .args([
                    "-p",
                    &guest.port.to_string(),
                    "-q",
                    "-n",
                    "2000",
                    "-c",
                    "20",
                    "-P",
                    "4",
                    "-d",
                    "2000",
                ])
                .args(["-t", "ping,set,get,lpush,lrange_100,mset"]),
            DEADLINE,
        );
        assert_eq!(benchmark.code, 0, "{variant}: {benchmark:?}");
        assert!(benchmark.stdout.contains("LRANGE_100"), "{variant}: {benchmark:?}");
        redis_cli(folder, guest.port, &["SHUTDOWN", "NOSAVE"]);
        let ended = guest.ended();
        assert_eq!((ended.code, ended.stderr.as_str()), (0, ""), "{variant}");
        redis_cli(folder, host.port, &["SHUTDOWN", "NOSAVE"]);
        host.ended();
    }
}

/// A request, and the answer: status line, headers, body.
fn http(port: u16, request: &str) -> (String, BTreeMap<String, String>, Vec<u8>) {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut reader = BufReader::new(stream);
    let mut line = || {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    };
    let status = line();
    let mut headers = BTreeMap::new();
    loop {
        let header = line();
        let Some((name, value)) = header.split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let mut body = Vec::new();
    reader.read_to_end(&mut body).unwrap();
    (status, headers, body)
}

const NGINX_CONF: &str = "\
daemon off;
master_process off;
error_log stderr;
pid /nginx/pid;
events { worker_connections 64; }
http {
    access_log off;
    default_type text/plain;
    client_body_temp_path /nginx/body;
    proxy_temp_path /nginx/proxy;
    fastcgi_temp_path /nginx/fastcgi;
    uwsgi_temp_path /nginx/uwsgi;
    scgi_temp_path /nginx/scgi;
    server {
        listen 8080;
        root /www;
        location /listing/ { autoindex on; }
    }
}
";

/// nginx, as one process: with a master it would fork.
#[test]
fn nginx_serves_files_to_the_host() {
    need_kvm();
    let large: Vec<u8> = (0..3_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for (variant, program) in executables("nginx", "nginx") {
        let folder = tempfile::tempdir().unwrap();
        for name in ["nginx", "www/listing"] {
            fs::create_dir_all(folder.path().join(name)).unwrap();
        }
        fs::write(folder.path().join("nginx.conf"), NGINX_CONF).unwrap();
        fs::write(folder.path().join("www/index.html"), "<h1>hello</h1>\n").unwrap();
        fs::write(folder.path().join("www/large"), &large).unwrap();
        fs::write(folder.path().join("www/listing/entry"), "x").unwrap();
        let server = serve(&program, &["-c", "/nginx.conf", "-e", "stderr"], 8080, folder);
        let get = |path: &str, more: &str| {
            http(server.port, &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{more}\r\n"))
        };
        let (status, headers, body) = get("/", "");
        assert_eq!(
            (status.as_str(), body.as_slice()),
            ("HTTP/1.1 200 OK", &b"<h1>hello</h1>\n"[..]),
            "{variant}"
        );
        assert_eq!(headers["content-length"], "15");
        let (_, headers, body) = get("/large", "");
        assert!(body == large, "{variant}: {} of {} bytes, {headers:?}", body.len(), large.len());
        let (status, _, body) = get("/large", "Range: bytes=1000-1099\r\n");
        assert!(status.contains(" 206 ") && body == large[1000..1100], "{status}");
        assert!(get("/missing", "").0.contains(" 404 "));
        assert!(String::from_utf8_lossy(&get("/listing/", "").2).contains("entry"));
        assert!(http(server.port, "nonsense\r\n\r\n").0.contains(" 400 "));
        // Several at once.
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| assert!(get("/large", "").2 == large));
            }
        });
    }
}
