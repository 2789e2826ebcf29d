//! What goes wrong round a campaign is said in one sentence, and nothing that was found is lost.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::{Ran, image, names, run, text};

/// Runs a shell script as root of a user and mount namespace of its own, where it may mount; `$UNIFORK` is
/// the program.
fn in_namespace(script: &str) -> Ran {
    let script = format!("set -eu; {script}");
    let output = Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-c", &script])
        .env("UNIFORK", env!("CARGO_BIN_EXE_unifork"))
        .env_remove("UNIFORK_LOG")
        .output()
        .expect("util-linux is installed");
    Ran::new(&["(in a namespace)"], output)
}

#[test]
fn a_disk_that_becomes_full_ends_the_campaign_and_room_lets_it_go_on() {
    let image = image("cjson");
    let dir = tempfile::tempdir().unwrap();
    // Room for a few dozen inputs, and not for the state.
    let script = format!(
        "mount -t tmpfs -o size=300k tmpfs {dir}
         code=0
         $UNIFORK fuzz {image} --output {dir}/c --seed 1 --execs 60000 >/dev/null 2>{dir}.err || code=$?
         echo first $code, $(ls {dir}/c/queue | wc -l) inputs
         mount -o remount,size=64m {dir}
         before=$(ls {dir}/c/queue)
         $UNIFORK fuzz {image} --output {dir}/c --seed 1 --execs 70000 >/dev/null
         for name in $before; do test -f {dir}/c/queue/$name; done
         ls -A {dir}/c/queue | grep '^[.]' || echo nothing half-written",
        dir = text(dir.path()),
        image = text(&image),
    );
    let ran = in_namespace(&script).expect(0);
    let errors = fs::read_to_string(format!("{}.err", text(dir.path()))).unwrap();
    fs::remove_file(format!("{}.err", text(dir.path()))).unwrap();
    assert!(ran.stdout.starts_with("first 3, "), "{}\n{errors}", ran.stdout);
    assert!(!ran.stdout.starts_with("first 3, 0 "), "{}", ran.stdout);
    assert!(ran.stdout.contains("nothing half-written"), "{}", ran.stdout);
    assert!(errors.contains("No space left on device") && errors.contains("make room"), "{errors}");
    assert!(!errors.contains("panicked"), "{errors}");
}

#[test]
fn a_folder_that_may_only_be_read_is_refused() {
    let image = image("planted/noop");
    let dir = tempfile::tempdir().unwrap();
    let script = format!(
        "mount -t tmpfs tmpfs {dir}
         $UNIFORK fuzz {image} --output {dir}/c --execs 100 >/dev/null
         mount -o remount,ro {dir}
         exec $UNIFORK fuzz {image} --output {dir}/c --execs 200",
        dir = text(dir.path()),
        image = text(&image),
    );
    let ran = in_namespace(&script).expect(2);
    assert!(ran.stderr.contains("Read-only file system"), "{}", ran.stderr);
    let lines: Vec<&str> = ran.stderr.lines().collect();
    assert!(lines.len() == 2 && lines[1].starts_with("  help: "), "{}", ran.stderr);
}

#[test]
fn a_folder_is_not_continued_with_another_image_and_a_new_build_is_said() {
    let (noop, abort) = (image("planted/noop"), image("planted/abort"));
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("c");
    let seeds = noop.with_extension("seeds");
    let fuzz = |image: &Path, execs: &str| {
        let common = ["fuzz", text(image), "--output", text(&output), "--seeds", text(&seeds)];
        run(&[&common[..], &["--execs", execs, "--seed", "1"]].concat())
    };
    fuzz(&noop, "100").expect(0);
    let queue = names(&output.join("queue"));
    let refused = fuzz(&abort, "200").expect(2);
    assert!(refused.stderr.contains("is the campaign of "), "{}", refused.stderr);
    assert!(refused.stderr.contains("--output"), "{}", refused.stderr);
    assert_eq!(names(&output.join("queue")), queue, "nothing was touched");

    // The same name with other contents: the harness was built again.
    let folder = dir.path().join("rebuilt");
    fs::create_dir(&folder).unwrap();
    let rebuilt = folder.join(noop.file_name().unwrap());
    fs::copy(&abort, &rebuilt).unwrap();
    let ran = fuzz(&rebuilt, "200").expect(0);
    assert!(ran.stderr.contains("has changed since"), "{}", ran.stderr);
    assert!(ran.stderr.contains("it is of another image or machine"), "{}", ran.stderr);
    assert!(ran.stderr.contains("running the queue's"), "{}", ran.stderr);
}

#[test]
fn seeds_that_all_take_too_long_are_said_plainly() {
    let image = image("planted/infinite-loop");
    let manifest = common::root().join("harnesses/planted/infinite-loop");
    let trigger = unifork_harnesses::manifest::Manifest::read(&manifest).unwrap().planted.unwrap().trigger;
    let dir = tempfile::tempdir().unwrap();
    let (seeds, output) = (dir.path().join("seeds"), dir.path().join("out"));
    fs::create_dir(&seeds).unwrap();
    fs::write(seeds.join("slow"), trigger).unwrap();
    let args =
        ["fuzz", text(&image), "--seeds", text(&seeds), "--output", text(&output), "--deadline", "250ms"];
    let ran = run(&args).expect(2);
    assert!(ran.stderr.contains("of 1 seed, none ends well: 0 crash, 1 time out"), "{}", ran.stderr);
    assert!(ran.stderr.contains("help: add a seed that the harness handles"), "{}", ran.stderr);
}

#[test]
fn edges_that_come_and_go_are_named_with_their_line_and_left_out() {
    let image = image("planted/unstable");
    let source = fs::read_to_string(common::root().join("harnesses/planted/unstable/harness.c")).unwrap();
    let line_of = |text: &str| 1 + source.lines().position(|line| line.contains(text)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for how in [&[][..], &["--no-batch"]] {
        let output = dir.path().join(format!("c{}", how.len()));
        let args = ["--json", "fuzz", text(&image), "--output", text(&output), "--execs", "20000"];
        let summary = run(&[&args[..], how].concat()).expect(0).json();
        assert!(summary["summary"]["stability"].as_f64().unwrap() < 1.0, "{summary}");
        let unstable = summary["unstable"].as_array().unwrap();
        assert!(!unstable.is_empty(), "{summary}");
        let list = fs::read_to_string(output.join("unstable.txt")).unwrap();
        assert_eq!(list.lines().filter(|line| line.starts_with("edge ")).count(), unstable.len(), "{list}");
        let lines = line_of("rdtsc()")..=line_of("turns++");
        for edge in unstable {
            assert!(edge["file"].as_str().unwrap().ends_with("planted/unstable/harness.c"), "{edge}");
            assert_eq!(edge["function"], "LLVMFuzzerTestOneInput", "{edge}");
            assert!(lines.contains(&(edge["line"].as_u64().unwrap() as usize)), "{edge}");
        }
        assert_eq!(summary["summary"]["unstable"], unstable.len(), "{summary}");
        run(&["report", text(&output)]).expect(0);
        let page = fs::read_to_string(output.join("report.html")).unwrap();
        let listed = format!("planted/unstable/harness.c:{}", unstable[0]["line"]);
        assert!(page.contains("whose counts do not repeat") && page.contains(&listed), "{page}");
        // Each of its counts would be news: 7 buckets, in any order, for each input that is kept.
        let corpus = summary["summary"]["corpus"].as_u64().unwrap();
        assert!(corpus < 20, "{how:?}: what comes and goes is no news: {corpus} inputs");
    }
}
