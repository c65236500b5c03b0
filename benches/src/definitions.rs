//! Inputs and digests of the workloads.

/// splitmix64's output for state `x`.
#[inline(always)]
pub fn mix(x: u64) -> u64 {
    let mut z = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// FNV-1a, 64 bits.
pub fn fnv(bytes: &[u8]) -> u64 {
    let step = |h: u64, &b: &u8| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

/// Digest of a row.
#[inline(always)]
pub fn row(parts: &[u64]) -> u64 {
    parts.iter().fold(0, |h: u64, &p| mix(h.wrapping_add(p)))
}

/// Words in W2's vocabulary.
const WORDS: u64 = 10_000;

/// W2's text: lines of eight words, Zipf distributed.
pub struct Vocabulary {
    /// Each word with a space behind it, padded to 16 bytes, and its length with the space.
    words: Vec<([u8; 16], u8)>,
    /// 2^17 equal slots over the cumulative weights.
    slots: Vec<u16>,
}

impl Vocabulary {
    /// The fixed vocabulary.
    pub fn new() -> Self {
        let letter = |x: u64| char::from(b'a' + (x % 26) as u8);
        let word = |k: u64| {
            let h = mix(k ^ 0xABCD);
            let head = [letter(k), letter(k / 26), letter(k / 676)];
            let tail = (3..3 + h % 10).map(|j| letter(h >> (4 * j)));
            let word: String = head.into_iter().chain(tail).chain([' ']).collect();
            let mut padded = [b' '; 16];
            padded[..word.len()].copy_from_slice(word.as_bytes());
            (padded, word.len() as u8)
        };
        let weights: Vec<u64> = (0..WORDS).map(|k| (1u64 << 32) / (k + 1)).collect();
        let total: u128 = weights.iter().map(|&w| u128::from(w)).sum();
        let mut slots = Vec::with_capacity(1 << 17);
        let (mut k, mut sum) = (0usize, u128::from(weights[0]));
        for slot in 0..1u128 << 17 {
            while (slot * total) >> 17 >= sum {
                k += 1;
                sum += u128::from(weights[k]);
            }
            slots.push(k as u16);
        }
        Vocabulary { words: (0..WORDS).map(word).collect(), slots }
    }

    /// Writes line `i` into `line`.
    #[inline]
    #[expect(unsafe_code, reason = "the generator must not be slower than what it measures")]
    pub fn line(&self, i: u64, line: &mut String) {
        let mut text = [b' '; 8 * 16];
        let mut at = 0;
        for j in 0..8 {
            let slot = (mix(i * 8 + j) >> 47) as usize;
            let (word, len) = self.words[usize::from(self.slots[slot])];
            text[at..at + 16].copy_from_slice(&word);
            at += usize::from(len);
        }
        line.clear();
        // SAFETY: only ASCII is written.
        line.push_str(unsafe { std::str::from_utf8_unchecked(&text[..at - 1]) });
    }
}

impl Default for Vocabulary {
    fn default() -> Self {
        Self::new()
    }
}

/// Event time of W2's line `i`, in ms: 10,000 lines a second with up to 4 s of disorder.
#[inline(always)]
pub fn line_time(i: u64) -> i64 {
    (i / 10 + mix(i.wrapping_add(1 << 40)) % 4000) as i64
}

/// Key and value of W7's event `i` among `keys` keys; the value is a function of the key.
#[inline(always)]
pub fn keyed_value(i: u64, keys: u64) -> (u64, u64) {
    let k = ((u128::from(mix(i)) * u128::from(keys)) >> 64) as u64;
    (mix(k.wrapping_add(1 << 50)), (k & 0xff) + 1)
}
