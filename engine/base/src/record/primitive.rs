//! Records of one value: numbers, `bool`, `char`, `()`, `String`.

use super::{Encoder, Record};
use crate::short::{fill8, pair};
use rkyv::rancor::{Failure, Fallible};
use rkyv::ser::{Positional, Writer};
use rkyv::string::{ArchivedString, StringResolver};
use rkyv::{Archive, Place};
use std::hint::select_unpredictable;

macro_rules! primitive {
    ($($t:ty, $name:literal, |$a:ident| $native:expr;)*) => {$(
        impl Record for $t {
            const PLAIN: bool = true;
            const WRITTEN: usize = size_of::<Self::Archived>();
            type View<'a> = $t;
            #[inline(always)]
            fn view(&self) -> $t {
                *self
            }
            #[inline(always)]
            fn view_archived($a: &Self::Archived) -> $t {
                $native
            }
            #[inline(always)]
            fn from_view(view: $t) -> $t {
                view
            }
            #[inline(always)]
            fn shorten<'short, 'long: 'short>(view: $t) -> $t {
                view
            }
            #[inline(always)]
            fn serialize_view(_: $t, _: &mut Encoder<'_>) -> Result<Self::Resolver, Failure> {
                Ok(())
            }
            #[inline(always)]
            fn resolve_view(view: $t, (): (), out: Place<Self::Archived>) {
                Archive::resolve(&view, (), out);
            }
            fn shape(out: &mut String) {
                out.push_str($name);
            }
        }
    )*};
}

primitive! {
    u8, "u8", |a| *a;
    i8, "i8", |a| *a;
    bool, "bool", |a| *a;
    u16, "u16", |a| a.to_native();
    u32, "u32", |a| a.to_native();
    u64, "u64", |a| a.to_native();
    u128, "u128", |a| a.to_native();
    i16, "i16", |a| a.to_native();
    i32, "i32", |a| a.to_native();
    i64, "i64", |a| a.to_native();
    i128, "i128", |a| a.to_native();
    f32, "f32", |a| a.to_native();
    f64, "f64", |a| a.to_native();
    char, "char", |a| a.to_native();
}

impl Record for () {
    const PLAIN: bool = true;
    type View<'a> = ();
    #[inline(always)]
    fn view(&self) {}
    #[inline(always)]
    fn view_archived((): &()) {}
    #[inline(always)]
    fn from_view((): ()) {}
    #[inline(always)]
    fn shorten<'short, 'long: 'short>((): ()) {}
    #[inline(always)]
    fn serialize_view((): (), _: &mut Encoder<'_>) -> Result<(), Failure> {
        Ok(())
    }
    #[inline(always)]
    fn resolve_view((): (), (): (), _: Place<()>) {}
    fn shape(out: &mut String) {
        out.push_str("()");
    }
}

/// Bytes of an archived string, and the longest text that it holds in line.
const INLINE: usize = 8;

/// The longest text that is written without a branch on its length.
const SHORT: usize = 16;

/// More than a short text takes with its root.
const WINDOW: usize = 32;

/// A text that is not held in line, of a length that fits into rkyv's first byte.
const LONG: &str = "123456789";

/// What rkyv marks the length of a text with that it does not hold in line.
const OUTSIDE: u32 = 0x80;

const ONES: u64 = 0x0101_0101_0101_0101;

/// A serializer that only knows its position.
struct At(usize);

impl Fallible for At {
    type Error = Failure;
}
impl Positional for At {
    #[inline(always)]
    fn pos(&self) -> usize {
        self.0
    }
}
impl Writer for At {
    #[inline(always)]
    fn write(&mut self, _: &[u8]) -> Result<(), Failure> {
        Ok(())
    }
}

/// A text that is not short, or near the end of the window.
#[inline(never)]
fn encode_long(view: &str, out: &mut Encoder<'_>) -> Result<(), Failure> {
    out.encode_in_halves::<String>(view)
}

// Which lengths strings have is what a CPU cannot predict, and short ones are what streams are
// keyed by: those are written and viewed without a branch on their length.
impl Record for String {
    const WRITTEN: usize = INLINE;
    type View<'a> = &'a str;
    #[inline(always)]
    fn view(&self) -> &str {
        self
    }
    #[inline(always)]
    #[expect(unsafe_code, reason = "the two forms are told apart without a branch")]
    fn view_archived(archived: &ArchivedString) -> &str {
        const { assert!(size_of::<ArchivedString>() == INLINE) };
        let at = std::ptr::from_ref(archived).cast::<u8>();
        // SAFETY: an archived string is 8 initialised bytes, whichever of its two forms it has.
        let word = u64::from_le_bytes(unsafe { at.cast::<[u8; INLINE]>().read() });
        // In line: text, then 0xff, which no UTF-8 text contains.
        let inverse = !word;
        let ends = inverse.wrapping_sub(ONES) & !inverse & (ONES << 7);
        let inside = (ends.trailing_zeros() / 8) as usize;
        // Outside: the length around the mark, then the way from here to the text.
        let marked = word as u32;
        let outside = (marked & 0x3f | (marked & !0xff) >> 2) as usize;
        let text = at.wrapping_offset((word >> 32) as i32 as isize);
        let is_outside = marked & 0xc0 == OUTSIDE;
        let (text, n) = (
            select_unpredictable(is_outside, text, at),
            select_unpredictable(is_outside, outside, inside),
        );
        // SAFETY: whoever wrote the string wrote UTF-8 there (or was checked to have): in line up
        // to the first 0xff, at most 8 bytes, or outside.
        unsafe { std::str::from_utf8_unchecked(std::slice::from_raw_parts(text, n)) }
    }
    fn from_view(view: &str) -> String {
        view.to_owned()
    }
    #[inline(always)]
    fn shorten<'short, 'long: 'short>(view: &'long str) -> &'short str {
        view
    }
    #[inline(always)]
    fn serialize_view(view: &str, out: &mut Encoder<'_>) -> Result<StringResolver, Failure> {
        let n = view.len();
        if n <= SHORT
            && let Some(at) =
                out.write_pair(pair(view.as_bytes()), select_unpredictable(n > INLINE, n, 0))
        {
            return ArchivedString::serialize_from_str(LONG, &mut At(at));
        }
        ArchivedString::serialize_from_str(view, out)
    }
    #[inline(always)]
    #[expect(unsafe_code, reason = "the two forms are written without a branch")]
    fn resolve_view(view: &str, resolver: StringResolver, out: Place<ArchivedString>) {
        let n = view.len();
        if n > SHORT {
            return ArchivedString::resolve_from_str(view, resolver, out);
        }
        let inside = (pair(view.as_bytes()).0 | fill8(n)).to_le_bytes();
        // The way to the text (if there is one) is rkyv's, the length ours.
        ArchivedString::resolve_from_str(LONG, resolver, out);
        // SAFETY: an archived string has the size and alignment of at least 8 bytes, all of which
        // have just been written; what replaces them is one of its two forms: in line text, filled
        // up with 0xff, or the marked length and the way.
        unsafe {
            let out = out.cast_unchecked::<[u8; INLINE]>();
            let [_, _, _, _, way @ ..] = *out.ptr();
            let [a, b, c, d] = (OUTSIDE | n as u32).to_le_bytes();
            let [e, f, g, h] = way;
            let outside = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
            let inside = u64::from_le_bytes(inside);
            out.write(select_unpredictable(n > INLINE, outside, inside).to_le_bytes());
        }
    }
    #[inline(always)]
    fn encode_view(view: &str, out: &mut Encoder<'_>) -> Result<(), Failure> {
        let (n, at) = (view.len(), out.position());
        // Text, padding up to the root, root: at most 27 bytes.
        let Some(window) = out.window::<WINDOW>().filter(|_| n <= SHORT) else {
            return encode_long(view, out);
        };
        let (lo, hi) = pair(view.as_bytes());
        let is_outside = n > INLINE;
        let text = select_unpredictable(is_outside, n, 0);
        // An archived string is aligned to four bytes.
        let root = (at + text).next_multiple_of(align_of::<ArchivedString>()) - at;
        let way = u64::from((root as u32).wrapping_neg()) << 32;
        let outside = way | u64::from(OUTSIDE) | n as u64;
        let archived = select_unpredictable(is_outside, outside, lo | fill8(n));
        window[..8].copy_from_slice(&select_unpredictable(is_outside, lo, 0).to_le_bytes());
        window[8..16].copy_from_slice(&hi.to_le_bytes());
        window[16..24].fill(0);
        let root = root.min(WINDOW - INLINE);
        window[root..root + INLINE].copy_from_slice(&archived.to_le_bytes());
        out.advance(root + INLINE);
        Ok(())
    }
    #[inline]
    fn owned_bytes(&self) -> usize {
        self.capacity()
    }
    fn shape(out: &mut String) {
        out.push_str("str");
    }
}
