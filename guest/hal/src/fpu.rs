//! x87, SSE and AVX state of threads that are not running, and of signal frames.
//!
//! The entry code saves the XMM registers on the libOS's stack, for the libOS uses them, and loads them
//! again on the way out. All else stays in the CPU: the libOS is compiled without AVX, and does no
//! floating-point arithmetic. So a thread's state is put together from both, and only when threads are
//! switched or a signal is delivered.

use core::arch::asm;

use unifork_abi::{KERNEL_STACK_TOP_VA, SyscallFrame};

/// Bytes of the XMM registers.
const XMM_BYTES: usize = 256;
/// Where the entry code saves them: below the frame at the top of the libOS's stack.
const ENTRY_XMM: u64 = KERNEL_STACK_TOP_VA - (size_of::<SyscallFrame>() + XMM_BYTES) as u64;
/// Where they are in the area (SDM volume 1, table 10-2).
const XMM: usize = 160;
/// Bytes of the area's legacy region.
const LEGACY_BYTES: usize = 512;
/// x87, SSE, AVX and the three parts of AVX-512 (Intel SDM volume 1, 13.1).
const COMPONENTS: u64 = 0xe7;
/// Bytes of the largest of them in the standard format (SDM volume 1, 13.4).
const BYTES_MAX: usize = 2688;

/// The state of one thread, in the standard format of `XSAVE`.
#[derive(Clone)]
#[repr(C, align(64))]
pub struct Fpu {
    bytes: [u8; BYTES_MAX],
}

impl Default for Fpu {
    fn default() -> Self {
        Self::initial()
    }
}

impl Fpu {
    /// As after `FNINIT` with all vector registers zero, which is what a program and a signal handler
    /// begin with.
    #[must_use]
    pub fn initial() -> Self {
        let mut bytes = [0; BYTES_MAX];
        bytes[..2].copy_from_slice(&0x37fu16.to_le_bytes()); // control word
        bytes[24..28].copy_from_slice(&0x1f80u32.to_le_bytes()); // MXCSR
        let mut state = Self { bytes };
        state.set_components();
        state
    }

    /// The application's state at the entry that is being served.
    #[must_use]
    pub fn save() -> Self {
        let mut state = Self { bytes: [0; BYTES_MAX] };
        let (low, high) = halves(COMPONENTS);
        // SAFETY: the buffer is 64-byte aligned and as large as the components asked for; the VMM
        // enables XSAVE.
        unsafe {
            asm!("xsave64 [{}]", in(reg) state.bytes.as_mut_ptr(), in("eax") low, in("edx") high,
                options(nostack, preserves_flags));
        }
        let xmm = &mut state.bytes[XMM..XMM + XMM_BYTES];
        // SAFETY: the entry code wrote so many bytes there, and nothing else refers to them.
        unsafe { xmm.as_mut_ptr().copy_from(ENTRY_XMM as *const u8, XMM_BYTES) };
        state.set_components();
        state
    }

    /// Makes this what the application goes on with.
    pub fn load(&self) {
        let (low, high) = halves(COMPONENTS);
        // SAFETY: the buffer is 64-byte aligned; its header names only components that XCR0 has
        // (`set_components`) and is zero otherwise, and MXCSR has no reserved bit (`initial`, `save`,
        // `from_frame`). The libOS itself expects only MXCSR's usual rounding, which it does no
        // arithmetic with; all vector registers are declared lost.
        unsafe {
            asm!("xrstor64 [{}]", in(reg) self.bytes.as_ptr(), in("eax") low, in("edx") high,
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _,
                out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
                options(nostack, preserves_flags));
        }
        let xmm = &self.bytes[XMM..XMM + XMM_BYTES];
        // SAFETY: the entry code's buffer of so many bytes, which it loads on the way out.
        unsafe { (ENTRY_XMM as *mut u8).copy_from(xmm.as_ptr(), XMM_BYTES) };
    }

    /// Its bytes, as many as this CPU has components for: what a signal frame carries.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..state_bytes()]
    }

    /// The state that a signal frame carries, which the handler may have changed: what the CPU would
    /// refuse is put right, as Linux refuses it too.
    #[must_use]
    pub fn from_frame(bytes: &[u8]) -> Self {
        /// Bits that MXCSR has on every CPU with `DAZ`.
        const MXCSR_MASK: u32 = 0xffff;
        let mut state = Self::initial();
        let count = bytes.len().min(state_bytes());
        state.bytes[..count].copy_from_slice(&bytes[..count]);
        let mxcsr = state.bytes[24..].first_chunk().map_or(0, |word| u32::from_le_bytes(*word));
        state.bytes[24..28].copy_from_slice(&(mxcsr & MXCSR_MASK).to_le_bytes());
        state.set_components();
        state
    }

    /// The components in the area, as `XSAVE` names them.
    #[must_use]
    pub fn components() -> u64 {
        COMPONENTS & xcr0()
    }

    // All of them are named, whether the CPU says that they are in use or not: that depends on what
    // the host did between, and must not be seen. XSAVE writes all of them.
    fn set_components(&mut self) {
        self.bytes[LEGACY_BYTES..LEGACY_BYTES + 64].fill(0);
        self.bytes[LEGACY_BYTES..LEGACY_BYTES + 8].copy_from_slice(&Self::components().to_le_bytes());
    }
}

fn halves(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}

/// Bytes of the components that this CPU has.
fn state_bytes() -> usize {
    match Fpu::components() {
        c if c & 0xe0 != 0 => BYTES_MAX,
        c if c & 4 != 0 => 832,
        _ => 576,
    }
}

fn xcr0() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a register; the VMM sets CR4.OSXSAVE.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}
