//! Text, fast.

/// The words of a text: its longest pieces without ASCII white space (or control characters).
/// Looks at eight bytes at a time.
///
/// ```
/// use tidemill::text::words;
/// assert_eq!(words(" to  be,\tor not\n").collect::<Vec<_>>(), ["to", "be,", "or", "not"]);
/// ```
pub fn words(text: &str) -> Words<'_> {
    Words { text, at: 0 }
}

/// Iterator of [`words`].
#[derive(Clone, Debug)]
pub struct Words<'a> {
    text: &'a str,
    at: usize,
}

const ONES: u64 = 0x0101_0101_0101_0101;

/// Where the first byte up to b' ' is, from `at` on; the length if there is none.
#[inline(always)]
fn next_space(bytes: &[u8], mut at: usize) -> usize {
    while let Some(eight) = bytes.get(at..at + 8) {
        let mut w = [0; 8];
        w.copy_from_slice(eight);
        let x = u64::from_le_bytes(w);
        // The lowest byte below 0x21 is flagged exactly; what borrows from it is above.
        let found = x.wrapping_sub(ONES * 0x21) & !x & (ONES << 7);
        if found != 0 {
            return at + (found.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    bytes[at..].iter().position(|&b| b <= b' ').map_or(bytes.len(), |i| at + i)
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a str;

    #[inline(always)]
    fn next(&mut self) -> Option<&'a str> {
        let bytes = self.text.as_bytes();
        let mut from = self.at;
        while *bytes.get(from)? <= b' ' {
            from += 1;
        }
        let end = next_space(bytes, from);
        self.at = end + 1;
        // White space is ASCII, so both ends are boundaries of characters.
        self.text.get(from..end)
    }
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn like_the_standard_library_on_every_cut_of_a_text() {
        let text = "Ein  Käse,\tzwei ölige 🦀 Krebse und\nein_sehr_langes_Wort_ohne_Ende  x y ";
        for from in (0..text.len()).filter(|&i| text.is_char_boundary(i)) {
            for to in (from..=text.len()).filter(|&i| text.is_char_boundary(i)) {
                let cut = &text[from..to];
                let expected: Vec<&str> = cut.split_ascii_whitespace().collect();
                assert_eq!(words(cut).collect::<Vec<_>>(), expected, "{cut:?}");
            }
        }
    }
}
