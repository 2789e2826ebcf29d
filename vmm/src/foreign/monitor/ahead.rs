//! Going on for the guest behind an instruction that was emulated for it.
//!
//! A trap costs as much as hundreds of instructions that are done here, and kernels have them in clusters: interrupts
//! are switched off, a few instructions follow, they are switched on. So what comes behind an emulated instruction is
//! done as well, until that is nothing that this knows, or for a while nothing that would have trapped.

use iced_x86::{Instruction, Mnemonic, Register};

use super::emulate::{Done, is_canonical};
use super::guest::{Asks, FLAG_IF, FLAG_TF, Guest, Known};
use super::state::Mode;
use super::walk::Use;
use crate::addr::PAGE_BYTES;

/// Instructions without one that would trap: a few microseconds, of the sixty or more that a trap takes.
const PLAIN_MAX: u64 = 150;
/// Instructions at all.
const ALL_MAX: u32 = 20_000;

impl Guest<'_> {
    /// Does what comes next. Says how many instructions it did that would have trapped.
    pub(crate) fn go_on(&mut self) -> u64 {
        self.known = Some(Known::default());
        let (mut plain, mut trapping) = (0, 0);
        let mut code = None;
        let mut goes_on = self.may_go_on();
        for _ in 0..ALL_MAX {
            if plain > PLAIN_MAX || !goes_on || !self.is_ready(&mut code) {
                break;
            }
            let Ok(instruction) = self.decode() else { break };
            match self.ordinary(&instruction) {
                Ok(Done::Jumped) => {
                    self.cpu.sti_before_hlt = None;
                    plain += 1;
                }
                Ok(Done::Unknown) if traps(&instruction) => {
                    self.cpu.sti_before_hlt = None;
                    match self.execute(&instruction) {
                        Ok(Done::Next) => self.regs.rip = instruction.next_ip(),
                        Ok(Done::Jumped) => {}
                        // The CPU comes to it once more, and that trap is dealt with in the usual way.
                        Ok(Done::Unknown) | Err(_) => break,
                    }
                    (plain, trapping) = (0, trapping + 1);
                    goes_on = self.asks == Asks::default() && self.may_go_on();
                }
                _ => break,
            }
        }
        self.known = None;
        trapping
    }

    /// Whether there is nothing else to be done first.
    fn may_go_on(&mut self) -> bool {
        self.bus.advance(self.bus.now_ns());
        let interrupted = self.regs.rflags & FLAG_IF != 0
            && self.cpu.sti_before_hlt != Some(self.regs.rip)
            && self.bus.interrupt_is_pending();
        let supervisor = self.cpu.cpl() == 0 && self.cpu.mode() == Mode::Bits64;
        supervisor && !interrupted && self.regs.rflags & FLAG_TF == 0
    }

    /// Whether the CPU could go on at RIP: what it would jump into is looked through before. `code` is the page of
    /// which that is known.
    fn is_ready(&mut self, code: &mut Option<u64>) -> bool {
        let wanted = Use { execute: true, ..Use::default() };
        let rip = self.regs.rip;
        let Some(to) = is_canonical(rip).then(|| self.translate(rip, wanted)).and_then(Result::ok) else {
            return false;
        };
        let page = to.gpa & !(PAGE_BYTES - 1);
        if *code != Some(page) {
            *code = self.cpu.scanned.contains(&page).then_some(page);
        }
        code.is_some()
    }
}

/// Instructions that are emulated, and come in clusters.
fn traps(i: &Instruction) -> bool {
    use Mnemonic as M;
    let to_control = i.op0_register().is_cr() || i.op1_register().is_cr();
    let selector = matches!(i.op1_register(), Register::CS | Register::SS);
    matches!(
        i.mnemonic(),
        M::Cli
            | M::Sti
            | M::Pushfq
            | M::Popfq
            | M::Clac
            | M::Stac
            | M::Swapgs
            | M::Clts
            | M::Iretq
            | M::Rdrand
            | M::Rdseed
            | M::Xgetbv
            | M::Cpuid
            | M::In
            | M::Out
            | M::Invlpg
            | M::Rdmsr
            | M::Wrmsr
            | M::Sysretq
    ) || i.mnemonic() == M::Mov && (selector || to_control)
}
