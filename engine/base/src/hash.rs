//! The hash that partitions streams and state.
//!
//! It is part of the checkpoint format: state on disk is split by key group, and the key group
//! comes from this hash. It therefore has no random seed and must never change.
//!
//! One hash serves three purposes from disjoint bits: the key group takes the top bits, tables
//! take their tag from the middle and their position from the low ones.

use crate::short::pair;

const K0: u64 = 0x9E37_79B9_7F4A_7C15;
const K1: u64 = 0xD6E8_FEB8_6659_FD93;
const K2: u64 = 0xA076_1D64_78BD_642F;

/// Folded 64 x 64 -> 128 bit multiplication.
#[inline(always)]
fn fold(a: u64, b: u64) -> u64 {
    let x = u128::from(a) * u128::from(b);
    (x >> 64) as u64 ^ x as u64
}

/// Hash of an integer.
#[inline(always)]
pub fn hash_u64(x: u64) -> u64 {
    fold(x ^ K2, K0)
}

/// Hash of two hashes, order matters.
#[inline(always)]
pub fn combine(a: u64, b: u64) -> u64 {
    fold(a ^ K1, b ^ K0)
}

/// Hash of bytes.
#[inline(always)]
pub fn hash_bytes(bytes: &[u8]) -> u64 {
    let n = bytes.len();
    if n > 16 {
        return hash_long(bytes);
    }
    let (a, b) = pair(bytes);
    fold(a ^ K0, b ^ K1 ^ (n as u64).wrapping_mul(K2))
}

/// Hash of more than 16 bytes.
#[inline(never)]
fn hash_long(bytes: &[u8]) -> u64 {
    let n = bytes.len();
    let mut h = K2 ^ n as u64;
    let mut chunks = bytes.chunks_exact(16);
    for c in &mut chunks {
        h = fold(word(c, 0) ^ h, word(c, 8) ^ K1);
    }
    let tail = &bytes[n - 16..];
    fold(word(tail, 0) ^ h, word(tail, 8) ^ K0)
}

#[inline(always)]
fn word(b: &[u8], at: usize) -> u64 {
    let mut w = [0; 8];
    w.copy_from_slice(&b[at..at + 8]);
    u64::from_le_bytes(w)
}

/// The key group of a hash, in `0..max_parallelism`.
#[inline(always)]
pub fn key_group(hash: u64, max_parallelism: u32) -> u32 {
    ((u128::from(hash) * u128::from(max_parallelism)) >> 64) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn the_hash_is_part_of_the_checkpoint_format_and_never_changes() {
        assert_eq!(
            (hash_u64(0), hash_u64(1)),
            (7_423_383_483_382_639_721, 494_474_263_449_348_215)
        );
        assert_eq!(hash_bytes(b"tidemill"), 16558895069863723627);
        assert_eq!(hash_bytes(b"a key longer than sixteen bytes"), 6376949175122975035);
        let words = ["", "a", "ab", "abc", "abcd", "abcdefgh", "abcdefghi", "0123456789abcdef0"];
        let all: HashSet<u64> = words.iter().map(|w| hash_bytes(w.as_bytes())).collect();
        assert_eq!(all.len(), words.len());
    }

    #[test]
    fn key_groups_are_even() {
        let mut seen = [0u32; 128];
        for i in 0..128_000u64 {
            seen[key_group(hash_u64(i), 128) as usize] += 1;
        }
        assert!(seen.iter().all(|&n| (700..1300).contains(&n)), "{seen:?}");
    }
}
