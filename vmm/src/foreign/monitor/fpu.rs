//! CR0.TS: the first use of x87 or vector registers by another thread raises #NM, by which kernels switch them lazily.
//!
//! Software KVM runs its guests with control registers of its own, and the guest's at CPL 3 uses these registers freely
//! whatever its own say. So while TS is set, the guest is stepped, and each instruction is looked at
//! before it is run; most of them need no CPU ([`super::ahead`]). That is slow, and short: what is switched to uses
//! them soon, or does not run for long.

use iced_x86::{CpuidFeature, Instruction, Mnemonic};
use kvm_bindings::kvm_regs;

use super::guest::{FLAG_TF, Fault};
use super::state::Virtual;
use super::walk::{CR0_EM, CR0_MP, CR0_TS};
use super::{Monitor, VECTOR_NM};
use crate::foreign::bus::Bus;
use crate::foreign::run_loop;
use crate::memory::GuestMemory;

const X87: [CpuidFeature; 5] = [
    CpuidFeature::FPU,
    CpuidFeature::FPU287,
    CpuidFeature::FPU287XL_ONLY,
    CpuidFeature::FPU387,
    CpuidFeature::FPU387SL_ONLY,
];

/// Whether `i` is refused with TS in `cr0`.
fn is_refused(i: &Instruction, cr0: u64) -> bool {
    use Mnemonic as M;
    match i.mnemonic() {
        M::Wait => return cr0 & CR0_MP != 0,
        M::Ldmxcsr | M::Stmxcsr | M::Vldmxcsr | M::Vstmxcsr | M::Emms | M::Vzeroupper | M::Vzeroall => {
            return true;
        }
        _ => {}
    }
    let has = |operand| {
        let register = i.op_register(operand);
        register.is_vector_register() || register.is_mm() || register.is_st() || register.is_k()
    };
    i.is_save_restore_instruction()
        || (0..i.op_count()).any(has)
        || i.cpuid_features().iter().any(|feature| X87.contains(feature))
}

impl Virtual {
    /// Whether the guest, at `regs`, must be stepped, because it must not use these registers before its kernel has
    /// been asked. Where it steps itself, its own handler sees each instruction.
    pub(super) fn watches_fpu(&self, regs: &kvm_regs) -> bool {
        self.task_switched() && regs.rflags & FLAG_TF == 0 && !run_loop::is_inside(regs.rip)
    }

    /// Whether these registers are another thread's. With EM there are none.
    pub(crate) fn task_switched(&self) -> bool {
        self.paging.cr0 & (CR0_TS | CR0_EM) == CR0_TS
    }
}

impl Monitor {
    /// Does for a guest that would be stepped what needs no CPU, which is hundreds of times faster. Says whether it did
    /// anything.
    pub(super) fn went_on_watched(&mut self, memory: &mut GuestMemory, bus: &mut Bus) -> bool {
        let regs = *self.vcpu.regs_mut();
        if self.stepping || !self.cpu.watches_fpu(&regs) {
            return false;
        }
        self.go_on(memory, bus);
        let went_on = self.vcpu.regs_mut().rip != regs.rip;
        self.disturbed |= went_on;
        went_on
    }

    /// What the instruction at RIP raises because it uses these registers.
    pub(super) fn refused_use(&mut self, memory: &mut GuestMemory, bus: &mut Bus) -> Option<Fault> {
        let inside = run_loop::is_inside(self.vcpu.regs_mut().rip);
        if !self.cpu.task_switched() || inside {
            return None;
        }
        let cr0 = self.cpu.paging.cr0;
        // What cannot be fetched, the CPU finds out.
        let instruction = self.guest(memory, bus).decode().ok()?;
        is_refused(&instruction, cr0).then_some(Fault { vector: VECTOR_NM, code: 0, address: 0 })
    }
}

#[cfg(test)]
mod tests {
    use iced_x86::{Decoder, DecoderOptions};

    use super::*;

    #[test]
    fn what_uses_x87_or_vector_registers_is_refused_and_nothing_else() {
        let decode = |bytes: &[u8]| Decoder::with_ip(64, bytes, 0x1000, DecoderOptions::NONE).decode();
        let refused: [&[u8]; 14] = [
            &[0x0f, 0x11, 0x00],             // movups [rax], xmm0
            &[0xdb, 0xe3],                   // fninit
            &[0xd9, 0x00],                   // fld dword [rax]
            &[0xdd, 0x38],                   // fnstsw [rax]
            &[0xdf, 0xe0],                   // fnstsw ax
            &[0x0f, 0x6f, 0x00],             // movq mm0, [rax]
            &[0x0f, 0x77],                   // emms
            &[0xc5, 0xf8, 0x77],             // vzeroupper
            &[0xc5, 0xfc, 0x10, 0x00],       // vmovups ymm0, [rax]
            &[0x0f, 0xae, 0x10],             // ldmxcsr [rax]
            &[0x0f, 0xae, 0x00],             // fxsave [rax]
            &[0x0f, 0xae, 0x20],             // xsave [rax]
            &[0xf2, 0x0f, 0x2a, 0xc0],       // cvtsi2sd xmm0, eax
            &[0x66, 0x0f, 0x38, 0xdc, 0xc1], // aesenc xmm0, xmm1
        ];
        for bytes in refused {
            assert!(is_refused(&decode(bytes), CR0_TS), "{:?}", decode(bytes).mnemonic());
        }
        let allowed: [&[u8]; 8] = [
            &[0x90],                         // nop
            &[0x0f, 0xae, 0xe8],             // lfence
            &[0x0f, 0xae, 0xf8],             // sfence
            &[0x0f, 0x18, 0x08],             // prefetcht0 [rax]
            &[0x0f, 0xc3, 0x00],             // movnti [rax], eax
            &[0xf3, 0x0f, 0xb8, 0xc0],       // popcnt eax, eax
            &[0xf2, 0x0f, 0x38, 0xf1, 0xc0], // crc32 eax, eax
            &[0xf3, 0x0f, 0xae, 0xd0],       // wrfsbase eax
        ];
        for bytes in allowed {
            assert!(!is_refused(&decode(bytes), CR0_TS), "{:?}", decode(bytes).mnemonic());
        }
        let wait = decode(&[0x9b]);
        assert!(!is_refused(&wait, CR0_TS) && is_refused(&wait, CR0_TS | CR0_MP));
    }
}
