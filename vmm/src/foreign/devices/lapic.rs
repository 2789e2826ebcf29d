//! The CPU's local APIC, reached by memory at [`BASE`] (xAPIC) or by MSRs (x2APIC).
//!
//! There is one CPU, whose id is 0. The timer counts nanoseconds, divided as the guest says. There is no
//! TSC-deadline mode: the time stamp counter is the host's, and would make a run depend on it.
//!
//! After boot it is as firmware leaves it: on, with the 8259s wired through LINT0.
//!
//! Source: Intel SDM volume 3, "Advanced Programmable Interrupt Controller".

use serde::{Deserialize, Serialize};

/// Where its registers are in memory.
pub(crate) const BASE: u64 = 0xfee0_0000;
/// `IA32_APIC_BASE`.
pub(crate) const MSR_BASE: u32 = 0x1b;
/// The first of the MSRs that are its registers.
pub(crate) const MSR_FIRST: u32 = 0x800;
/// The last.
pub(crate) const MSR_LAST: u32 = 0x83f;

const BASE_BOOT_CPU: u64 = 1 << 8;
const BASE_X2APIC: u64 = 1 << 10;
const BASE_ENABLE: u64 = 1 << 11;

// Registers, as x2APIC numbers them; in memory each takes 16 bytes.
const ID: u32 = 0x02;
const VERSION: u32 = 0x03;
const TASK_PRIORITY: u32 = 0x08;
const PROCESSOR_PRIORITY: u32 = 0x0a;
const END: u32 = 0x0b;
const LOGICAL_DESTINATION: u32 = 0x0d;
const DESTINATION_FORMAT: u32 = 0x0e;
const SPURIOUS: u32 = 0x0f;
const IN_SERVICE: u32 = 0x10;
const LEVEL: u32 = 0x18;
const REQUESTED: u32 = 0x20;
const ERROR_STATUS: u32 = 0x28;
const COMMAND: u32 = 0x30;
const COMMAND_HIGH: u32 = 0x31;
const LOCAL_TIMER: u32 = 0x32;
const LOCAL_ERROR: u32 = 0x37;
const INITIAL_COUNT: u32 = 0x38;
const CURRENT_COUNT: u32 = 0x39;
const DIVIDE: u32 = 0x3e;
const SELF_INTERRUPT: u32 = 0x3f;

/// Indices of [`LocalApic::local`], which begins with the timer.
const TIMER: usize = 0;
const LINT0: usize = 3;
const LINT1: usize = 4;
const LOCALS: usize = 6;
/// Bits of each local vector that can be written.
const LOCAL_MASKS: [u32; LOCALS] =
    [0x0003_00ff, 0x0001_07ff, 0x0001_07ff, 0x0001_a7ff, 0x0001_a7ff, 0x0001_00ff];
const MASKED: u32 = 1 << 16;
const PERIODIC: u32 = 1 << 17;
const DELIVERY: u32 = 7 << 8;
const DELIVERY_NMI: u32 = 4 << 8;
const DELIVERY_EXTERNAL: u32 = 7 << 8;
const SOFTWARE_ENABLE: u32 = 1 << 8;
/// Version 0x14 with six local vectors.
const VERSION_VALUE: u32 = 0x0005_0014;
const ERROR_ILLEGAL_VECTOR: u32 = 1 << 6;

/// An access that raises #GP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused;

/// A bit for each vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Vectors([u32; 8]);

impl Vectors {
    fn set(&mut self, vector: u8, on: bool) {
        let bit = 1 << (vector & 31);
        let word = &mut self.0[usize::from(vector >> 5)];
        *word = *word & !bit | if on { bit } else { 0 };
    }

    fn has(&self, vector: u8) -> bool {
        self.0[usize::from(vector >> 5)] >> (vector & 31) & 1 != 0
    }

    fn highest(&self) -> Option<u8> {
        let word = self.0.iter().rposition(|&word| word != 0)?;
        Some((word * 32) as u8 + 31 - self.0[word].leading_zeros() as u8)
    }
}

/// The local APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LocalApic {
    base: u64,
    id: u32,
    task_priority: u32,
    logical_destination: u32,
    destination_format: u32,
    spurious: u32,
    in_service: Vectors,
    level: Vectors,
    requested: Vectors,
    errors: u32,
    errors_shown: u32,
    command: u64,
    local: [u32; LOCALS],
    divide: u32,
    initial_count: u32,
    /// When the count began.
    started_ns: u64,
    /// How often it has come to its end since then.
    raised: u64,
}

impl LocalApic {
    pub(crate) fn new() -> Self {
        let mut local = [MASKED; LOCALS];
        local[LINT0] = DELIVERY_EXTERNAL;
        local[LINT1] = DELIVERY_NMI;
        Self {
            base: BASE | BASE_ENABLE | BASE_BOOT_CPU,
            id: 0,
            task_priority: 0,
            logical_destination: 0,
            destination_format: u32::MAX,
            spurious: SOFTWARE_ENABLE | 0xff,
            in_service: Vectors::default(),
            level: Vectors::default(),
            requested: Vectors::default(),
            errors: 0,
            errors_shown: 0,
            command: 0,
            local,
            divide: 0,
            initial_count: 0,
            started_ns: 0,
            raised: 0,
        }
    }

    fn is_x2apic(&self) -> bool {
        self.base & BASE_X2APIC != 0
    }

    fn is_on(&self) -> bool {
        self.base & BASE_ENABLE != 0
    }

    /// Whether its registers are in memory now.
    pub(crate) fn is_in_memory(&self) -> bool {
        self.is_on() && !self.is_x2apic()
    }

    // MSRs.

    /// Reads [`MSR_BASE`], or one of its registers.
    pub(crate) fn read_msr(&self, msr: u32, now: u64) -> Result<u64, Refused> {
        if msr == MSR_BASE {
            return Ok(self.base);
        }
        let register = self.of_msr(msr)?;
        match register {
            COMMAND => Ok(self.command),
            LOGICAL_DESTINATION => Ok(u64::from(self.x2apic_logical())),
            END | SELF_INTERRUPT | COMMAND_HIGH | DESTINATION_FORMAT => Err(Refused),
            _ => self.read(register, now).map(u64::from).ok_or(Refused),
        }
    }

    /// Writes one.
    pub(crate) fn write_msr(&mut self, msr: u32, value: u64, now: u64) -> Result<(), Refused> {
        if msr == MSR_BASE {
            return self.set_base(value);
        }
        let register = self.of_msr(msr)?;
        match register {
            COMMAND => self.send(value),
            SELF_INTERRUPT => self.request(value as u8, false),
            // What is not written as zero is refused.
            END | ERROR_STATUS if value != 0 => return Err(Refused),
            ID | VERSION | PROCESSOR_PRIORITY | LOGICAL_DESTINATION | DESTINATION_FORMAT => {
                return Err(Refused);
            }
            COMMAND_HIGH | CURRENT_COUNT | IN_SERVICE..ERROR_STATUS => return Err(Refused),
            _ if value >> 32 != 0 => return Err(Refused),
            _ if self.read(register, now).is_none() && register != END => return Err(Refused),
            _ => self.write(register, value as u32, now),
        }
        Ok(())
    }

    fn of_msr(&self, msr: u32) -> Result<u32, Refused> {
        if self.is_x2apic() { msr.checked_sub(MSR_FIRST).ok_or(Refused) } else { Err(Refused) }
    }

    fn x2apic_logical(&self) -> u32 {
        (self.id >> 4) << 16 | 1 << (self.id & 15)
    }

    fn set_base(&mut self, value: u64) -> Result<(), Refused> {
        let mode = |base: u64| (base & BASE_ENABLE != 0, base & BASE_X2APIC != 0);
        let legal = match (mode(self.base), mode(value)) {
            (_, (false, true)) => false,
            // From x2APIC only off, and from off only to xAPIC.
            ((true, true), (true, false)) | ((false, _), (true, true)) => false,
            _ => true,
        };
        // It does not move.
        if !legal || value & !0xfff != BASE || value & 0x2ff != 0 {
            return Err(Refused);
        }
        if !mode(value).0 {
            *self = Self { base: self.base, ..Self::new() };
        }
        self.base = value | BASE_BOOT_CPU;
        Ok(())
    }

    // Memory.

    /// Reads the aligned 32 bits at `offset` from [`BASE`].
    pub(crate) fn read_memory(&self, offset: u64, now: u64) -> u32 {
        match (offset >> 4) as u32 {
            _ if offset & 15 != 0 => 0,
            ID => self.id << 24,
            COMMAND => self.command as u32,
            COMMAND_HIGH => (self.command >> 32) as u32,
            register => self.read(register, now).unwrap_or(0),
        }
    }

    /// Writes them.
    pub(crate) fn write_memory(&mut self, offset: u64, value: u32, now: u64) {
        match (offset >> 4) as u32 {
            _ if offset & 15 != 0 => {}
            ID => self.id = value >> 24,
            COMMAND => self.send(self.command & !0xffff_ffff | u64::from(value)),
            COMMAND_HIGH => self.command = self.command & 0xffff_ffff | u64::from(value) << 32,
            register => self.write(register, value, now),
        }
    }

    // Registers.

    fn read(&self, register: u32, now: u64) -> Option<u32> {
        let word = |vectors: &Vectors, first: u32| vectors.0[(register - first) as usize];
        Some(match register {
            ID => self.id,
            VERSION => VERSION_VALUE,
            TASK_PRIORITY => self.task_priority,
            PROCESSOR_PRIORITY => u32::from(self.priority()),
            LOGICAL_DESTINATION => self.logical_destination,
            DESTINATION_FORMAT => self.destination_format,
            SPURIOUS => self.spurious,
            IN_SERVICE..LEVEL => word(&self.in_service, IN_SERVICE),
            LEVEL..REQUESTED => word(&self.level, LEVEL),
            REQUESTED..ERROR_STATUS => word(&self.requested, REQUESTED),
            ERROR_STATUS => self.errors_shown,
            LOCAL_TIMER..=LOCAL_ERROR => self.local[(register - LOCAL_TIMER) as usize],
            INITIAL_COUNT => self.initial_count,
            CURRENT_COUNT => self.current_count(now),
            DIVIDE => self.divide,
            _ => return None,
        })
    }

    fn write(&mut self, register: u32, value: u32, now: u64) {
        match register {
            TASK_PRIORITY => self.task_priority = value & 0xff,
            END => self.end(),
            LOGICAL_DESTINATION => self.logical_destination = value & 0xff00_0000,
            DESTINATION_FORMAT => self.destination_format = value | 0x0fff_ffff,
            SPURIOUS => {
                self.spurious = value & 0x3ff;
                if value & SOFTWARE_ENABLE == 0 {
                    for local in &mut self.local {
                        *local |= MASKED;
                    }
                }
            }
            ERROR_STATUS => self.errors_shown = std::mem::take(&mut self.errors),
            LOCAL_TIMER..=LOCAL_ERROR => {
                let index = (register - LOCAL_TIMER) as usize;
                let off = if self.spurious & SOFTWARE_ENABLE == 0 { MASKED } else { 0 };
                self.local[index] = value & LOCAL_MASKS[index] | off;
            }
            INITIAL_COUNT => {
                self.initial_count = value;
                (self.started_ns, self.raised) = (now, 0);
            }
            DIVIDE => {
                // What is left of the count goes on at the new speed.
                let left = self.current_count(now);
                self.divide = value & 0xb;
                let gone = u64::from(self.initial_count - left.min(self.initial_count));
                self.started_ns = now.saturating_sub(gone * self.divisor());
                self.raised = self.raised.min(1);
            }
            _ => {}
        }
    }

    // Interrupts.

    /// Asks for interrupt `vector`, by an edge or by a level.
    pub(crate) fn request(&mut self, vector: u8, level: bool) {
        if vector < 16 {
            self.errors |= ERROR_ILLEGAL_VECTOR;
        } else if self.is_on() {
            self.requested.set(vector, true);
            self.level.set(vector, level);
        }
    }

    /// Whether an interrupt for `destination` is for this CPU.
    pub(crate) fn is_meant(&self, destination: u8, logical: bool) -> bool {
        if !logical || destination == 0xff {
            return destination == 0xff || u32::from(destination) == self.id;
        }
        let own = (self.logical_destination >> 24) as u8;
        if self.is_x2apic() {
            return self.x2apic_logical() & u32::from(destination) != 0;
        }
        match self.destination_format >> 28 {
            // Clusters of four.
            0 => own >> 4 == destination >> 4 && own & destination & 15 != 0,
            _ => own & destination != 0,
        }
    }

    fn send(&mut self, command: u64) {
        // It is sent at once: the status bit reads as idle.
        self.command = command & !(1 << 12);
        let wide = self.is_x2apic();
        let destination = (command >> 32) as u32;
        let meant = match command >> 18 & 3 {
            1 | 2 => true,
            0 if wide && command >> 11 & 1 != 0 => destination & self.x2apic_logical() != 0,
            0 if wide => destination == self.id || destination == u32::MAX,
            0 => self.is_meant((destination >> 24) as u8, command >> 11 & 1 != 0),
            _ => false,
        };
        // Fixed or lowest priority; a machine with one CPU starts no others.
        if meant && command >> 8 & 7 <= 1 {
            self.request(command as u8, false);
        }
    }

    fn end(&mut self) {
        if let Some(vector) = self.in_service.highest() {
            self.in_service.set(vector, false);
        }
    }

    /// The vector whose end the guest is about to say, if that is of a level.
    pub(crate) fn level_in_service(&self) -> Option<u8> {
        self.in_service.highest().filter(|&vector| self.level.has(vector))
    }

    /// Interrupts of this class and below wait.
    fn priority(&self) -> u8 {
        let task = self.task_priority as u8;
        let served = self.in_service.highest().unwrap_or(0) & 0xf0;
        if task & 0xf0 >= served { task } else { served }
    }

    /// CR8.
    pub(crate) fn task_class(&self) -> u64 {
        u64::from(self.task_priority >> 4)
    }

    /// Writes CR8.
    pub(crate) fn set_task_class(&mut self, class: u64) {
        self.task_priority = ((class & 15) as u32) << 4;
    }

    /// The vector of its own that the CPU is to take next.
    pub(crate) fn pending(&self) -> Option<u8> {
        if !self.is_on() || self.spurious & SOFTWARE_ENABLE == 0 {
            return None;
        }
        self.requested.highest().filter(|&vector| vector & 0xf0 > self.priority() & 0xf0)
    }

    /// Hands the CPU that vector.
    pub(crate) fn acknowledge(&mut self) -> Option<u8> {
        let vector = self.pending()?;
        self.requested.set(vector, false);
        self.in_service.set(vector, true);
        Some(vector)
    }

    /// Whether what the 8259s ask for reaches the CPU.
    pub(crate) fn passes_external(&self) -> bool {
        !self.is_on() || self.local[LINT0] & (MASKED | DELIVERY) == DELIVERY_EXTERNAL
    }

    // The timer.

    fn divisor(&self) -> u64 {
        match self.divide & 3 | self.divide >> 1 & 4 {
            7 => 1,
            power => 2 << power,
        }
    }

    fn is_periodic(&self) -> bool {
        self.local[TIMER] & PERIODIC != 0
    }

    fn elapsed(&self, now: u64) -> u64 {
        now.saturating_sub(self.started_ns) / self.divisor()
    }

    fn current_count(&self, now: u64) -> u32 {
        let initial = u64::from(self.initial_count);
        if initial == 0 {
            return 0;
        }
        let elapsed = self.elapsed(now);
        let left =
            if self.is_periodic() { initial - elapsed % initial } else { initial.saturating_sub(elapsed) };
        left as u32
    }

    /// Raises what the timer has come to by `now`.
    pub(crate) fn advance(&mut self, now: u64) {
        if self.initial_count == 0 {
            return;
        }
        let ends = self.elapsed(now) / u64::from(self.initial_count);
        let ends = if self.is_periodic() { ends } else { ends.min(1) };
        if ends > self.raised {
            self.raised = ends;
            if self.local[TIMER] & MASKED == 0 {
                self.request(self.local[TIMER] as u8, false);
            }
        }
    }

    /// When the timer will interrupt.
    pub(crate) fn next_due(&self) -> Option<u64> {
        let over = !self.is_periodic() && self.raised > 0;
        if self.initial_count == 0 || over || !self.is_on() || self.local[TIMER] & MASKED != 0 {
            return None;
        }
        let count = self.raised.saturating_add(1).saturating_mul(self.initial_count.into());
        Some(self.started_ns.saturating_add(count.saturating_mul(self.divisor())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_memory(register: u32) -> u64 {
        u64::from(register) << 4
    }

    #[test]
    fn the_most_urgent_interrupt_comes_first_and_others_wait_for_its_end() {
        let mut apic = LocalApic::new();
        apic.request(0x41, false);
        apic.request(0x52, false);
        apic.request(0x53, true);
        assert_eq!(apic.acknowledge(), Some(0x53));
        assert_eq!(apic.acknowledge(), None, "the same class");
        apic.request(0x61, false);
        assert_eq!(apic.acknowledge(), Some(0x61), "a higher one");
        assert_eq!(apic.level_in_service(), None);
        apic.write_memory(in_memory(END), 0, 0);
        assert_eq!(apic.level_in_service(), Some(0x53));
        apic.write_memory(in_memory(END), 0, 0);
        apic.set_task_class(5);
        assert_eq!(apic.acknowledge(), None);
        assert_eq!(apic.read_memory(in_memory(TASK_PRIORITY), 0), 0x50);
        apic.write_memory(in_memory(TASK_PRIORITY), 0x4f, 0);
        assert_eq!(apic.acknowledge(), Some(0x52));
    }

    #[test]
    fn a_one_shot_timer_interrupts_once_and_a_periodic_one_again() {
        let mut apic = LocalApic::new();
        apic.write_memory(in_memory(DIVIDE), 2, 0); // by 8
        apic.write_memory(in_memory(LOCAL_TIMER), 0x40, 0);
        apic.write_memory(in_memory(INITIAL_COUNT), 1000, 500);
        assert_eq!(apic.next_due(), Some(8500));
        assert_eq!(apic.read_memory(in_memory(CURRENT_COUNT), 4500), 500);
        apic.advance(8499);
        assert_eq!(apic.pending(), None);
        apic.advance(8500);
        assert_eq!((apic.acknowledge(), apic.next_due()), (Some(0x40), None));
        assert_eq!(apic.read_memory(in_memory(CURRENT_COUNT), 9000), 0);
        apic.write_memory(in_memory(END), 0, 0);
        apic.advance(100_000);
        assert_eq!(apic.pending(), None);
        apic.write_memory(in_memory(LOCAL_TIMER), PERIODIC | 0x40, 0);
        apic.write_memory(in_memory(INITIAL_COUNT), 1000, 100_000);
        for due in [108_000, 116_000] {
            assert_eq!(apic.next_due(), Some(due));
            apic.advance(due);
            assert_eq!(apic.acknowledge(), Some(0x40));
            apic.write_memory(in_memory(END), 0, 0);
        }
        apic.write_memory(in_memory(LOCAL_TIMER), PERIODIC | MASKED | 0x40, 0);
        apic.advance(200_000);
        assert_eq!((apic.pending(), apic.next_due()), (None, None));
    }

    #[test]
    fn msrs_are_its_registers_once_that_is_switched_on() {
        let mut apic = LocalApic::new();
        assert_eq!(apic.read_msr(MSR_FIRST + ID, 0), Err(Refused));
        let base = apic.read_msr(MSR_BASE, 0).unwrap();
        assert_eq!(base, 0xfee0_0900);
        assert_eq!(apic.write_msr(MSR_BASE, base | BASE_X2APIC, 0), Ok(()));
        assert!(!apic.is_in_memory());
        assert_eq!(apic.read_msr(MSR_FIRST + LOGICAL_DESTINATION, 0), Ok(1));
        assert_eq!(apic.write_msr(MSR_FIRST + SELF_INTERRUPT, 0x77, 0), Ok(()));
        assert_eq!(apic.acknowledge(), Some(0x77));
        assert_eq!(apic.write_msr(MSR_FIRST + END, 1, 0), Err(Refused));
        assert_eq!(apic.write_msr(MSR_FIRST + END, 0, 0), Ok(()));
        // Fixed, physical, to CPU 0, and to one that is not there.
        assert_eq!(apic.write_msr(MSR_FIRST + COMMAND, 0x4055, 0), Ok(()));
        assert_eq!(apic.write_msr(MSR_FIRST + COMMAND, 1 << 32 | 0x4066, 0), Ok(()));
        assert_eq!((apic.acknowledge(), apic.acknowledge()), (Some(0x55), None));
        assert_eq!(apic.write_msr(MSR_BASE, base, 0), Err(Refused), "not back to xAPIC");
        assert_eq!(apic.write_msr(MSR_BASE, base & !BASE_ENABLE, 0), Ok(()));
        assert_eq!(apic.read_msr(MSR_FIRST + ID, 0), Err(Refused));
        assert!(apic.passes_external());
    }

    #[test]
    fn the_8259s_reach_the_cpu_until_the_guest_masks_them() {
        let mut apic = LocalApic::new();
        assert!(apic.passes_external());
        apic.write_memory(in_memory(LOCAL_TIMER + 3), MASKED, 0);
        assert!(!apic.passes_external());
        apic.write_memory(in_memory(LOCAL_TIMER + 3), DELIVERY_EXTERNAL, 0);
        assert!(apic.passes_external());
        apic.write_memory(in_memory(SPURIOUS), 0xff, 0);
        assert!(!apic.passes_external(), "what is switched off masks all");
    }

    #[test]
    fn destinations_are_matched_as_the_guest_set_them_up() {
        let mut apic = LocalApic::new();
        assert!(apic.is_meant(0, false) && apic.is_meant(0xff, false) && !apic.is_meant(1, false));
        apic.write_memory(in_memory(LOGICAL_DESTINATION), 0x0200_0000, 0);
        assert!(apic.is_meant(3, true) && !apic.is_meant(1, true), "flat");
        apic.write_memory(in_memory(DESTINATION_FORMAT), 0, 0);
        apic.write_memory(in_memory(LOGICAL_DESTINATION), 0x2100_0000, 0);
        assert!(apic.is_meant(0x23, true) && !apic.is_meant(0x13, true), "clusters");
    }
}
