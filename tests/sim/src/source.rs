//! Input in virtual splits: any number of subtasks reads it, from any position.
//!
//! Law: split `s` gives its records in order, whoever reads it; the positions in a snapshot are
//! exactly behind the last record emitted.

use crate::rng::Rng;
use std::sync::Arc;
use tidemill::{Record, Result};
use tidemill_base::{Error, Micros};
use tidemill_runtime::context::Context;
use tidemill_runtime::source::{Emit, Polled, Source, SourceContext, SourceReader};

/// One record of the input.
#[derive(Record, Clone, Debug, PartialEq)]
pub struct Event {
    /// The split it is in.
    pub split: u64,
    /// Its key.
    pub key: u64,
    /// Counts the records of its split and key, from 0.
    pub seq: u64,
    /// Anything.
    pub value: u64,
    /// Event time in milliseconds.
    pub at: i64,
    /// Makes it large.
    pub padding: String,
}

/// Splits, each a sequence of records.
#[derive(Clone, Debug, Default)]
pub struct Input {
    /// The splits.
    pub splits: Vec<Vec<Event>>,
    /// So many of the last splits have no record and never end by themselves.
    pub silent: usize,
}

impl Input {
    /// All records.
    pub fn events(&self) -> impl Iterator<Item = &Event> {
        self.splits.iter().flatten()
    }
}

/// How fast readers read.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Records in one poll, at most.
    pub records: u64,
    /// Percent of polls after which the reader pauses.
    pub pauses: u64,
    /// The longest pause, in microseconds.
    pub pause_us: Micros,
}

/// The source.
#[derive(Clone, Debug)]
pub struct SplitSource {
    input: Arc<Input>,
    pace: Pace,
    seed: u64,
}

impl SplitSource {
    /// Reads `input`; `seed` decides how much at a time.
    pub fn new(input: Arc<Input>, pace: Pace, seed: u64) -> Self {
        SplitSource { input, pace, seed }
    }
}

impl Source for SplitSource {
    type Item = Event;
    type Reader = SplitReader;

    fn open(&self, cx: &SourceContext) -> Result<SplitReader> {
        let splits = match &cx.restored {
            Some(entries) => entries.iter().map(|e| Position::read(e)).collect::<Result<_>>()?,
            None => (0..self.input.splits.len() as u64)
                .filter(|split| split % u64::from(cx.parallelism) == u64::from(cx.subtask))
                .map(|split| Position { split, next: 0, ended: false })
                .collect(),
        };
        let mut rng = Rng::new(self.seed ^ (u64::from(cx.subtask) << 32) ^ cx.operator_id);
        Ok(SplitReader {
            input: self.input.clone(),
            pace: self.pace,
            splits,
            linger_us: rng.below(30_000),
            opened_at: None,
            rng,
            _context: cx.context.clone(),
        })
    }

    fn name(&self) -> String {
        "splits".to_owned()
    }
}

/// A split and the record to read next.
#[derive(Clone, Copy, Debug)]
struct Position {
    split: u64,
    next: u64,
    ended: bool,
}

impl Position {
    fn read(bytes: &[u8]) -> Result<Self> {
        let word = |at: usize| bytes.get(at..at + 8).and_then(|b| b.try_into().ok());
        match (word(0), word(8)) {
            (Some(split), Some(next)) if bytes.len() == 16 => Ok(Position {
                split: u64::from_le_bytes(split),
                next: u64::from_le_bytes(next),
                ended: false,
            }),
            _ => Err(Error::job(format!("a split's position has {} bytes, not 16", bytes.len()))),
        }
    }
}

/// Reads the splits of one subtask.
#[derive(Debug)]
pub struct SplitReader {
    input: Arc<Input>,
    pace: Pace,
    splits: Vec<Position>,
    rng: Rng,
    /// A subtask without splits stays for as long before it ends.
    linger_us: Micros,
    opened_at: Option<Micros>,
    _context: Context,
}

impl SplitReader {
    /// Emits from one split until it is at its end, or enough is emitted.
    fn read<O: Emit<Event>>(&mut self, i: usize, out: &mut O) {
        let position = &mut self.splits[i];
        let records = &self.input.splits[position.split as usize];
        out.split(i);
        let wanted = self.rng.between(1, self.pace.records);
        for _ in 0..wanted {
            if out.remaining() == 0 {
                break;
            }
            let Some(event) = records.get(position.next as usize) else { break };
            out.emit(event.view(), event.at);
            position.next += 1;
        }
        if position.next as usize >= records.len() {
            position.ended = true;
            out.split_ended(i);
        }
    }
}

impl SourceReader for SplitReader {
    type Item = Event;

    fn poll<O: Emit<Event>>(&mut self, out: &mut O) -> Result<Polled> {
        let now = out.now();
        let opened_at = *self.opened_at.get_or_insert_with(|| {
            // Every split counts from the start, read or not.
            (0..self.splits.len()).for_each(|i| out.split(i));
            now
        });
        let speaks = self.input.splits.len() - self.input.silent;
        let speaking = |i: &usize| (self.splits[*i].split as usize) < speaks;
        let mine: Vec<usize> = (0..self.splits.len()).filter(speaking).collect();
        let open: Vec<usize> = mine.iter().copied().filter(|&i| !self.splits[i].ended).collect();
        // What has records is not idle because others are in turn.
        open.iter().for_each(|&i| out.active(i));
        if open.is_empty() {
            let until = opened_at + self.linger_us;
            let done = !mine.is_empty() || now >= until;
            return Ok(if done { Polled::End } else { Polled::Idle { until: Some(until) } });
        }
        let open: Vec<usize> = open.into_iter().filter(|&i| !out.is_ahead(i)).collect();
        if open.is_empty() {
            return Ok(Polled::Idle { until: None });
        }
        let i = self.rng.pick(&open);
        self.read(i, out);
        if self.rng.percent(self.pace.pauses) {
            let until = Some(now + self.rng.below(self.pace.pause_us + 1));
            return Ok(Polled::Idle { until });
        }
        Ok(Polled::More)
    }

    fn snapshot(&mut self) -> Result<Vec<Vec<u8>>> {
        let entry = |p: &Position| [p.split.to_le_bytes(), p.next.to_le_bytes()].concat();
        Ok(self.splits.iter().map(entry).collect())
    }
}
