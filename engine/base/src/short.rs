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

/// The at most 16 bytes as two integers; together with the length they determine the bytes.
#[inline(always)]
pub(crate) fn pair(b: &[u8]) -> (u64, u64) {
    let n = b.len();
    debug_assert!(n <= 16);
    if n >= 8 { (word(b, 0), word(b, n - 8)) } else { (load8(b), 0) }
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
            for at in 0..n {
                let mut other = bytes[..n].to_vec();
                other[at] ^= 0x40;
                assert_ne!(pair(&bytes[..n]), pair(&other), "{n} bytes, byte {at} differs");
            }
        }
        for n in 0..=100 {
            let mut to = vec![0; n];
            copy(&mut to, &bytes[..n]);
            assert_eq!(to, bytes[..n]);
        }
    }
}
