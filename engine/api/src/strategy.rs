//! Event time: where timestamps come from and how far watermarks stay behind.

use std::time::Duration;
use tidemill_base::{Record, Timestamp};
use tidemill_runtime::source::{Assigner, Bounded, Native, POLL_RECORDS};

/// Makes the timestamps and watermarks of a source.
///
/// ```
/// # use tidemill::prelude::*;
/// use tidemill::{NativeTime, WatermarkStrategy};
///
/// fn read(env: &Env, strategy: impl WatermarkStrategy<u64>) {
///     let numbers = CollectionSource::with_timestamps(vec![(1u64, 1_000)]);
///     env.add_source_with(numbers, strategy).add_sink(DiscardSink);
/// }
/// let env = Env::new("job");
/// read(&env, NativeTime);
/// read(&env, source_time());
/// read(&env, event_time(|n: u64| n as i64));
/// env.execute()?;
/// # Ok::<(), tidemill::Error>(())
/// ```
pub trait WatermarkStrategy<T: Record> {
    /// What the engine runs.
    type Assigner: Assigner<T>;
    /// Makes it.
    fn assigner(self) -> Self::Assigner;
}

/// The source's own timestamps and watermarks.
#[derive(Clone, Copy, Debug, Default)]
pub struct NativeTime;

impl<T: Record> WatermarkStrategy<T> for NativeTime {
    type Assigner = Native;
    fn assigner(self) -> Native {
        Native
    }
}

/// Timestamps by a function of the record.
///
/// ```
/// # use tidemill::prelude::*;
/// # use std::time::Duration;
/// let time = event_time(|record: (u64, i64)| record.1)
///     .out_of_order(Duration::from_secs(5))
///     .watermark_every(1)
///     .idle_after(Some(Duration::from_secs(30)))
///     .max_skew(Duration::from_secs(3_600));
/// let env = Env::new("job");
/// env.add_source_with(CollectionSource::new(vec![(1u64, 1_000i64)]), time).add_sink(DiscardSink);
/// env.execute()?;
/// # Ok::<(), tidemill::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct EventTime<F> {
    function: F,
    lateness: Duration,
    idle_after: Option<Duration>,
    watermark_every: usize,
    max_skew: Option<Duration>,
}

/// Event time by a function of the record, in milliseconds; ascending within each split unless
/// [`EventTime::out_of_order`] says otherwise.
///
/// ```
/// # use tidemill::prelude::*;
/// # use std::time::Duration;
/// let env = Env::new("job");
/// let clicks = vec![("home".to_string(), 1_000i64), ("cart".to_string(), 900)];
/// let stream = env.add_source_with(
///     CollectionSource::new(clicks),
///     event_time(|click: (&str, i64)| click.1).out_of_order(Duration::from_secs(5)),
/// );
/// # stream.add_sink(DiscardSink);
/// ```
pub fn event_time<F>(function: F) -> EventTime<F> {
    EventTime {
        function,
        lateness: Duration::ZERO,
        idle_after: Some(Duration::from_secs(10)),
        watermark_every: POLL_RECORDS,
        max_skew: None,
    }
}

pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

impl<F> EventTime<F> {
    /// Records may be as late as this; the watermark stays behind by as much.
    #[must_use]
    pub fn out_of_order(mut self, lateness: Duration) -> Self {
        self.lateness = lateness;
        self
    }

    /// A watermark after as many records (default and at most 1024). With 1, late data and timers
    /// are exact to the record, at the price of a watermark for each.
    #[must_use]
    pub fn watermark_every(mut self, records: usize) -> Self {
        self.watermark_every = records;
        self
    }

    /// A split without records for this long holds no watermark back (default 10 s); `None`: it
    /// always does.
    #[must_use]
    pub fn idle_after(mut self, idle: Option<Duration>) -> Self {
        self.idle_after = idle;
        self
    }

    /// How far this source may be ahead of the slowest one that its records meet; see
    /// [`Env::max_skew`](crate::Env::max_skew), which is the default.
    #[must_use]
    pub fn max_skew(mut self, max_skew: Duration) -> Self {
        self.max_skew = Some(max_skew);
        self
    }
}

impl<T, F> WatermarkStrategy<T> for EventTime<F>
where
    T: Record,
    F: for<'a> FnMut(T::View<'a>) -> Timestamp + Clone + Send + 'static,
{
    type Assigner = Bounded<F>;
    fn assigner(self) -> Bounded<F> {
        Bounded {
            function: self.function,
            lateness: millis(self.lateness),
            idle_after: self.idle_after.map(|d| d.as_micros() as u64),
            watermark_every: self.watermark_every,
            max_skew: self.max_skew.map(millis),
        }
    }
}

/// The source's own timestamps (for instance a line's place in its file), with watermarks behind
/// them.
/// See [`source_time`] for an example.
#[derive(Clone, Copy, Debug)]
pub struct SourceTime {
    lateness: Duration,
    max_skew: Option<Duration>,
}

/// The source's own timestamps, ascending within each split unless told otherwise.
///
/// ```
/// # use tidemill::prelude::*;
/// # use std::time::Duration;
/// // A line's place in its file is its event time.
/// let env = Env::new("text");
/// let time = source_time().out_of_order(Duration::ZERO).max_skew(Duration::from_secs(60));
/// env.add_source_with(FileSource::lines("text.txt"), time).add_sink(DiscardSink);
/// ```
pub fn source_time() -> SourceTime {
    SourceTime { lateness: Duration::ZERO, max_skew: None }
}

impl SourceTime {
    /// Records may be as late as this.
    #[must_use]
    pub fn out_of_order(mut self, lateness: Duration) -> Self {
        self.lateness = lateness;
        self
    }

    /// How far this source may be ahead of the slowest one that its records meet; see
    /// [`Env::max_skew`](crate::Env::max_skew), which is the default.
    #[must_use]
    pub fn max_skew(mut self, max_skew: Duration) -> Self {
        self.max_skew = Some(max_skew);
        self
    }
}

impl<T: Record> WatermarkStrategy<T> for SourceTime {
    type Assigner = SourceClock;
    fn assigner(self) -> SourceClock {
        SourceClock { lateness: millis(self.lateness), max_skew: self.max_skew.map(millis) }
    }
}

/// What [`SourceTime`] runs.
#[derive(Clone, Copy, Debug)]
pub struct SourceClock {
    lateness: i64,
    max_skew: Option<i64>,
}

impl<T: Record> Assigner<T> for SourceClock {
    #[inline(always)]
    fn timestamp(&mut self, _: T::View<'_>, native: Timestamp) -> Timestamp {
        native
    }
    fn lateness(&self) -> Option<i64> {
        Some(self.lateness)
    }
    fn max_skew(&self) -> Option<i64> {
        self.max_skew
    }
}
