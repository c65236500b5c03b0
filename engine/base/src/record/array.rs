//! Arrays.

use super::{Encoder, Record};
use rkyv::Place;
use rkyv::rancor::Failure;

impl<T: Record, const N: usize> Record for [T; N] {
    const PLAIN: bool = T::PLAIN;
    const WRITTEN: usize = N * T::WRITTEN;
    type View<'a> = [T::View<'a>; N];
    #[inline(always)]
    fn view(&self) -> Self::View<'_> {
        self.each_ref().map(T::view)
    }
    #[inline(always)]
    fn view_archived(archived: &[T::Archived; N]) -> Self::View<'_> {
        archived.each_ref().map(T::view_archived)
    }
    fn from_view(view: Self::View<'_>) -> Self {
        view.map(T::from_view)
    }
    #[inline(always)]
    fn shorten<'short, 'long: 'short>(view: Self::View<'long>) -> Self::View<'short> {
        view.map(T::shorten)
    }
    #[inline]
    fn serialize_view(
        view: Self::View<'_>,
        out: &mut Encoder<'_>,
    ) -> Result<Self::Resolver, Failure> {
        let resolvers = view.map(|element| T::serialize_view(element, out));
        if resolvers.iter().any(Result::is_err) {
            return Err(Failure);
        }
        Ok(resolvers.map(|r| r.unwrap_or_else(|_| unreachable!("checked above"))))
    }
    #[inline(always)]
    #[expect(unsafe_code, reason = "rkyv resolves arrays by index")]
    fn resolve_view(view: Self::View<'_>, resolvers: Self::Resolver, out: Place<Self::Archived>) {
        for (i, (element, resolver)) in view.into_iter().zip(resolvers).enumerate() {
            // SAFETY: `i < N`, the length of the array.
            T::resolve_view(element, resolver, unsafe { out.index(i) });
        }
    }
    #[inline]
    fn owned_bytes(&self) -> usize {
        super::list::owned_by(self)
    }
    fn shape(out: &mut String) {
        out.push('[');
        T::shape(out);
        out.push_str(&format!(";{N}]"));
    }
}
