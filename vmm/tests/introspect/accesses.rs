//! Accesses and disassembly: of instructions spelled out here, and of real faults.

use unifork_vmm::introspect::{
    Access, AccessKind, Lines, ReadMemory, Registers, Symbols, access, disassemble,
};

use crate::build::{Toolchain, build};
use crate::tracee::Tracee;

/// Code at 0x1000 up to where it ends, and eight words of stack at 0x8000.
struct Code(&'static [u8]);

const STACK: [u64; 8] = [0x4141_4141_4141_4141, 0x1002, 0, 0, 0, 0, 0, 0];

impl ReadMemory for Code {
    fn read(&self, gva: u64, out: &mut [u8]) -> bool {
        let stack: Vec<u8> = STACK.iter().flat_map(|word| word.to_le_bytes()).collect();
        let copy = |bytes: &[u8], start: u64, out: &mut [u8]| {
            let from = gva.checked_sub(start).and_then(|from| usize::try_from(from).ok())?;
            out.copy_from_slice(bytes.get(from..)?.get(..out.len())?);
            Some(())
        };
        // Zeroes follow the code up to the end of its page.
        let mut page = self.0.to_vec();
        page.resize(4096, 0);
        copy(&page, 0x1000, out).or_else(|| copy(&stack, 0x8000, out)).is_some()
    }
}

fn registers() -> Registers {
    Registers {
        rip: 0x1000,
        rsp: 0x8000,
        rax: 0x10,
        rbx: 0x20,
        rcx: 3,
        rsi: 0x500,
        rdi: 0x600,
        r11: 0xdead_0000_0000_0000,
        fs_base: 0x7000_0000,
        ..Registers::default()
    }
}

/// The access of one instruction, without a fault address.
fn text(code: &'static [u8]) -> String {
    access(&registers(), &Code(code), None).map_or("nothing".to_owned(), |access| access.to_string())
}

#[test]
fn plain_operands() {
    assert_eq!(text(b"\xc7\x00\x01\x00\x00\x00"), "write of 4 bytes at 0x10 (rax+0x0)"); // mov dword [rax], 1
    assert_eq!(text(b"\x8a\x44\x98\xfc"), "read of 1 byte at 0x8c (rax+rbx*4-0x4)"); // mov al, [rax+rbx*4-4]
    assert_eq!(text(b"\x48\x01\x58\x08"), "read and write of 8 bytes at 0x18 (rax+0x8)"); // add [rax+8], rbx
    assert_eq!(text(b"\x64\x48\x8b\x04\x25\x28\0\0\0"), "read of 8 bytes at 0x70000028 (fs:0x28)");
    assert_eq!(text(b"\x66\x0f\x6f\x43\x10"), "read of 16 bytes at 0x30 (rbx+0x10)"); // movdqa xmm0, [rbx+0x10]
    assert_eq!(text(b"\x67\x8b\x00"), "read of 4 bytes at 0x10 (eax+0x0)"); // mov eax, [eax]
    assert_eq!(text(b"\x8b\x05\x10\x00\x00\x00"), "read of 4 bytes at 0x1016 (0x1016)"); // mov eax, [rip+0x10]
}

#[test]
fn instructions_that_touch_nothing() {
    assert_eq!(text(b"\x48\x8d\x00"), "nothing"); // lea rax, [rax]
    assert_eq!(text(b"\x0f\x1f\x00"), "nothing"); // nop [rax]
    assert_eq!(text(b"\x0f\x0b"), "nothing"); // ud2
    assert_eq!(text(b"\x06"), "nothing"); // invalid
}

#[test]
fn the_stack_of_push_and_call() {
    assert_eq!(text(b"\x50"), "write of 8 bytes at 0x7ff8 (rsp-0x8)"); // push rax
    assert_eq!(text(b"\xe8\0\0\0\0"), "write of 8 bytes at 0x7ff8 (rsp-0x8)"); // call
    assert_eq!(text(b"\xc9"), "read of 8 bytes at 0x0 (rbp+0x0)"); // leave
}

#[test]
fn string_instructions_say_how_much_is_left() {
    let movs = b"\xf3\xa5"; // rep movsd
    let at = |fault| access(&registers(), &Code(movs), Some(fault)).map(|access| access.to_string());
    assert_eq!(at(0x504).unwrap(), "read of 4 bytes at 0x500 (rsi+0x0, 3 to go)");
    assert_eq!(at(0x60b).unwrap(), "write of 4 bytes at 0x600 (rdi+0x0, 3 to go)");
    assert_eq!(at(0x60c), None);
    let down = Registers { rflags: 1 << 10, ..registers() };
    let access = access(&down, &Code(b"\xf3\xaa"), Some(0x5fe)).unwrap(); // std; rep stosb
    assert_eq!(access.to_string(), "write of 1 byte at 0x600 (rdi+0x0, 3 to go)");
}

#[test]
fn an_operand_that_cannot_be_reached_is_the_one() {
    // movsb from a readable place to one that is not mapped
    let from_stack = Registers { rsi: 0x8000, ..registers() };
    let found = access(&from_stack, &Code(b"\xa4"), None).unwrap();
    assert_eq!((found.kind, found.address), (AccessKind::Write, 0x600));
    // call r11, whose value is not canonical; the stack is fine
    assert_eq!(text(b"\x41\xff\xd3"), "execution at 0xdead000000000000 (r11)");
    // ret to the top word of the stack, which is not canonical
    assert_eq!(text(b"\xc3"), "execution at 0x4141414141414141 ([rsp+0x0])");
    assert_eq!(text(b"\xff\x24\x24"), "execution at 0x4141414141414141 ([0x8000])"); // jmp [rsp]
}

#[test]
fn code_that_cannot_be_fetched_is_an_execution() {
    let wild = Registers { rip: 0, ..registers() };
    let null = Access { kind: AccessKind::Execute, address: 0, size: 0, operand: "rip".to_owned() };
    assert_eq!(access(&wild, &Code(b""), Some(0)), Some(null.clone()));
    assert_eq!(access(&wild, &Code(b""), None), Some(null));
    // Readable, but the processor says that fetching it failed.
    let found = access(&registers(), &Code(b"\x90"), Some(0x1000)).unwrap();
    assert_eq!((found.kind, found.address), (AccessKind::Execute, 0x1000));
    // The first byte of `mov` is on one page, the rest on one that is not there.
    let edge = Registers { rip: 0x1ffe, ..registers() };
    let code: &[u8] = Box::leak([vec![0x90; 0xffe], vec![0x48, 0x8b]].concat().into_boxed_slice());
    let found = access(&edge, &Code(code), None).unwrap();
    assert_eq!((found.kind, found.address), (AccessKind::Execute, 0x2000));
}

#[test]
fn real_faults_are_explained() {
    for (toolchain, flags) in [(Toolchain::MuslClang, ["-g", "-O0"]), (Toolchain::MuslGcc, ["-g", "-O2"])] {
        let program = build(toolchain, "crashes.c", &flags);
        let explain = |mode| {
            let tracee = Tracee::crash(&program, mode);
            let found = access(&tracee.registers, &tracee, Some(tracee.fault)).unwrap();
            (found.kind, found.address, found.size)
        };
        assert_eq!(explain("write"), (AccessKind::Write, 0, 4));
        assert_eq!(explain("call-null"), (AccessKind::Execute, 0, 0));
        assert_eq!(explain("rep"), (AccessKind::Read, 0, 1));
        assert_eq!(explain("smash"), (AccessKind::Execute, 0x4141_4141_4141, 0));
        assert_eq!(explain("runaway").0, AccessKind::Write);
    }
}

#[test]
fn disassembly_marks_the_fault_and_is_aligned_to_it() {
    let program = build(Toolchain::MuslClang, "crashes.c", &["-g", "-O1"]);
    let tracee = Tracee::crash(&program, "assert");
    let frames = tracee.frames();
    // Any return address will do: instructions before it must end there, the last in a call.
    for frame in &frames[1..] {
        let shown = disassemble(frame.address, &tracee, &tracee.symbols, Lines { before: 4, after: 3 });
        let here = shown.lines.iter().position(|line| line.here).unwrap();
        assert!(here >= 1, "{shown}");
        assert!(shown.lines[here - 1].text.starts_with("call "), "{shown}");
        assert!(shown.lines.windows(2).all(|w| w[0].address + w[0].bytes.len() as u64 == w[1].address));
    }
    let call =
        &disassemble(frames[1].address, &tracee, &tracee.symbols, Lines { before: 1, after: 0 }).lines[0];
    assert!(call.text.contains("<__restore_sigs+0x0>"), "{}", call.text);
}

#[test]
fn without_symbols_the_boundary_is_found_by_trying() {
    // mov rax, imm64; nop; ud2
    const CODE: &[u8] = b"\x48\xb8\x01\x02\x03\x04\x05\x06\x07\x08\x90\x0f\x0b";
    let shown = disassemble(0x100b, &Code(CODE), &Symbols::new(), Lines { before: 2, after: 0 });
    assert_eq!(
        shown.to_string(),
        "   0x0000000000001000  48 b8 01 02 03 04 05 06 07 08 mov rax, 0x807060504030201\n   \
            0x000000000000100a  90                       nop\n\
         => 0x000000000000100b  0f 0b                    ud2"
    );
}

#[test]
fn memory_that_is_not_readable_is_said_to_be() {
    let lines = Lines { before: 2, after: 2 };
    let shown = disassemble(0, &Code(b""), &Symbols::new(), lines);
    assert_eq!(shown.to_string(), "(memory at 0x0 is not readable)");
    let shown = disassemble(0x1fff, &Code(b""), &Symbols::new(), lines);
    assert!(shown.to_string().ends_with("(memory at 0x2000 is not readable)"), "{shown}");
}
