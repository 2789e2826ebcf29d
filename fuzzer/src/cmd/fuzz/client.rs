//! The processes that `unifork fuzz --cores` starts: clients and the broker. They tell their parent how
//! they do, a line of JSON each time, and leave it to the parent to tell the user.

use std::io::BufRead as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{Args, Inputs, campaign_failure, find_inputs, foreign, leave_out_long, plan, tell};
use crate::campaign::{Campaign, Plan, Share};
use crate::cmd::{Failure, Status, machine_failure, say};
use crate::cores::link::Port;
use crate::cores::{self, ClientRole, Ended, Role, Said, broker};
use crate::machine;
use crate::opened::Opened;
use crate::output::Output;
use crate::signals;

/// Runs this process's part.
pub(super) fn run(args: &Args, role: &Role) -> Status {
    signals::leave_to_parent();
    let said = match role {
        Role::Client(role) => fuzz(args, role).map(|ended| Some(Said::Ended(Box::new(ended)))),
        Role::Broker(role) => broker::run(role).map(|()| None).map_err(super::several::failure),
    };
    let (said, status) = match said {
        Ok(said) => (said, Status::Done),
        Err(failure) => {
            let (message, help, blame) = (failure.message(), failure.help, failure.blame as u8);
            (Some(Said::Failed { message, help, blame }), Status::Negative)
        }
    };
    if let Some(said) = said {
        let line = serde_json::to_string(&said).expect("what is said is plain data");
        say(&format!("{line}\n"));
    }
    status
}

fn fuzz(args: &Args, role: &ClientRole) -> Result<Ended, Failure> {
    let broker = listen_to_parent();
    cores::pin(role.core).map_err(|why| Failure::host(anyhow::anyhow!(why)))?;
    let Inputs { mut seeds, tokens, grammar, root } = find_inputs(args)?;
    let machine: Opened = if let Some(kernel) = &role.machine.kernel {
        foreign::open_shared(&role.snapshot, kernel)?
    } else {
        if !machine::is_elf(&args.image).map_err(machine_failure)? {
            signals::name_at_sigbus(&args.image);
        }
        machine::open_shared(&role.snapshot).map_err(machine_failure)?.into()
    };
    leave_out_long(&mut seeds, machine.frozen.input_max());
    let plan = Plan {
        engine: role.engine,
        seed: role.seed,
        execs: role.execs,
        share: Some(Share { number: role.number, broker }),
        ..plan(args, &machine, role.machine.clone(), seeds.usable, tokens, grammar)
    };
    let mut campaign = Campaign::open(plan, &Output::of_parent(&root)).map_err(campaign_failure)?;
    if let Some(report) = campaign.load().map_err(campaign_failure)? {
        if role.number == 0 {
            tell::warn_of_seeds(&report);
        }
        campaign.run().map_err(campaign_failure)?;
    }
    let summary = campaign.finish().map_err(campaign_failure)?;
    Ok(Ended { figures: summary.figures, unserved: summary.unserved, unstable: summary.unstable })
}

/// The broker's port, as the parent says it on stdin; its end is the end of the campaign.
fn listen_to_parent() -> Port {
    let port = Port::default();
    let told = Arc::clone(&port);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if let Ok(port) = line.parse::<u16>() {
                AtomicU32::store(&told, u32::from(port), Ordering::Relaxed);
            }
        }
        signals::request_stop();
    });
    port
}
