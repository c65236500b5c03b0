//! Stands in for the engine: contexts, a place to emit to, a run of all subtasks.

use std::sync::Arc;
use tidemill_base::clock::{ManualClock, StepTime};
use tidemill_base::{Micros, Record, Result, Timestamp};
use tidemill_runtime::context::{Context, Restored, SectionId, SectionKind};
use tidemill_runtime::sink::SinkContext;
use tidemill_runtime::source::{Emit, Polled, Source, SourceContext, SourceReader, open_context};

const OPERATOR: u64 = 7;

/// Sets the time of the step.
pub(crate) fn at(time: &StepTime, now: Micros) {
    let clock = ManualClock::new();
    clock.advance(now);
    time.refresh(&clock);
}

fn context(subtask: u32, parallelism: u32) -> Context {
    let mut context = Context::for_test();
    (context.info.subtask, context.info.parallelism) = (subtask, parallelism);
    context
}

/// A sink's context; `restored` is the epoch and the entries of this subtask.
pub(crate) fn sink_context(
    subtask: u32,
    parallelism: u32,
    restored: Option<(u64, Vec<Vec<u8>>)>,
) -> SinkContext {
    let mut context = context(subtask, parallelism);
    let (epoch, entries) = restored.map_or((None, None), |(e, x)| (Some(e), Some(x)));
    context.restored = epoch.map(|epoch| Arc::new(Restored { epoch, ..Restored::default() }));
    SinkContext { subtask, parallelism, restored: entries, context }
}

/// A source's context, as the engine makes it from all entries of a checkpoint.
pub(crate) fn source_context(
    subtask: u32,
    parallelism: u32,
    restored: Option<&[Vec<u8>]>,
) -> SourceContext {
    let mut context = context(subtask, parallelism);
    let id = SectionId { operator: OPERATOR, kind: SectionKind::Source, state: 0 };
    context.restored = restored.map(|entries| {
        let entries = entries.iter().map(|e| (0, e.clone())).collect();
        Arc::new(Restored { epoch: 1, sections: [(id, entries)].into(), ..Restored::default() })
    });
    open_context(&context, OPERATOR, "splits")
}

/// What a reader has emitted.
pub(crate) struct Out<T> {
    pub(crate) records: Vec<(T, Timestamp)>,
    pub(crate) remaining: usize,
    pub(crate) now: Micros,
    pub(crate) split: Option<usize>,
    pub(crate) ended: Vec<usize>,
    pub(crate) watermarks: Vec<(usize, Timestamp)>,
    pub(crate) splits: Vec<usize>,
    /// Splits that have to wait for others.
    pub(crate) ahead: Vec<usize>,
}

impl<T> Out<T> {
    pub(crate) fn new() -> Self {
        Out {
            records: Vec::new(),
            remaining: 0,
            now: 1_000_000,
            split: None,
            ended: Vec::new(),
            watermarks: Vec::new(),
            splits: Vec::new(),
            ahead: Vec::new(),
        }
    }
    /// Polls for at most `n` records.
    pub(crate) fn poll<R: SourceReader<Item = T>>(
        &mut self,
        reader: &mut R,
        n: usize,
    ) -> Result<Polled>
    where
        T: Record,
    {
        (self.remaining, self.split) = (n, None);
        reader.poll(self)
    }
    /// Polls until the reader ends or is idle.
    pub(crate) fn drain<R: SourceReader<Item = T>>(&mut self, reader: &mut R) -> Result<Polled>
    where
        T: Record,
    {
        loop {
            match self.poll(reader, 1024)? {
                Polled::More => {}
                other => return Ok(other),
            }
        }
    }
    pub(crate) fn values(&self) -> Vec<T>
    where
        T: Clone,
    {
        self.records.iter().map(|r| r.0.clone()).collect()
    }
}

impl<T: Record> Emit<T> for Out<T> {
    fn emit(&mut self, view: T::View<'_>, timestamp: Timestamp) {
        assert!(self.remaining > 0, "emitted beyond what remains");
        let split = self.split.expect("emitted before the split was named");
        assert!(!self.ended.contains(&split), "split {split} has ended");
        self.remaining -= 1;
        self.splits.push(split);
        self.records.push((T::from_view(view), timestamp));
    }
    fn split(&mut self, split: usize) {
        self.split = Some(split);
    }
    fn watermark(&mut self, split: usize, watermark: Timestamp) {
        self.watermarks.push((split, watermark));
    }
    fn active(&mut self, split: usize) {
        assert!(!self.ended.contains(&split), "split {split} has ended");
    }
    fn is_ahead(&mut self, split: usize) -> bool {
        self.ahead.contains(&split)
    }
    fn split_ended(&mut self, split: usize) {
        assert!(!self.ended.contains(&split), "split {split} has ended twice");
        self.ended.push(split);
    }
    fn remaining(&self) -> usize {
        self.remaining
    }
    fn now(&self) -> Micros {
        self.now
    }
}

/// Opens all subtasks of a source.
pub(crate) fn open_all<S: Source>(
    source: &S,
    parallelism: u32,
    restored: Option<&[Vec<u8>]>,
) -> Result<Vec<S::Reader>> {
    (0..parallelism).map(|s| source.open(&source_context(s, parallelism, restored))).collect()
}

/// The entries of a checkpoint that all readers make now.
pub(crate) fn snapshot_all<R: SourceReader>(readers: &mut [R]) -> Vec<Vec<u8>> {
    readers.iter_mut().flat_map(|r| r.snapshot().unwrap()).collect()
}

/// Reads everything, with a restore at another parallelism after each element of `stops`: the
/// new parallelism, the polls of each subtask before, records a poll. What is read after the last
/// snapshot before a restore is dropped, as a crash does.
pub(crate) fn read_with_restores<S: Source>(
    source: &S,
    parallelism: u32,
    stops: &[(u32, usize, usize)],
) -> Result<Vec<S::Item>> {
    let mut all = Vec::new();
    let mut readers = open_all(source, parallelism, None)?;
    for &(next, polls, records) in stops {
        for (k, reader) in readers.iter_mut().enumerate() {
            let mut out = Out::new();
            for _ in 0..polls + k {
                out.now += 10_000_000;
                if out.poll(reader, records)? == Polled::End {
                    break;
                }
            }
            all.extend(out.records);
        }
        let entries = snapshot_all(&mut readers);
        for reader in &mut readers {
            Out::new().poll(reader, records)?;
        }
        readers = open_all(source, next, Some(&entries))?;
    }
    for reader in &mut readers {
        let mut out = Out::new();
        while out.poll(reader, 1024)? != Polled::End {
            out.now += 1_000_000;
        }
        all.extend(out.records);
    }
    Ok(all.into_iter().map(|r| r.0).collect())
}
