//! Records of one value: numbers, `bool`, `char`, `()`, `String`.

use super::{Encoder, Record};
use crate::short::load8;
use rkyv::rancor::Failure;
use rkyv::string::ArchivedString;
use rkyv::{Archive, Place};

macro_rules! primitive {
    ($($t:ty, $name:literal, |$a:ident| $native:expr;)*) => {$(
        impl Record for $t {
            const PLAIN: bool = true;
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

const ONES: u64 = 0x0101_0101_0101_0101;

impl Record for String {
    type View<'a> = &'a str;
    #[inline(always)]
    fn view(&self) -> &str {
        self
    }
    #[inline(always)]
    #[expect(unsafe_code, reason = "a short string's length is found at once, not byte by byte")]
    fn view_archived(archived: &ArchivedString) -> &str {
        const { assert!(size_of::<ArchivedString>() == INLINE) };
        // SAFETY: an archived string is 8 initialised bytes, whichever of its two forms it has.
        let bytes = unsafe { &*std::ptr::from_ref(archived).cast::<[u8; INLINE]>() };
        if bytes[0] & 0xc0 == 0x80 {
            return archived.as_str();
        }
        // In line: text, then 0xff, which no UTF-8 text contains.
        let inverse = !u64::from_le_bytes(*bytes);
        let ends = inverse.wrapping_sub(ONES) & !inverse & (ONES << 7);
        let len = (ends.trailing_zeros() / 8) as usize;
        // SAFETY: whoever wrote the string in line wrote UTF-8 up to the first 0xff (or was
        // checked to have), and `len` is at most 8.
        unsafe { std::str::from_utf8_unchecked(bytes.get_unchecked(..len)) }
    }
    fn from_view(view: &str) -> String {
        view.to_owned()
    }
    #[inline(always)]
    fn shorten<'short, 'long: 'short>(view: &'long str) -> &'short str {
        view
    }
    #[inline(always)]
    fn serialize_view(view: &str, out: &mut Encoder<'_>) -> Result<Self::Resolver, Failure> {
        ArchivedString::serialize_from_str(view, out)
    }
    #[inline(always)]
    #[expect(unsafe_code, reason = "a short string is written as one integer")]
    fn resolve_view(view: &str, resolver: Self::Resolver, out: Place<ArchivedString>) {
        let n = view.len();
        if n > INLINE {
            return ArchivedString::resolve_from_str(view, resolver, out);
        }
        let fill = if n < INLINE { u64::MAX << (8 * n) } else { 0 };
        let bytes = (load8(view.as_bytes()) | fill).to_le_bytes();
        // SAFETY: an archived string has the size and alignment of at least 8 bytes, and these
        // are its in-line form: the text, filled up with 0xff.
        unsafe { out.cast_unchecked::<[u8; INLINE]>() }.write(bytes);
    }
    fn shape(out: &mut String) {
        out.push_str("str");
    }
}
