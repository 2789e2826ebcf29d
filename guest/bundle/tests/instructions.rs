//! The libOS saves the application's XMM registers at each entry and nothing else of its x87, SSE and AVX
//! state (`guest/hal/src/entry.rs`), so its code must change nothing else of it. Every instruction of the
//! kernel as it was built is looked at.

use iced_x86::{CpuidFeature, Decoder, DecoderOptions, EncodingKind, Instruction, Mnemonic};
use object::{Object as _, ObjectSection as _, SectionKind};

/// What an instruction would do to the application; nothing for one that is allowed.
fn harm(instruction: &Instruction) -> Option<&'static str> {
    use CpuidFeature::{FPU, FPU287, FPU387, MMX};
    let name = format!("{:?}", instruction.mnemonic()).to_ascii_lowercase();
    let floats = ["ss", "sd", "ps", "pd"].iter().any(|kind| name.ends_with(kind));
    let computes =
        ["add", "sub", "mul", "div", "sqrt", "min", "max", "cmp", "rcp", "rsqrt", "hadd", "round", "dp"];
    match instruction.mnemonic() {
        _ if instruction.encoding() != EncodingKind::Legacy => Some("AVX: the upper halves are not saved"),
        _ if instruction.cpuid_features().iter().any(|f| matches!(f, FPU | FPU287 | FPU387 | MMX)) => {
            Some("x87 or MMX: not saved")
        }
        Mnemonic::Ldmxcsr | Mnemonic::Fxrstor | Mnemonic::Fxrstor64 => Some("MXCSR is not saved"),
        // The string instruction has the name of an SSE2 one, but no such register.
        Mnemonic::Cmpsd if !instruction.op0_register().is_xmm() => None,
        Mnemonic::Comiss | Mnemonic::Comisd | Mnemonic::Ucomiss | Mnemonic::Ucomisd => {
            Some("floating point raises flags in MXCSR")
        }
        _ if name.starts_with("cvt") || floats && computes.iter().any(|begins| name.starts_with(begins)) => {
            Some("floating point raises flags in MXCSR")
        }
        _ => None,
    }
}

/// Harmful instructions of `code`, how many there are in all, and how many use XMM registers.
fn survey(code: &[u8], address: u64) -> (Vec<String>, usize, usize) {
    let (mut harmful, mut all, mut of_sse) = (Vec::new(), 0, 0);
    for instruction in Decoder::with_ip(64, code, address, DecoderOptions::NONE) {
        all += 1;
        assert!(!instruction.is_invalid(), "no instruction at {:#x}", instruction.ip());
        of_sse += usize::from((0..instruction.op_count()).any(|i| instruction.op_register(i).is_xmm()));
        if let Some(why) = harm(&instruction) {
            harmful.push(format!("{:#x} {:?}: {why}", instruction.ip(), instruction.code()));
        }
    }
    (harmful, all, of_sse)
}

#[test]
fn the_libos_leaves_alone_what_it_does_not_save() {
    let file = object::File::parse(unifork_guest::KERNEL).unwrap();
    let (mut harmful, mut all, mut of_sse) = (Vec::new(), 0, 0);
    for section in file.sections() {
        if section.kind() == SectionKind::Text {
            let (found, instructions, sse) = survey(section.data().unwrap(), section.address());
            harmful.extend(found);
            (all, of_sse) = (all + instructions, of_sse + sse);
        }
    }
    assert!(harmful.is_empty(), "{harmful:#?}");
    // The entry's own loads and stores alone are 32.
    assert!(all > 10_000 && of_sse >= 32, "{all} instructions, {of_sse} of SSE: is this the kernel?");
}

#[test]
fn what_would_do_harm_is_recognised() {
    let harmful: [&[u8]; 10] = [
        &[0xd9, 0xeb],                         // fldpi
        &[0xdb, 0xe3],                         // fninit
        &[0x0f, 0x77],                         // emms
        &[0x0f, 0x6f, 0xc1],                   // movq mm0, mm1
        &[0xc5, 0xf8, 0x77],                   // vzeroupper
        &[0xc5, 0xfc, 0x28, 0xc1],             // vmovaps ymm0, ymm1
        &[0x62, 0xf1, 0x7c, 0x48, 0x28, 0xc1], // vmovaps zmm0, zmm1
        &[0x0f, 0xae, 0x10],                   // ldmxcsr [rax]
        &[0xf2, 0x0f, 0x58, 0xc1],             // addsd xmm0, xmm1
        &[0xf2, 0x48, 0x0f, 0x2a, 0xc0],       // cvtsi2sd xmm0, rax
    ];
    for code in harmful {
        let (found, all, _) = survey(code, 0);
        assert_eq!((found.len(), all), (1, 1), "{code:x?}");
    }
    let harmless: [&[u8]; 5] = [
        &[0x0f, 0x57, 0xc0],       // xorps xmm0, xmm0
        &[0x66, 0x0f, 0xef, 0xc0], // pxor xmm0, xmm0
        &[0x66, 0x0f, 0xfe, 0xc1], // paddd xmm0, xmm1
        &[0xa7],                   // cmpsd
        &[0x48, 0x0f, 0xae, 0x20], // xsave64 [rax]
    ];
    for code in harmless {
        let (found, all, _) = survey(code, 0);
        assert_eq!((found.len(), all), (0, 1), "{code:x?}: {found:?}");
    }
}
