//! The frame that a handler runs on, and the way back from it.
//!
//! ```text
//!  stack pointer before ─ 128 (red zone), or the top of the alternate stack
//!    fpstate: as XSAVE writes it, with the words that say so, 64-byte aligned
//!    siginfo                                 frame + 312
//!    ucontext: flags link stack mcontext mask   frame + 8
//!  RSP at the handler ► address of the restorer  frame
//! ```
//!
//! # Sources
//!
//! Linux `arch/x86/kernel/signal_64.c`, `arch/x86/include/asm/sigframe.h`,
//! `arch/x86/include/uapi/asm/{ucontext,sigcontext}.h`; System V ABI, AMD64 supplement, 3.2.2.

use unifork_hal::{Exception, Fpu, SyscallFrame, User};

use crate::Kernel;
use crate::errno::{Errno, Outcome};
use crate::signal::action::{Action, SA_NODEFER, SA_ONSTACK, SA_RESETHAND, SA_RESTORER};
use crate::signal::mask::{disarms, is_on, set_stack};
use crate::signal::pending::Info;
use crate::signal::{NEVER_BLOCKED, bit};
use crate::user::{read_bytes, read_words};

const RED_ZONE: u64 = 128;
/// Words of `struct ucontext`: flags, link, stack, registers, mask.
const CONTEXT_WORDS: usize = 38;
const CONTEXT_BYTES: u64 = CONTEXT_WORDS as u64 * 8;
/// Bytes of restorer, context and siginfo.
const FRAME_BYTES: u64 = 8 + CONTEXT_BYTES + 128;
// Words of the context.
const STACK: usize = 2;
const REGISTERS: usize = 5;
const SEGMENTS: usize = REGISTERS + 18;
const TRAP: usize = SEGMENTS + 1;
const FPSTATE: usize = TRAP + 4;
const RESERVED: usize = FPSTATE + 1;
const MASK: usize = RESERVED + 8;
/// UC_FP_XSTATE, UC_SIGCONTEXT_SS, UC_STRICT_RESTORE_SS.
const CONTEXT_FLAGS: u64 = 7;
/// CS and SS as 64-bit programs have them on Linux; GS and FS are 0.
const SEGMENT_WORD: u64 = 0x2b << 48 | 0x33;
/// Flags that a handler does not begin with: DF, RF, TF, AC.
const CLEARED_FLAGS: u64 = 1 << 10 | 1 << 16 | 1 << 8 | 1 << 18;
/// Flags that a program may set: AC OF DF TF SF ZF AF PF CF, and RF.
const SETTABLE_FLAGS: u64 = 0x5_0dd5;
/// Where in the legacy area of the floating-point state the software's own words are.
const SOFTWARE_WORDS: usize = 464;
const MAGIC1: u32 = 0x4650_5853;
const MAGIC2: u32 = 0x4650_5845;
/// In the context's reserved words, where Linux keeps nothing: the call begins anew when the handler
/// returns here. The words behind it are the number of the call, and the address it returns to.
const RESTART: u64 = u64::from_le_bytes(*b"restart!");
/// Bytes of a frame's floating-point state at most, magic included.
const FPSTATE_MAX: usize = 2692;

/// The general registers in the order of `struct sigcontext`.
fn registers(frame: &mut SyscallFrame) -> [&mut u64; 18] {
    let f = frame;
    [
        &mut f.r8,
        &mut f.r9,
        &mut f.r10,
        &mut f.r11,
        &mut f.r12,
        &mut f.r13,
        &mut f.r14,
        &mut f.r15,
        &mut f.rdi,
        &mut f.rsi,
        &mut f.rbp,
        &mut f.rbx,
        &mut f.rdx,
        &mut f.rax,
        &mut f.rcx,
        &mut f.rsp,
        &mut f.rip,
        &mut f.rflags,
    ]
}

/// Makes the running thread begin the handler of a signal. What it goes on with afterwards is what
/// `frame` holds; a call that begins anew has its number in RAX and `restarts` set.
///
/// # Errors
///
/// `EFAULT`, with nothing changed, when the frame cannot be written.
pub(crate) fn push(
    k: &mut Kernel,
    info: &Info,
    action: Action,
    exception: Option<Exception>,
    restarts: bool,
    frame: &mut SyscallFrame,
) -> Result<(), Errno> {
    if action.flags & SA_RESTORER == 0 {
        return Err(Errno::EFAULT);
    }
    let me = k.sched.me();
    let stack = me.alternate_stack;
    let on_it = is_on(stack, frame.rsp);
    let top = if action.flags & SA_ONSTACK != 0 && stack[2] != 0 && !on_it {
        stack[0].wrapping_add(stack[2])
    } else {
        frame.rsp.wrapping_sub(RED_ZONE)
    };
    let fpu = Fpu::save();
    let state = fpu.bytes();
    let fpstate = top.wrapping_sub(state.len() as u64 + 4) & !63;
    // As behind a call: 8 below a multiple of 16.
    let at = (fpstate.wrapping_sub(FRAME_BYTES) & !15).wrapping_sub(8);
    let mut context = [0; CONTEXT_WORDS];
    context[0] = CONTEXT_FLAGS;
    context[STACK..STACK + 3].copy_from_slice(&stack);
    for (word, register) in context[REGISTERS..].iter_mut().zip(registers(frame)) {
        *word = *register;
    }
    context[SEGMENTS] = SEGMENT_WORD;
    if let Some(exception) = exception {
        context[TRAP] = exception.error_code;
        context[TRAP + 1] = exception.vector;
        context[TRAP + 3] = exception.address;
    }
    context[FPSTATE] = fpstate;
    if restarts {
        context[RESERVED..RESERVED + 3].copy_from_slice(&[RESTART, frame.rax, frame.rip]);
    }
    context[MASK] = me.blocked_before.unwrap_or(me.blocked);
    context[TRAP + 2] = context[MASK];
    write(at, fpstate, state, action.restorer, &context, &info.bytes())?;
    me.blocked_before = None;
    me.blocked |= action.mask;
    if action.flags & SA_NODEFER == 0 {
        me.blocked |= bit(info.signal);
    }
    me.blocked &= !NEVER_BLOCKED;
    if disarms(stack) {
        me.alternate_stack = [0, 2, 0];
    }
    if action.flags & SA_RESETHAND != 0 {
        k.signals.set_action(info.signal, Action { handler: 0, ..action });
    }
    Fpu::initial().load();
    frame.rdi = info.signal.into();
    frame.rsi = at + 8 + CONTEXT_BYTES;
    frame.rdx = at + 8;
    frame.rax = 0;
    frame.rsp = at;
    frame.rip = action.handler;
    frame.rflags &= !CLEARED_FLAGS;
    Ok(())
}

fn write(
    at: u64,
    fpstate: u64,
    state: &[u8],
    restorer: u64,
    context: &[u64; CONTEXT_WORDS],
    info: &[u8; 128],
) -> Result<(), Errno> {
    let user = User::writable(at, fpstate.wrapping_sub(at).wrapping_add(state.len() as u64 + 4))?;
    let from = fpstate - at;
    user.write(0, &restorer.to_le_bytes())?;
    for (i, word) in context.iter().enumerate() {
        user.write(8 + i as u64 * 8, &word.to_le_bytes())?;
    }
    user.write(8 + CONTEXT_BYTES, info)?;
    user.write(from, state)?;
    // struct _fpx_sw_bytes: magic, bytes with the second magic, components, bytes without it.
    let mut words = [0; 48];
    words[..4].copy_from_slice(&MAGIC1.to_le_bytes());
    words[4..8].copy_from_slice(&(state.len() as u32 + 4).to_le_bytes());
    words[8..16].copy_from_slice(&Fpu::components().to_le_bytes());
    words[16..20].copy_from_slice(&(state.len() as u32).to_le_bytes());
    user.write(from + SOFTWARE_WORDS as u64, &words)?;
    user.write(from + state.len() as u64, &MAGIC2.to_le_bytes())?;
    Ok(())
}

/// `rt_sigreturn`: the running thread goes on with what its frame says.
pub(crate) fn rt_sigreturn(k: &mut Kernel, frame: &mut SyscallFrame) -> Outcome {
    // The handler's `ret` has taken the restorer's address off.
    match restore(k, frame.rsp.wrapping_sub(8), frame) {
        Ok(false) => Err(Errno::AS_IS),
        Ok(true) => crate::syscall::dispatch(k, frame),
        // Linux raises SIGSEGV, which the handlers of such a program would not survive either.
        Err(_) => unifork_hal::signalled(super::SIGSEGV.cast_signed(), frame),
    }
}

/// Says whether a call begins anew.
fn restore(k: &mut Kernel, at: u64, frame: &mut SyscallFrame) -> Result<bool, Errno> {
    let context: [u64; CONTEXT_WORDS] = read_words(at.wrapping_add(8))?;
    let state = read_state(context[FPSTATE])?;
    let flags = frame.rflags;
    for (register, word) in registers(frame).into_iter().zip(&context[REGISTERS..]) {
        *register = *word;
    }
    frame.rflags = flags & !SETTABLE_FLAGS | frame.rflags & SETTABLE_FLAGS;
    if frame.rip >> 47 != 0 {
        return Err(Errno::EFAULT);
    }
    state.load();
    let me = k.sched.me();
    me.blocked = context[MASK] & !NEVER_BLOCKED;
    let rsp = frame.rsp;
    // What Linux ignores, too: a stack that cannot be.
    let _refused = set_stack(k, [context[STACK], context[STACK + 1], context[STACK + 2]], rsp);
    let restarts = context[RESERVED..RESERVED + 3] == [RESTART, frame.rax, frame.rip];
    Ok(restarts)
}

fn read_state(at: u64) -> Result<Fpu, Errno> {
    if at == 0 {
        return Ok(Fpu::initial());
    }
    let mut bytes = [0; FPSTATE_MAX];
    let legacy: [u8; 512] = read_bytes(at)?;
    bytes[..512].copy_from_slice(&legacy);
    let word = |at: usize| legacy[at..].first_chunk().map_or(0, |c| u32::from_le_bytes(*c));
    let size = word(SOFTWARE_WORDS + 16) as usize;
    if word(SOFTWARE_WORDS) != MAGIC1 || size != Fpu::initial().bytes().len() {
        // x87 and SSE alone.
        return Ok(Fpu::from_frame(&bytes[..512]));
    }
    User::readable(at, size as u64)?.read(512, &mut bytes[512..size])?;
    Ok(Fpu::from_frame(&bytes[..size]))
}
