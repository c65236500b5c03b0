//! Connectors: where streams come from and where they go.
//!
//! Sources, each restorable from a checkpoint at any parallelism unless it says otherwise:
//! - [`FileSource`]: lines, JSON lines and CSV of a file or a directory, split by byte ranges; tailing
//! - [`CollectionSource`]: the items of a `Vec`
//! - [`GeneratorSource`]: records by number, as fast as they come or at a rate
//! - [`NexmarkSource`]: the events of the Nexmark benchmark
//! - [`TcpLinesSource`]: lines from a connection, **at most once**
//!
//! Sinks:
//! - [`FileSink`]: files that appear exactly once, when their checkpoint is complete
//! - [`CollectSink`]: into a `Vec`, at once or when the checkpoint is complete
//! - [`StdoutSink`], [`ForEachSink`], [`DiscardSink`], [`LatencySink`]: without transactions; what
//!   follows the checkpoint that a job restarts from, they see again
//!
//! All of them step, none waits; reads from the page cache and writes to it are the blocking calls that
//! are accepted. `fdatasync` is done beside the core.

#![deny(unsafe_code)]

mod codec;
mod collect;
mod collection;
mod discard;
mod file;
mod file_sink;
mod for_each;
mod generator;
mod io_error;
mod latency;
mod nexmark;
mod rate;
mod stdout;
mod tcp;
#[cfg(test)]
mod testing;
mod text;

pub use collect::{CollectSink, CollectWriter, Collected};
pub use collection::{CollectionReader, CollectionSource};
pub use discard::DiscardSink;
pub use file::{
    BadLine, BadLineView, Csv, FileReader, FileSource, Format, Json, Lines, Malformed, OnError,
    OrBad, Parsed, ParsedView,
};
pub use file_sink::{FileSink, FileWriter};
pub use for_each::{ForEachSink, ForEachWriter};
pub use generator::{
    Generate, GeneratorReader, GeneratorSource, InPlace, Plain, Scheduled, Stamped,
};
pub use latency::{Latencies, LatencySink, LatencyWriter};
pub use nexmark::{
    Auction, AuctionView, Bid, BidView, Event, EventView, NexmarkReader, NexmarkSource, Person,
    PersonView,
};
pub use stdout::{StdoutSink, StdoutWriter};
pub use tcp::{OnDisconnect, TcpLinesReader, TcpLinesSource};
pub use text::{TextFn, Written};
