//! `unifork cmin`: of a corpus, the inputs that together reach all that it reaches.
//!
//! Exit codes: 0 when the folder is written; 1 when someone stopped it, and nothing is written; 2 for an
//! image or folders that cannot be used, or when no input ends well; 3 when the host failed.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cmd::fuzz::seeds_failure;
use crate::cmd::progress::Progress;
use crate::cmd::run::kernel::KernelArgs;
use crate::cmd::subject;
use crate::cmd::{BlameExt as _, Failure, Status, machine_failure, say};
use crate::cover::Cover;
use crate::machine::{self, MachineArgs};
use crate::opened::Opened;
use crate::output::{self, OutputError};
use crate::queue::Queue;
use crate::seeds;
use crate::signals;
use crate::units::{self, plural, show_clock, show_count, show_size};

mod measure;

use measure::{End, Measure};
use unifork_vmm::regular;

/// Inputs that are set aside and named one by one; of more, the rest is counted. `--json` names all.
const NAMED_MAX: usize = 20;

/// Inputs read at once at most, and bytes of them.
const CHUNK: usize = 1024;
const CHUNK_BYTES: u64 = 16 << 20;

/// Flags of `unifork cmin`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  unifork cmin corpus/ more/ --image cjson.img -o small/
  unifork cmin afl-out/ --image cjson.img -o small/

Reads corpora of libFuzzer, AFL++ and unifork, sub-folders included; of an output folder of AFL++
or unifork only the queue. What is kept reaches the same edges with the same hit counts (in AFL's
buckets). Inputs that crash or take too long, or that the harness rejects, are named and left out.
The output folder appears whole or not at all, and works as --seeds, for AFL++ and for libFuzzer.

Exit codes: 0 written; 1 stopped, nothing written; 2 bad input, or no input ends well; 3 the host
failed.")]
pub(crate) struct Args {
    /// Folders or files with inputs
    #[arg(required = true)]
    pub(crate) folders: Vec<PathBuf>,
    /// The image or snapshot file
    #[arg(long, value_name = "FILE")]
    pub(crate) image: PathBuf,
    /// The folder to write; must not exist, or be empty
    #[arg(long, short, value_name = "DIR")]
    pub(crate) output: PathBuf,
    /// Time a run may take
    #[arg(long, default_value = "1s", value_parser = units::duration, value_name = "TIME")]
    pub(crate) deadline: Duration,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
    #[command(flatten)]
    pub(crate) kernel: KernelArgs,
}

/// An input that is left out, and why.
#[derive(Clone, Debug, serde::Serialize)]
struct Aside {
    path: PathBuf,
    why: String,
}

/// What running the corpus gave.
#[derive(Debug)]
struct Measured {
    cover: Cover,
    /// The inputs that own something, in order of their numbers.
    owners: Vec<Vec<u8>>,
    aside: Vec<Aside>,
    rejected: usize,
    good: usize,
}

/// Runs the command.
pub(crate) fn run(args: &Args, json: bool) -> Result<Status, Failure> {
    vacant(&args.output)?;
    machine::is_elf(&args.image).map_err(machine_failure)?;
    let files = seeds::files(&args.folders).map_err(seeds_failure)?;
    if files.is_empty() {
        return Err(seeds_failure(seeds::SeedsError::Empty { paths: args.folders.clone() }));
    }
    let machine = subject::open(&args.image, &args.machine, &args.kernel)?;
    if machine.frozen.counter_count() == 0 {
        let error = anyhow::anyhow!("{} has no coverage counters", args.image.display());
        return Err(Failure::usage(error).help("build it with `unifork build`, or as docs/agent.md has it"));
    }
    signals::catch();
    let mut progress = Progress::start();
    let measured = measure_all(args, &machine, &files, &mut progress)?;
    tell_aside(&measured, json);
    if signals::stop_requested() {
        say(&if json {
            "{\"written\":false}\n".to_owned()
        } else {
            "stopped: nothing is written\n".to_owned()
        });
        return Ok(Status::Negative);
    }
    if measured.good == 0 {
        let error = anyhow::anyhow!("of {}, none ends well", plural(files.len(), "input"));
        return Err(Failure::usage(error).help("look at one with `unifork repro INPUT --image IMAGE`"));
    }
    let kept: Vec<&[u8]> =
        measured.cover.choose().into_iter().map(|owner| measured.owners[owner].as_slice()).collect();
    write_corpus(&args.output, &kept).or_host()?;
    let bytes: usize = kept.iter().map(|input| input.len()).sum();
    say(&if json {
        let line = serde_json::json!({
            "written": true, "output": args.output, "inputs": files.len(), "kept": kept.len(), "bytes": bytes,
            "edges": measured.cover.edges(), "pairs": measured.cover.pairs(), "rejected": measured.rejected,
            "aside": measured.aside, "seconds": progress.elapsed().as_secs_f64(),
        });
        format!("{line}\n")
    } else {
        format!(
            "{} of {}, {} in all, in {}: the same {} edges, {} with their buckets\n{}\n",
            show_count(kept.len() as u64),
            plural(files.len(), "input"),
            show_size(bytes as u64),
            show_clock(progress.elapsed()),
            show_count(measured.cover.edges() as u64),
            show_count(measured.cover.pairs() as u64),
            args.output.display()
        )
    });
    Ok(Status::Done)
}

/// Runs all of `files`, smallest first, or until someone asks to stop.
fn measure_all(
    args: &Args,
    machine: &Opened,
    files: &[PathBuf],
    progress: &mut Progress,
) -> Result<Measured, Failure> {
    let mut sized = Vec::with_capacity(files.len());
    for path in files {
        sized.push((fs::metadata(path).map_err(unreadable(path))?.len(), path));
    }
    sized.sort();
    let fits = sized.partition_point(|&(bytes, _)| bytes <= machine.frozen.input_max());
    let (sized, too_long) = sized.split_at(fits);
    let mut measured = Measured {
        cover: Cover::new(machine.frozen.counter_count()),
        owners: Vec::new(),
        aside: Vec::new(),
        rejected: 0,
        good: 0,
    };
    for (_, path) in too_long {
        measured.aside.push(Aside { path: (*path).clone(), why: "longer than --input-max".into() });
    }
    let mut measure = Measure::new(machine, args.deadline).or_host()?;
    let (mut rest, mut done) = (sized, 0);
    while !rest.is_empty() && !signals::stop_requested() {
        let mut bytes = 0;
        let fit = rest.iter().take(CHUNK).take_while(|(size, _)| {
            bytes += size;
            bytes <= CHUNK_BYTES
        });
        let (chunk, after) = rest.split_at(fit.count().max(1));
        rest = after;
        let inputs = chunk
            .iter()
            .map(|(_, path)| regular::read(path).map_err(unreadable(path)))
            .collect::<Result<Vec<_>, _>>()?;
        let take = |at: usize, end: End<'_>| {
            match end {
                End::Good(counters) => {
                    measured.good += 1;
                    if measured.cover.add(counters).is_some() {
                        measured.owners.push(inputs[at].clone());
                    }
                }
                End::Rejected => measured.rejected += 1,
                End::Bad(name) => measured.aside.push(Aside { path: chunk[at].1.clone(), why: name }),
            }
            done += 1;
            if progress.due() {
                eprintln!(
                    "{:>7}  {} of {} inputs  {} edges, {} with their buckets",
                    show_clock(progress.elapsed()),
                    show_count(done),
                    show_count(sized.len() as u64),
                    show_count(measured.cover.edges() as u64),
                    show_count(measured.cover.pairs() as u64)
                );
            }
        };
        measure.run(&inputs, take).or_host()?;
    }
    Ok(measured)
}

fn unreadable(path: &Path) -> impl FnOnce(std::io::Error) -> Failure {
    move |source| seeds_failure(seeds::SeedsError::Read { what: "input", path: path.to_path_buf(), source })
}

fn tell_aside(measured: &Measured, json: bool) {
    let named = if json { 0 } else { measured.aside.len().min(NAMED_MAX) };
    for Aside { path, why } in &measured.aside[..named] {
        eprintln!("unifork: warning: {} is left out: {why}", path.display());
    }
    let more = measured.aside.len() - named;
    if more > 0 {
        eprintln!("unifork: warning: {} left out{}", plural(more, "input"), if json { "" } else { ", too" });
    }
    if measured.rejected > 0 {
        let count = plural(measured.rejected, "input");
        eprintln!("unifork: warning: {count} left out that the harness rejects by returning -1");
    }
}

/// Refuses a folder that has something in it.
pub(crate) fn vacant(folder: &Path) -> Result<(), Failure> {
    let taken = match fs::read_dir(folder) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) => error.kind() != std::io::ErrorKind::NotFound,
    };
    let parent = output::parent(folder);
    let (error, help) = if taken {
        (anyhow::anyhow!("{} is not an empty folder", folder.display()), "name another with -o, or remove it")
    } else if !parent.is_dir() {
        (anyhow::anyhow!("{} is not a folder", parent.display()), "make it, or name another with -o")
    } else {
        return Ok(());
    };
    Err(Failure::usage(error).help(help))
}

/// Writes `inputs` as a corpus.
fn write_corpus(folder: &Path, inputs: &[&[u8]]) -> Result<(), OutputError> {
    output::write_folder(folder, |partial| {
        let (mut queue, ..) = Queue::open(partial, &partial.join("corrupt"), false)?;
        inputs.iter().try_for_each(|input| queue.save(input).map(drop))
    })
}
