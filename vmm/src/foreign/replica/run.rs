//! One run of a fork, from its first instruction to what its end amounts to.

use std::time::Duration;

use super::{CONSOLE_BYTES_MAX, Fork, ForkError};
use crate::agent::AgentEvent;
use crate::foreign::agentless::Entry;
use crate::foreign::base::Base;
use crate::foreign::cpu::{Raised, Stop};
use crate::foreign::watch::{Purpose, panic_at, panic_text};
use crate::foreign::{End, Machine, Power};
use crate::introspect::read_u64;
use crate::layout::Layout;
use crate::outcome::{Cause, Crash, CrashKind, Outcome};

/// Bytes of a line on the console that a panicking image may write before it is stopped.
const PANIC_LINE_MAX: usize = 400;

/// How a run ended, before it is known what that amounts to.
#[derive(Debug)]
pub(in crate::foreign) enum Finish {
    Machine(End),
    /// Where it was to end.
    Well,
    Panic(String),
}

impl Fork {
    /// Runs until something ends the run, or `late` says that it is, which is asked whenever the guest has
    /// stopped; it does at the latest after `tick`.
    pub(in crate::foreign) fn run_on(
        &mut self,
        base: &Base,
        tick: Duration,
        mut late: impl FnMut(&mut Machine) -> bool,
    ) -> Result<Finish, ForkError> {
        self.machine.cpu.vcpu().arm(tick);
        let finish = loop {
            self.hand_over(base);
            let machine = &mut self.machine;
            if let Some(until) = machine.bus.waits_until(&mut machine.memory) {
                if until == u64::MAX {
                    break Finish::Machine(End::Idle);
                }
                machine.bus.advance(until);
                // It is over now, and answered.
                let _nothing = machine.bus.waits_until(&mut machine.memory);
            }
            machine.bus.advance(machine.bus.now_ns());
            let offered = machine.cpu.offer_interrupt(&mut machine.memory, &mut machine.bus)?;
            if let Some(end) = machine.ended(offered) {
                break Finish::Machine(end);
            }
            let mut stop = machine.step()?;
            if stop == Stop::Loop {
                let code = machine.cpu.vcpu().regs_mut().rdi.cast_signed();
                break Finish::Machine(End::Agent(AgentEvent::Done { code }));
            }
            let is_late = late(machine);
            if let Stop::Breakpoint { gpa } = stop {
                if let Some(finish) = self.at_breakpoint(base, gpa) {
                    break finish;
                }
                stop = if base.watch.point(gpa).is_some_and(|point| point.stays) {
                    self.machine.step_over(gpa)?
                } else {
                    Stop::Again
                };
            }
            let machine = &mut self.machine;
            if let Some(power) = machine.bus.power() {
                break Finish::Machine(End::Power(power));
            }
            match machine.agent_call()? {
                // Only the first one is the snapshot.
                Some(AgentEvent::Snapshot) => machine.cpu.answer(unifork_abi::agent::REFUSED)?,
                Some(event) => break Finish::Machine(End::Agent(event)),
                None => {}
            }
            if stop == Stop::Halt && !machine.bus.interrupt_is_pending() {
                if !machine.cpu.wakes_up() {
                    break Finish::Machine(End::Halted);
                }
                let Some(next) = machine.bus.next_event_ns() else { break Finish::Machine(End::Idle) };
                machine.bus.advance(next);
            }
            if let Some(end) = machine.ended(stop) {
                break Finish::Machine(end);
            }
            if let Some(finish) = self.look_at_console(base) {
                break finish;
            }
            if is_late {
                break Finish::Machine(End::Deadline);
            }
        };
        self.machine.cpu.vcpu().disarm();
        Ok(finish)
    }

    /// Gives the image what it takes now of an input that comes by a device.
    fn hand_over(&mut self, base: &Base) {
        let Machine { bus, memory, .. } = &mut self.machine;
        let rest = &self.input[self.handed_over.min(self.input.len())..];
        match base.entry {
            Entry::Serial { .. } if !rest.is_empty() => {
                let room = bus.room_to_type().min(rest.len());
                bus.type_in(memory, &rest[..room]);
                self.handed_over += room;
            }
            Entry::Net { .. } if !rest.is_empty() && bus.virtio().wants_frame(0) => {
                bus.virtio().push_frame(memory, 0, rest);
                self.handed_over = self.input.len();
            }
            _ => {}
        }
    }

    /// What is to be done at a breakpoint; it is as it was when the run goes on.
    fn at_breakpoint(&mut self, base: &Base, gpa: u64) -> Option<Finish> {
        let point = base.watch.point(gpa)?;
        if let Some(block) = point.block {
            let from = self.counters.len() - base.watch.blocks.len();
            self.counters[from + block as usize] = 1;
            if !point.stays {
                self.blocks.seen(gpa, point.original);
            }
        }
        for purpose in base.watch.purposes(gpa) {
            match purpose {
                Purpose::End { rsp } => {
                    let now = self.machine.cpu.vcpu().regs_mut().rsp;
                    if rsp.is_none_or(|rsp| rsp == now) {
                        return Some(Finish::Well);
                    }
                }
                Purpose::Panic(point) => {
                    if let Some(panic) = panic_at(&mut self.machine, point) {
                        return Some(Finish::Panic(panic.message));
                    }
                }
                Purpose::Exception { vector } => {
                    let rsp = self.machine.cpu.vcpu().regs_mut().rsp;
                    let mut words = [0; 6];
                    for (word, at) in words.iter_mut().zip((rsp..).step_by(8)) {
                        *word = read_u64(&self.machine.linear(), at).unwrap_or(0);
                    }
                    self.machine.cpu.note_exception(*vector, &words);
                }
            }
        }
        if !point.stays {
            self.machine.breakpoints.disarm(&mut self.machine.memory, gpa);
        }
        None
    }

    pub(in crate::foreign) fn take_console(&mut self) {
        let said = self.machine.bus.take_output();
        let room = CONSOLE_BYTES_MAX - self.console.len();
        self.console.extend_from_slice(&said[..said.len().min(room)]);
    }

    /// Whether the console says that the run is over.
    fn look_at_console(&mut self, base: &Base) -> Option<Finish> {
        if base.watch.console.is_empty() && base.watch.panics.console.is_empty() {
            return None;
        }
        if !self.machine.bus.has_output() {
            return None;
        }
        self.take_console();
        let seen = std::mem::replace(&mut self.console_seen, self.console.len());
        if base.watch.ends_run(&self.console, seen) {
            return Some(Finish::Well);
        }
        self.panic_line = self.panic_line.or_else(|| base.watch.panic_line(&self.console, seen));
        let text = &self.console[self.panic_line?..];
        let is_whole = panic_text(text).1 || text.len() >= PANIC_LINE_MAX;
        is_whole.then(|| Finish::Panic(self.panic_message().unwrap_or_default()))
    }

    /// What the image's console says of its panic.
    fn panic_message(&self) -> Option<String> {
        Some(panic_text(&self.console[self.panic_line?..]).0)
    }

    /// What a run's end amounts to.
    pub(in crate::foreign) fn outcome(&mut self, base: &Base, finish: Finish) -> Outcome {
        let vm = |reason: &str| Cause::Vm { reason: reason.to_owned() };
        let said = self.panic_message();
        let cause = match finish {
            Finish::Well => return Outcome::Done { code: 0 },
            Finish::Panic(message) => return self.panicked(base, message),
            Finish::Machine(End::Power(Power::DebugExit(code)))
                if base.watch.panics.exits.contains(&code) =>
            {
                let message = said.unwrap_or_else(|| format!("it ended with {code}"));
                return self.panicked(base, message);
            }
            Finish::Machine(End::Power(_) | End::Halted | End::Idle) if said.is_some() => {
                return self.panicked(base, said.unwrap_or_default());
            }
            Finish::Machine(end) => match end {
                End::Agent(AgentEvent::Done { code }) => return Outcome::Done { code },
                End::Agent(AgentEvent::Report { message }) => Cause::Assertion { message },
                End::Power(Power::Off | Power::Reset) => return Outcome::Exit { code: 0 },
                End::Power(Power::Exit(code)) => return Outcome::Exit { code },
                End::Power(Power::DebugExit(code)) => return Outcome::Exit { code: code.cast_signed() },
                // It waits for more than the input has.
                End::Idle if matches!(base.entry, Entry::Serial { .. } | Entry::Net { .. }) => {
                    return Outcome::Done { code: 0 };
                }
                End::Deadline | End::Idle => return Outcome::Timeout,
                End::Halted if base.watch.halt => return Outcome::Done { code: 0 },
                End::Halted => return self.panicked(base, "it halted, with interrupts off".to_owned()),
                End::TripleFault { first: Some(first), .. } => {
                    Cause::Exception { vector: first.vector, error_code: first.code, address: first.address }
                }
                End::TripleFault { first: None, .. } => vm("triple fault"),
                End::Stuck { reason } => Cause::Vm { reason },
                End::Stopped | End::Agent(_) | End::Breakpoint { .. } => vm("it was stopped"),
            },
        };
        let registers = self.registers();
        let kind = CrashKind::of(&cause, &registers, &Layout::default());
        Outcome::Crash(Crash { cause, kind, registers })
    }

    /// The image panicked, in its words: over an exception, if it is in the handler of one.
    fn panicked(&mut self, base: &Base, message: String) -> Outcome {
        let prefix = base.watch.panics.assertions.iter().find_map(|prefix| message.strip_prefix(&prefix[..]));
        let (cause, registers) = match (prefix, self.machine.cpu.raised()) {
            (Some(condition), _) => (Cause::Assertion { message: condition.to_owned() }, self.registers()),
            (None, Some(raised)) => {
                let Raised { vector, code: error_code, address, registers, .. } = raised;
                (Cause::Exception { vector, error_code, address }, registers)
            }
            (None, None) => (Cause::Panic { message }, self.registers()),
        };
        let kind = CrashKind::of(&cause, &registers, &Layout::default());
        Outcome::Crash(Crash { cause, kind, registers })
    }
}
