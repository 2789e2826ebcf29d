//! Steps by DWARF call-frame information (`.eh_frame` and `.debug_frame`).

use gimli::{
    BaseAddresses, CfaRule, DebugFrame, EhFrame, EndianSlice, EvaluationResult, LittleEndian, Location,
    Register, RegisterRule, UnwindContext, UnwindExpression, UnwindSection, Value,
};

use super::super::elf::Elf;
use super::super::memory::read_u64;
use super::super::symbols::Image;
use super::{Cursor, Method, RSP, Walk};

/// How many operations of a DWARF expression are carried out.
const OPERATIONS_MAX: u32 = 1000;

/// The most functions that are indexed per section: as many as a 4 GiB section of smallest entries has.
const FUNCTIONS_MAX: usize = 1 << 24;

type Bytes<'a> = EndianSlice<'a, LittleEndian>;

/// Where each function's call-frame information is.
pub(in super::super) struct CallFrames {
    // Invariant: sorted by start.
    entries: Vec<Entry>,
}

/// One function's entry.
#[derive(Clone, Copy)]
struct Entry {
    start: u64,
    end: u64,
    offset: usize,
    section: Kind,
}

/// Which of the two sections, in order of preference.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    EhFrame,
    DebugFrame,
}

impl CallFrames {
    /// Indexes both sections. The search table that linkers add is not used: it is one more thing that
    /// may be damaged, and absent from some images.
    pub(in super::super) fn parse(elf: &Elf) -> Self {
        let bases = bases(elf);
        let mut entries = Vec::new();
        if let Some((_, bytes)) = elf.section(".eh_frame") {
            index(&EhFrame::new(bytes, LittleEndian), &bases, Kind::EhFrame, elf, &mut entries);
        }
        if let Some((_, bytes)) = elf.section(".debug_frame") {
            index(&DebugFrame::new(bytes, LittleEndian), &bases, Kind::DebugFrame, elf, &mut entries);
        }
        entries.sort_by_key(|entry| (entry.start, entry.section));
        Self { entries }
    }

    fn find(&self, address: u64) -> Option<Entry> {
        let before = self.entries.partition_point(|entry| entry.start <= address);
        let start = self.entries.get(before.checked_sub(1)?)?.start;
        let first = self.entries.partition_point(|entry| entry.start < start);
        self.entries.get(first..before)?.iter().find(|entry| address < entry.end).copied()
    }
}

/// Adds the entries of one section, up to the first damaged one.
fn index<'a, S: UnwindSection<Bytes<'a>>>(
    section: &S,
    bases: &BaseAddresses,
    kind: Kind,
    elf: &Elf,
    found: &mut Vec<Entry>,
) where
    S::Offset: gimli::UnwindOffset<usize>,
{
    let mut entries = section.entries(bases);
    for _ in 0..FUNCTIONS_MAX {
        let Ok(Some(entry)) = entries.next() else { return };
        let gimli::CieOrFde::Fde(partial) = entry else { continue };
        let Ok(function) = partial.parse(S::cie_from_offset) else { continue };
        let start = function.initial_address();
        // Functions that the linker threw away are left behind with an address outside the code.
        if elf.is_text(start) {
            let end = function.end_address();
            found.push(Entry { start, end, offset: function.offset(), section: kind });
        }
    }
}

fn bases(elf: &Elf) -> BaseAddresses {
    let address = |name| elf.section(name).map_or(0, |(address, _)| address);
    BaseAddresses::default().set_eh_frame(address(".eh_frame")).set_text(address(".text"))
}

/// What call-frame information says about a frame.
#[expect(clippy::large_enum_variant, reason = "there is one at a time, on the stack")]
pub(super) enum Step {
    /// Its caller.
    Caller(Cursor),
    /// Nothing called it.
    Outermost,
}

/// The caller by call-frame information; `None` if there is none, or it is damaged, or it needs what
/// cannot be read.
pub(super) fn step(walk: Walk<'_>, image: &Image, cursor: &Cursor) -> Option<Step> {
    let address = image.linked(cursor.inside());
    let entry = image.call_frames().find(address)?;
    let bases = bases(image.elf());
    match entry.section {
        Kind::EhFrame => {
            let section = EhFrame::new(image.elf().section(".eh_frame")?.1, LittleEndian);
            Rules { walk, cursor, section, bases, offset: entry.offset.into() }.apply(address)
        }
        Kind::DebugFrame => {
            let section = DebugFrame::new(image.elf().section(".debug_frame")?.1, LittleEndian);
            Rules { walk, cursor, section, bases, offset: entry.offset.into() }.apply(address)
        }
    }
}

/// One function's rules, applied to one frame.
struct Rules<'a, S: UnwindSection<Bytes<'a>>> {
    walk: Walk<'a>,
    cursor: &'a Cursor,
    section: S,
    bases: BaseAddresses,
    offset: S::Offset,
}

impl<'a, S: UnwindSection<Bytes<'a>>> Rules<'a, S> {
    fn apply(&self, address: u64) -> Option<Step> {
        let function = self.section.fde_from_offset(&self.bases, self.offset, S::cie_from_offset).ok()?;
        let encoding = function.cie().encoding();
        let return_column = function.cie().return_address_register();
        let mut context = UnwindContext::new();
        let row = function.unwind_info_for_address(&self.section, &self.bases, &mut context, address).ok()?;
        let frame = match row.cfa() {
            CfaRule::RegisterAndOffset { register, offset } => {
                self.register(*register)?.wrapping_add_signed(*offset)
            }
            CfaRule::Expression(expression) => self.evaluate(expression, encoding, None)?,
        };

        let mut caller = self.cursor.moved(0, frame, Method::Cfi);
        for (register, rule) in row.registers() {
            let Some(slot) = caller.registers.get_mut(usize::from(register.0)) else { continue };
            *slot = self.value(rule, frame, *register, encoding);
        }
        caller.sp = caller.registers[RSP]?;
        caller.certain =
            self.cursor.certain || caller.registers[super::RBP] != self.cursor.registers[super::RBP];
        let return_rule = row.register(return_column);
        if return_rule == Some(RegisterRule::Undefined) {
            return Some(Step::Outermost);
        }
        caller.pc = self.value(&return_rule?, frame, return_column, encoding)?;
        Some(if caller.pc == 0 { Step::Outermost } else { Step::Caller(caller) })
    }

    /// The value that a rule gives a register in the caller.
    fn value(
        &self,
        rule: &RegisterRule<usize>,
        frame: u64,
        register: Register,
        encoding: gimli::Encoding,
    ) -> Option<u64> {
        let memory = self.walk.memory;
        match rule {
            RegisterRule::SameValue => self.register(register),
            RegisterRule::Offset(offset) => read_u64(memory, frame.wrapping_add_signed(*offset)),
            RegisterRule::ValOffset(offset) => Some(frame.wrapping_add_signed(*offset)),
            RegisterRule::Register(other) => self.register(*other),
            RegisterRule::Expression(expression) => {
                read_u64(memory, self.evaluate(expression, encoding, Some(frame))?)
            }
            RegisterRule::ValExpression(expression) => self.evaluate(expression, encoding, Some(frame)),
            RegisterRule::Constant(value) => Some(*value),
            RegisterRule::Undefined | RegisterRule::Architectural => None,
        }
    }

    fn register(&self, register: Register) -> Option<u64> {
        self.cursor.registers.get(usize::from(register.0)).copied().flatten()
    }

    /// Evaluates an expression; `first` is pushed before it begins.
    fn evaluate(
        &self,
        expression: &UnwindExpression<usize>,
        encoding: gimli::Encoding,
        first: Option<u64>,
    ) -> Option<u64> {
        let mut evaluation = expression.get(&self.section).ok()?.evaluation(encoding);
        evaluation.set_max_iterations(OPERATIONS_MAX);
        if let Some(first) = first {
            evaluation.set_initial_value(first);
        }
        let mut state = evaluation.evaluate().ok()?;
        loop {
            state = match state {
                EvaluationResult::Complete => break,
                EvaluationResult::RequiresRegister { register, .. } => {
                    evaluation.resume_with_register(Value::Generic(self.register(register)?)).ok()?
                }
                EvaluationResult::RequiresMemory { address, size, .. } => {
                    let mut bytes = [0; 8];
                    let wanted = bytes.get_mut(..usize::from(size))?;
                    if address.checked_add(8).is_none() || !self.walk.memory.read(address, wanted) {
                        return None;
                    }
                    evaluation.resume_with_memory(Value::Generic(u64::from_le_bytes(bytes))).ok()?
                }
                _ => return None,
            };
        }
        match evaluation.result().as_slice() {
            [piece] => match piece.location {
                Location::Address { address } => Some(address),
                Location::Value { value } => value.to_u64(u64::MAX).ok(),
                _ => None,
            },
            _ => None,
        }
    }
}
