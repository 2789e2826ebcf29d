//! What each call is answered, without a machine.

use super::*;
use crate::memory::MEMORY_BYTES_MIN;

/// Linear page N is physical page `pages[N]`.
struct Pages {
    pages: Vec<Option<u64>>,
    memory: GuestMemory,
}

impl AddressSpace for Pages {
    fn translate(&self, gva: u64) -> Option<Gpa> {
        let page = self.pages.get(usize::try_from(gva / 4096).unwrap_or(usize::MAX)).copied().flatten()?;
        Some(Gpa(page * 4096 + gva % 4096))
    }
}

impl ReadMemory for Pages {
    fn read(&self, gva: u64, out: &mut [u8]) -> bool {
        out.iter_mut().zip(gva..).all(|(byte, gva)| {
            let gpa = self.translate(gva);
            gpa.is_some_and(|gpa| self.memory.read(gpa, std::slice::from_mut(byte)).is_ok())
        })
    }
}

fn guest(pages: &[Option<u64>]) -> Pages {
    let memory = GuestMemory::for_boot(MEMORY_BYTES_MIN, 4096).unwrap().0;
    Pages { pages: pages.to_vec(), memory }
}

fn call(agent: &mut Agent, guest: &Pages, call: Call, arguments: [u64; 3]) -> Option<AgentEvent> {
    let [rdi, rsi, rdx] = arguments;
    agent.call(&CallRegisters { rax: u64::from(call.eax()), rdi, rsi, rdx }, guest)
}

const ACCEPTED: Option<AgentEvent> = Some(AgentEvent::Continue { rax: abi::OK });
const REFUSED: Option<AgentEvent> = Some(AgentEvent::Continue { rax: abi::REFUSED });

#[test]
fn the_signature_is_where_the_header_looks_for_it() {
    let [max, ebx, ecx, edx] = cpuid(abi::CPUID_LEAF).unwrap();
    let text: Vec<u8> = [ebx, ecx, edx].into_iter().flat_map(u32::to_le_bytes).collect();
    assert_eq!((text.as_slice(), max), (abi::SIGNATURE.as_slice(), abi::CPUID_LEAF + 1));
    assert_eq!(cpuid(max), Some([0, u32::from(abi::PORT), abi::VERSION, 0]));
    assert_eq!((cpuid(max + 1), cpuid(1)), (None, None));
}

#[test]
fn an_input_is_spread_over_the_pages_the_guest_sees_in_a_row() {
    let mut guest = guest(&[None, Some(7), Some(8), Some(3)]);
    let mut agent = Agent::default();
    assert_eq!(call(&mut agent, &guest, Call::Hello, [1, 0, 0]), ACCEPTED);
    assert_eq!(call(&mut agent, &guest, Call::Input, [0x1ffe, 0x1004, 0]), ACCEPTED);
    assert_eq!(call(&mut agent, &guest, Call::Snapshot, [0; 3]), Some(AgentEvent::Snapshot));
    let placement = agent.place(&guest).unwrap();
    let pieces: Vec<_> = placement.input.iter().collect();
    assert_eq!(pieces, [(Gpa(0x7ffe), 0x1002), (Gpa(0x3000), 2)]);
    let input: Vec<u8> = (0..0x1010u32).map(|i| i.to_le_bytes()[0]).collect();
    assert_eq!(placement.input.write(&mut guest.memory, &input), Ok(0x1004), "the rest does not fit");
    let mut seen = vec![0; 0x1004];
    assert!(guest.read(0x1ffe, &mut seen));
    assert_eq!(seen, input[..0x1004]);
    let mut out = vec![9; 0x1006];
    assert_eq!(placement.input.read(&guest.memory, &mut out), Ok(0x1004));
    assert_eq!((&out[..0x1004], &out[0x1004..]), (&input[..0x1004], &[9, 9][..]));
    assert_eq!(guest.memory.host_dirty(), [7, 8, 3], "what was written is put back");
}

#[test]
fn a_page_that_is_not_mapped_is_named() {
    let guest = guest(&[None, Some(1)]);
    let mut agent = Agent::default();
    assert_eq!(call(&mut agent, &guest, Call::Input, [0x1000, 0x1001, 0]), ACCEPTED);
    let missing = AgentError::NotMapped { what: "inputs", at: 0x1000, bytes: 0x1001, missing: 0x2000 };
    assert_eq!(agent.place(&guest), Err(missing));
}

#[test]
fn counters_have_their_code_where_the_image_says_it() {
    let mut guest = guest(&[None, Some(1), Some(2)]);
    for (i, pc) in [0x10_0000u64, 0x10_0010, 0x10_0020].into_iter().enumerate() {
        guest.memory.write(Gpa(0x2000 + 16 * i as u64), &pc.to_le_bytes()).unwrap();
    }
    let mut agent = Agent::default();
    assert_eq!(call(&mut agent, &guest, Call::CounterPcs, [0x2000, 48, 0]), REFUSED, "of which?");
    assert_eq!(call(&mut agent, &guest, Call::Counters, [0x1000, 3, 0]), ACCEPTED);
    assert_eq!(call(&mut agent, &guest, Call::CounterPcs, [0x2000, 48, 0]), ACCEPTED);
    assert_eq!(call(&mut agent, &guest, Call::Counters, [0x1100, 2, 0]), ACCEPTED);
    assert_eq!(call(&mut agent, &guest, Call::CounterPcs, [0x2000, 48, 0]), REFUSED, "of others");
    let placement = agent.place(&guest).unwrap();
    assert_eq!(placement.sites, [0x10_0000, 0x10_0010, 0x10_0020, 0, 0]);
    assert_eq!(placement.counters.len(), 5);
}

#[test]
fn what_makes_no_sense_is_refused_and_the_rest_of_the_port_is_left_alone() {
    let guest = guest(&[None, Some(1)]);
    let mut agent = Agent::default();
    for (what, arguments) in [
        (Call::Hello, [2, 0, 0]),
        (Call::Input, [u64::MAX, 2, 0]),
        (Call::Input, [0x1000, 0, 0]),
        (Call::Input, [0x1000, abi::INPUT_BYTES_MAX + 1, 0]),
        (Call::Counters, [0x1000, abi::COUNTERS_MAX + 1, 0]),
        (Call::Comparisons, [0x1000, u64::MAX, 0x1000]),
        (Call::Comparisons, [0x1000, 1, u64::MAX]),
    ] {
        assert_eq!(call(&mut agent, &guest, what, arguments), REFUSED, "{what:?}");
    }
    assert_eq!(agent, Agent::default());
    assert_eq!(call(&mut agent, &guest, Call::Input, [0x1000, 8, 0]), ACCEPTED);
    assert_eq!(call(&mut agent, &guest, Call::Input, [0x1000, 9, 0]), REFUSED, "a second one");
    for _ in 0..abi::COUNTER_RANGES_MAX {
        assert_eq!(call(&mut agent, &guest, Call::Counters, [0x1000, 8, 0]), ACCEPTED);
    }
    assert_eq!(call(&mut agent, &guest, Call::Counters, [0x1000, 8, 0]), REFUSED, "too many");
    let unknown = CallRegisters { rax: u64::from(abi::CALL_TAG) + 99, ..CallRegisters::default() };
    assert_eq!(agent.call(&unknown, &guest), REFUSED);
    for rax in [0, 1, 0x5545_0001, u64::MAX] {
        assert_eq!(agent.call(&CallRegisters { rax, ..CallRegisters::default() }, &guest), None);
    }
}

#[test]
fn a_message_is_cut_where_its_memory_ends() {
    let mut guest = guest(&[None, Some(1)]);
    guest.memory.write(Gpa(0x1ffc), b"oops").unwrap();
    let mut agent = Agent::default();
    let said = call(&mut agent, &guest, Call::Report, [0x1ffc, u64::MAX, 0]);
    assert_eq!(said, Some(AgentEvent::Report { message: "oops".to_owned() }));
    let code = call(&mut agent, &guest, Call::Done, [u64::MAX, 0, 0]);
    assert_eq!(code, Some(AgentEvent::Done { code: -1 }));
}
