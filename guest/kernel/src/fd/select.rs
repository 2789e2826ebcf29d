//! `select` and `pselect6`. select(2); Linux `fs/select.c`.

use alloc::vec;
use alloc::vec::Vec;

use crate::Kernel;
use crate::errno::{Errno, Outcome};
use crate::fd::object::{
    POLLERR, POLLHUP, POLLIN, POLLNVAL, POLLOUT, POLLPRI, POLLRDBAND, POLLRDNORM, POLLWRBAND, POLLWRNORM,
};
use crate::fd::poll::{earlier, nothing_ready, ready, set_deadline};
use crate::time::clock::{MICROSECOND_NS, SECOND_NS};
use crate::user::{read_u64, read_words, write_u64, write_words};

/// What each of the three sets asks for (Linux: POLLIN_SET, POLLOUT_SET, POLLEX_SET).
const ASKED: [u32; 3] = [
    POLLRDNORM | POLLRDBAND | POLLIN | POLLHUP | POLLERR,
    POLLWRBAND | POLLWRNORM | POLLOUT | POLLERR,
    POLLPRI,
];

/// `select`.
pub(crate) fn select(k: &mut Kernel, args: [u64; 6]) -> Outcome {
    let [count, sets @ .., timeout, _] = args;
    k.deadline(|k| {
        if timeout == 0 {
            return Ok(None);
        }
        let [seconds, micros] = read_words(timeout)?;
        if seconds.cast_signed() < 0 || micros.cast_signed() < 0 {
            return Err(Errno::EINVAL);
        }
        let wait = seconds.saturating_mul(SECOND_NS).saturating_add(micros.saturating_mul(MICROSECOND_NS));
        Ok(Some(k.clock.now().saturating_add(wait)))
    })?;
    let outcome = wait(k, count, sets);
    if timeout != 0 && outcome != Err(Errno::BLOCK) {
        // Linux says how much time is left.
        let deadline = k.deadline(|_| Ok(None))?.unwrap_or(0);
        let left = deadline.saturating_sub(k.clock.now());
        let _read_only = write_words(timeout, &[left / SECOND_NS, left % SECOND_NS / MICROSECOND_NS]);
    }
    outcome
}

/// `pselect6`.
pub(crate) fn pselect6(k: &mut Kernel, args: [u64; 6]) -> Outcome {
    let [count, sets @ .., timeout, mask_at] = args;
    set_deadline(k, timeout)?;
    if mask_at != 0 {
        let [mask, mask_bytes] = read_words(mask_at)?;
        k.hold_off_for_this_call(mask, mask_bytes)?;
    }
    wait(k, count, sets)
}

fn wait(k: &mut Kernel, count: u64, sets: [u64; 3]) -> Outcome {
    let count = count as u32;
    if count.cast_signed() < 0 {
        return Err(Errno::EINVAL);
    }
    // As many bits as there can be descriptors.
    let count = u64::from(count).min(k.files.limit);
    let words = count.div_ceil(64);
    let asked = sets.map(|set| read_set(set, words));
    let mut found: [Vec<u64>; 3] = core::array::from_fn(|_| vec![0; words as usize]);
    let mut total = 0;
    let mut alarm = None;
    for fd in 0..count {
        let (word, bit) = ((fd / 64) as usize, 1u64 << (fd % 64));
        let mut wanted = [false; 3];
        for (wanted, set) in wanted.iter_mut().zip(&asked) {
            *wanted = set.as_ref().map_err(|e| *e)?[word] & bit != 0;
        }
        if wanted == [false; 3] {
            continue;
        }
        let ready = ready(k, fd);
        if ready.mask & POLLNVAL != 0 {
            return Err(Errno::EBADF);
        }
        alarm = earlier(alarm, ready.at);
        for i in 0..3 {
            if wanted[i] && ready.mask & ASKED[i] != 0 {
                found[i][word] |= bit;
                total += 1;
            }
        }
    }
    if total == 0 {
        nothing_ready(k, alarm)?;
    }
    for (set, found) in sets.iter().zip(&found) {
        if *set != 0 {
            for (i, word) in found.iter().enumerate() {
                write_u64(set + i as u64 * 8, *word)?;
            }
        }
    }
    Ok(total)
}

fn read_set(at: u64, words: u64) -> Result<Vec<u64>, Errno> {
    (0..words).map(|i| if at == 0 { Ok(0) } else { Ok(read_u64(at.wrapping_add(i * 8))?) }).collect()
}
