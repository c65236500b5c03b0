//! `Option<T>`, with rkyv's layout (a tag byte, then the value).

use super::{Encoder, Record};
use rkyv::Place;
use rkyv::munge::munge;
use rkyv::option::ArchivedOption;
use rkyv::rancor::Failure;

#[repr(C)]
struct Variant<T>(u8, T);

impl<T: Record> Record for Option<T> {
    const PLAIN: bool = T::PLAIN;
    type View<'a> = Option<T::View<'a>>;
    #[inline(always)]
    fn view(&self) -> Self::View<'_> {
        self.as_ref().map(T::view)
    }
    #[inline(always)]
    fn view_archived(archived: &Self::Archived) -> Self::View<'_> {
        archived.as_ref().map(T::view_archived)
    }
    fn from_view(view: Self::View<'_>) -> Self {
        view.map(T::from_view)
    }
    #[inline(always)]
    fn shorten<'short, 'long: 'short>(view: Self::View<'long>) -> Self::View<'short> {
        view.map(T::shorten)
    }
    #[inline(always)]
    fn serialize_view(
        view: Self::View<'_>,
        out: &mut Encoder<'_>,
    ) -> Result<Self::Resolver, Failure> {
        view.map(|v| T::serialize_view(v, out)).transpose()
    }
    #[inline(always)]
    #[expect(unsafe_code, reason = "rkyv resolves enums by casting to the variant's struct")]
    fn resolve_view(view: Self::View<'_>, resolver: Self::Resolver, out: Place<Self::Archived>) {
        const { assert!(size_of::<ArchivedOption<u64>>() == size_of::<Variant<u64>>()) };
        // SAFETY: `ArchivedOption` is `repr(u8)`: each variant has the layout of a `repr(C)`
        // struct of the tag and its fields (RFC 2195), and fits into the enum.
        let out = unsafe { out.cast_unchecked::<Variant<T::Archived>>() };
        munge!(let Variant(tag, value) = out);
        match (view, resolver) {
            (Some(view), Some(resolver)) => {
                tag.write(1);
                T::resolve_view(view, resolver, value);
            }
            _ => tag.write(0),
        }
    }
    #[inline]
    fn owned_bytes(&self) -> usize {
        self.as_ref().map_or(0, T::owned_bytes)
    }
    fn shape(out: &mut String) {
        out.push_str("option<");
        T::shape(out);
        out.push('>');
    }
}
