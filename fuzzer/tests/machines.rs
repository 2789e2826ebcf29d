//! Campaigns on several machines: network namespaces stand for them, which only root may make.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::campaign::{Running, guest, kill, left_over};
use common::{names, text, wait_until};

/// Network namespaces `a`, `b` and `c` with a cable from `a` to each of the others. Dropping them removes
/// them.
struct Lan {
    prefix: String,
}

impl Lan {
    fn new(subnet: u8) -> Self {
        let lan = Self { prefix: format!("uf{}-{subnet}", std::process::id()) };
        for host in ["a", "b", "c"] {
            lan.try_ip(&["netns", "add", &lan.name(host)]).unwrap_or_else(|why| {
                panic!("this test makes network namespaces, and needs root and iproute2 for it: {why}")
            });
            lan.ip(host, &["link", "set", "lo", "up"]);
        }
        for (at, host) in ["b", "c"].iter().enumerate() {
            let (hub, other) = (format!("to-{host}"), "to-a");
            let ends = ["link", "add", &hub, "type", "veth", "peer", "name", other, "netns"];
            lan.ip("a", &[&ends[..], &[&lan.name(host)]].concat());
            let address = |last: u8| format!("10.{subnet}.{at}.{last}/24");
            for (on, end, last) in [("a", hub.as_str(), 1), (host, other, 2)] {
                lan.ip(on, &["address", "add", &address(last), "dev", end]);
                lan.ip(on, &["link", "set", end, "up"]);
            }
        }
        lan
    }

    fn name(&self, host: &str) -> String {
        format!("{}-{host}", self.prefix)
    }

    fn try_ip(&self, args: &[&str]) -> Result<(), String> {
        let output = Command::new("ip").args(args).stdin(Stdio::null()).output();
        match output {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// `ip` on one of the hosts.
    fn ip(&self, host: &str, args: &[&str]) {
        let name = self.name(host);
        self.try_ip(&[&["-n", &name], args].concat()).unwrap_or_else(|why| panic!("ip {args:?}: {why}"));
    }

    /// The program, on one of the hosts.
    fn unifork(&self, host: &str, args: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name(host), env!("CARGO_BIN_EXE_unifork")]);
        command.args(args).env_remove("UNIFORK_LOG").stdin(Stdio::null());
        command
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        for host in ["a", "b", "c"] {
            let _ = self.try_ip(&["netns", "delete", &self.name(host)]);
        }
    }
}

/// The key in `guests/keys.c` that begins with this letter.
fn key(letter: char) -> Vec<u8> {
    let keys = [
        "aQ7!hz0Rk2#wLp9e",
        "b3Xv&8mTn5^cYd1g",
        "cU6@jf4Ks9*oBi7q",
        "dE2%rx1Wa8(uMh5t",
        "eP5&jw8Qz1+vTb4x",
        "XG9$lz3Pv7)yNc6s",
    ];
    keys.into_iter().find(|key| key.starts_with(letter)).expect("there is such a key").into()
}

/// A campaign's folder, and seeds beside it.
struct Site {
    output: PathBuf,
    seeds: PathBuf,
}

impl Site {
    fn new(folder: &Path, host: &str, inputs: &[Vec<u8>]) -> Self {
        let (output, seeds) = (folder.join(host), folder.join(format!("{host}-seeds")));
        fs::create_dir_all(&seeds).unwrap();
        fs::write(seeds.join("plain"), b"plain").unwrap();
        for (at, input) in inputs.iter().enumerate() {
            fs::write(seeds.join(at.to_string()), input).unwrap();
        }
        Self { output, seeds }
    }

    /// Starts to fuzz on `host`, without what would open the door.
    fn start(&self, lan: &Lan, host: &str, image: &Path, more: &[&str]) -> Running {
        let (seeds, output) = (text(&self.seeds), text(&self.output));
        let args =
            ["--json", "fuzz", text(image), "--seeds", seeds, "--output", output, "--without", "comparisons"];
        Running::start(lan.unifork(host, &[&args[..], more].concat()), &self.output)
    }

    /// The name of the file of `input` in the queue.
    fn has(&self, input: &[u8]) -> Option<String> {
        let queue = self.output.join("queue");
        names(&queue).into_iter().find(|name| fs::read(queue.join(name)).is_ok_and(|bytes| bytes == input))
    }

    fn findings(&self) -> Vec<String> {
        names(&self.output.join("findings")).into_iter().filter(|name| !name.starts_with('.')).collect()
    }

    /// Puts an input into the queue, as if it had been found.
    fn plant(&self, number: u64, input: &[u8]) {
        let name = format!("{number:06}-{:016x}", libafl_bolts::hash_std(input));
        let partial = self.output.join("planted");
        fs::write(&partial, input).unwrap();
        fs::rename(partial, self.output.join("queue").join(name)).unwrap();
    }
}

#[test]
fn inputs_and_findings_cross_between_machines_and_on_to_those_behind_them() {
    let lan = Lan::new(71);
    let image = guest("keys.c");
    let dir = tempfile::tempdir().unwrap();
    let a = Site::new(dir.path(), "a", &[]);
    let b = Site::new(dir.path(), "b", &[key('a'), key('X')]);
    let c = Site::new(dir.path(), "c", &[key('c')]);
    let behind = Site::new(dir.path(), "behind", &[key('d')]);
    let serving = a.start(&lan, "a", &image, &["--serve", "0.0.0.0:7777"]);
    wait_until("the campaign", || {
        serving.stderr().contains("listening on 0.0.0.0:7777, BEYOND THIS MACHINE")
    });
    let joining = [
        b.start(&lan, "b", &image, &["--join", "10.71.0.1:7777", "--serve", "127.0.0.1:7778"]),
        c.start(&lan, "c", &image, &["--join", "10.71.1.1:7777", "--cores", "2"]),
        behind.start(&lan, "b", &image, &["--join", "127.0.0.1:7778"]),
    ];
    // One client each, so that LLMP's numbers of clients and connections are the same everywhere.
    for (site, key) in [
        (&a, key('a')),
        (&a, key('c')),
        (&a, key('d')),
        (&b, key('c')),
        (&c, key('a')),
        (&c, key('d')),
        (&behind, key('c')),
    ] {
        let what = format!("{} in {}", String::from_utf8_lossy(&key), site.output.display());
        wait_until(&what, || site.has(&key).is_some());
    }
    assert_eq!(a.has(&key('a')), b.has(&key('a')), "it keeps its name");
    wait_until("the finding", || [&a, &c, &behind].iter().all(|site| !site.findings().is_empty()));
    let found = b.findings();
    assert_eq!(found.len(), 1);
    for site in [&a, &c, &behind] {
        assert_eq!(site.findings(), found, "it has the same name everywhere");
        assert_eq!(fs::read(site.output.join("findings").join(&found[0]).join("input")).unwrap(), key('X'));
        common::run(&["repro", text(&site.output.join("findings").join(&found[0])), "--runs", "2"]).expect(0);
    }
    for running in joining.into_iter().chain([serving]) {
        running.signal("INT", true);
        let ran = running.end().expect(0);
        assert!(ran.json()["summary"]["findings"] == 1, "{}", ran.stdout);
    }
    for site in [a, b, c, behind] {
        wait_until("the end of all processes", || left_over(&site.output).is_empty());
    }
}

#[test]
fn a_machine_that_is_cut_off_and_comes_back_misses_nothing() {
    let lan = Lan::new(72);
    let image = guest("keys.c");
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (Site::new(dir.path(), "a", &[key('a')]), Site::new(dir.path(), "b", &[]));
    let serving = a.start(&lan, "a", &image, &["--serve", "10.72.0.1:7777"]);
    let joining = b.start(&lan, "b", &image, &["--join", "10.72.0.1:7777"]);
    wait_until("the connection", || joining.stderr().contains("connected to 10.72.0.1:7777"));
    wait_until("the first input", || b.has(&key('a')).is_some());
    lan.ip("b", &["link", "set", "to-a", "down"]);
    a.plant(100, &key('b'));
    b.plant(101, &key('c'));
    wait_until("news of the cut", || {
        [&serving, &joining].iter().all(|running| running.stderr().contains("the connection to 10.72.0."))
    });
    assert!(a.has(&key('c')).is_none() && b.has(&key('b')).is_none(), "they are apart");
    lan.ip("b", &["link", "set", "to-a", "up"]);
    wait_until("what was found meanwhile", || a.has(&key('c')).is_some() && b.has(&key('b')).is_some());
    // And the one that serves may be gone for a while as well.
    serving.signal("KILL", true);
    let _killed = serving.end();
    b.plant(102, &key('d'));
    let serving = a.start(&lan, "a", &image, &["--serve", "10.72.0.1:7777"]);
    wait_until("what was found without it", || a.has(&key('d')).is_some());
    // And a broker that is killed.
    let broker = joining.parts("Broker");
    assert_eq!(broker.len(), 1);
    kill("KILL", &broker[0].to_string());
    a.plant(103, &key('e'));
    wait_until("what was found while there was no broker", || b.has(&key('e')).is_some());
    for running in [joining, serving] {
        running.signal("INT", true);
        running.end().expect(0);
    }
}

#[test]
fn a_machine_with_another_image_is_not_let_in_and_says_why() {
    let lan = Lan::new(73);
    let image = guest("keys.c");
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (Site::new(dir.path(), "a", &[]), Site::new(dir.path(), "b", &[]));
    let serving = a.start(&lan, "a", &image, &["--serve", "10.73.0.1:7777"]);
    serving.wait_for_execs(0);
    let joining = b.start(&lan, "b", &image, &["--join", "10.73.0.1:7777", "--memory", "32M"]);
    let refused = joining.end().expect(2);
    assert!(
        refused.stderr.contains("cannot join 10.73.0.1:7777: it fuzzes another machine"),
        "{}",
        refused.stderr
    );
    wait_until("the other side's word", || serving.stderr().contains("is not let in"));
    let alone = b.start(&lan, "a", &image, &["--join", "10.73.0.1:7778", "--for", "2s"]).end().expect(0);
    assert_eq!(alone.stderr.matches("10.73.0.1:7778 cannot be reached yet").count(), 1, "{}", alone.stderr);
    let busy = b.start(&lan, "a", &image, &["--serve", "10.73.0.1:7777"]).end().expect(2);
    assert!(busy.stderr.contains("cannot listen on 10.73.0.1:7777"), "{}", busy.stderr);
    serving.signal("INT", true);
    serving.end().expect(0);
}
