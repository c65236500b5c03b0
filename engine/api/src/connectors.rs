//! Where streams come from and where they go; an example for each.
//!
//! ```
//! use tidemill::prelude::*;
//!
//! let env = Env::new("from here to there");
//! let out = CollectSink::new();
//! env.add_source(CollectionSource::new(vec![1u64, 2])).add_sink(out.sink());
//! env.execute()?;
//! assert_eq!(out.take(), [1, 2]);
//! # Ok::<(), tidemill::Error>(())
//! ```
//!
//! Sources and sinks of your own implement [`Source`](crate::Source) and [`Sink`](crate::Sink).

/// ```
/// use tidemill::prelude::*;
///
/// #[derive(Record, serde::Deserialize)]
/// struct Order { shop: String, cents: u64 }
///
/// # let dir = tempfile::tempdir()?;
/// let (json, csv) = (dir.path().join("orders.jsonl"), dir.path().join("csv"));
/// std::fs::write(&json, "{\"shop\":\"a\",\"cents\":100}\n{\"shop\":\"b\",\"cents\":150}\n")?;
/// std::fs::create_dir_all(csv.join("monday"))?;
/// std::fs::write(csv.join("monday/1.csv"), "shop,cents\n\"c,\nd\",7\n")?;
///
/// let env = Env::new("orders").parallelism(2);
/// let out = CollectSink::new();
/// let from_json = env.add_source(FileSource::json::<Order>(json));
/// let folder = FileSource::csv::<Order>(csv).recursive(true).suffix(".csv").multiline(true);
/// from_json
///     .union(env.add_source(folder))
///     .map(|order| (order.shop.to_owned(), order.cents))
///     .add_sink(out.sink());
/// env.execute()?;
/// let mut orders = out.take();
/// orders.sort();
/// assert_eq!(orders, [("a".into(), 100), ("b".into(), 150), ("c,\nd".to_string(), 7)]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// The other settings, for a log that grows:
///
/// ```
/// # use tidemill::prelude::*;
/// let log = FileSource::lines("/var/log/app").suffix(".log").tail(true).skip_missing(true);
/// let env = Env::new("log");
/// env.add_source(log.on_error(OnError::Skip).rate(1e6)).add_sink(DiscardSink);
/// let days = FileSource::csv::<(u64, String)>("days").ordered(true).split_bytes(1 << 20);
/// env.add_source(days.delimiter(b';').header(false)).add_sink(DiscardSink);
/// ```
#[doc(inline)]
pub use tidemill_connectors::FileSource;

/// ```
/// use tidemill::prelude::*;
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("numbers.jsonl");
/// std::fs::write(&path, "1\nnone\n3\n")?;
///
/// let env = Env::new("numbers");
/// let (good, bad) = (CollectSink::new(), CollectSink::new());
/// let all = env.add_source(FileSource::json::<u64>(path).or_bad()).shared();
/// all.stream()
///     .flat_map::<u64, _>(|line, emit| {
///         if let ParsedView::Good(number) = line {
///             emit(number);
///         }
///     })
///     .add_sink(good.sink());
/// all.stream()
///     .flat_map::<(u64, String), _>(|line, emit| {
///         if let ParsedView::Bad(bad) = line {
///             emit((bad.line, bad.text));
///         }
///     })
///     .add_sink(bad.sink());
/// env.execute()?;
/// assert_eq!((good.take(), bad.take()), (vec![1, 3], vec![(2, "none".to_string())]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(inline)]
pub use tidemill_connectors::{BadLine, BadLineView, OrBad, Parsed, ParsedView};

/// ```
/// use tidemill::prelude::*;
///
/// /// Lines of two words.
/// #[derive(Clone)]
/// struct Pairs;
///
/// impl Format for Pairs {
///     type Item = (String, String);
///     type Header = ();
///     const NAME: &'static str = "pair";
///
///     fn header(&mut self, _: &str) -> std::result::Result<(), Malformed> {
///         Ok(())
///     }
///     fn parse(
///         &mut self,
///         (): &(),
///         line: &str,
///         emit: impl for<'v> FnOnce((&'v str, &'v str)),
///     ) -> std::result::Result<(), Malformed> {
///         let pair = line.split_once(' ');
///         emit(pair.ok_or_else(|| Malformed { column: 1, message: "no space".to_string() })?);
///         Ok(())
///     }
/// }
///
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("pairs.txt");
/// std::fs::write(&path, "to be\nor\n")?;
/// let env = Env::new("pairs");
/// let out = CollectSink::new();
/// env.add_source(FileSource::with_format(path, Pairs).on_error(OnError::Skip))
///     .add_sink(out.sink());
/// env.execute()?;
/// assert_eq!(out.take(), [("to".to_string(), "be".to_string())]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(inline)]
pub use tidemill_connectors::{Csv, Format, Json, Lines, Malformed, OnError};

/// ```
/// use tidemill::prelude::*;
///
/// let env = Env::new("replay");
/// let out = CollectSink::new();
/// let readings = vec![("a".to_string(), 1_000), ("b".to_string(), 2_000)];
/// env.add_source(CollectionSource::with_timestamps(readings).rate(1_000.0)).add_sink(out.sink());
/// env.execute()?;
/// assert_eq!(out.handle().take_with_timestamps(), [("a".to_string(), 1_000), ("b".into(), 2_000)]);
/// # Ok::<(), tidemill::Error>(())
/// ```
#[doc(inline)]
pub use tidemill_connectors::CollectionSource;

/// ```
/// use tidemill::prelude::*;
///
/// let env = Env::new("numbers").parallelism(2);
/// let (squares, names) = (CollectSink::new(), CollectSink::new());
/// let numbers = GeneratorSource::with_timestamps(Some(4), |i| (i * i, i as i64 * 1_000));
/// env.add_source(numbers.bounded_lateness(0).watermark_every(2)).add_sink(squares.sink());
/// // Strings are written over one another: nothing is allocated.
/// let named = GeneratorSource::in_place(Some(2), String::new(), |i, name| {
///     *name = format!("n{i}");
///     0
/// });
/// env.add_source(named).add_sink(names.sink());
/// env.execute()?;
/// let (mut squares, mut names) = (squares.take(), names.take());
/// squares.sort();
/// names.sort();
/// assert_eq!(squares, [0, 1, 4, 9]);
/// assert_eq!(names, ["n0", "n1"]);
/// # Ok::<(), tidemill::Error>(())
/// ```
#[doc(inline)]
pub use tidemill_connectors::GeneratorSource;
#[doc(inline)]
pub use tidemill_connectors::{Generate, InPlace, Plain, Scheduled, Stamped};

/// ```
/// use tidemill::prelude::*;
///
/// let env = Env::new("bids");
/// let out = CollectSink::new();
/// env.add_source(NexmarkSource::new(Some(1_000)))
///     .flat_map::<u64, _>(|event, emit| {
///         if let EventView::Bid(bid) = event {
///             emit(bid.price);
///         }
///     })
///     .add_sink(out.sink());
/// env.execute()?;
/// assert_eq!(out.take().len(), 920);
/// # Ok::<(), tidemill::Error>(())
/// ```
#[doc(inline)]
pub use tidemill_connectors::NexmarkSource;
#[doc(inline)]
pub use tidemill_connectors::{
    Auction, AuctionView, Bid, BidView, Event, EventView, Person, PersonView,
};

/// ```
/// use std::io::Write;
/// use tidemill::prelude::*;
///
/// let server = std::net::TcpListener::bind("127.0.0.1:0")?;
/// let address = server.local_addr()?.to_string();
/// std::thread::spawn(move || server.accept()?.0.write_all(b"to be\nor not\n"));
///
/// let env = Env::new("lines");
/// let out = CollectSink::new();
/// let lines = TcpLinesSource::connect(address).on_disconnect(OnDisconnect::End);
/// env.add_source(lines.on_error(OnError::Skip)).add_sink(out.sink());
/// env.execute()?;
/// assert_eq!(out.take(), ["to be", "or not"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(inline)]
pub use tidemill_connectors::{OnDisconnect, TcpLinesSource};

/// ```
/// use std::fmt::Write;
/// use tidemill::prelude::*;
/// # let dir = tempfile::tempdir()?;
/// # let path = |name: &str| dir.path().join(name);
///
/// let env = Env::new("files");
/// let words = env.from_vec(vec![("to".to_string(), 2u64), ("be".to_string(), 1)]).shared();
/// words.stream().add_sink(FileSink::new(path("own"), |(word, n), line| write!(line, "{n} {word}")));
/// words.stream().add_sink(FileSink::debug(path("debug")).overwrite(true));
/// words.stream().add_sink(FileSink::json(path("json")).suffix(".jsonl").max_bytes(64 << 20));
/// words.stream().map(|(word, _)| word.to_owned()).add_sink(FileSink::display(path("words")));
/// env.execute()?;
///
/// let read = |name: &str| {
///     let file = std::fs::read_dir(path(name))?.next().ok_or(std::io::ErrorKind::NotFound)??;
///     std::fs::read_to_string(file.path())
/// };
/// assert_eq!(read("own")?, "2 to\n1 be\n");
/// assert_eq!(read("json")?, "[\"to\",2]\n[\"be\",1]\n");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(inline)]
pub use tidemill_connectors::FileSink;
#[doc(inline)]
pub use tidemill_connectors::{TextFn, Written};

/// ```
/// use tidemill::prelude::*;
///
/// let env = Env::new("both");
/// let numbers = env.from_vec(vec![1u64, 2]).shared();
/// // Records appear when their checkpoint is complete; or at once, and again after a restart.
/// let (exactly, at_least) = (CollectSink::transactional(), CollectSink::immediate());
/// numbers.stream().add_sink(exactly.sink());
/// numbers.stream().add_sink(at_least.sink());
/// env.execute()?;
/// assert_eq!(exactly.take(), [1, 2]);
/// let seen = at_least.handle();
/// assert!(!seen.is_empty() && seen.len() == 2);
/// assert_eq!(seen.to_vec(), seen.take());
/// # Ok::<(), tidemill::Error>(())
/// ```
#[doc(inline)]
pub use tidemill_connectors::{CollectSink, Collected};

/// ```
/// use tidemill::prelude::*;
///
/// let env = Env::new("print");
/// let lines = env.from_vec(vec!["to be".to_string()]).shared();
/// lines.stream().add_sink(StdoutSink::display());
/// lines.stream().add_sink(StdoutSink::debug());
/// lines.stream().add_sink(StdoutSink::json());
/// lines.stream().add_sink(StdoutSink::new(|line: &str, out| out.push_str(&line.to_uppercase())));
/// env.execute()?;
/// # Ok::<(), tidemill::Error>(())
/// ```
#[doc(inline)]
pub use tidemill_connectors::StdoutSink;

/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use tidemill::prelude::*;
///
/// let total = Arc::new(AtomicU64::new(0));
/// let seen = total.clone();
/// let env = Env::new("sum").parallelism(2);
/// let each = |sum: &mut u64, number: u64, _time| *sum += number;
/// let done = move |sum: &mut u64| _ = seen.fetch_add(*sum, Ordering::Relaxed);
/// env.from_vec(vec![1u64, 2, 3]).add_sink(ForEachSink::new(|_subtask| 0, each, done));
/// env.execute()?;
/// assert_eq!(total.load(Ordering::Relaxed), 6);
/// # Ok::<(), tidemill::Error>(())
/// ```
#[doc(inline)]
pub use tidemill_connectors::ForEachSink;

/// ```
/// use tidemill::prelude::*;
///
/// let env = Env::new("nothing");
/// env.from_vec(vec![1u64]).add_sink(DiscardSink);
/// assert_eq!(env.execute()?.source_records(), 1);
/// # Ok::<(), tidemill::Error>(())
/// ```
#[doc(inline)]
pub use tidemill_connectors::DiscardSink;

/// ```
/// use tidemill::prelude::*;
///
/// let env = Env::new("latency");
/// // Each record carries when it was due.
/// let source = GeneratorSource::scheduled(Some(100), 10_000.0, |i, due| ((i, due), 0));
/// let sink = LatencySink::new(|record: (u64, u64), _| record.1)?;
/// let latencies = sink.handle();
/// env.add_source(source).add_sink(sink);
/// env.execute()?;
/// assert!(!latencies.is_empty() && latencies.len() == 100);
/// assert!(latencies.percentile_us(50.0) <= latencies.max_us());
/// let records: u64 = latencies.recorded().iter().map(|&(_, records)| records).sum();
/// assert_eq!(records, latencies.len());
/// latencies.reset();
/// # Ok::<(), tidemill::Error>(())
/// ```
#[doc(inline)]
pub use tidemill_connectors::{Latencies, LatencySink};

// What the engine makes of them.
#[doc(inline)]
pub use tidemill_connectors::{
    CollectWriter, CollectionReader, FileReader, FileWriter, ForEachWriter, GeneratorReader,
    LatencyWriter, NexmarkReader, StdoutWriter, TcpLinesReader,
};
