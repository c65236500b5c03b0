//! Text, fast.

/// The words of a text: its longest pieces without ASCII white space (or control characters).
///
/// ```
/// use tidemill::text::words;
/// assert_eq!(words(" to  be,\tor not\n").collect::<Vec<_>>(), ["to", "be,", "or", "not"]);
/// ```
pub fn words(text: &str) -> Words<'_> {
    Words { text, from: 0, block: 0, ends: ends(text.as_bytes(), 0) }
}

/// Iterator of [`words`].
///
/// It finds the spaces of 64 bytes at a time, and goes from one to the next without a branch on
/// the length of the word between them.
#[derive(Clone, Debug)]
pub struct Words<'a> {
    text: &'a str,
    /// Where the next word may begin.
    from: usize,
    /// The bytes looked at last: 64 from here on.
    block: usize,
    /// One bit for each of them that ends a word, from `from` on.
    ends: u64,
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = ONES << 7;

/// One bit for each of the eight bytes that is at most b' ', the first one lowest.
#[inline(always)]
fn spaces(eight: &[u8]) -> u64 {
    let mut w = [0; 8];
    w.copy_from_slice(eight);
    let x = u64::from_le_bytes(w);
    // Each byte's high bit: it is not ASCII, or at least 0x21. No byte borrows from the next.
    let other = ((x | HIGH) - ONES * 0x21) | x;
    // Gathers the eight bits in the highest byte; no two products meet in one bit.
    ((!other & HIGH) >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56
}

/// One bit for each of 64 bytes from `block` on that is white space; the end of the text counts.
#[inline(always)]
fn ends(bytes: &[u8], block: usize) -> u64 {
    let rest = bytes.get(block..).unwrap_or_default();
    if let Some(rest) = rest.get(..64) {
        return (0..8).fold(0, |ends, i| ends | spaces(&rest[8 * i..8 * i + 8]) << (8 * i));
    }
    let mut ends = 1 << rest.len();
    for (i, eight) in rest.chunks_exact(8).enumerate() {
        ends |= spaces(eight) << (8 * i);
    }
    // What is left after whole eights, together with what is before it.
    match rest.len().checked_sub(8) {
        Some(at) => ends |= spaces(&rest[at..]) << at,
        None => {
            for (i, &byte) in rest.iter().enumerate() {
                ends |= u64::from(byte <= b' ') << i;
            }
        }
    }
    ends
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a str;

    #[inline(always)]
    fn next(&mut self) -> Option<&'a str> {
        let bytes = self.text.as_bytes();
        while self.from <= bytes.len() {
            while self.ends == 0 {
                self.block += 64;
                self.ends = ends(bytes, self.block);
            }
            let end = self.block + self.ends.trailing_zeros() as usize;
            self.ends &= self.ends - 1;
            let from = std::mem::replace(&mut self.from, end + 1);
            if from < end {
                // White space is ASCII, so both ends are boundaries of characters.
                return self.text.get(from..end);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn like_the_standard_library_on_every_cut_of_a_text() {
        let text = "Ein  Käse,\tzwei ölige 🦀 Krebse und\nein_sehr_langes_Wort_ohne_Ende  x y \
                    noch_eines_das_über_vierundsechzig_Bytes_hinausgeht_wie_man_sehen_kann z";
        for from in (0..text.len()).filter(|&i| text.is_char_boundary(i)) {
            for to in (from..=text.len()).filter(|&i| text.is_char_boundary(i)) {
                let cut = &text[from..to];
                let expected: Vec<&str> = cut.split_ascii_whitespace().collect();
                assert_eq!(words(cut).collect::<Vec<_>>(), expected, "{cut:?}");
            }
        }
    }
}
