//! Records of one value: numbers, `bool`, `char`, `()`, `String`.

use super::{Encoder, Record};
use rkyv::rancor::Failure;
use rkyv::string::ArchivedString;
use rkyv::{Archive, Place};

macro_rules! primitive {
    ($($t:ty, $name:literal, |$a:ident| $native:expr;)*) => {$(
        impl Record for $t {
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

impl Record for String {
    type View<'a> = &'a str;
    #[inline(always)]
    fn view(&self) -> &str {
        self
    }
    #[inline(always)]
    fn view_archived(archived: &ArchivedString) -> &str {
        archived.as_str()
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
    fn resolve_view(view: &str, resolver: Self::Resolver, out: Place<ArchivedString>) {
        ArchivedString::resolve_from_str(view, resolver, out);
    }
    fn shape(out: &mut String) {
        out.push_str("str");
    }
}
