//! Short byte strings as integers: hashing, comparing and copying them without a call per string.

/// The at most 8 bytes as an integer, the first one lowest, zero padded.
#[inline(always)]
pub(crate) fn load8(b: &[u8]) -> u64 {
    let n = b.len();
    debug_assert!(n <= 8);
    if n >= 8 {
        word(b, 0)
    } else if n >= 4 {
        u64::from(half(b, 0)) | u64::from(half(b, n - 4)) << (8 * (n - 4))
    } else if n > 0 {
        // One to three bytes: first, middle and last, which may be the same.
        u64::from(b[0])
            | u64::from(b[n / 2]) << (8 * (n / 2))
            | u64::from(b[n - 1]) << (8 * (n - 1))
    } else {
        0
    }
}

/// Ones where [`pair`] has bytes, by length.
const MASKS: [(u64, u64); 17] = {
    let mut masks = [(0, 0); 17];
    let mut n = 1;
    while n <= 16 {
        let all = u128::MAX >> (128 - 8 * n);
        masks[n] = (all as u64, (all >> 64) as u64);
        n += 1;
    }
    masks
};

/// The at most 16 bytes as two integers, the first byte lowest, zero padded. Panics if there are
/// more.
///
/// Lengths of keys are what a CPU cannot predict, so there is no branch on them: 16 bytes are read
/// whatever the length, where the page of the first one has so many, and masked.
#[inline(always)]
#[cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "reads beyond a slice's end"))]
pub(crate) fn pair(b: &[u8]) -> (u64, u64) {
    let n = b.len();
    #[cfg(target_arch = "x86_64")]
    if n != 0 && b.as_ptr() as usize % PAGE <= PAGE - 16 {
        let mask = MASKS[n];
        let (lo, hi): (u64, u64);
        // SAFETY: the 16 bytes lie in one page, the one of the slice's first byte (n > 0), so they
        // can be read. What lies beyond the slice is no memory of ours: it is read by the machine,
        // not by the language, as if the instructions made it up, and masked away; so it does not
        // matter whether anybody writes it meanwhile. Nothing is written, the stack is not used.
        unsafe {
            std::arch::asm!(
                "mov {lo}, qword ptr [{at}]",
                "mov {hi}, qword ptr [{at} + 8]",
                at = in(reg) b.as_ptr(),
                lo = out(reg) lo,
                hi = lateout(reg) hi,
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        return (lo & mask.0, hi & mask.1);
    }
    pair_within(b)
}

/// No page is smaller.
#[cfg(target_arch = "x86_64")]
const PAGE: usize = 4096;

/// As [`pair`], and reads nothing else.
#[inline(never)]
fn pair_within(b: &[u8]) -> (u64, u64) {
    let n = b.len();
    assert!(n <= 16, "{n} bytes in two integers");
    if n > 8 { (word(b, 0), word(b, n - 8) >> (8 * (16 - n))) } else { (load8(b), 0) }
}

/// Ones in the bytes of an integer beyond the first `n <= 16`.
#[inline(always)]
pub(crate) fn fill8(n: usize) -> u64 {
    !MASKS[n].0
}

/// Copies `from` to the front of `to`, which must be as long. Panics if it is not.
#[inline(always)]
pub(crate) fn copy(to: &mut [u8], from: &[u8]) {
    let n = from.len();
    assert_eq!(to.len(), n);
    if n > 32 {
        to.copy_from_slice(from);
    } else if n >= 16 {
        let (head, tail) = (wide(from, 0), wide(from, n - 16));
        to[..16].copy_from_slice(&head);
        to[n - 16..].copy_from_slice(&tail);
    } else if n >= 8 {
        let (head, tail) = (word(from, 0), word(from, n - 8));
        to[..8].copy_from_slice(&head.to_le_bytes());
        to[n - 8..].copy_from_slice(&tail.to_le_bytes());
    } else {
        for (to, from) in to.iter_mut().zip(from) {
            *to = *from;
        }
    }
}

#[inline(always)]
fn word(b: &[u8], at: usize) -> u64 {
    let mut w = [0; 8];
    w.copy_from_slice(&b[at..at + 8]);
    u64::from_le_bytes(w)
}

#[inline(always)]
fn wide(b: &[u8], at: usize) -> [u8; 16] {
    let mut w = [0; 16];
    w.copy_from_slice(&b[at..at + 16]);
    w
}

#[inline(always)]
fn half(b: &[u8], at: usize) -> u32 {
    let mut w = [0; 4];
    w.copy_from_slice(&b[at..at + 4]);
    u32::from_le_bytes(w)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_lengths_load_and_copy() {
        let bytes: Vec<u8> = (1..=100).collect();
        for n in 0..=8 {
            let mut padded = [0; 8];
            padded[..n].copy_from_slice(&bytes[..n]);
            assert_eq!(load8(&bytes[..n]), u64::from_le_bytes(padded), "{n}");
        }
        for n in 0..=16 {
            let mut padded = [0; 16];
            padded[..n].copy_from_slice(&bytes[..n]);
            let expected = (word(&padded, 0), word(&padded, 8));
            assert_eq!((pair(&bytes[..n]), pair_within(&bytes[..n])), (expected, expected), "{n}");
        }
        for n in 0..=100 {
            let mut to = vec![0; n];
            copy(&mut to, &bytes[..n]);
            assert_eq!(to, bytes[..n]);
        }
    }

    #[test]
    fn a_pair_is_read_wherever_it_lies_in_a_page() {
        let bytes: Vec<u8> = (0..2 * 4096 + 16).map(|i| (i % 251) as u8).collect();
        for at in 0..2 * 4096 {
            for n in [0, 1, 7, 8, 9, 15, 16] {
                let piece = &bytes[at..at + n];
                assert_eq!(pair(piece), pair_within(piece), "{n} bytes at {at}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "out of bounds")]
    fn a_pair_has_no_more_than_sixteen_bytes() {
        pair(&[1; 17]);
    }
}
