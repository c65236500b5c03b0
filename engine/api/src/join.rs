//! Joins of keyed streams.

#![expect(clippy::type_complexity, reason = "recipes are typed by all that they are made of")]

use crate::connect::KeyedConnected;
use crate::keyed::KeyedStream;
use crate::pipe::{HeadPipe, OperatorFactory, Pipe};
use crate::stream::Stream;
use std::marker::PhantomData;
use std::time::Duration;
use tidemill_base::{Key, Record, Result};
use tidemill_keyed::StateTtl;
use tidemill_plan::OperatorKind;
use tidemill_runtime::deploy::Io;
use tidemill_runtime::join::history::HistoryJoin;
use tidemill_runtime::join::matching::{Interval, Matching, Windows};
use tidemill_runtime::join::pair::{Both, PairFn, Pairing};
use tidemill_runtime::join::sliced::SlicedJoin;
use tidemill_runtime::window::Window;

fn ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// A join that lacks its last word: [`Join::apply`] or [`Join::pairs`]. `M` says which records
/// meet.
///
/// ```
/// use std::time::Duration;
/// use tidemill::StateTtl;
/// use tidemill::prelude::*;
///
/// let env = Env::new("joins");
/// let read = |records: &[(u64, i64)]| {
///     let source = CollectionSource::new(records.to_vec());
///     env.add_source_with(source, event_time(|r: (u64, i64)| r.1)).shared()
/// };
/// let (left, right) = (read(&[(1, 1_000)]), read(&[(1, 1_500), (1, 7_000)]));
/// let keyed = |shared: &tidemill::SharedStream<(u64, i64)>| shared.stream().key_by::<u64, _>(|r| r.0);
/// let (window, interval, all) = (CollectSink::new(), CollectSink::new(), CollectSink::new());
/// keyed(&left)
///     .window_join(keyed(&right), Duration::from_secs(4))
///     .every(Duration::from_secs(2))
///     .apply(|_, window, _, r| (window.start, r.1))
///     .add_sink(window.sink());
/// keyed(&left)
///     .interval_join(keyed(&right), 0, 1_000)
///     .apply(|_, _, r| r.1)
///     .add_sink(interval.sink());
/// keyed(&left)
///     .join_all(keyed(&right))
///     .ttl(StateTtl::processing(3_600_000))
///     .pairs()
///     .add_sink(all.sink());
/// env.execute()?;
/// let mut windows = window.take();
/// windows.sort();
/// assert_eq!(windows, [(-2_000, 1_500), (0, 1_500)]);
/// assert_eq!((interval.take(), all.take().len()), (vec![1_500], 2));
/// # Ok::<(), tidemill::Error>(())
/// ```
pub struct Join<K, A, B, P, Q, FA, FB, M>
where
    A: Record,
    B: Record,
    P: Pipe<Out = A>,
    Q: Pipe<Out = B>,
{
    inputs: KeyedConnected<K, A, B, P, Q, FA, FB>,
    matching: M,
}

/// Joins the records of a window.
#[derive(Clone, Copy, Debug)]
pub struct InWindow {
    size: i64,
    slide: i64,
}

/// Joins records within an interval of time.
#[derive(Clone, Copy, Debug)]
pub struct InInterval {
    lower: i64,
    upper: i64,
}

/// Joins all records.
#[derive(Clone, Copy, Debug)]
pub struct All {
    ttl: Option<StateTtl>,
}

impl<K, A, P, FA> KeyedStream<K, A, P, FA>
where
    K: Key,
    A: Record,
    P: Pipe<Out = A>,
{
    /// Joins the records of both streams with the same key in the same window of event time:
    /// tumbling, or sliding with [`Join::every`].
    ///
    /// A pair is emitted as soon as its second record is there, with the window's last timestamp.
    /// Records whose windows have all closed are dropped and counted as late.
    ///
    /// ```
    /// # use tidemill::prelude::*;
    /// use std::time::Duration;
    /// let env = Env::new("window join");
    /// let out = CollectSink::new();
    /// let at = |record: (u64, i64)| record.1;
    /// let left = env.add_source_with(
    ///     CollectionSource::new(vec![(1u64, 1_000i64), (1, 12_000)]),
    ///     event_time(at),
    /// );
    /// let right =
    ///     env.add_source_with(CollectionSource::new(vec![(1u64, 9_000i64)]), event_time(at));
    /// left.key_by::<u64, _>(|record| record.0)
    ///     .window_join(right.key_by::<u64, _>(|record| record.0), Duration::from_secs(10))
    ///     .apply(|key, window, left, right| (key, window.end, left.1, right.1))
    ///     .add_sink(out.sink());
    /// env.execute()?;
    /// assert_eq!(out.take(), [(1, 10_000, 1_000, 9_000)]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn window_join<B, Q, FB>(
        self,
        other: KeyedStream<K, B, Q, FB>,
        size: Duration,
    ) -> Join<K, A, B, P, Q, FA, FB, InWindow>
    where
        B: Record,
        Q: Pipe<Out = B>,
    {
        let matching = InWindow { size: ms(size), slide: ms(size) };
        Join { inputs: self.connect(other), matching }
    }

    /// Joins each record at `t` with the other stream's records of the same key whose timestamps
    /// are in `t + lower ..= t + upper`, in milliseconds; the bounds may be negative. Records
    /// before the watermark are dropped and counted as late.
    ///
    /// ```
    /// # use tidemill::prelude::*;
    /// let env = Env::new("interval join");
    /// let out = CollectSink::new();
    /// let at = |record: (u64, i64)| record.1;
    /// let left = env.add_source_with(
    ///     CollectionSource::new(vec![(1u64, 1_000i64), (1, 5_000)]),
    ///     event_time(at),
    /// );
    /// let right =
    ///     env.add_source_with(CollectionSource::new(vec![(1u64, 5_500i64)]), event_time(at));
    /// left.key_by::<u64, _>(|record| record.0)
    ///     .interval_join(right.key_by::<u64, _>(|record| record.0), 0, 1_000)
    ///     .pairs()
    ///     .add_sink(out.sink());
    /// env.execute()?;
    /// assert_eq!(out.take(), [((1, 5_000), (1, 5_500))]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn interval_join<B, Q, FB>(
        self,
        other: KeyedStream<K, B, Q, FB>,
        lower_ms: i64,
        upper_ms: i64,
    ) -> Join<K, A, B, P, Q, FA, FB, InInterval>
    where
        B: Record,
        Q: Pipe<Out = B>,
    {
        let matching = InInterval { lower: lower_ms, upper: upper_ms };
        Join { inputs: self.connect(other), matching }
    }

    /// Joins each record with every record of the other stream with the same key, whenever that
    /// comes. All records are kept, for ever or with [`Join::ttl`].
    ///
    /// ```
    /// # use tidemill::prelude::*;
    /// let env = Env::new("join");
    /// let out = CollectSink::new();
    /// let names = env.from_vec(vec![(1u64, "ann".to_string())]);
    /// let cities = env.from_vec(vec![(1u64, "york".to_string()), (2, "rome".to_string())]);
    /// names
    ///     .key_by::<u64, _>(|record| record.0)
    ///     .join_all(cities.key_by::<u64, _>(|record| record.0))
    ///     .apply(|_, name, city| format!("{} in {}", name.1, city.1))
    ///     .add_sink(out.sink());
    /// env.execute()?;
    /// assert_eq!(out.take(), ["ann in york"]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn join_all<B, Q, FB>(
        self,
        other: KeyedStream<K, B, Q, FB>,
    ) -> Join<K, A, B, P, Q, FA, FB, All>
    where
        B: Record,
        Q: Pipe<Out = B>,
    {
        Join { inputs: self.connect(other), matching: All { ttl: None } }
    }
}

impl<K, A, B, P, Q, FA, FB> Join<K, A, B, P, Q, FA, FB, InWindow>
where
    A: Record,
    B: Record,
    P: Pipe<Out = A>,
    Q: Pipe<Out = B>,
{
    /// Makes the windows sliding: one every `slide`. A pair is emitted once for each window that
    /// both records are in.
    #[must_use]
    pub fn every(mut self, slide: Duration) -> Self {
        self.matching.slide = ms(slide);
        self
    }
}

impl<K, A, B, P, Q, FA, FB> Join<K, A, B, P, Q, FA, FB, All>
where
    A: Record,
    B: Record,
    P: Pipe<Out = A>,
    Q: Pipe<Out = B>,
{
    /// Forgets records some time after their arrival (`update_on_read` has no effect here).
    #[must_use]
    pub fn ttl(mut self, ttl: StateTtl) -> Self {
        self.matching.ttl = Some(ttl);
        self
    }
}

/// Makes the operator of a join.
pub struct JoinFactory<K, A, B, M, J, FA, FB> {
    matching: M,
    pairing: J,
    selectors: (FA, FB),
    types: PhantomData<fn() -> (K, A, B)>,
}

impl<K, A, B, M: Clone, J: Clone, FA: Clone, FB: Clone> Clone
    for JoinFactory<K, A, B, M, J, FA, FB>
{
    fn clone(&self) -> Self {
        JoinFactory {
            matching: self.matching.clone(),
            pairing: self.pairing.clone(),
            selectors: self.selectors.clone(),
            types: PhantomData,
        }
    }
}

macro_rules! join {
    ($matching:ident, $place:ty, $name:literal, $operator:ty, $this:ident, $io:ident, $id:ident,
     $open:expr, ($($argument:ty),*)) => {
        impl<K, A, B, J, FA, FB> OperatorFactory for JoinFactory<K, A, B, $matching, J, FA, FB>
        where
            K: Key,
            A: Record,
            B: Record,
            J: Pairing<K, $place, A, B> + Clone + Send,
            FA: for<'a> FnMut(&'a A::View<'a>) -> K::View<'a> + Clone + Send + 'static,
            FB: for<'a> FnMut(&'a B::View<'a>) -> K::View<'a> + Clone + Send + 'static,
        {
            type Operator = $operator;
            fn open(&self, $io: &mut Io, $id: u64) -> Result<Self::Operator> {
                let $this = self;
                $open
            }
        }

        impl<K, A, B, P, Q, FA, FB> Join<K, A, B, P, Q, FA, FB, $matching>
        where
            K: Key,
            A: Record,
            B: Record,
            P: Pipe<Out = A>,
            Q: Pipe<Out = B>,
            FA: for<'a> FnMut(&'a A::View<'a>) -> K::View<'a> + Clone + Send + 'static,
            FB: for<'a> FnMut(&'a B::View<'a>) -> K::View<'a> + Clone + Send + 'static,
        {
            fn with<J: Pairing<K, $place, A, B> + Clone + Send>(
                self,
                pairing: J,
            ) -> Stream<J::Out, HeadPipe<JoinFactory<K, A, B, $matching, J, FA, FB>>> {
                let (first, second) = (&self.inputs.first, &self.inputs.second);
                let selectors = (first.selector.clone(), second.selector.clone());
                let matching = self.matching;
                let factory = JoinFactory { matching, pairing, selectors, types: PhantomData };
                self.inputs.apply($name, OperatorKind::Join, factory)
            }

            /// Emits what a closure makes of each pair.
            pub fn apply<U, F>(self, function: F) -> Stream<U, impl Pipe<Out = U>>
            where
                U: Record,
                F: for<'a> FnMut($($argument),*) -> U + Clone + Send + 'static,
            {
                self.with(PairFn(function))
            }

            /// Emits each pair of records as it is, without copying their contents twice.
            pub fn pairs(self) -> Stream<(A, B), impl Pipe<Out = (A, B)>> {
                self.with(Both)
            }
        }
    };
}

join!(
    InWindow, Window, "window_join", SlicedJoin<K, A, B, Windows, J, FA, FB>, this, io, id,
    {
        let windows = Windows::new(this.matching.size, this.matching.slide)?;
        open_sliced(this, windows, io, id)
    },
    (K::View<'a>, Window, A::View<'a>, B::View<'a>)
);
join!(
    InInterval, (), "interval_join", SlicedJoin<K, A, B, Interval, J, FA, FB>, this, io, id,
    {
        let interval = Interval::new(this.matching.lower, this.matching.upper)?;
        open_sliced(this, interval, io, id)
    },
    (K::View<'a>, A::View<'a>, B::View<'a>)
);
join!(
    All, (), "join", HistoryJoin<K, A, B, J, FA, FB>, this, io, id,
    {
        let (selectors, pairing) = (this.selectors.clone(), this.pairing.clone());
        HistoryJoin::open(&io.context, id, selectors, this.matching.ttl, pairing)
    },
    (K::View<'a>, A::View<'a>, B::View<'a>)
);

fn open_sliced<K, A, B, M, S, J, FA, FB>(
    factory: &JoinFactory<K, A, B, S, J, FA, FB>,
    matching: M,
    io: &mut Io,
    operator: u64,
) -> Result<SlicedJoin<K, A, B, M, J, FA, FB>>
where
    K: Key,
    A: Record,
    B: Record,
    M: Matching,
    J: Clone,
    FA: Clone,
    FB: Clone,
{
    let (selectors, pairing) = (factory.selectors.clone(), factory.pairing.clone());
    SlicedJoin::open(&io.context, operator, selectors, matching, pairing)
}
