//! `unifork doctor`: what this host offers, what is missing, and what is used instead.
//!
//! Exit codes: 0 when images can be run here; 3 when not. A missing tool-chain only stops `build`.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde::Serialize;
use unifork_vmm::{Engine, HostCaps, Kvm};

use crate::cmd::run::kernel::ring0_fact;
use crate::cmd::{Blame, Failure, Status, say};

/// Flags of `unifork doctor`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 images can be run here; 3 they cannot.")]
pub(crate) struct Args {}

/// Everything that is said, one sentence each.
#[derive(Debug, Default, Serialize)]
struct Diagnosis {
    /// Name and what it is.
    facts: Vec<(&'static str, String)>,
    /// What is missing, and what is used instead.
    missing: Vec<String>,
    /// What `build` lacks.
    build_lacks: Vec<String>,
}

/// Runs the command.
pub(crate) fn run(_: &Args, json: bool) -> Result<Status, Failure> {
    let mut diagnosis = Diagnosis::default();
    let opened = Kvm::open();
    host(&mut diagnosis);
    if let Ok(kvm) = &opened {
        capabilities(&mut diagnosis, kvm.caps());
        measure(&mut diagnosis, kvm);
        diagnosis.facts.extend(ring0_fact(kvm).map(|fact| ("ring 0", fact)));
    }
    tool_chain(&mut diagnosis, Path::new("/"));
    let usable = opened.is_ok();
    if json {
        let line = serde_json::json!({ "usable": usable, "diagnosis": diagnosis });
        say(&format!("{line}\n"));
    } else {
        say(&tell(&diagnosis, usable));
    }
    match opened {
        Ok(_) => Ok(Status::Done),
        Err(error) => Err(Failure { blame: Blame::Host, error: error.into(), help: None }),
    }
}

/// Kernel, CPU and KVM of this host, each with its name.
pub(crate) fn facts() -> Vec<(&'static str, String)> {
    let mut diagnosis = Diagnosis::default();
    host(&mut diagnosis);
    diagnosis.facts
}

/// The kernel, the CPU, and which module is behind /dev/kvm.
fn host(diagnosis: &mut Diagnosis) {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let field = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(name));
        line.and_then(|line| Some(line.split_once(':')?.1.trim().to_owned())).unwrap_or_default()
    };
    let flags = field("flags");
    let has = |flag: &str| flags.split(' ').any(|found| found == flag);
    diagnosis.facts.push(("kernel", read("/proc/sys/kernel/osrelease").trim().to_owned()));
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    diagnosis.facts.push(("CPU", format!("{}, {cpus} usable", field("model name"))));
    let modules = ["kvm_intel", "kvm_amd", "kvm_pvm"];
    let loaded: Vec<_> =
        modules.into_iter().filter(|name| Path::new("/sys/module").join(name).exists()).collect();
    let flavour = match loaded.as_slice() {
        [] if has("vmx") || has("svm") => {
            "the CPU has it, but no kvm_intel or kvm_amd module is loaded".to_owned()
        }
        [] => "no module of KVM's is loaded".to_owned(),
        ["kvm_pvm", ..] => "kvm_pvm: software, with shadow paging".to_owned(),
        [name, ..] if has("hypervisor") => format!("{name}: hardware, nested in another virtual machine"),
        [name, ..] => format!("{name}: hardware"),
    };
    diagnosis.facts.push(("KVM", flavour));
}

/// What an exit and each reset engine take here, and which is used.
fn measure(diagnosis: &mut Diagnosis, kvm: &Kvm) {
    const EXITS: usize = 2000;
    if let Ok(sample) = unifork_vmm::bench::round_trip(kvm, EXITS) {
        let us = |percent| sample.percentile(percent).as_nanos() as f64 / 1e3;
        let text =
            format!("{:.1} us for a KVM_RUN round trip (median; 9 of 10 within {:.1})", us(50), us(90));
        diagnosis.facts.push(("exit", text));
    }
    match unifork_vmm::compare_engines_here(kvm) {
        Ok(figures) => {
            let list: Vec<String> = figures
                .iter()
                .map(|figure| format!("{} {:.0} us", figure.engine, figure.run_ns as f64 / 1e3))
                .collect();
            let pages = unifork_vmm::choose::DOCTOR_PAGES;
            diagnosis
                .facts
                .push(("engines", format!("{} a run that dirties {pages} pages", list.join(", "))));
            let hot = figures.iter().any(|figure| figure.engine == Engine::HotSet);
            let used = if hot {
                "hot-set: the only one that runs many inputs per entry of the guest".to_owned()
            } else {
                format!("{}: the fastest; there are no batches here", figures[0].engine)
            };
            diagnosis.facts.push(("used", format!("{used} (fuzz --engine names another)")));
        }
        Err(error) => diagnosis.missing.push(format!("a guest that could be measured: {error}")),
    }
}

fn capabilities(diagnosis: &mut Diagnosis, caps: &HostCaps) {
    let facts = &mut diagnosis.facts;
    facts.push((
        "KVM API",
        format!("version {}, {} bytes of XSAVE state", caps.api_version, caps.xsave_bytes),
    ));
    let missing = &mut diagnosis.missing;
    if !caps.sync_regs {
        missing
            .push("KVM_CAP_SYNC_REGS: registers are put back by ioctls, some microseconds a run".to_owned());
    }
    if !caps.manual_dirty_log {
        missing.push(
            "KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2: every reset protects all dirtied pages again".to_owned(),
        );
    }
    if caps.dirty_ring_entries == 0 {
        missing.push(
            "KVM_CAP_DIRTY_LOG_RING: the dirty log is used, which is not slower for small machines"
                .to_owned(),
        );
    }
    match caps.nested_paging {
        Some(true) => facts.push(("paging", "nested, by the CPU".to_owned())),
        Some(false) => missing.push("nested paging (EPT, NPT) is switched off: a page's first write costs a shadow fault".to_owned()),
        None => missing.push("nested paging (EPT, NPT), as far as the kernel says: pages dirtied in most runs are best left writable".to_owned()),
    }
}

/// What `unifork build` needs: a program on the path, or a file of a Debian package.
fn tool_chain(diagnosis: &mut Diagnosis, root: &Path) {
    let on_path = |name: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|dir| dir.join(name).is_file())
    };
    // What `build` tries: Debian's name for the version it wants, and the plain one.
    let of_any_version = |name: &str| on_path(&format!("{name}-16")) || on_path(name);
    let needs = [
        ("clang", of_any_version("clang"), "clang-16"),
        ("ld.lld", of_any_version("ld.lld"), "lld-16"),
        ("static musl", root.join("usr/lib/x86_64-linux-musl/libc.a").is_file(), "musl-dev"),
        ("static glibc", root.join("usr/lib/x86_64-linux-gnu/libc.a").is_file(), "libc6-dev"),
    ];
    let (there, absent): (Vec<_>, Vec<_>) = needs.into_iter().partition(|&(_, found, _)| found);
    let there: Vec<_> = there.into_iter().map(|(name, ..)| name).collect();
    let shown = if there.is_empty() { "nothing".to_owned() } else { there.join(", ") };
    diagnosis.facts.push(("for build", shown));
    for (name, _, package) in absent {
        diagnosis.build_lacks.push(format!("{name}: apt-get install {package}"));
    }
}

fn tell(diagnosis: &Diagnosis, usable: bool) -> String {
    let mut text = String::new();
    for (name, fact) in &diagnosis.facts {
        let _ = writeln!(text, "{name:<10} {fact}");
    }
    let lists = [
        ("missing, and what is done instead", &diagnosis.missing),
        ("`unifork build` lacks", &diagnosis.build_lacks),
    ];
    for (title, list) in lists {
        if !list.is_empty() {
            let _ = writeln!(text, "{title}:");
        }
        for sentence in list {
            let _ = writeln!(text, "  {sentence}");
        }
    }
    let _ = writeln!(
        text,
        "{}",
        if usable { "usable: images can be run here" } else { "not usable: images cannot be run here" }
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_host_is_told_which_packages_to_install() {
        let mut diagnosis = Diagnosis::default();
        tool_chain(&mut diagnosis, Path::new("/nowhere"));
        assert!(diagnosis.build_lacks.iter().any(|lack| lack.ends_with("apt-get install musl-dev")));
        assert!(tell(&diagnosis, false).ends_with("not usable: images cannot be run here\n"));
    }
}
