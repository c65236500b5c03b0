//! What a window computes: the shortcuts and the user's aggregates as window functions.
//!
//! Records are blamed where they are taken in; what a firing calls is blamed here, by key and window
//! (or by the accumulator that is merged).

use std::marker::PhantomData;
use tidemill_base::record::List;
use tidemill_base::{Key, Record, Timestamp};
use tidemill_runtime::blame::Blame;
use tidemill_runtime::stage::Stage;
use tidemill_runtime::window::{Window, WindowFunction};

/// A number that windows can sum. Integers wrap around.
pub trait Number: Record + Copy {
    /// The sum.
    #[must_use]
    fn plus(self, other: Self) -> Self;
}

macro_rules! numbers {
    ($($t:ty: $plus:expr),* $(,)?) => {$(
        impl Number for $t {
            #[inline(always)]
            fn plus(self, other: Self) -> Self {
                $plus(self, other)
            }
        }
    )*};
}
numbers!(
    u8: u8::wrapping_add, u16: u16::wrapping_add, u32: u32::wrapping_add, u64: u64::wrapping_add,
    u128: u128::wrapping_add, i8: i8::wrapping_add, i16: i16::wrapping_add,
    i32: i32::wrapping_add, i64: i64::wrapping_add, i128: i128::wrapping_add,
    f32: std::ops::Add::add, f64: std::ops::Add::add,
);

/// How the result of a key and window becomes a record.
pub trait ResultShape: Clone + Send + 'static {
    /// The record.
    type Keyed<K: Key, V: Record>: Record;

    /// Emits the value of a key and window.
    fn push_keyed<K: Key, V: Record, S: Stage<Self::Keyed<K, V>>>(
        key: K::View<'_>,
        window: Window,
        value: V::View<'_>,
        timestamp: Timestamp,
        out: &mut S,
    );
}

/// Results are `(key, value)`.
#[derive(Clone, Copy, Debug)]
pub struct ValueByKey;

impl ResultShape for ValueByKey {
    type Keyed<K: Key, V: Record> = (K, V);

    #[inline(always)]
    fn push_keyed<K: Key, V: Record, S: Stage<(K, V)>>(
        key: K::View<'_>,
        _: Window,
        value: V::View<'_>,
        timestamp: Timestamp,
        out: &mut S,
    ) {
        out.push((K::shorten(key), V::shorten(value)), timestamp);
    }
}

/// Results are `(key, window start, window end, value)`.
#[derive(Clone, Copy, Debug)]
pub struct ValueByWindow;

impl ResultShape for ValueByWindow {
    type Keyed<K: Key, V: Record> = (K, i64, i64, V);

    #[inline(always)]
    fn push_keyed<K: Key, V: Record, S: Stage<(K, i64, i64, V)>>(
        key: K::View<'_>,
        window: Window,
        value: V::View<'_>,
        timestamp: Timestamp,
        out: &mut S,
    ) {
        out.push((K::shorten(key), window.start, window.end, V::shorten(value)), timestamp);
    }
}

/// `Clone` for functions whose other type parameters are names only.
macro_rules! clone_by_fields {
    ($name:ident<$($closure:ident),*; $($other:ident),*> { $($field:ident),* }) => {
        impl<$($closure: Clone,)* $($other),*> Clone for $name<$($closure,)* $($other),*> {
            fn clone(&self) -> Self {
                $name { $($field: self.$field.clone(),)* types: PhantomData }
            }
        }
    };
}
clone_by_fields!(ValueFunction<G; C, N, O> { value });
clone_by_fields!(ReduceFunction<G; O> { reduce });
clone_by_fields!(ClosuresFunction<I, D, M, G; A, U> { init, add, merge, finish });
clone_by_fields!(ProcessFunction<G; U> { process });

/// How two values become one.
pub(super) trait Combine<N>: Clone + Send + 'static {
    /// Adds `other` to `value`.
    fn combine(value: &mut N, other: N);
}

/// `sum`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plus;

impl<N: Number> Combine<N> for Plus {
    #[inline(always)]
    fn combine(value: &mut N, other: N) {
        *value = value.plus(other);
    }
}

/// `min`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Least;

impl<N: PartialOrd> Combine<N> for Least {
    #[inline(always)]
    fn combine(value: &mut N, other: N) {
        if other < *value {
            *value = other;
        }
    }
}

/// `max`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Greatest;

impl<N: PartialOrd> Combine<N> for Greatest {
    #[inline(always)]
    fn combine(value: &mut N, other: N) {
        if other > *value {
            *value = other;
        }
    }
}

/// Type parameters that are names only.
type Types<X> = PhantomData<fn() -> X>;

/// Combines one value of each record.
pub(super) struct ValueFunction<G, C, N, O> {
    pub(super) value: G,
    pub(super) types: Types<(C, N, O)>,
}

impl<K, T, G, C, N, O> WindowFunction<K, T> for ValueFunction<G, C, N, O>
where
    K: Key,
    T: Record,
    N: Record + Copy,
    C: Combine<N>,
    O: ResultShape,
    G: for<'a> FnMut(T::View<'a>) -> N + 'static,
{
    type Acc = N;
    type Out = O::Keyed<K, N>;

    #[inline(always)]
    fn first(&mut self, record: T::View<'_>) -> N {
        (self.value)(record)
    }
    #[inline(always)]
    fn add(&mut self, acc: &mut N, record: T::View<'_>) {
        C::combine(acc, (self.value)(record));
    }
    #[inline(always)]
    fn merge(&mut self, into: &mut N, from: &N) {
        C::combine(into, *from);
    }
    #[inline(always)]
    fn emit<S: Stage<Self::Out>>(
        &mut self,
        key: K::View<'_>,
        window: Window,
        acc: &N,
        timestamp: Timestamp,
        out: &mut S,
    ) {
        O::push_keyed::<K, N, S>(key, window, acc.view(), timestamp, out);
    }
}

/// `reduce`.
pub(super) struct ReduceFunction<G, O> {
    pub(super) reduce: G,
    pub(super) types: Types<O>,
}

impl<K, T, G, O> WindowFunction<K, T> for ReduceFunction<G, O>
where
    K: Key,
    T: Record,
    O: ResultShape,
    G: for<'a> FnMut(&mut T, T::View<'a>) + 'static,
{
    type Acc = T;
    type Out = O::Keyed<K, T>;

    #[inline(always)]
    fn first(&mut self, record: T::View<'_>) -> T {
        T::from_view(record)
    }
    #[inline(always)]
    fn add(&mut self, acc: &mut T, record: T::View<'_>) {
        (self.reduce)(acc, record);
    }
    fn merge(&mut self, into: &mut T, from: &T) {
        let blame = Blame::new(0, from.view());
        (self.reduce)(into, from.view());
        blame.clear();
    }
    fn emit<S: Stage<Self::Out>>(
        &mut self,
        key: K::View<'_>,
        window: Window,
        acc: &T,
        timestamp: Timestamp,
        out: &mut S,
    ) {
        O::push_keyed::<K, T, S>(key, window, acc.view(), timestamp, out);
    }
}

/// An aggregate of the records of a key and window, kept as an accumulator.
///
/// Law: `merge` of the accumulators of two parts equals the accumulator of the whole.
///
/// ```
/// use std::time::Duration;
/// use tidemill::prelude::*;
///
/// #[derive(Clone)]
/// struct Average;
///
/// impl Aggregate<String, (String, f64)> for Average {
///     type Acc = (f64, u64);
///     type Out = (String, f64);
///     fn init(&self) -> (f64, u64) {
///         (0.0, 0)
///     }
///     fn add(&self, acc: &mut (f64, u64), record: (&str, f64)) {
///         acc.0 += record.1;
///         acc.1 += 1;
///     }
///     fn merge(&self, into: &mut (f64, u64), from: &(f64, u64)) {
///         into.0 += from.0;
///         into.1 += from.1;
///     }
///     fn finish(&self, sensor: &str, _: Window, acc: &(f64, u64)) -> (String, f64) {
///         (sensor.to_owned(), acc.0 / acc.1 as f64)
///     }
/// }
///
/// let env = Env::new("averages");
/// let out = CollectSink::new();
/// env.from_vec(vec![("s".to_string(), 1.0), ("s".to_string(), 2.0)])
///     .key_by::<String, _>(|reading| reading.0)
///     .window(Tumbling::of(Duration::from_secs(1)))
///     .aggregate(Average)
///     .add_sink(out.sink());
/// env.execute()?;
/// assert_eq!(out.take(), [("s".to_string(), 1.5)]);
/// # Ok::<(), tidemill::Error>(())
/// ```
pub trait Aggregate<K: Key, T: Record>: Clone + Send + 'static {
    /// What is kept.
    type Acc: Record;
    /// What is emitted.
    type Out: Record;

    /// The accumulator of no record.
    fn init(&self) -> Self::Acc;
    /// Adds a record.
    fn add(&self, acc: &mut Self::Acc, record: T::View<'_>);
    /// Adds another accumulator.
    fn merge(&self, into: &mut Self::Acc, from: &Self::Acc);
    /// The result of a key and window; a window may fire several times.
    fn finish(&self, key: K::View<'_>, window: Window, acc: &Self::Acc) -> Self::Out;
}

/// `aggregate`.
#[derive(Clone)]
pub(super) struct AggregateFunction<G>(pub(super) G);

impl<K: Key, T: Record, G: Aggregate<K, T>> WindowFunction<K, T> for AggregateFunction<G> {
    type Acc = G::Acc;
    type Out = G::Out;

    #[inline(always)]
    fn first(&mut self, record: T::View<'_>) -> G::Acc {
        let mut acc = self.0.init();
        self.0.add(&mut acc, record);
        acc
    }
    #[inline(always)]
    fn add(&mut self, acc: &mut G::Acc, record: T::View<'_>) {
        self.0.add(acc, record);
    }
    fn merge(&mut self, into: &mut G::Acc, from: &G::Acc) {
        let blame = Blame::new(0, from.view());
        self.0.merge(into, from);
        blame.clear();
    }
    fn emit<S: Stage<G::Out>>(
        &mut self,
        key: K::View<'_>,
        window: Window,
        acc: &G::Acc,
        timestamp: Timestamp,
        out: &mut S,
    ) {
        let blame = Blame::new(0, (key, window));
        let result = self.0.finish(key, window, acc);
        blame.clear();
        out.push(result.view(), timestamp);
    }
}

/// `aggregate_with`.
pub(super) struct ClosuresFunction<I, D, M, G, A, U> {
    pub(super) init: I,
    pub(super) add: D,
    pub(super) merge: M,
    pub(super) finish: G,
    pub(super) types: Types<(A, U)>,
}

impl<K, T, I, D, M, G, A, U> WindowFunction<K, T> for ClosuresFunction<I, D, M, G, A, U>
where
    K: Key,
    T: Record,
    A: Record,
    U: Record,
    I: FnMut() -> A + 'static,
    D: for<'a> FnMut(&mut A, T::View<'a>) + 'static,
    M: FnMut(&mut A, &A) + 'static,
    G: for<'a> FnMut(K::View<'a>, Window, &A) -> U + 'static,
{
    type Acc = A;
    type Out = U;

    #[inline(always)]
    fn first(&mut self, record: T::View<'_>) -> A {
        let mut acc = (self.init)();
        (self.add)(&mut acc, record);
        acc
    }
    #[inline(always)]
    fn add(&mut self, acc: &mut A, record: T::View<'_>) {
        (self.add)(acc, record);
    }
    fn merge(&mut self, into: &mut A, from: &A) {
        let blame = Blame::new(0, from.view());
        (self.merge)(into, from);
        blame.clear();
    }
    fn emit<S: Stage<U>>(
        &mut self,
        key: K::View<'_>,
        window: Window,
        acc: &A,
        timestamp: Timestamp,
        out: &mut S,
    ) {
        let blame = Blame::new(0, (key, window));
        let result = (self.finish)(key, window, acc);
        blame.clear();
        out.push(result.view(), timestamp);
    }
}

/// `process`.
pub(super) struct ProcessFunction<G, U> {
    pub(super) process: G,
    pub(super) types: Types<U>,
}

impl<K, T, G, U> WindowFunction<K, T> for ProcessFunction<G, U>
where
    K: Key,
    T: Record,
    U: Record,
    G: for<'a, 'c> FnMut(K::View<'a>, Window, List<'a, T>, &'c mut dyn FnMut(U::View<'_>))
        + 'static,
{
    type Acc = Vec<T>;
    type Out = U;

    fn first(&mut self, record: T::View<'_>) -> Vec<T> {
        vec![T::from_view(record)]
    }
    fn add(&mut self, acc: &mut Vec<T>, record: T::View<'_>) {
        acc.push(T::from_view(record));
    }
    fn merge(&mut self, into: &mut Vec<T>, from: &Vec<T>) {
        into.extend(from.iter().map(|record| T::from_view(record.view())));
    }
    fn emit<S: Stage<U>>(
        &mut self,
        key: K::View<'_>,
        window: Window,
        acc: &Vec<T>,
        timestamp: Timestamp,
        out: &mut S,
    ) {
        let (key, records) = (K::shorten(key), Vec::shorten(acc.view()));
        let blame = Blame::new(0, (key, window));
        (self.process)(key, window, records, &mut |result| out.push(result, timestamp));
        blame.clear();
    }
}
