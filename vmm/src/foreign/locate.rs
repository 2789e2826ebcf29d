//! Where an image puts a program that it is handed: an initial RAM disk or a module that is a position-independent ELF
//! file, as Hermit's application is for Hermit's loader.
//!
//! The program's relocations tell. Each says what is at some place once the program has been moved, so memory that has
//! the program's code and, as far from it as the file says, what its relocations make of one and the same distance, is
//! the program as it was loaded. A copy of the file has the code, too, but nothing that was relocated.
//!
//! The image is booted for that, and left to run until it has loaded all: where it puts things follows from the same
//! image, machine and files.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use object::elf::{FileHeader64, R_X86_64_RELATIVE};
use object::read::elf::ElfFile;
use object::{LittleEndian, Object as _, ObjectKind, ObjectSegment as _, RelocationFlags, SegmentFlags, elf};

use super::{Config, End, ForeignError, Machine, Recorder};
use crate::addr::{Gpa, PAGE_BYTES};
use crate::caps::Kvm;
use crate::memory::GuestMemory;

/// How long the image runs at first before its memory is searched; then twice as long, and so on.
const FIRST: Duration = Duration::from_millis(50);
const LAST: Duration = Duration::from_secs(1);
/// Relocations that are looked at.
const SAMPLES: usize = 64;
/// Bytes of a page that are as in the file, at least: the monitor changes a few instructions.
const ALIKE_MIN: usize = 4000;

/// How far above where it was linked each of `files` is once `image` has loaded it; `None` for what is no
/// position-independent ELF file with relocations, and for what has not been loaded within `deadline`.
///
/// # Errors
///
/// [`ForeignError`], when image, sizes or host are to blame.
pub fn locate(
    kvm: &Kvm,
    name: &str,
    image: &[u8],
    config: &Config,
    files: &[Arc<[u8]>],
    deadline: Duration,
) -> Result<Vec<Option<u64>>, ForeignError> {
    let programs: Vec<_> = files.iter().map(|bytes| Program::read(bytes)).collect();
    let mut biases = vec![None; files.len()];
    if programs.iter().all(Option::is_none) {
        return Ok(biases);
    }
    let mut machine = Machine::boot(kvm, name, image, config)?;
    let (began, mut slice) = (Instant::now(), FIRST);
    loop {
        let left = deadline.saturating_sub(began.elapsed());
        let end = machine.run(slice.min(left), &mut Recorder::default())?;
        for (bias, program) in biases.iter_mut().zip(&programs) {
            *bias = bias.or_else(|| program.as_ref()?.find(machine.memory()));
        }
        let all = biases.iter().zip(&programs).all(|(bias, program)| bias.is_some() || program.is_none());
        if all || end != End::Deadline || left.is_zero() {
            return Ok(biases);
        }
        slice = (slice * 2).min(LAST);
    }
}

/// What of a program can be found again.
#[derive(Debug)]
struct Program<'a> {
    /// A page of its code, and where it was linked.
    page: &'a [u8],
    linked: u64,
    /// Places that are relocated, as they were linked, and how far above the distance that they hold what they hold is.
    relocated: Vec<(u64, u64)>,
}

impl<'a> Program<'a> {
    /// `None` for what is no position-independent ELF file with a page of code and a relocation.
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let file = ElfFile::<FileHeader64<LittleEndian>>::parse(bytes).ok()?;
        if file.kind() != ObjectKind::Dynamic {
            return None;
        }
        let code = file.segments().find_map(|segment| {
            let SegmentFlags::Elf { p_flags, .. } = segment.flags() else { return None };
            let page = segment.address().checked_next_multiple_of(PAGE_BYTES)?;
            let skip = usize::try_from(page - segment.address()).ok()?;
            let code = segment.data().ok()?.get(skip..)?.get(..PAGE_BYTES as usize)?;
            (p_flags.0 & elf::PF_X.0 != 0).then_some((page, code))
        });
        let (linked, page) = code?;
        let relative = |(at, relocation): (u64, object::Relocation)| match relocation.flags() {
            RelocationFlags::Elf { r_type } if r_type == R_X86_64_RELATIVE => {
                Some((at, relocation.addend().cast_unsigned()))
            }
            _ => None,
        };
        let relocated: Vec<_> = file.dynamic_relocations()?.filter_map(relative).take(SAMPLES).collect();
        (!relocated.is_empty()).then_some(Self { page, linked, relocated })
    }

    /// How far above where it was linked it is, if it is in memory.
    fn find(&self, memory: &GuestMemory) -> Option<u64> {
        let mut page = vec![0; PAGE_BYTES as usize];
        (0..memory.len()).step_by(PAGE_BYTES as usize).find_map(|at| {
            // Two words are looked at first.
            let mut some = [0; 8];
            let near = |offset: usize, some: &mut [u8; 8]| {
                let read = memory.read(Gpa(at + offset as u64), some);
                read.is_ok() && self.page[offset..offset + 8] == some[..]
            };
            if !near(512, &mut some) && !near(2048, &mut some) {
                return None;
            }
            memory.read(Gpa(at), &mut page).ok()?;
            let alike = page.iter().zip(self.page).filter(|(now, then)| now == then).count();
            (alike >= ALIKE_MIN).then(|| self.relocated_by(memory, at)).flatten()
        })
    }

    /// The distance that at least half of the relocated places hold, if the page of code is at `at`.
    fn relocated_by(&self, memory: &GuestMemory, at: u64) -> Option<u64> {
        let mut votes = BTreeMap::new();
        for &(place, addend) in &self.relocated {
            let mut word = [0; 8];
            let here = at.wrapping_add(place.wrapping_sub(self.linked));
            if memory.read(Gpa(here), &mut word).is_ok() {
                let bias = u64::from_le_bytes(word).wrapping_sub(addend);
                // A file that was only copied holds the addends, or zero.
                if bias != 0 && bias.is_multiple_of(PAGE_BYTES) {
                    *votes.entry(bias).or_insert(0) += 1;
                }
            }
        }
        let (bias, count) = votes.into_iter().max_by_key(|&(_, count)| count)?;
        (2 * count >= self.relocated.len()).then_some(bias)
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng as _};

    use super::*;
    use crate::memory::MEMORY_BYTES_MIN;

    #[test]
    fn a_program_is_found_where_it_was_relocated_and_not_where_its_file_lies() {
        let mut random = StdRng::seed_from_u64(7);
        let page: Vec<u8> = (0..PAGE_BYTES).map(|_| random.random()).collect();
        let program = Program {
            page: &page,
            linked: 0x1000,
            relocated: vec![(0x2000, 0x10), (0x2008, 0x1040), (0x2010, 0x99)],
        };
        let mut memory = GuestMemory::for_boot(MEMORY_BYTES_MIN, 4096).unwrap().0;
        assert_eq!(program.find(&memory), None);
        // The file: its addends are there as they were linked.
        memory.write(Gpa(0x8000), &page).unwrap();
        memory.write(Gpa(0x9008), &0x1040u64.to_le_bytes()).unwrap();
        assert_eq!(program.find(&memory), None);
        // The program, somewhere else than its linear addresses say; one word has changed since, and some code.
        let bias = 0xffff_8000_0020_0000u64;
        memory.write(Gpa(0x2_1000), &page).unwrap();
        memory.write(Gpa(0x2_1000 + 600), &[0x0f; 8]).unwrap();
        memory.write(Gpa(0x2_1000 + 512), &[0x0b]).unwrap();
        memory.write(Gpa(0x2_2000), &(bias + 0x10).to_le_bytes()).unwrap();
        memory.write(Gpa(0x2_2008), &(bias + 0x1040).to_le_bytes()).unwrap();
        memory.write(Gpa(0x2_2010), &7u64.to_le_bytes()).unwrap();
        assert_eq!(program.find(&memory), Some(bias));
    }

    #[test]
    fn what_is_no_program_is_nothing() {
        for bytes in [&b""[..], b"\x7fELF", b"070701", &[0x7f; 4096]] {
            assert!(Program::read(bytes).is_none());
        }
        // This test is one.
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let program = Program::read(&own).unwrap();
        assert_eq!((program.page.len(), program.relocated.len()), (PAGE_BYTES as usize, SAMPLES));
        let mut random = StdRng::seed_from_u64(rand::random());
        for _ in 0..200 {
            let mut broken = own[..4096.max(own.len() / 64)].to_vec();
            for _ in 0..4 {
                let at = random.random_range(0..1024);
                broken[at] = random.random();
            }
            let _whatever = Program::read(&broken);
        }
    }
}
