//! Records by number: record i is a function of i.
//!
//! Subtask s of p emits i = s, s+p, s+2p, ... That is its class of residues; the classes are fixed
//! at the first start, so that a restore at another parallelism deals them out anew.
//!
//! Invariants
//!   G1  Every i below the total is emitted once, by whichever subtask has its class.
//!   G2  A subtask with several classes goes on with the one that is furthest behind: their
//!       event times stay together.
//!   G3  No call on the way of a record is virtual: the function is inlined into the chain.

mod generate;
#[cfg(test)]
mod tests;

pub use generate::{Generate, InPlace, Plain, Scheduled, Stamped};

use crate::codec::{Decode, Encode};
use crate::rate::Limiter;
use tidemill_base::{Micros, Record, Result, Timestamp, WATERMARK_MIN};
use tidemill_runtime::source::{Emit, Polled, Source, SourceContext, SourceReader};

const KIND: u8 = 1;

/// A source of records by number.
#[derive(Clone, Debug)]
pub struct GeneratorSource<G> {
    generate: G,
    total: Option<u64>,
    rate: Option<f64>,
    watermark_every: u64,
    lateness: Option<i64>,
}

impl<T, F> GeneratorSource<Plain<F>>
where
    T: Record,
    F: Fn(u64) -> T + Clone + Send + 'static,
{
    /// `total` records (`None`: endlessly many), record i made by `function`, with timestamp 0.
    pub fn new(total: Option<u64>, function: F) -> Self {
        GeneratorSource::with(total, Plain(function))
    }
}

impl<T, F> GeneratorSource<Stamped<F>>
where
    T: Record,
    F: Fn(u64) -> (T, Timestamp) + Clone + Send + 'static,
{
    /// `total` records, record i and its event time made by `function`.
    pub fn with_timestamps(total: Option<u64>, function: F) -> Self {
        GeneratorSource::with(total, Stamped(function))
    }
}

impl<T, F> GeneratorSource<InPlace<T, F>>
where
    T: Record + Clone + Send,
    F: Fn(u64, &mut T) -> Timestamp + Clone + Send + 'static,
{
    /// `total` records, record i written by `function` over the one before, whose memory is used
    /// again: with strings and lists nothing is allocated. Returns the event time.
    pub fn in_place(total: Option<u64>, first: T, function: F) -> Self {
        GeneratorSource::with(total, InPlace { record: first, function })
    }
}

impl<T, F> GeneratorSource<Scheduled<F>>
where
    T: Record,
    F: Fn(u64, Micros) -> (T, Timestamp) + Clone + Send + 'static,
{
    /// `total` records at a rate per second, all subtasks together. `function` is also told when
    /// record i was due, on the engine's clock: measured from there, latencies have no coordinated
    /// omission. The schedule never moves: what was held up is made up for as fast as it goes.
    /// The job fails unless the rate is positive.
    pub fn scheduled(total: Option<u64>, records_per_s: f64, function: F) -> Self {
        GeneratorSource::with(total, Scheduled(function)).rate(records_per_s)
    }
}

impl<G: Generate> GeneratorSource<G> {
    /// `total` records of a generator of your own.
    pub fn with(total: Option<u64>, generate: G) -> Self {
        GeneratorSource { generate, total, rate: None, watermark_every: 1000, lateness: None }
    }

    /// The same source of a generator that is changed.
    pub(crate) fn map(mut self, change: impl FnOnce(&mut G)) -> Self {
        change(&mut self.generate);
        self
    }

    /// At most so many records per second, all subtasks together; a second's worth is made up for
    /// after a pause. The job fails unless it is positive.
    #[must_use]
    pub fn rate(mut self, records_per_s: f64) -> Self {
        self.rate = Some(records_per_s);
        self
    }

    /// Emits watermarks: so many milliseconds behind the greatest timestamp of each class.
    #[must_use]
    pub fn bounded_lateness(mut self, lateness_ms: i64) -> Self {
        self.lateness = Some(lateness_ms);
        self
    }

    /// A watermark follows each so many records of a class; 1000 if not set. Panics if it is 0.
    #[must_use]
    pub fn watermark_every(mut self, records: u64) -> Self {
        assert!(records > 0, "a watermark every 0 records");
        self.watermark_every = records;
        self
    }
}

impl<G: Generate> Source for GeneratorSource<G> {
    type Item = G::Item;
    type Reader = GeneratorReader<G>;

    fn open(&self, cx: &SourceContext) -> Result<GeneratorReader<G>> {
        let mut classes = Vec::new();
        match &cx.restored {
            None => {
                let (step, next) = (u64::from(cx.parallelism), u64::from(cx.subtask));
                classes.push(Class::new(step, next));
            }
            Some(entries) => {
                for entry in entries {
                    classes.push(Class::decode(entry)?);
                }
            }
        }
        let total = self.total.unwrap_or(u64::MAX);
        let mut generate = self.generate.clone();
        for (index, class) in classes.iter().enumerate() {
            generate.open(index, class.next, class.step, total)?;
        }
        let limiter = self.rate.map(|rate| Limiter::new(rate, cx.parallelism)).transpose()?;
        let limiter = limiter.map(|l| if G::SCHEDULED { l.unbounded() } else { l });
        Ok(GeneratorReader {
            generate,
            total,
            classes,
            limiter,
            watermark_every: self.watermark_every,
            lateness: self.lateness,
        })
    }

    fn name(&self) -> String {
        match self.total {
            Some(total) => format!("{}({total} records)", G::NAME),
            None => format!("{}(endless)", G::NAME),
        }
    }
}

/// The numbers that are `next` modulo `step`.
#[derive(Clone, Copy, Debug)]
struct Class {
    step: u64,
    next: u64,
    /// Records since the last watermark, and the greatest timestamp.
    since: u64,
    max: Timestamp,
    ended: bool,
}

impl Class {
    fn new(step: u64, next: u64) -> Self {
        Class { step, next, since: 0, max: WATERMARK_MIN, ended: false }
    }
    fn decode(entry: &[u8]) -> Result<Self> {
        let (kind, mut decode) = Decode::new("generator source", entry)?;
        let (step, next) = (decode.u64()?, decode.u64()?);
        if kind != KIND || step == 0 {
            return Err(decode.damaged("it has another kind"));
        }
        decode.finish()?;
        Ok(Class::new(step, next))
    }
}

/// Reads a [`GeneratorSource`].
pub struct GeneratorReader<G> {
    generate: G,
    total: u64,
    classes: Vec<Class>,
    limiter: Option<Limiter>,
    watermark_every: u64,
    lateness: Option<i64>,
}

impl<G: Generate> SourceReader for GeneratorReader<G> {
    type Item = G::Item;

    #[inline]
    fn poll<O: Emit<G::Item>>(&mut self, out: &mut O) -> Result<Polled> {
        for index in 0..self.classes.len() {
            out.split(index);
            if !self.classes[index].ended {
                out.active(index);
            }
        }
        // G2
        let behind = self.classes.iter_mut().enumerate().filter(|(_, c)| !c.ended);
        let Some((index, class)) = behind.min_by_key(|(_, c)| c.next) else {
            return Ok(Polled::End);
        };
        let allowance = self.limiter.as_mut().map_or(usize::MAX, |l| l.allowance(out.now()));
        if let Some(limiter) = self.limiter.as_ref().filter(|_| allowance == 0) {
            return Ok(Polled::Idle { until: Some(limiter.due(0)) });
        }
        let left = self.total.saturating_sub(class.next).div_ceil(class.step);
        let chunk = left.min(self.watermark_every - class.since);
        let n = chunk.min(out.remaining().min(allowance) as u64);
        out.split(index);
        self.generate.start(index, class.next, class.step);
        let (mut i, step, mut max) = (class.next, class.step, class.max);
        let mut taken = 0;
        if G::SCHEDULED {
            while taken < n && out.has_room() {
                let due = self.limiter.as_ref().map_or(0, |l| l.due(taken));
                max = max.max(self.generate.generate(i, due, out));
                i = i.wrapping_add(step);
                taken += 1;
            }
        } else {
            while taken < n && out.has_room() {
                max = max.max(self.generate.generate(i, 0, out));
                i = i.wrapping_add(step);
                taken += 1;
            }
        }
        let n = taken;
        let i = class.next.saturating_add(step.saturating_mul(n));
        (class.next, class.max, class.since) = (i, max, class.since + n);
        if let Some(limiter) = &mut self.limiter {
            limiter.took(n as usize);
        }
        if class.since == self.watermark_every {
            class.since = 0;
            if let Some(lateness) = self.lateness {
                out.watermark(index, max.saturating_sub(lateness));
            }
        }
        if i >= self.total {
            class.ended = true;
            out.split_ended(index);
        }
        Ok(Polled::More)
    }

    fn snapshot(&mut self) -> Result<Vec<Vec<u8>>> {
        Ok(self
            .classes
            .iter()
            .map(|c| Encode::new(KIND).u64(c.step).u64(c.next).finish())
            .collect())
    }
}
