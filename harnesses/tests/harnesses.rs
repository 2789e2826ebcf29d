//! Every harness: its manifest is right, it builds, its seeds run clean on plain Linux and reach
//! what they should; every planted bug does on plain Linux what it says.
//!
//! The first run gets the sources with cargo and apt-get, into the repository's `target/`.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use unifork_harnesses::compile::Flags;
use unifork_harnesses::manifest::OnLinux;
use unifork_harnesses::{Built, Manifest, build_harness, list};

/// How long one input may run here. Far more than any takes.
const RUN_MAX: Duration = Duration::from_secs(10);

/// How long a planted bug that hangs is watched hanging.
const HANG: Duration = Duration::from_millis(500);

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Builds a harness into this test's own folder.
fn build(name: &str) -> Built {
    let output = Path::new(env!("CARGO_TARGET_TMPDIR")).join("images").join(format!("{name}.img"));
    match build_harness(&root().join(name), &output, &Flags::default()) {
        Ok(built) => built,
        Err(error) => panic!("{name}: {error}\n{:?}", error.diagnostics()),
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Runs an image on plain Linux; `None` when it did not end in time.
fn run(image: &Path, inputs: &[PathBuf], limit: Duration) -> Option<Output> {
    let mut child = Command::new(image)
        .args(inputs)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A reader of its own, or a full pipe would look like a hang.
    let mut stderr = child.stderr.take().unwrap();
    let reader = thread::spawn(move || {
        let mut text = Vec::new();
        std::io::Read::read_to_end(&mut stderr, &mut text).unwrap();
        text
    });
    let start = Instant::now();
    let status: ExitStatus = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if start.elapsed() > limit {
            child.kill().unwrap();
            child.wait().unwrap();
            return None;
        }
        thread::sleep(Duration::from_millis(2));
    };
    Some(Output { status, stdout: Vec::new(), stderr: reader.join().unwrap() })
}

/// The number of counters that the last line of a clean run reports.
fn covered(stderr: &str) -> (usize, usize) {
    let line = stderr.lines().last().unwrap();
    let mut numbers = line.split(' ').filter_map(|word| word.parse().ok());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

fn seeds_run_clean_and_reach_the_floor(name: &str) {
    let manifest = Manifest::read(&root().join(name)).unwrap();
    let built = build(name);
    assert_eq!(built.warnings, "", "{name} compiles without warnings");
    let seeds = files(built.seeds.as_ref().unwrap());
    let output = run(&built.image, &seeds, RUN_MAX).expect("seeds are quick");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {:?}\n{stderr}", output.status);
    for seed in &seeds {
        assert!(stderr.contains(&format!("Executed {}", seed.display())), "{name}: {seed:?} did not run");
    }
    let (reached, counters) = covered(&stderr);
    assert_eq!(counters, built.counters, "{name}: the program and the tool count the same");
    assert!(
        reached >= manifest.coverage_floor,
        "{name}: seeds reach {reached} counters, the floor is {}",
        manifest.coverage_floor
    );
    println!("{name}: seeds reach {reached} of {counters} counters; floor {}", manifest.coverage_floor);
}

#[test]
fn sqlite() {
    seeds_run_clean_and_reach_the_floor("sqlite");
}

#[test]
fn cjson() {
    seeds_run_clean_and_reach_the_floor("cjson");
}

#[test]
fn png() {
    seeds_run_clean_and_reach_the_floor("png");
}

#[test]
fn tinyxml() {
    seeds_run_clean_and_reach_the_floor("tinyxml");
}

/// The campaign's target must be what it claims: clean on ordinary files, and a crash without any
/// sanitizer for a gzip file whose extra field is longer than its buffer and than one chunk.
#[test]
fn zlib_crashes_on_a_long_extra_field_and_only_then() {
    let name = "zlib-cve-2022-37434";
    seeds_run_clean_and_reach_the_floor(name);
    let built = build(name);
    let with_extra = |bytes: usize| {
        let mut file = b"\x1f\x8b\x08\x04\0\0\0\0\0\x03".to_vec();
        file.extend(u16::try_from(bytes).unwrap().to_le_bytes());
        file.resize(file.len() + bytes, b'x');
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("extra-{bytes}.gz"));
        fs::write(&path, file).unwrap();
        run(&built.image, &[path], RUN_MAX).expect("it ends").status
    };
    assert!(with_extra(16).success(), "an extra field that fits");
    assert_eq!(with_extra(200).signal(), Some(libc_signal("SIGSEGV")), "one that does not");
}

fn libc_signal(name: &str) -> i32 {
    match name {
        "SIGABRT" => 6,
        "SIGFPE" => 8,
        "SIGSEGV" => 11,
        other => panic!("{other} is not expected of anything"),
    }
}

#[test]
fn planted_bugs_do_on_linux_what_their_manifests_say() {
    for folder in list(&root().join("planted")).unwrap() {
        let manifest = Manifest::read(&folder).unwrap();
        seeds_run_clean_and_reach_the_floor(&manifest.name);
        let Some(planted) = manifest.planted else {
            let no_bug = ["planted/noop", "planted/unstable"];
            assert!(no_bug.contains(&manifest.name.as_str()), "{}: only these have no bug", manifest.name);
            continue;
        };
        let built = build(&manifest.name);
        let trigger = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("trigger-{}", folder.file_name().unwrap().display()));
        fs::write(&trigger, &planted.trigger).unwrap();
        let signal =
            |limit| run(&built.image, std::slice::from_ref(&trigger), limit).map(|o| o.status.signal());
        let name = &manifest.name;
        match planted.on_linux {
            OnLinux::Segv => assert_eq!(signal(RUN_MAX), Some(Some(libc_signal("SIGSEGV"))), "{name}"),
            OnLinux::Fpe => assert_eq!(signal(RUN_MAX), Some(Some(libc_signal("SIGFPE"))), "{name}"),
            OnLinux::Abrt => assert_eq!(signal(RUN_MAX), Some(Some(libc_signal("SIGABRT"))), "{name}"),
            OnLinux::Nothing => assert_eq!(signal(RUN_MAX), Some(None), "{name}"),
            OnLinux::Hangs => assert_eq!(signal(HANG), None, "{name}"),
            // Not run: this machine's memory is not ours to fill.
            OnLinux::Unbounded => {}
        }
    }
}

#[test]
fn every_manifest_is_named_by_its_folder_and_what_it_names_is_there() {
    let folders = list(root()).unwrap();
    assert!(folders.len() >= 17, "only {} harnesses were found", folders.len());
    for folder in folders {
        let manifest = Manifest::read(&folder).unwrap();
        assert_eq!(folder.strip_prefix(root()).unwrap(), Path::new(&manifest.name));
        for file in &manifest.files {
            assert!(folder.join(file).is_file(), "{}: {}", manifest.name, file.display());
        }
        let seeds = folder.join(&manifest.seeds);
        assert!(!files(&seeds).is_empty(), "{}: no seeds", manifest.name);
        assert!(seeds.parent().unwrap().join("SOURCE.md").is_file(), "{}: no SOURCE.md", manifest.name);
        if let Some(dictionary) = manifest.dictionary {
            assert!(folder.join(dictionary).is_file(), "{}: no dictionary", manifest.name);
        }
        if let Some(grammar) = manifest.grammar {
            assert!(folder.join(grammar).is_file(), "{}: no grammar", manifest.name);
        }
    }
}

/// AFL's and libFuzzer's syntax: `"…"` or `name="…"`, with `\\`, `\"` and `\xHH` as escapes.
#[test]
fn every_dictionary_is_well_formed_and_says_nothing_twice() {
    for folder in list(root()).unwrap() {
        let Some(dictionary) = Manifest::read(&folder).unwrap().dictionary else { continue };
        let path = folder.join(dictionary);
        let mut seen = BTreeSet::new();
        for line in fs::read_to_string(&path).unwrap().lines() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let body = line.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
            let body = body.unwrap_or_else(|| panic!("{path:?}: {line}: not in quotes"));
            let mut rest = body.chars();
            while let Some(c) = rest.next() {
                assert_ne!(c, '"', "{path:?}: {line}: a bare quote");
                if c == '\\' {
                    match rest.next() {
                        Some('\\' | '"') => {}
                        Some('x') => assert!(
                            (0..2).all(|_| rest.next().is_some_and(|digit| digit.is_ascii_hexdigit())),
                            "{path:?}: {line}: \\x needs two digits"
                        ),
                        other => panic!("{path:?}: {line}: \\{other:?} is no escape"),
                    }
                }
            }
            assert!(seen.insert(body.to_owned()), "{path:?}: {line} twice");
        }
        assert!(!seen.is_empty(), "{path:?} is empty");
    }
}
