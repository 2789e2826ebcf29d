//! The guest as the monitor's emulation sees it: registers, memory through its own page tables,
//! segments, and exceptions delivered through its own IDT.

use kvm_bindings::{kvm_regs, kvm_sregs};

use super::state::{CS, FS, GS, Mode, SS, Segment, Virtual};
use super::tables;
use super::walk::{CR0_PE, PageFault, Translation, Use};
use super::xstate::Xstate;
use crate::addr::{Gpa, PAGE_BYTES};
use crate::foreign::bus::Bus;
use crate::foreign::cpuid::Cpuid;
use crate::machine::has_error_code;
use crate::memory::GuestMemory;

/// An exception that the guest is to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub vector: u8,
    pub code: u32,
    /// For a #PF: which address.
    pub address: u64,
}

pub(crate) const UD: Fault = Fault { vector: 6, code: 0, address: 0 };
pub(crate) const GP: Fault = Fault { vector: 13, code: 0, address: 0 };

/// #GP about a selector.
pub(crate) fn gp(selector: u16) -> Fault {
    Fault { code: u32::from(selector & !3), ..GP }
}

/// Parts of RFLAGS.
pub(crate) const FLAG_CF: u64 = 1;
pub(crate) const FLAG_TF: u64 = 1 << 8;
pub(crate) const FLAG_IF: u64 = 1 << 9;
pub(crate) const FLAG_DF: u64 = 1 << 10;
pub(crate) const FLAG_AC: u64 = 1 << 18;
pub(crate) const FLAG_NT: u64 = 1 << 14;
const FLAG_RF: u64 = 1 << 16;
const FLAG_VM: u64 = 1 << 17;
/// What a guest may set: all but VM, VIF, VIP and what is reserved.
pub(crate) const FLAGS_SETTABLE: u64 = 0x0024_4fd5;

/// What the emulation of an instruction asks for, besides its own effects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asks {
    /// The CPU waits for an interrupt.
    pub halt: bool,
    /// Translations must be thrown away.
    pub flush: bool,
    /// And that of this address.
    pub flush_page: Option<u64>,
    /// Devices have been asked for something that others may have to see first.
    pub devices: bool,
    /// x87, SSE and AVX state is to be moved.
    pub xstate: Option<Xstate>,
}

impl Asks {
    pub(crate) fn wants_flush(&self) -> bool {
        self.flush || self.flush_page.is_some()
    }
}

/// The guest, stopped.
pub(crate) struct Guest<'a> {
    pub regs: &'a mut kvm_regs,
    pub sregs: &'a mut kvm_sregs,
    pub cpu: &'a mut Virtual,
    pub memory: &'a mut GuestMemory,
    pub bus: &'a mut Bus,
    pub cpuid: &'a Cpuid,
    pub asks: Asks,
    pub known: Option<Known>,
}

/// Translations that were made while the guest was gone on for, as a CPU would remember them.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pages: [(u64, Translation); KNOWN],
}

const KNOWN: usize = 64;

impl Default for Known {
    fn default() -> Self {
        let nowhere = Translation { gpa: 0, write: false, execute: false, page_bytes: 0 };
        Self { pages: [(u64::MAX, nowhere); KNOWN] }
    }
}

impl Guest<'_> {
    // Memory.

    /// Translates, or says which #PF that is.
    pub(crate) fn translate(&mut self, address: u64, wanted: Use) -> Result<Translation, Fault> {
        let kind = u64::from(wanted.write) | u64::from(wanted.execute) << 1 | u64::from(wanted.user) << 2;
        let (page, offset) = (address / PAGE_BYTES, address % PAGE_BYTES);
        let tag = page << 3 | kind;
        let slot = (page ^ kind << 4) as usize % KNOWN;
        if let Some((known, to)) = self.known.as_ref().map(|known| known.pages[slot])
            && known == tag
        {
            return Ok(Translation { gpa: to.gpa + offset, ..to });
        }
        let fault = |PageFault(code)| Fault { vector: 14, code, address };
        let to = self.cpu.paging.translate(self.memory, address, wanted).map_err(fault)?;
        if let Some(known) = &mut self.known {
            known.pages[slot] = (tag, Translation { gpa: to.gpa - offset, ..to });
        }
        Ok(to)
    }

    /// What the guest's current privilege makes of an access.
    pub(crate) fn as_now(&self, write: bool) -> Use {
        Use { write, execute: false, user: self.cpu.cpl() == 3 }
    }

    pub(crate) fn read_as(&mut self, address: u64, out: &mut [u8], wanted: Use) -> Result<(), Fault> {
        let mut done = 0;
        while done < out.len() {
            let at = self.wrap(address.wrapping_add(done as u64));
            let gpa = self.translate(at, wanted)?.gpa;
            let piece = ((PAGE_BYTES - gpa % PAGE_BYTES) as usize).min(out.len() - done);
            read_physical(self.memory, gpa, &mut out[done..done + piece]);
            done += piece;
        }
        Ok(())
    }

    pub(crate) fn write_as(&mut self, address: u64, bytes: &[u8], wanted: Use) -> Result<(), Fault> {
        // All of it or nothing: an access faults before it has an effect.
        let end = address.wrapping_add(bytes.len().max(1) as u64 - 1);
        let last = self.wrap(end);
        self.translate(last, wanted)?;
        let mut done = 0;
        while done < bytes.len() {
            let at = self.wrap(address.wrapping_add(done as u64));
            let gpa = self.translate(at, wanted)?.gpa;
            let piece = ((PAGE_BYTES - gpa % PAGE_BYTES) as usize).min(bytes.len() - done);
            write_physical(self.memory, gpa, &bytes[done..done + piece]);
            self.cpu.note_written(gpa, gpa + piece as u64);
            done += piece;
        }
        Ok(())
    }

    /// Linear addresses have 32 bits outside of long mode.
    fn wrap(&self, address: u64) -> u64 {
        if self.cpu.is_long() { address } else { address & 0xffff_ffff }
    }

    pub(crate) fn read(&mut self, address: u64, out: &mut [u8]) -> Result<(), Fault> {
        self.read_as(address, out, self.as_now(false))
    }

    pub(crate) fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), Fault> {
        self.write_as(address, bytes, self.as_now(true))
    }

    /// Reads a little-endian number of `size` bytes.
    pub(crate) fn read_number(&mut self, address: u64, size: usize) -> Result<u64, Fault> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes[..size])?;
        Ok(u64::from_le_bytes(bytes))
    }

    pub(crate) fn write_number(&mut self, address: u64, value: u64, size: usize) -> Result<(), Fault> {
        self.write(address, &value.to_le_bytes()[..size])
    }

    /// As the CPU itself looks at its tables: always as a supervisor.
    fn read_table(&mut self, address: u64) -> Result<u64, Fault> {
        let mut bytes = [0; 8];
        self.read_as(address, &mut bytes, Use::default())?;
        Ok(u64::from_le_bytes(bytes))
    }

    // The stack.

    fn stack_mask(&self) -> u64 {
        match self.cpu.mode() {
            Mode::Bits64 => u64::MAX,
            _ if self.cpu.segments[SS].is_big() => 0xffff_ffff,
            _ => 0xffff,
        }
    }

    fn stack_base(&self) -> u64 {
        if self.cpu.mode() == Mode::Bits64 { 0 } else { self.cpu.segments[SS].base }
    }

    /// Number `index` of `size` bytes, counted from the top of the stack, which stays.
    pub(crate) fn peek(&mut self, index: u64, size: usize) -> Result<u64, Fault> {
        let offset = self.regs.rsp.wrapping_add(index * size as u64) & self.stack_mask();
        self.read_number(self.stack_base().wrapping_add(offset), size)
    }

    /// Takes `bytes` bytes from the stack.
    pub(crate) fn drop_stack(&mut self, bytes: u64) {
        let mask = self.stack_mask();
        self.regs.rsp = self.regs.rsp & !mask | self.regs.rsp.wrapping_add(bytes) & mask;
    }

    pub(crate) fn push(&mut self, value: u64, size: usize) -> Result<(), Fault> {
        let mask = self.stack_mask();
        let rsp = self.regs.rsp.wrapping_sub(size as u64) & mask;
        self.write_number(self.stack_base().wrapping_add(rsp), value, size)?;
        self.regs.rsp = self.regs.rsp & !mask | rsp;
        Ok(())
    }

    // Segments.

    /// The base that an address in segment `index` is added to.
    pub(crate) fn base(&self, index: usize) -> u64 {
        match index {
            FS => self.sregs.fs.base,
            GS => self.sregs.gs.base,
            _ if self.cpu.mode() == Mode::Bits64 => 0,
            _ => self.cpu.segments[index].base,
        }
    }

    /// The descriptor of `selector`, with where it is.
    pub(crate) fn descriptor(&mut self, selector: u16) -> Result<(Segment, u64), Fault> {
        let offset = u64::from(selector & !7);
        let (base, limit) = if selector & 4 != 0 {
            (self.cpu.ldt.base, u64::from(self.cpu.ldt.limit))
        } else {
            (self.cpu.gdt.base, u64::from(self.cpu.gdt.limit))
        };
        if selector & !3 == 0 || offset + 7 > limit {
            return Err(gp(selector));
        }
        let at = base.wrapping_add(offset);
        let low = self.read_table(at)?;
        let system = low >> 44 & 1 == 0;
        let high = if system && self.cpu.is_long() { self.read_table(at.wrapping_add(8))? } else { 0 };
        Ok((Segment::of(selector, low, high & 0xffff_ffff), at))
    }

    /// Loads a data segment register.
    pub(crate) fn load_data(&mut self, index: usize, selector: u16) -> Result<(), Fault> {
        let segment = if tables::is_own_selector(selector) && self.descriptor(selector).is_err() {
            // What it read from the real register before.
            self.cpu.segments[index]
        } else if !self.is_protected() {
            let segment = self.cpu.segments[index];
            Segment { selector, base: u64::from(selector) << 4, ..segment }
        } else if selector & !3 == 0 {
            let cpl = self.cpu.cpl();
            let may = index != SS || self.cpu.mode() == Mode::Bits64 && cpl != 3 && selector & 3 == cpl;
            if !may {
                return Err(gp(selector));
            }
            Segment { selector, ..Segment::default() }
        } else {
            let (segment, _) = self.descriptor(selector)?;
            let (cpl, rpl) = (self.cpu.cpl(), selector & 3);
            let fits = if index == SS {
                rpl == cpl && segment.dpl() == cpl && segment.is_writable()
            } else {
                segment.is_readable() && (segment.is_conforming() || segment.dpl() >= cpl.max(rpl))
            };
            if segment.is_system() || !fits {
                return Err(gp(selector));
            }
            if !segment.is_present() {
                // #SS or #NP.
                return Err(Fault { vector: if index == SS { 12 } else { 11 }, ..gp(selector) });
            }
            segment
        };
        self.cpu.segments[index] = segment;
        match index {
            FS => self.sregs.fs.base = segment.base,
            GS => self.sregs.gs.base = segment.base,
            _ => {}
        }
        Ok(())
    }

    pub(crate) fn is_protected(&self) -> bool {
        self.cpu.paging.cr0 & CR0_PE != 0
    }

    /// Goes to `selector:rip`: by a return at the privilege that `selector` says, else at its own.
    pub(crate) fn far_jump(&mut self, selector: u16, rip: u64, returns: bool) -> Result<(), Fault> {
        if !self.is_protected() {
            let cs = self.cpu.segments[CS];
            self.cpu.segments[CS] = Segment { selector, base: u64::from(selector) << 4, ..cs };
            self.regs.rip = rip & 0xffff;
            return Ok(());
        }
        if !(tables::is_own_selector(selector) && self.descriptor(selector).is_err()) {
            let (segment, _) = self.descriptor(selector)?;
            let (cpl, rpl, dpl) = (self.cpu.cpl(), selector & 3, segment.dpl());
            let fits = match (returns, segment.is_conforming()) {
                (true, true) => rpl >= cpl && dpl <= rpl,
                (true, false) => rpl >= cpl && dpl == rpl,
                (false, true) => dpl <= cpl,
                (false, false) => rpl <= cpl && dpl == cpl,
            };
            let confused = self.cpu.is_long() && segment.is_long() && segment.is_big();
            if !segment.is_code() || !fits || confused {
                return Err(gp(selector));
            }
            if !segment.is_present() {
                return Err(Fault { vector: 11, ..gp(selector) });
            }
            let selector = if returns { selector } else { selector & !3 | cpl };
            self.cpu.segments[CS] = Segment { selector, ..segment };
        }
        self.regs.rip = match self.cpu.mode() {
            Mode::Bits64 => rip,
            Mode::Bits32 => rip & 0xffff_ffff,
            Mode::Bits16 => rip & 0xffff,
        };
        Ok(())
    }

    // Exceptions and interrupts.

    /// Enters the guest's handler for `vector`.
    ///
    /// # Errors
    ///
    /// The fault that this meets.
    pub(crate) fn deliver(&mut self, vector: u8, code: u32) -> Result<(), Fault> {
        self.enter_gate(vector, has_error_code(vector).then_some(code), false)
    }

    /// Enters the handler for an interrupt, or for `int N` if `software`.
    pub(crate) fn interrupt(&mut self, vector: u8, software: bool) -> Result<(), Fault> {
        self.enter_gate(vector, None, software)
    }

    fn enter_gate(&mut self, vector: u8, code: Option<u32>, software: bool) -> Result<(), Fault> {
        if !self.is_protected() {
            return Err(GP);
        }
        let long = self.cpu.is_long();
        let bad = Fault { code: u32::from(vector) << 3 | 2, ..GP };
        let entry_bytes: u64 = if long { 16 } else { 8 };
        let offset = u64::from(vector) * entry_bytes;
        if offset + entry_bytes - 1 > u64::from(self.cpu.idt.limit) {
            return Err(bad);
        }
        let at = self.cpu.idt.base.wrapping_add(offset);
        let low = self.read_table(at)?;
        let high = if long { self.read_table(at.wrapping_add(8))? } else { 0 };
        let kind = low >> 40 & 0x1f;
        let is_trap = kind & 1 != 0;
        if !(kind == 14 || kind == 15) || software && (low >> 45 & 3) < u64::from(self.cpu.cpl()) {
            return Err(bad);
        }
        if low >> 47 & 1 == 0 {
            return Err(Fault { vector: 11, ..bad });
        }
        let target = low & 0xffff | low >> 32 & 0xffff_0000 | high << 32;
        let selector = (low >> 16) as u16;
        let (code_segment, _) = self.descriptor(selector)?;
        if !code_segment.is_code() || long && !code_segment.is_long() || code_segment.dpl() > self.cpu.cpl() {
            return Err(gp(selector));
        }
        if !code_segment.is_present() {
            return Err(Fault { vector: 11, ..gp(selector) });
        }
        let new_cpl = if code_segment.is_conforming() { self.cpu.cpl() } else { code_segment.dpl() };
        let inner = new_cpl < self.cpu.cpl();
        let old = (self.cpu.segments[SS].selector, self.regs.rsp, self.cpu.segments[CS].selector);
        let flags = self.cpu.flags(self.regs.rflags);
        let supervisor = Use { write: true, ..Use::default() };
        let size: u64 = if long { 8 } else { 4 };
        let ist = if long { low >> 32 & 7 } else { 0 };
        let mut new_ss = self.cpu.segments[SS];
        let mut rsp = if ist != 0 {
            let at = self.cpu.task.base.wrapping_add(36 + 8 * (ist - 1));
            self.read_table(at)?
        } else if inner && long {
            new_ss = Segment { selector: new_cpl, ..Segment::default() };
            let at = self.cpu.task.base.wrapping_add(4 + 8 * u64::from(new_cpl));
            self.read_table(at)?
        } else if inner {
            let pair = self.read_table(self.cpu.task.base.wrapping_add(4 + 8 * u64::from(new_cpl)))?;
            (new_ss, _) = self.descriptor((pair >> 32) as u16)?;
            pair & 0xffff_ffff
        } else {
            self.regs.rsp
        };
        if long {
            rsp &= !15;
        }
        let base = if long { 0 } else { new_ss.base };
        let mut frame = Vec::with_capacity(6);
        if long || inner {
            frame.extend([u64::from(old.0), old.1]);
        }
        frame.extend([flags, u64::from(old.2), self.regs.rip]);
        frame.extend(code.map(u64::from));
        let mut bytes = Vec::with_capacity(48);
        for word in frame.iter().rev() {
            bytes.extend_from_slice(&word.to_le_bytes()[..size as usize]);
        }
        rsp = rsp.wrapping_sub(bytes.len() as u64);
        self.write_as(base.wrapping_add(rsp), &bytes, supervisor)?;
        if inner {
            self.cpu.segments[SS] = new_ss;
        }
        self.cpu.segments[CS] = Segment { selector: selector & !3 | new_cpl, ..code_segment };
        self.regs.rsp = rsp;
        self.regs.rip = target;
        let cleared = FLAG_TF | FLAG_NT | FLAG_RF | FLAG_VM | if is_trap { 0 } else { FLAG_IF };
        self.regs.rflags &= !cleared;
        Ok(())
    }
}

/// Reads RAM; all ones where there is none.
pub(crate) fn read_physical(memory: &GuestMemory, gpa: u64, out: &mut [u8]) {
    let inside = gpa.checked_add(out.len() as u64).is_some_and(|end| end <= memory.len());
    if !inside || memory.read(Gpa(gpa), out).is_err() {
        out.fill(0xff);
    }
}

/// Writes RAM; where there is none, nothing happens.
pub(crate) fn write_physical(memory: &mut GuestMemory, gpa: u64, bytes: &[u8]) {
    if gpa.checked_add(bytes.len() as u64).is_some_and(|end| end <= memory.len()) {
        // In bounds, as just checked.
        let _in_bounds = memory.write(Gpa(gpa), bytes);
    }
}
