//! Windows over keyed streams, as a program writes them.

mod apply;
mod assigners;
mod functions;

pub use apply::{WindowFactory, WindowedStream};
pub use assigners::{Count, Global, Session, Sliding, Tumbling, Windows};
pub use functions::{Aggregate, Number, ResultShape, ValueByKey, ValueByWindow};
/// ```
/// use std::time::Duration;
/// use tidemill::prelude::*;
///
/// let env = Env::new("early");
/// let numbers = GeneratorSource::with_timestamps(Some(100), |i| (i, i as i64));
/// let numbers = numbers.bounded_lateness(0).watermark_every(1);
/// let second = Duration::from_millis(10);
/// let all = env.add_source(numbers).shared();
/// let fired = |trigger: Trigger| {
///     let out = CollectSink::new();
///     let keyed = all.stream().key_by::<(), _>(|_| ());
///     keyed.window(Tumbling::of(10 * second)).trigger(trigger).count().add_sink(out.sink());
///     out
/// };
/// let end = fired(Trigger::at_end());
/// let count = fired(Trigger::count(40));
/// let both = fired(Trigger::at_end().or_count(40).purging());
/// let every = fired(Trigger::every(5 * second).purging());
/// let also = fired(Trigger::at_end().or_every(5 * second).or_every_processing_time(100_000 * second));
/// let clock = fired(Trigger::every_processing_time(100_000 * second));
/// env.execute()?;
/// let counts = |out: CollectSink<((), u64)>| out.take().iter().map(|r| r.1).collect::<Vec<_>>();
/// assert_eq!(counts(end), [100]);
/// assert_eq!(counts(count), [40, 80]);
/// assert_eq!(counts(both), [40, 40, 20]);
/// assert_eq!(counts(every).iter().sum::<u64>(), 100);
/// assert_eq!(counts(also).last(), Some(&100));
/// assert_eq!(counts(clock).last(), Some(&100));
/// # Ok::<(), tidemill::Error>(())
/// ```
#[doc(inline)]
pub use tidemill_runtime::window::Trigger;
/// ```
/// use tidemill::Window;
///
/// let minute = Window { start: 0, end: 60_000 };
/// assert_eq!(minute.last_timestamp(), 59_999);
/// ```
#[doc(inline)]
pub use tidemill_runtime::window::Window;
