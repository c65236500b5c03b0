//! The aggregations that streams offer.

use super::Fold;
use std::ops::AddAssign;
use tidemill_base::Record;

/// Emits its accumulator as it is.
macro_rules! emits_accumulator {
    () => {
        #[inline(always)]
        fn emit<Z>(
            &mut self,
            acc: &Self::Acc,
            f: impl FnOnce(<Self::Out as Record>::View<'_>) -> Z,
        ) -> Z {
            f(acc.view())
        }
    };
}

/// Merges records into the first one.
#[derive(Clone, Copy, Debug)]
pub struct Reduce<R>(pub R);

impl<I, R> Fold<I> for Reduce<R>
where
    I: Record,
    R: for<'a, 'b> FnMut(&'b mut I, I::View<'a>) + 'static,
{
    type Acc = I;
    type Out = I;
    #[inline(always)]
    fn first(&mut self, record: I::View<'_>) -> I {
        I::from_view(record)
    }
    #[inline(always)]
    fn add(&mut self, acc: &mut I, record: I::View<'_>) {
        (self.0)(acc, record);
    }
    emits_accumulator!();
}

/// Sums what the closure takes from a record.
#[derive(Clone, Copy, Debug)]
pub struct Sum<V>(pub V);

impl<I, N, V> Fold<I> for Sum<V>
where
    I: Record,
    N: Record + AddAssign,
    V: for<'a> FnMut(I::View<'a>) -> N + 'static,
{
    type Acc = N;
    type Out = N;
    #[inline(always)]
    fn first(&mut self, record: I::View<'_>) -> N {
        (self.0)(record)
    }
    #[inline(always)]
    fn add(&mut self, acc: &mut N, record: I::View<'_>) {
        *acc += (self.0)(record);
    }
    emits_accumulator!();
}

/// Keeps the greatest (or smallest) of what the closure takes from a record; of equal ones the
/// first.
#[derive(Clone, Copy, Debug)]
pub struct Best<V, const GREATEST: bool>(pub V);

impl<I, N, V, const GREATEST: bool> Fold<I> for Best<V, GREATEST>
where
    I: Record,
    N: Record + PartialOrd,
    V: for<'a> FnMut(I::View<'a>) -> N + 'static,
{
    type Acc = N;
    type Out = N;
    #[inline(always)]
    fn first(&mut self, record: I::View<'_>) -> N {
        (self.0)(record)
    }
    #[inline(always)]
    fn add(&mut self, acc: &mut N, record: I::View<'_>) {
        let new = (self.0)(record);
        if if GREATEST { new > *acc } else { new < *acc } {
            *acc = new;
        }
    }
    emits_accumulator!();
}

/// Counts records.
#[derive(Clone, Copy, Debug)]
pub struct Count;

impl<I: Record> Fold<I> for Count {
    type Acc = u64;
    type Out = u64;
    #[inline(always)]
    fn first(&mut self, _: I::View<'_>) -> u64 {
        1
    }
    #[inline(always)]
    fn add(&mut self, acc: &mut u64, _: I::View<'_>) {
        *acc += 1;
    }
    emits_accumulator!();
}

/// A fold made of closures that emits something made of its accumulator.
#[derive(Clone, Copy, Debug)]
pub struct AggregateFn<N, A, E> {
    /// Makes an empty accumulator.
    pub new: N,
    /// Adds a record.
    pub add: A,
    /// Makes what is emitted.
    pub result: E,
}

impl<I, Acc, Out, N, A, E> Fold<I> for AggregateFn<N, A, E>
where
    I: Record,
    Acc: Record,
    Out: Record,
    N: FnMut() -> Acc + 'static,
    A: for<'a, 'b> FnMut(&'b mut Acc, I::View<'a>) + 'static,
    E: for<'b> FnMut(&'b Acc) -> Out + 'static,
{
    type Acc = Acc;
    type Out = Out;
    #[inline(always)]
    fn first(&mut self, record: I::View<'_>) -> Acc {
        let mut acc = (self.new)();
        (self.add)(&mut acc, record);
        acc
    }
    #[inline(always)]
    fn add(&mut self, acc: &mut Acc, record: I::View<'_>) {
        (self.add)(acc, record);
    }
    #[inline(always)]
    fn emit<R>(&mut self, acc: &Acc, f: impl FnOnce(Out::View<'_>) -> R) -> R {
        f((self.result)(acc).view())
    }
}
