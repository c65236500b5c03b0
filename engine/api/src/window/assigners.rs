//! Which windows: the argument of `keyed.window(..)`.

use std::time::Duration;
use tidemill_runtime::window::{Aligned, Assigner, Domain, Spec, millis};

/// What [`KeyedStream::window`](crate::KeyedStream::window) takes; made from [`Tumbling`],
/// [`Sliding`], [`Session`], [`Count`] or [`Global`].
///
/// ```
/// use std::time::Duration;
/// use tidemill::Windows;
/// use tidemill::prelude::*;
///
/// fn windows(name: &str) -> Windows {
///     match name {
///         "all" => Global.into(),
///         _ => Tumbling::of(Duration::from_secs(60)).into(),
///     }
/// }
/// let env = Env::new("chosen");
/// env.from_vec(vec![1u64]).key_by::<u64, _>(|n| *n).window(windows("all")).count().add_sink(DiscardSink);
/// env.execute()?;
/// # Ok::<(), tidemill::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Windows {
    pub(crate) spec: Spec,
}

impl Windows {
    fn new(assigner: Assigner, domain: Domain) -> Self {
        Windows { spec: Spec { domain, ..Spec::new(assigner) } }
    }
}

macro_rules! time_window {
    ($name:ident) => {
        impl $name {
            /// Windows by the machine's clock instead of the records' timestamps. At the end of a
            /// bounded stream, windows that are open fire too.
            #[must_use]
            pub fn processing_time(self) -> Self {
                $name { domain: Domain::ProcessingTime, ..self }
            }
        }

        impl From<$name> for Windows {
            fn from(from: $name) -> Windows {
                Windows::new(from.assigner, from.domain)
            }
        }
    };
}

macro_rules! aligned_window {
    ($name:ident) => {
        impl $name {
            /// Windows start at `offset` behind the multiples of size or slide, e.g. 8 hours for
            /// days that begin at 8:00 UTC.
            #[must_use]
            pub fn offset(mut self, offset: Duration) -> Self {
                if let Assigner::Aligned(aligned) = &mut self.assigner {
                    aligned.offset = millis(offset);
                }
                self
            }
        }
    };
}

/// Windows of equal size, one behind the other. By event time.
///
/// ```
/// use std::time::Duration;
/// use tidemill::prelude::*;
///
/// let env = Env::new("days");
/// let out = CollectSink::new();
/// let hours = GeneratorSource::with_timestamps(Some(48), |hour| (hour, hour as i64 * 3_600_000));
/// // Days that begin at 8:00.
/// let day = Tumbling::of(Duration::from_secs(86_400)).offset(Duration::from_secs(8 * 3_600));
/// let by_time = source_time().out_of_order(Duration::from_secs(1));
/// env.add_source_with(hours, by_time).key_by::<(), _>(|_| ()).window(day).count().add_sink(out.sink());
/// env.execute()?;
/// assert_eq!(out.take(), [((), 8), ((), 24), ((), 16)]);
/// # Ok::<(), tidemill::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Tumbling {
    assigner: Assigner,
    domain: Domain,
}

impl Tumbling {
    /// Windows of `size`, at least 1 ms.
    pub fn of(size: Duration) -> Self {
        let size = millis(size);
        let assigner = Assigner::Aligned(Aligned { size, slide: size, offset: 0 });
        Tumbling { assigner, domain: Domain::EventTime }
    }
}
aligned_window!(Tumbling);
time_window!(Tumbling);

/// Windows of equal size that overlap. By event time.
///
/// ```
/// use std::time::Duration;
/// use tidemill::prelude::*;
///
/// let env = Env::new("sliding");
/// let out = CollectSink::new();
/// let minute = Sliding::of(Duration::from_secs(60), Duration::from_secs(30));
/// let events = CollectionSource::with_timestamps(vec![(1u64, 40_000)]);
/// env.add_source_with(events, source_time())
///     .key_by::<u64, _>(|n| *n)
///     .window(minute)
///     .with_window()
///     .count()
///     .add_sink(out.sink());
/// env.execute()?;
/// assert_eq!(out.take(), [(1, 0, 60_000, 1), (1, 30_000, 90_000, 1)]);
/// # Ok::<(), tidemill::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Sliding {
    assigner: Assigner,
    domain: Domain,
}

impl Sliding {
    /// Windows of `size`, one every `slide`. With a slide greater than the size, records between
    /// two windows are in none.
    pub fn of(size: Duration, slide: Duration) -> Self {
        let (size, slide) = (millis(size), millis(slide));
        let assigner = Assigner::Aligned(Aligned { size, slide, offset: 0 });
        Sliding { assigner, domain: Domain::EventTime }
    }
}
aligned_window!(Sliding);
time_window!(Sliding);

/// Windows of records of a key with no gap between them. By event time.
///
/// ```
/// use std::time::Duration;
/// use tidemill::prelude::*;
///
/// let env = Env::new("sessions");
/// let (out, now) = (CollectSink::new(), CollectSink::new());
/// let clicks = vec![(7u64, 1_000), (7, 4_000), (7, 20_000)];
/// let clicks = env.add_source_with(CollectionSource::with_timestamps(clicks), source_time()).shared();
/// let sessions = Session::gap(Duration::from_secs(5));
/// clicks.stream().key_by::<u64, _>(|u| *u).window(sessions).with_window().count().add_sink(out.sink());
/// // By the machine's clock: all three came at once.
/// let by_clock = sessions.processing_time();
/// clicks.stream().key_by::<u64, _>(|u| *u).window(by_clock).count().add_sink(now.sink());
/// env.execute()?;
/// assert_eq!(out.take(), [(7, 1_000, 9_000, 2), (7, 20_000, 25_000, 1)]);
/// assert_eq!(now.take(), [(7, 3)]);
/// # Ok::<(), tidemill::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Session {
    assigner: Assigner,
    domain: Domain,
}

impl Session {
    /// A window ends when `gap` has passed without a record; records exactly `gap` apart share
    /// one. Its end is its last record's timestamp plus `gap`.
    pub fn gap(gap: Duration) -> Self {
        let assigner = Assigner::Session { gap: millis(gap) };
        Session { assigner, domain: Domain::EventTime }
    }
}
time_window!(Session);

/// Windows of a number of records of a key, in the order of their arrival. What has not filled a
/// window when the stream ends is not emitted.
///
/// ```
/// use tidemill::prelude::*;
///
/// let env = Env::new("counts");
/// let (pairs, last) = (CollectSink::new(), CollectSink::new());
/// let numbers = env.from_vec(vec![1u64, 2, 3, 4, 5]).shared();
/// let keyed = || numbers.stream().key_by::<(), _>(|_| ());
/// keyed().window(Count::of(2)).sum(|n| n).add_sink(pairs.sink());
/// keyed().window(Count::sliding(3, 1)).sum(|n| n).add_sink(last.sink());
/// env.execute()?;
/// assert_eq!(pairs.take(), [((), 3), ((), 7)]);
/// assert_eq!(last.take(), [((), 1), ((), 3), ((), 6), ((), 9), ((), 12)]);
/// # Ok::<(), tidemill::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Count {
    size: u64,
    slide: u64,
}

impl Count {
    /// Windows of `n` records.
    pub fn of(n: u64) -> Self {
        Count { size: n, slide: n }
    }

    /// Windows of the last `n` records, one every `slide` records.
    pub fn sliding(n: u64, slide: u64) -> Self {
        Count { size: n, slide }
    }
}

impl From<Count> for Windows {
    fn from(Count { size, slide }: Count) -> Windows {
        Windows::new(Assigner::Count { size, slide }, Domain::EventTime)
    }
}

/// One window for all records of a key. Without a trigger it fires at the end of the stream.
///
/// ```
/// use tidemill::prelude::*;
///
/// let env = Env::new("totals");
/// let (all, each_two) = (CollectSink::new(), CollectSink::new());
/// let numbers = env.from_vec(vec![1u64, 2, 3]).shared();
/// let keyed = || numbers.stream().key_by::<(), _>(|_| ());
/// keyed().window(Global).sum(|n| n).add_sink(all.sink());
/// keyed().window(Global).trigger(Trigger::count(2)).sum(|n| n).add_sink(each_two.sink());
/// env.execute()?;
/// assert_eq!((all.take(), each_two.take()), (vec![((), 6)], vec![((), 3)]));
/// # Ok::<(), tidemill::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Global;

impl From<Global> for Windows {
    fn from(_: Global) -> Windows {
        Windows::new(Assigner::Global, Domain::EventTime)
    }
}
