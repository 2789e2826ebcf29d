//! `unifork report`: one page of a campaign, with everything in it.
//!
//! Exit codes: 0 the page is written; 2 for a folder that is no campaign; 3 when the host failed.

use std::path::{Path, PathBuf};

use crate::cmd::{BlameExt as _, Failure, Status, say};
use crate::output;
use crate::units::show_count;

mod chart;
mod html;
mod links;
mod read;

use links::Links;
use read::Read;

/// Flags of `unifork report`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  unifork report sqlite.campaign
  unifork report sqlite.campaign -o pages/sqlite.html

The page is one HTML file that needs nothing else and no script: curves, findings, slowest inputs,
system calls that are not served, machine and versions. Findings link to the pages that `unifork
triage` wrote, where it did. The campaign may be running. An older page is replaced, whole.

Exit codes: 0 written; 2 bad input; 3 the host failed.")]
pub(crate) struct Args {
    /// The folder of a campaign
    #[arg(value_name = "CAMPAIGN")]
    pub(crate) campaign: PathBuf,
    /// The page [default: report.html in the campaign]
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

/// Runs the command.
pub(crate) fn run(args: &Args, json: bool) -> Result<Status, Failure> {
    let output = args.output.clone().unwrap_or_else(|| args.campaign.join("report.html"));
    check(&args.campaign, &output)?;
    let read = Read::campaign(&args.campaign).or_host()?;
    let links = Links::new(&output, &args.campaign).or_host()?;
    let page = html::page_of(&read, &links);
    output::write_whole(&output, page.as_bytes()).or_host()?;
    for damage in &read.damage {
        eprintln!("unifork: warning: {damage}");
    }
    let figures = read.last.clone().unwrap_or_default();
    say(&if json {
        let damage = &read.damage;
        let line = serde_json::json!({ "written": output, "figures": figures, "damage": damage });
        format!("{line}\n")
    } else {
        let (execs, findings) = (show_count(figures.execs), read.findings.len());
        format!("{execs} executions, findings: {findings}\n{}\n", output.display())
    });
    Ok(Status::Done)
}

/// What the user can mend.
fn check(campaign: &Path, output: &Path) -> Result<(), Failure> {
    if !campaign.join("stats.jsonl").is_file() {
        let error =
            anyhow::anyhow!("{} is not the folder of a campaign: it has no stats.jsonl", campaign.display());
        return Err(Failure::usage(error).help("name the folder that `unifork fuzz` said it writes to"));
    }
    let parent = output::parent(output);
    if !parent.is_dir() {
        let error = anyhow::anyhow!("{} is not a folder", parent.display());
        return Err(Failure::usage(error).help("make it, or name another file with -o"));
    }
    if output.is_dir() {
        let error = anyhow::anyhow!("{} is a folder", output.display());
        return Err(Failure::usage(error).help("name a file with -o"));
    }
    Ok(())
}
