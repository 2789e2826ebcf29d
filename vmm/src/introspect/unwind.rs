//! Walks the stack of a stopped guest.
//!
//! Each step goes from a function to its caller by the first of these that gives a believable answer:
//!
//! 1. a signal handler's frame, recognised by the code it returns to;
//! 2. call-frame information ([`cfi`]): exact;
//! 3. the function's own instructions up to where it stopped ([`code`]): musl's `libc.a` is built without
//!    call-frame information, and `abort` keeps buffers on its stack in which a scan finds the stale
//!    return addresses of whatever ran there before;
//! 4. the chain of saved `rbp` ([`guess`]);
//! 5. the nearest word on the stack that looks like a return address ([`guess`]).
//!
//! When the instruction pointer is in no image, the guest jumped there: the return address of the call
//! is on top of the stack, and 5 finds it.
//!
//! The walk ends because the stack pointer rises with every step but perhaps the first. Only a signal frame may lead to another
//! stack, and of those there are at most [`SIGNALS_MAX`].

mod cfi;
mod code;
mod guess;
mod signal;

use super::frame::{Frame, Method};
use super::memory::{ReadMemory, read_prefix};
use super::registers::Registers;
use super::symbols::Symbols;

pub(super) use cfi::CallFrames;

/// The largest number of frames, whatever is asked for.
const FRAMES_MAX: usize = 1 << 16;

/// How many signal handlers may be on the stack.
const SIGNALS_MAX: usize = 16;

/// How far above the stack pointer the next frame may be, unless call-frame information says so.
const FRAME_BYTES_MAX: u64 = 64 << 20;

/// Functions that nothing calls: `_start` is what an executable begins with, and the others are what a
/// thread begins with.
const OUTERMOST: [&str; 5] = ["_start", "__clone", "clone", "__clone3", "clone3"];

/// DWARF's numbers for two registers (System V ABI for x86-64, figure 3.36).
const RBP: usize = 6;
const RSP: usize = 7;

/// The frames of a stopped guest, innermost first, at most `max_frames` of them.
///
/// Functions that were inlined have frames of their own. There is at least one frame, unless `max_frames`
/// is 0: where the guest stopped.
pub fn unwind(
    registers: &Registers,
    memory: &dyn ReadMemory,
    symbols: &Symbols,
    max_frames: usize,
) -> Vec<Frame> {
    let max_frames = max_frames.min(FRAMES_MAX);
    let walk = Walk { memory, symbols };
    let mut cursor = Cursor::start(registers);
    let mut frames = Vec::new();
    let mut signals = 0;
    loop {
        walk.show(&cursor, &mut frames);
        if frames.len() >= max_frames {
            frames.truncate(max_frames);
            return frames;
        }
        let Some(caller) = walk.caller(&cursor) else { return frames };
        if caller.method == Method::Signal {
            signals += 1;
            if signals > SIGNALS_MAX {
                return frames;
            }
        }
        cursor = caller;
    }
}

/// A frame's registers, as far as they are known.
#[derive(Clone, Debug)]
struct Cursor {
    /// Where the frame is, or returns to.
    pc: u64,
    /// The general registers in DWARF's order; `None` for one whose value is lost.
    registers: [Option<u64>; 16],
    /// The stack pointer; `registers[RSP]` is the same.
    sp: u64,
    /// How this frame was found.
    method: Method,
    /// Whether the registers other than the stack pointer can be relied on. After a scan they are what
    /// some callee had in them.
    certain: bool,
}

impl Cursor {
    fn start(registers: &Registers) -> Self {
        let values = registers.in_dwarf_order().map(Some);
        Self { pc: registers.rip, registers: values, sp: registers.rsp, method: Method::Start, certain: true }
    }

    /// The same registers with another place and stack pointer.
    fn moved(&self, pc: u64, sp: u64, method: Method) -> Self {
        let mut next = Self { pc, sp, method, ..self.clone() };
        next.registers[RSP] = Some(sp);
        next
    }

    /// An address inside the instruction that the frame is at. A return address is that of the
    /// instruction behind the call, which may be another line, or another function.
    fn inside(&self) -> u64 {
        match self.method {
            Method::Start | Method::Signal => self.pc,
            _ => self.pc.wrapping_sub(1),
        }
    }
}

/// What every step needs.
#[derive(Clone, Copy)]
struct Walk<'a> {
    memory: &'a dyn ReadMemory,
    symbols: &'a Symbols,
}

impl Walk<'_> {
    /// The frame's caller.
    fn caller(self, cursor: &Cursor) -> Option<Cursor> {
        if let Some(interrupted) = signal::step(self, cursor) {
            return Some(interrupted);
        }
        let at = cursor.inside();
        if let Some(image) = self.symbols.image(at) {
            if self.symbols.function_name(at).is_some_and(|name| OUTERMOST.contains(&name)) {
                return None;
            }
            match cfi::step(self, image, cursor) {
                Some(cfi::Step::Outermost) => return None,
                Some(cfi::Step::Caller(caller)) if self.believes(cursor, &caller) => return Some(caller),
                _ => (),
            }
            for step in [code::step, guess::frame_pointer] {
                if let Some(caller) = step(self, cursor)
                    && self.believes(cursor, &caller)
                {
                    return Some(caller);
                }
            }
        }
        guess::scan(self, cursor)
    }

    /// Whether a caller that was worked out from possibly overwritten memory can be one.
    fn believes(self, cursor: &Cursor, caller: &Cursor) -> bool {
        let exact = caller.method == Method::Cfi && cursor.certain;
        // Only the innermost function may have taken its return address off the stack already.
        let rises =
            caller.sp > cursor.sp || (exact && cursor.method == Method::Start && caller.sp == cursor.sp);
        let near = caller.sp.wrapping_sub(cursor.sp) <= FRAME_BYTES_MAX;
        rises
            && self.symbols.is_code(caller.inside())
            && (exact || (near && guess::call_before(self, caller.pc).is_some()))
    }

    /// Adds the frame and those inlined into it.
    fn show(self, cursor: &Cursor, frames: &mut Vec<Frame>) {
        let frame = |method, place| Frame { address: cursor.pc, stack: cursor.sp, method, place };
        let mut places = self.symbols.places(cursor.inside());
        for place in &mut places {
            place.offset = place.offset.wrapping_add(cursor.pc.wrapping_sub(cursor.inside()));
        }
        let Some(last) = places.pop() else {
            frames.push(frame(cursor.method, None));
            return;
        };
        frames.extend(places.into_iter().map(|place| frame(Method::Inline, Some(place))));
        frames.push(frame(cursor.method, Some(last)));
    }

    /// Code bytes as they are in memory, or as the image has them where memory cannot be read.
    fn code(self, address: u64, length: usize) -> Vec<u8> {
        let bytes = read_prefix(self.memory, address, length);
        if bytes.is_empty() { self.symbols.code(address, length).to_vec() } else { bytes }
    }
}
