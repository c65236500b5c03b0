//! What is emitted for two records that meet.

use crate::window::Window;
use tidemill_base::Record;

/// Makes the output of a pair. `P` says where they met.
pub trait Pairing<K: Record, P, A: Record, B: Record>: 'static {
    /// What is emitted.
    type Out: Record;
    /// Shows the output of a pair to `f`.
    fn pair(
        &mut self,
        key: K::View<'_>,
        place: P,
        left: A::View<'_>,
        right: B::View<'_>,
        f: impl FnOnce(<Self::Out as Record>::View<'_>),
    );
}

/// Emits the two records as they are.
#[derive(Clone, Copy, Debug)]
pub struct Both;

impl<K: Record, P, A: Record, B: Record> Pairing<K, P, A, B> for Both {
    type Out = (A, B);
    #[inline(always)]
    fn pair(
        &mut self,
        _: K::View<'_>,
        _: P,
        left: A::View<'_>,
        right: B::View<'_>,
        f: impl FnOnce(<(A, B) as Record>::View<'_>),
    ) {
        f((A::shorten(left), B::shorten(right)));
    }
}

/// A closure over key and records.
#[derive(Clone, Copy, Debug)]
pub struct PairFn<F>(pub F);

impl<K, A, B, U, F> Pairing<K, (), A, B> for PairFn<F>
where
    K: Record,
    A: Record,
    B: Record,
    U: Record,
    F: for<'a> FnMut(K::View<'a>, A::View<'a>, B::View<'a>) -> U + 'static,
{
    type Out = U;
    #[inline(always)]
    fn pair(
        &mut self,
        key: K::View<'_>,
        (): (),
        left: A::View<'_>,
        right: B::View<'_>,
        f: impl FnOnce(U::View<'_>),
    ) {
        f((self.0)(K::shorten(key), A::shorten(left), B::shorten(right)).view());
    }
}

impl<K, A, B, U, F> Pairing<K, Window, A, B> for PairFn<F>
where
    K: Record,
    A: Record,
    B: Record,
    U: Record,
    F: for<'a> FnMut(K::View<'a>, Window, A::View<'a>, B::View<'a>) -> U + 'static,
{
    type Out = U;
    #[inline(always)]
    fn pair(
        &mut self,
        key: K::View<'_>,
        window: Window,
        left: A::View<'_>,
        right: B::View<'_>,
        f: impl FnOnce(U::View<'_>),
    ) {
        f((self.0)(K::shorten(key), window, A::shorten(left), B::shorten(right)).view());
    }
}
