//! Corpora go from unifork to AFL++ and libFuzzer and back, with the real programs where they are
//! installed (Debian: afl++, libclang-rt-16-dev).

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{names, run, text};
use unifork_harnesses::BuildRequest;

/// What each fuzzer finds by itself, letter by letter, and the others are to hear of.
const WORD: &[u8] = b"exch";

/// The harness for unifork, a seed for everyone, and folders of this test alone.
struct Exchange {
    dir: tempfile::TempDir,
    image: PathBuf,
    source: PathBuf,
}

impl Exchange {
    fn new(name: &str) -> Self {
        common::need_kvm();
        let source = common::root().join("fuzzer/tests/guests/exchange.c");
        let image = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("exchange-{name}.img"));
        let request = BuildRequest::new(std::slice::from_ref(&source), &[], image.clone()).unwrap();
        if let Err(error) = unifork_harnesses::build(&request) {
            panic!("cannot build: {error}: {:?}", error.diagnostics());
        }
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("seeds")).unwrap();
        fs::write(dir.path().join("seeds/one"), b"aaaaaa").unwrap();
        Self { dir, image, source }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A campaign from `seeds`, into the folder `output`.
    fn fuzz(&self, seeds: &str, output: &str, execs: &str) -> serde_json::Value {
        let (seeds, output) = (self.path(seeds), self.path(output));
        let args = ["--json", "fuzz", text(&self.image), "--seeds", text(&seeds), "--output", text(&output)];
        run(&[&args[..], &["--seed", "1", "--execs", execs]].concat()).expect(0).json()
    }

    fn export(&self, campaign: &str, format: &str, output: &str) {
        let (campaign, output) = (self.path(campaign), self.path(output));
        run(&["export", text(&campaign), "--as", format, "-o", text(&output)]).expect(0);
    }

    /// Whether some input in this folder has the word.
    fn has_word(&self, folder: &str) -> bool {
        let folder = self.path(folder);
        names(&folder).iter().any(|name| fs::read(folder.join(name)).is_ok_and(|b| b.starts_with(WORD)))
    }

    /// Compiles the harness for another fuzzer; `None`, and a word about it, where that is not installed.
    fn compile(&self, compiler: &str) -> Option<PathBuf> {
        let program = self.path("program");
        let mut command = Command::new(compiler);
        command.args(["-O1", "-fsanitize=fuzzer"]).arg(&self.source).arg("-o").arg(&program);
        match command.env("AFL_QUIET", "1").output() {
            Err(error) => {
                println!("not tried: {compiler}: {error}");
                None
            }
            Ok(output) => {
                expect(compiler, &output);
                Some(program)
            }
        }
    }
}

#[track_caller]
fn expect(what: &str, output: &Output) {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{what}: {}\n{out}\n{err}", output.status);
}

fn afl(exchange: &Exchange, program: &Path, seeds: &str, more: &[&str]) {
    let (seeds, out) = (exchange.path(seeds), exchange.path("afl"));
    let output = Command::new("afl-fuzz")
        .args(["-i", text(&seeds), "-o", text(&out), "-V", "6"])
        .args(more)
        .arg("--")
        .arg(program)
        .env("AFL_NO_UI", "1")
        .env("AFL_NO_AFFINITY", "1")
        .env("AFL_SKIP_CPUFREQ", "1")
        .env("AFL_I_DONT_CARE_ABOUT_MISSING_CRASHES", "1")
        .output()
        .expect("it comes with its compiler");
    expect("afl-fuzz", &output);
}

#[test]
fn a_campaign_begins_with_what_afl_found_and_afl_with_what_it_found() {
    let exchange = Exchange::new("afl");
    let Some(program) = exchange.compile("afl-clang-fast") else { return };
    // One instance of a sync folder.
    afl(&exchange, &program, "seeds", &["-M", "main"]);
    assert!(exchange.path("afl/main/fuzzer_stats").is_file());
    let queue = names(&exchange.path("afl/main/queue")).iter().filter(|name| name.starts_with("id:")).count();
    let summary = exchange.fuzz("afl", "imported", "1");
    println!("{queue} inputs of AFL++: {}", summary["summary"]);
    assert!(queue > 0 && !names(&exchange.path("imported/queue")).is_empty());

    exchange.fuzz("seeds", "own", "100000");
    assert!(exchange.has_word("own/queue"), "it is found letter by letter");
    exchange.export("own", "afl", "afl/unifork");
    assert!(!names(&exchange.path("afl/unifork/crashes")).is_empty(), "the finding, too");
    fs::remove_dir_all(exchange.path("afl/main")).unwrap();
    // AFL++ takes over what another instance of its sync folder has; ours looks like one.
    afl(&exchange, &program, "seeds", &["-M", "second", "-F", text(&exchange.path("afl/unifork/queue"))]);
    assert!(exchange.has_word("afl/second/queue"), "AFL++ has taken it over");
    // And begins with it.
    fs::rename(exchange.path("afl"), exchange.path("before")).unwrap();
    afl(&exchange, &program, "before/unifork/queue", &[]);
    assert!(exchange.has_word("afl/default/queue"));

    // A whole sync folder: every instance's queue, ours among them.
    fs::rename(exchange.path("before/unifork"), exchange.path("afl/unifork")).unwrap();
    exchange.fuzz("afl", "back", "200");
    assert!(exchange.has_word("back/queue"));
}

#[test]
fn a_campaign_begins_with_what_libfuzzer_found_and_libfuzzer_with_what_it_found() {
    let exchange = Exchange::new("libfuzzer");
    let Some(program) = exchange.compile("clang-16") else { return };
    fs::create_dir(exchange.path("corpus")).unwrap();
    let libfuzzer = |corpus: &str, more: &[&str]| {
        Command::new(&program)
            .arg(exchange.path(corpus))
            .args(more)
            .arg(format!("-artifact_prefix={}/", text(exchange.dir.path())))
            .output()
            .unwrap()
    };
    // It ends at the crash, which says that the letters before it are in its corpus.
    let output = libfuzzer("corpus", &["-runs=20000000", "-seed=1", "-use_value_profile=0"]);
    assert!(!output.status.success(), "libFuzzer finds the crash");
    assert!(exchange.has_word("corpus"));
    exchange.fuzz("corpus", "imported", "200");
    assert!(exchange.has_word("imported/queue"), "what libFuzzer found is known at once");

    exchange.fuzz("seeds", "own", "100000");
    exchange.export("own", "libfuzzer", "exported");
    assert!(exchange.has_word("exported/corpus"));
    let output = libfuzzer("exported/corpus", &["-runs=0"]);
    expect("libFuzzer over an exported corpus", &output);
    let said = String::from_utf8_lossy(&output.stderr);
    // It counts no empty file.
    let queue = exchange.path("own/queue");
    let has_bytes = |name: &&String| fs::metadata(queue.join(name)).unwrap().len() > 0;
    let count = names(&queue).iter().filter(has_bytes).count();
    assert!(said.contains(&format!("{count} files found")), "{said}");
    let crashes = names(&exchange.path("exported/artifacts"));
    assert!(crashes.len() == 1 && crashes[0].starts_with("crash-"), "{crashes:?}");
    let output =
        Command::new(&program).arg(exchange.path("exported/artifacts").join(&crashes[0])).output().unwrap();
    assert!(!output.status.success(), "the finding is libFuzzer's as well");
}

#[test]
fn what_cannot_be_exported_is_said_plainly() {
    let dir = tempfile::tempdir().unwrap();
    let (none, out) = (dir.path().join("none"), dir.path().join("out"));
    let ran = run(&["export", text(&none), "--as", "afl", "-o", text(&out)]).expect(2);
    assert!(ran.stderr.contains("is not a campaign"), "{}", ran.stderr);
    let campaign = dir.path().join("c");
    fs::create_dir_all(campaign.join("queue")).unwrap();
    fs::write(campaign.join("queue/mine"), b"x").unwrap();
    fs::write(campaign.join("queue/000001-0000000000000000"), b"damaged").unwrap();
    let ran = run(&["--json", "export", text(&campaign), "--as", "libfuzzer", "-o", text(&out)]).expect(0);
    assert!(ran.stderr.contains("000001-0000000000000000 is damaged and left out"), "{}", ran.stderr);
    assert_eq!(ran.json()["corpus"], 1);
    assert_eq!(names(&out.join("corpus")), ["11f6ad8ec52a2984abaafd7c3b516503785c2072"]);
    let ran = run(&["export", text(&campaign), "--as", "afl", "-o", text(&out)]).expect(2);
    assert!(ran.stderr.contains("is not an empty folder"), "{}", ran.stderr);
    assert!(campaign.join("queue/000001-0000000000000000").exists(), "an export changes nothing");
}
