//! What functions, sources and sinks of one's own are made of, from the crates that run them; an
//! example for each.

use tidemill_base::Result;

/// ```
/// use tidemill::prelude::*;
///
/// /// Tells how many records a key had when it has been silent for a second.
/// #[derive(Clone)]
/// struct Silence;
///
/// impl KeyedProcess<u64, (u64, i64)> for Silence {
///     type Out = (u64, u64, bool);
///     type State = ValueState<u64>;
///
///     fn open(&self, states: &mut States<u64>) -> Result<Self::State> {
///         states.value("records", None)
///     }
///     fn process(
///         &mut self,
///         records: &mut Self::State,
///         _: (u64, i64),
///         cx: &mut ProcessContext<'_, u64, Self::Out>,
///     ) {
///         records.update(|n| *n += 1);
///         cx.register_event_timer(cx.timestamp() + 1_000);
///     }
///     fn on_timer(
///         &mut self,
///         records: &mut Self::State,
///         timer: Timer,
///         cx: &mut ProcessContext<'_, u64, Self::Out>,
///     ) {
///         assert!(timer.kind == TimerKind::Event && timer.time <= cx.watermark());
///         if let Some(n) = records.take() {
///             cx.emit_at((cx.key(), n, cx.at_end()), timer.time);
///         }
///     }
/// }
///
/// let env = Env::new("silence");
/// let out = CollectSink::new();
/// let readings = CollectionSource::new(vec![(7u64, 100i64), (7, 200), (8, 5_000)]);
/// env.add_source_with(readings, event_time(|r: (u64, i64)| r.1).watermark_every(1))
///     .key_by::<u64, _>(|r| r.0)
///     .process(Silence)
///     .add_sink(out.sink());
/// env.execute()?;
/// assert_eq!(out.take(), [(7, 2, false), (8, 1, true)]);
/// # Ok::<(), tidemill::Error>(())
/// ```
///
/// Timers by the clock, and giving up:
///
/// ```
/// use tidemill::prelude::*;
///
/// let env = Env::new("patience").restart(tidemill::RestartStrategy::None);
/// env.from_vec(vec![(1u64, 5u64), (1, 0)])
///     .key_by::<u64, _>(|r| r.0)
///     .process_value_with_timer::<i64, u64, _, _>(
///         |record, due, cx| {
///             if record.1 == 0 {
///                 return cx.fail(Error::job("a record of nothing"));
///             }
///             if let Some(old) = *due {
///                 cx.delete_processing_timer(old);
///             }
///             cx.register_processing_timer(cx.processing_time() + 60_000);
///             *due = Some(cx.processing_time() + 60_000);
///         },
///         |_, due, cx| {
///             cx.delete_event_timer(0);
///             *due = None;
///         },
///     )
///     .add_sink(DiscardSink);
/// let error = env.execute().unwrap_err();
/// assert!(error.to_string().contains("a record of nothing"));
/// ```
#[doc(inline)]
pub use tidemill_runtime::process::{KeyedProcess, ProcessContext, Timer, TimerKind};

/// An example stands at [`KeyedConnected::process`](crate::KeyedConnected::process); this is the least:
///
/// ```
/// use tidemill::prelude::*;
///
/// /// The two streams as one, told apart.
/// #[derive(Clone)]
/// struct Told;
///
/// impl CoProcess<u64, u64, u64> for Told {
///     type Out = (bool, u64);
///     type State = ();
///
///     fn open(&self, _: &mut States<u64>) -> Result<()> {
///         Ok(())
///     }
///     fn process1(&mut self, _: &mut (), n: u64, cx: &mut ProcessContext<'_, u64, (bool, u64)>) {
///         cx.emit((true, n));
///     }
///     fn process2(&mut self, _: &mut (), n: u64, cx: &mut ProcessContext<'_, u64, (bool, u64)>) {
///         cx.emit((false, n));
///     }
/// }
///
/// let env = Env::new("told");
/// let out = CollectSink::new();
/// let first = env.from_vec(vec![1u64]).key_by::<u64, _>(|n| *n);
/// let second = env.from_vec(vec![2u64]).key_by::<u64, _>(|n| *n);
/// first.connect(second).process(Told).add_sink(out.sink());
/// env.execute()?;
/// let mut told = out.take();
/// told.sort();
/// assert_eq!(told, [(false, 2), (true, 1)]);
/// # Ok::<(), tidemill::Error>(())
/// ```
#[doc(inline)]
pub use tidemill_runtime::process::CoProcess;

/// ```
/// use tidemill::prelude::*;
///
/// /// Sells what is left of each ware; a delivery of 0 ends the sale.
/// let env = Env::new("stock");
/// let deliveries = env.from_vec(vec![("tea".to_string(), 2i64), ("tea".into(), 1), ("gum".into(), 0)]);
/// env.from_vec(vec!["tea".to_string(), "gum".to_string()])
///     .connect_broadcast(deliveries)
///     .process::<String, i64, (String, i64), _, _>(
///         |ware, stock, cx| {
///             assert!(stock.len() <= 2 && stock.is_empty() == (stock.iter().count() == 0));
///             if stock.contains(ware) {
///                 cx.emit((ware, stock.get(ware).copied().unwrap_or(0)));
///             }
///         },
///         |(ware, amount), stock| match stock.get_mut(ware) {
///             _ if amount == 0 => _ = stock.remove(ware),
///             Some(have) => *have += amount,
///             None => _ = stock.insert(ware, amount),
///         },
///     )
///     .add_sink(DiscardSink);
/// env.execute()?;
/// # Ok::<(), tidemill::Error>(())
/// ```
#[doc(inline)]
pub use tidemill_runtime::process::broadcast::BroadcastMap;

#[doc(inline)]
pub use tidemill_runtime::process::BroadcastProcess;

/// ```
/// use tidemill::prelude::*;
///
/// let env = Env::new("split");
/// let (even, odd) = (CollectSink::new(), CollectSink::new());
/// let side = env.output_tag::<u64>("odd");
/// assert_eq!(side.name(), "odd");
/// let tag = side.clone();
/// env.from_vec(vec![1u64, 2, 3])
///     .process::<(u64, i64), _>(move |n, cx| {
///         assert!(cx.processing_time() > 0 && cx.watermark() <= cx.timestamp());
///         match n % 2 {
///             0 if n > 100 => cx.fail(Error::job("too many")),
///             0 => cx.emit_at((n, cx.timestamp()), cx.timestamp()),
///             _ => cx.side(&tag, n),
///         }
///     })
///     .side_output(&side)
///     .add_sink(even.sink());
/// side.stream(&env).add_sink(odd.sink());
/// env.execute()?;
/// assert_eq!((even.take().len(), odd.take()), (1, vec![1, 3]));
/// # Ok::<(), tidemill::Error>(())
/// ```
#[doc(inline)]
pub use tidemill_runtime::process::plain::PlainContext;

/// One value for each key:
///
/// ```
/// # use tidemill::prelude::*;
/// # fn example(last: &ValueState<u64>) {
/// last.set(5);
/// assert_eq!(last.get(), Some(5));
/// last.update(|n| *n += 1); // from the default value if there is none
/// last.update_or(|| 100, |n| *n += 1);
/// assert_eq!(last.read(|n| n.copied()), Some(7));
/// assert_eq!(last.take(), Some(7));
/// last.set(1);
/// last.clear();
/// assert_eq!(last.get(), None);
/// # }
/// # tidemill::__private::doc_state(|states| states.value("last", None), example);
/// ```
#[doc(inline)]
pub use tidemill_keyed::ValueState;

/// A list for each key:
///
/// ```
/// # use tidemill::prelude::*;
/// # fn example(pages: &ListState<String>) {
/// pages.add("home".to_string());
/// pages.add("cart".to_string());
/// assert_eq!((pages.len(), pages.is_empty()), (2, false));
/// assert_eq!(pages.iter().collect::<Vec<_>>(), ["home", "cart"]);
/// let mut letters = 0;
/// pages.for_each(|page| letters += page.len());
/// assert_eq!(letters, 8);
/// pages.set(vec!["end".to_string()]);
/// pages.clear();
/// # }
/// # tidemill::__private::doc_state(|states| states.list("pages", None), example);
/// ```
#[doc(inline)]
pub use tidemill_keyed::ListState;

/// A map for each key:
///
/// ```
/// # use tidemill::prelude::*;
/// # fn example(visits: &MapState<String, u64>) {
/// visits.put("home", 1);
/// visits.update("home", |n| *n += 1);
/// assert_eq!((visits.get("home"), visits.contains("cart")), (Some(2), false));
/// assert_eq!(visits.read("home", |n| n.copied()), Some(2));
/// assert_eq!(visits.iter().collect::<Vec<_>>(), [("home".to_string(), 2)]);
/// visits.for_each(|page, n| assert!(page == "home" && *n == 2));
/// assert_eq!(visits.remove("home"), Some(2));
/// assert!(visits.is_empty());
/// visits.clear();
/// # }
/// # tidemill::__private::doc_state(|states| states.map("visits", None), example);
/// ```
#[doc(inline)]
pub use tidemill_keyed::MapState;

/// One value for each key, merged as it is written:
///
/// ```
/// # use tidemill::prelude::*;
/// # fn example(greatest: &ReducingState<u64>) {
/// greatest.add(5);
/// greatest.add(3);
/// assert_eq!(greatest.get(), Some(5));
/// assert_eq!(greatest.read(|n| n.copied()), Some(5));
/// greatest.clear();
/// # }
/// # tidemill::__private::doc_state(
/// #     |states| states.reducing("greatest", None, |a: &mut u64, b| *a = (*a).max(b)),
/// #     example,
/// # );
/// ```
#[doc(inline)]
pub use tidemill_keyed::ReducingState;

/// ```
/// use tidemill::prelude::*;
///
/// /// Four states, one of which forgets after an hour without use, one after a minute of event time.
/// struct Visitor {
///     first: ValueState<i64>,
///     pages: ListState<String>,
///     visits: MapState<String, u64>,
///     spent: ReducingState<u64>,
/// }
///
/// fn open(states: &mut States<String>) -> Result<Visitor> {
///     let hour = StateTtl::processing(3_600_000).update_on_read();
///     assert_eq!(hour.time, tidemill::TtlTime::Processing);
///     Ok(Visitor {
///         first: states.value("first seen", None)?,
///         pages: states.list("pages", Some(StateTtl::event(60_000)))?,
///         visits: states.map("visits by page", Some(hour))?,
///         spent: states.reducing("cents spent", None, |sum, cents| *sum += cents)?,
///     })
/// }
/// # let _ = open;
/// ```
#[doc(inline)]
pub use tidemill_keyed::{StateTtl, States, TtlTime};

/// ```
/// use std::time::Duration;
/// use tidemill::prelude::*;
/// use tidemill::{Backoff, RestartStrategy};
///
/// // Five restarts a second apart; never; with pauses of up to a minute that grow.
/// let five = RestartStrategy::FixedDelay { attempts: 5, delay_us: 1_000_000 };
/// let growing = Backoff { max_us: 60_000_000, ..Backoff::default() };
/// for strategy in [five, RestartStrategy::None, RestartStrategy::ExponentialBackoff(growing)] {
///     let env = Env::new("restarts").restart(strategy);
///     env.from_vec(vec![1u64]).add_sink(DiscardSink);
///     assert_eq!(env.execute()?.restarts, 0);
/// }
/// # Ok::<(), tidemill::Error>(())
/// ```
#[doc(inline)]
pub use tidemill_coordination::{Backoff, RestartStrategy};

/// A source that counts; its position is a number:
///
/// ```
/// use tidemill::prelude::*;
/// use tidemill::{Emit, Polled, Source, SourceContext, SourceReader};
///
/// #[derive(Clone)]
/// struct UpTo(u64);
///
/// struct Reader {
///     next: u64,
///     end: u64,
/// }
///
/// impl Source for UpTo {
///     type Item = u64;
///     type Reader = Reader;
///
///     fn open(&self, cx: &SourceContext) -> Result<Reader> {
///         // One split, of subtask 0; after a restore, of whoever was dealt its position.
///         let mine = match &cx.restored {
///             None => (cx.subtask == 0).then_some(0),
///             Some(positions) => positions.first().map(|p| u64::from(p[0])),
///         };
///         Ok(Reader { next: mine.unwrap_or(self.0), end: self.0 })
///     }
///     fn name(&self) -> String {
///         format!("up to {}", self.0)
///     }
/// }
///
/// impl SourceReader for Reader {
///     type Item = u64;
///
///     fn poll<O: Emit<u64>>(&mut self, out: &mut O) -> Result<Polled> {
///         out.split(0);
///         while self.next < self.end && out.remaining() > 0 {
///             out.emit(self.next, self.next as i64);
///             self.next += 1;
///         }
///         Ok(if self.next == self.end { Polled::End } else { Polled::More })
///     }
///     fn snapshot(&mut self) -> Result<Vec<Vec<u8>>> {
///         Ok(vec![vec![self.next as u8]])
///     }
/// }
///
/// let env = Env::new("own source");
/// let out = CollectSink::new();
/// env.add_source(UpTo(3)).add_sink(out.sink());
/// env.execute()?;
/// assert_eq!(out.take(), [0, 1, 2]);
/// # Ok::<(), tidemill::Error>(())
/// ```
#[doc(inline)]
pub use tidemill_runtime::source::{Emit, Polled, Source, SourceContext, SourceReader};

/// A sink without transactions; `prepare` and `commit` make one with:
///
/// ```
/// use std::sync::mpsc::{Sender, channel};
/// use tidemill::prelude::*;
/// use tidemill::{Sink, SinkContext, SinkWriter};
///
/// #[derive(Clone)]
/// struct Channel(Sender<String>);
///
/// impl Sink<String> for Channel {
///     type Writer = Channel;
///
///     fn open(&self, cx: &SinkContext) -> Result<Channel> {
///         assert!(cx.subtask < cx.parallelism && cx.restored.is_none());
///         Ok(self.clone())
///     }
///     fn name(&self) -> String {
///         "channel".to_string()
///     }
/// }
///
/// impl SinkWriter<String> for Channel {
///     fn write(&mut self, line: &str, _event_time: i64) -> Result<()> {
///         self.0.send(line.to_owned()).map_err(|_| Error::job("nobody reads the channel"))
///     }
/// }
///
/// let (sender, receiver) = channel();
/// let env = Env::new("own sink");
/// env.from_vec(vec!["to be".to_string()]).add_sink(Channel(sender));
/// env.execute()?;
/// assert_eq!(receiver.recv().as_deref(), Ok("to be"));
/// # Ok::<(), tidemill::Error>(())
/// ```
#[doc(inline)]
pub use tidemill_runtime::sink::{Sink, SinkContext, SinkWriter};

/// A key of two parts:
///
/// ```
/// use tidemill::prelude::*;
///
/// #[derive(Record, Key, Clone, Debug, PartialEq)]
/// struct Seat {
///     hall: String,
///     row: u32,
/// }
///
/// #[derive(Record, Clone, Debug)]
/// struct Ticket {
///     seat: Seat,
///     cents: u64,
/// }
///
/// let seat = |hall: &str, row| Seat { hall: hall.to_string(), row };
/// let env = Env::new("seats");
/// let out = CollectSink::new();
/// env.from_vec(vec![
///     Ticket { seat: seat("red", 1), cents: 700 },
///     Ticket { seat: seat("red", 2), cents: 500 },
///     Ticket { seat: seat("red", 1), cents: 900 },
/// ])
/// .key_by::<Seat, _>(|ticket| ticket.seat)
/// .max(|ticket| ticket.cents)
/// .filter(|(seat, _)| seat.row == 1)
/// .add_sink(out.sink());
/// env.execute()?;
/// assert_eq!(out.take(), [(seat("red", 1), 700), (seat("red", 1), 900)]);
/// # Ok::<(), tidemill::Error>(())
/// ```
#[doc(inline)]
pub use tidemill_macros::{Key, Record};

/// What a window's records are given as:
///
/// ```
/// use tidemill::List;
///
/// let words = ["to".to_string(), "be".to_string()];
/// let list = List::<String>::Owned(&words);
/// assert_eq!((list.len(), list.is_empty(), list.get(1)), (2, false, Some("be")));
/// assert_eq!(list.iter().collect::<Vec<_>>(), ["to", "be"]);
/// ```
#[doc(inline)]
pub use tidemill_base::record::List;

/// Runs an example of a state for one record of one key.
pub fn doc_state<S: 'static>(open: fn(&mut States<u64>) -> Result<S>, example: fn(&S)) {
    struct Shown<S>(fn(&mut States<u64>) -> Result<S>, fn(&S));
    impl<S> Clone for Shown<S> {
        fn clone(&self) -> Self {
            Shown(self.0, self.1)
        }
    }
    impl<S: 'static> KeyedProcess<u64, u64> for Shown<S> {
        type Out = u64;
        type State = S;
        fn open(&self, states: &mut States<u64>) -> Result<S> {
            (self.0)(states)
        }
        fn process(&mut self, state: &mut S, n: u64, cx: &mut ProcessContext<'_, u64, u64>) {
            (self.1)(state);
            cx.emit(n);
        }
    }
    let env = crate::Env::new("example").restart(RestartStrategy::None);
    let out = crate::connectors::CollectSink::new();
    let keyed = env.from_vec(vec![7u64]).key_by::<u64, _>(|n| *n);
    keyed.process(Shown(open, example)).add_sink(out.sink());
    let ran = env.execute();
    assert!(ran.is_ok() && out.take() == [7], "{ran:?}");
}
