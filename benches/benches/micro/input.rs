//! Inputs, and how long something takes.

use std::time::Duration;
use tidemill::connectors::{Bid, Event};
use tidemill_base::clock::{Clock, SystemClock};
use tidemill_base::{Batch, BatchBuilder, Buffer, Micros, Record};
use tidemill_benches::definitions::mix;

/// A record of 24 bytes.
pub(crate) type Triple = (u64, u64, u64);

/// As many of them as a pooled buffer holds, with their metadata.
pub(crate) const TRIPLES: usize = 680;

/// The first `n` triples.
pub(crate) fn triples(n: usize) -> Vec<Triple> {
    (0..n as u64).map(|i| (mix(i), mix(i) >> 40, i)).collect()
}

/// Nexmark's first `n` bids: four integers and three strings.
pub(crate) fn bids(n: usize) -> Vec<Bid> {
    let config = nexmark::config::NexmarkConfig { base_time: 0, ..Default::default() };
    let events = nexmark::EventGenerator::new(config).map(Event::from);
    let bids = events.filter_map(|event| match event {
        Event::Bid(bid) => Some(bid),
        _ => None,
    });
    bids.take(n).collect()
}

/// A batch of as many of the records as fit; the record's number is its timestamp and its hash.
#[inline(never)]
pub(crate) fn fill<T: Record>(buffer: Buffer, records: &[T]) -> Batch {
    let mut builder = BatchBuilder::new(buffer);
    for (i, record) in records.iter().enumerate() {
        if builder.push::<T>(record.view(), i as i64, i as u64).is_err() {
            break;
        }
    }
    builder.seal()
}

/// Adds up what single calls take, and keeps the longest.
pub(crate) struct Stopwatch {
    clock: SystemClock,
    total: Micros,
    longest: Micros,
}

impl Stopwatch {
    /// Nothing measured yet.
    pub(crate) fn new() -> Self {
        Stopwatch { clock: SystemClock::new(), total: 0, longest: 0 }
    }

    /// Measures a call.
    pub(crate) fn time<R>(&mut self, call: impl FnOnce() -> R) -> R {
        let start = self.clock.now();
        let result = call();
        let took = self.clock.now() - start;
        self.total += took;
        self.longest = self.longest.max(took);
        result
    }

    /// All calls together.
    pub(crate) fn total(&self) -> Duration {
        Duration::from_micros(self.total)
    }

    /// The longest call.
    pub(crate) fn longest(&self) -> Duration {
        Duration::from_micros(self.longest)
    }
}
