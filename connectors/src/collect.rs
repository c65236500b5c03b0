//! Into a `Vec` of this process: for tests, and for jobs that are functions of a larger program.
//!
//! Invariants
//!   K1  Exactly once: a record is in the result when its checkpoint is complete, and once, however
//!       often its commit is repeated. The entries hold the records themselves, so that this is true
//!       of a result that begins empty in a new process, from the checkpoint on.
//!   K2  The records of one subtask are in their order.

use crate::codec::{Decode, Encode};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tidemill_base::{Batch, BatchBuilder, Buffer, Error, Record, Result, Timestamp};
use tidemill_runtime::output::heir;
use tidemill_runtime::sink::{Sink, SinkContext, SinkWriter};

const KIND: u8 = 1;

/// The largest commit, in bytes.
const COMMIT_BYTES_MAX: usize = 1 << 30;

#[derive(Debug)]
struct Shared<T> {
    records: Vec<(T, Timestamp)>,
    /// Subtask and epoch of what is in `records`.
    committed: HashSet<(u64, u64)>,
}

/// Handle to what a [`CollectSink`] has collected; its clones share it.
#[derive(Debug)]
pub struct Collected<T> {
    shared: Arc<Mutex<Shared<T>>>,
}

impl<T> Clone for Collected<T> {
    fn clone(&self) -> Self {
        Collected { shared: self.shared.clone() }
    }
}

impl<T> Collected<T> {
    fn lock(&self) -> MutexGuard<'_, Shared<T>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Number of records.
    pub fn len(&self) -> usize {
        self.lock().records.len()
    }
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Takes the records out.
    pub fn take(&self) -> Vec<T> {
        self.take_with_timestamps().into_iter().map(|(record, _)| record).collect()
    }
    /// Takes the records out, each with its event time.
    pub fn take_with_timestamps(&self) -> Vec<(T, Timestamp)> {
        std::mem::take(&mut self.lock().records)
    }
}

impl<T: Clone> Collected<T> {
    /// A copy of the records.
    pub fn to_vec(&self) -> Vec<T> {
        self.lock().records.iter().map(|(record, _)| record.clone()).collect()
    }
}

/// Collects records.
#[derive(Debug)]
pub struct CollectSink<T> {
    collected: Collected<T>,
    transactional: bool,
}

impl<T> Clone for CollectSink<T> {
    fn clone(&self) -> Self {
        let (collected, transactional) = (self.collected.clone(), self.transactional);
        CollectSink { collected, transactional }
    }
}

impl<T: Record + Send> CollectSink<T> {
    fn with(transactional: bool) -> Self {
        let shared = Shared { records: Vec::new(), committed: HashSet::new() };
        CollectSink { collected: Collected { shared: Arc::new(Mutex::new(shared)) }, transactional }
    }
    /// Exactly once, as [`CollectSink::transactional`].
    #[expect(
        clippy::new_without_default,
        reason = "a default handle that nobody reads is a mistake"
    )]
    pub fn new() -> Self {
        Self::transactional()
    }
    /// The sink to add to a stream; what it collects is taken from here.
    #[must_use]
    pub fn sink(&self) -> Self {
        self.clone()
    }
    /// Takes what has been collected.
    pub fn take(&self) -> Vec<T> {
        self.collected.take()
    }
    /// Exactly once: records appear when their checkpoint is complete.
    pub fn transactional() -> Self {
        Self::with(true)
    }
    /// At least once: records appear at once, and again after a restart.
    pub fn immediate() -> Self {
        Self::with(false)
    }
    /// The handle to the result.
    pub fn handle(&self) -> Collected<T> {
        self.collected.clone()
    }
}

impl<T: Record + Send> Sink<T> for CollectSink<T> {
    type Writer = CollectWriter<T>;

    fn open(&self, cx: &SinkContext) -> Result<CollectWriter<T>> {
        let writer = CollectWriter {
            collected: self.collected.clone(),
            transactional: self.transactional,
            subtask: u64::from(cx.subtask),
            open: Vec::new(),
            prepared: Vec::new(),
        };
        match &cx.restored {
            // A run of its own: its epochs begin anew.
            None => writer
                .collected
                .lock()
                .committed
                .retain(|(subtask, _)| heir(*subtask as u32, cx.parallelism) != cx.subtask),
            Some(entries) => {
                for entry in entries {
                    writer.collected.commit(Prepared::decode(entry)?);
                }
            }
        }
        Ok(writer)
    }
    fn name(&self) -> String {
        String::from(if self.transactional { "collect" } else { "collect(immediate)" })
    }
}

/// Writer of a [`CollectSink`].
pub struct CollectWriter<T> {
    collected: Collected<T>,
    transactional: bool,
    subtask: u64,
    open: Vec<(T, Timestamp)>,
    prepared: Vec<Prepared<T>>,
}

/// What one subtask collected between two barriers.
struct Prepared<T> {
    subtask: u64,
    epoch: u64,
    records: Vec<(T, Timestamp)>,
}

impl<T: Record> Collected<T> {
    fn commit(&self, prepared: Prepared<T>) {
        let mut shared = self.lock();
        if shared.committed.insert((prepared.subtask, prepared.epoch)) {
            shared.records.extend(prepared.records);
        }
    }
}

impl<T: Record> Prepared<T> {
    fn encode(&self) -> Result<Vec<u8>> {
        let mut batch = Vec::new();
        encode(&self.records)?.encode(&mut batch);
        Ok(Encode::new(KIND).u64(self.subtask).u64(self.epoch).bytes(&batch).finish())
    }

    fn decode(entry: &[u8]) -> Result<Self> {
        let (kind, mut decode) = Decode::new("collect sink", entry)?;
        let (subtask, epoch, bytes) = (decode.u64()?, decode.u64()?, decode.bytes()?);
        if kind != KIND {
            return Err(decode.damaged("it has another kind"));
        }
        let (batch, _) = Batch::decode(bytes)?;
        batch.check::<T>()?;
        decode.finish()?;
        let records = batch.iter::<T>().map(|(view, ts, _)| (T::from_view(view), ts)).collect();
        Ok(Prepared { subtask, epoch, records })
    }
}

/// One batch of all the records, in as large a buffer as it takes.
fn encode<T: Record>(records: &[(T, Timestamp)]) -> Result<Batch> {
    let mut bytes = 4 << 10;
    'larger: while bytes <= COMMIT_BYTES_MAX {
        let mut builder = BatchBuilder::new(Buffer::with_bytes(bytes));
        bytes *= 4;
        for (record, timestamp) in records {
            if builder.push::<T>(record.view(), *timestamp, 0).is_err() {
                continue 'larger;
            }
        }
        return Ok(builder.seal());
    }
    Err(Error::job(format!(
        "{} records between two checkpoints are more than the {} MiB that a collect sink holds: \
         checkpoint more often, or write to files",
        records.len(),
        COMMIT_BYTES_MAX >> 20
    )))
}

impl<T: Record + Send> SinkWriter<T> for CollectWriter<T> {
    fn write(&mut self, view: T::View<'_>, timestamp: Timestamp) -> Result<()> {
        let record = (T::from_view(view), timestamp);
        if self.transactional {
            self.open.push(record);
        } else {
            self.collected.lock().records.push(record);
        }
        Ok(())
    }

    fn prepare(&mut self, epoch: u64) -> Result<Vec<Vec<u8>>> {
        let records = std::mem::take(&mut self.open);
        if !records.is_empty() {
            self.prepared.push(Prepared { subtask: self.subtask, epoch, records });
        }
        self.prepared.iter().map(Prepared::encode).collect()
    }

    fn commit(&mut self, epoch: u64) -> Result<()> {
        let kept = self.prepared.partition_point(|p| p.epoch <= epoch);
        for prepared in self.prepared.drain(..kept) {
            self.collected.commit(prepared);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::sink_context;

    type Item = (String, u64);

    fn write(writer: &mut CollectWriter<Item>, n: u64) {
        writer.write(("record", n), n as i64).unwrap();
    }
    fn numbers(collected: &Collected<Item>) -> Vec<u64> {
        collected.to_vec().into_iter().map(|r| r.1).collect()
    }

    #[test]
    fn visible_with_the_commit_and_once() {
        let sink = CollectSink::<Item>::transactional();
        let (got, mut w) = (sink.handle(), sink.open(&sink_context(0, 1, None)).unwrap());
        write(&mut w, 1);
        w.prepare(1).unwrap();
        write(&mut w, 2);
        assert!(got.is_empty());
        w.commit(1).unwrap();
        assert_eq!(numbers(&got), [1]);
        w.prepare(2).unwrap();
        w.abort(2).unwrap();
        write(&mut w, 3);
        let entries = w.prepare(3).unwrap();
        assert_eq!(entries.len(), 2, "what the aborted epoch prepared belongs to the next");
        // The process dies after the checkpoint is complete; twice it is restored from it.
        for _ in 0..2 {
            let cx = sink_context(0, 1, Some((3, entries.clone())));
            drop(sink.open(&cx).unwrap());
            assert_eq!(numbers(&got), [1, 2, 3]);
        }
        // In a new process, the result is what follows the checkpoint before.
        let other = CollectSink::<Item>::transactional();
        other.open(&sink_context(0, 1, Some((3, entries)))).unwrap();
        assert_eq!(other.handle().take_with_timestamps()[1], (("record".into(), 3), 3));
        // A fresh run of the same sink numbers its epochs anew.
        w = sink.open(&sink_context(0, 1, None)).unwrap();
        write(&mut w, 4);
        w.prepare(1).unwrap();
        w.commit(1).unwrap();
        assert_eq!(numbers(&got), [1, 2, 3, 4]);
    }

    #[test]
    fn entries_move_with_their_heirs() {
        let sink = CollectSink::<Item>::transactional();
        let mut entries = Vec::new();
        for subtask in 0..3 {
            let mut writer = sink.open(&sink_context(subtask, 3, None)).unwrap();
            for n in 0..3000 {
                write(&mut writer, u64::from(subtask) * 10_000 + n);
            }
            entries.extend(writer.prepare(1).unwrap());
        }
        for _ in 0..2 {
            sink.open(&sink_context(0, 1, Some((1, entries.clone())))).unwrap();
        }
        let want: Vec<u64> = (0..3).flat_map(|s| (0..3000).map(move |n| s * 10_000 + n)).collect();
        assert_eq!(numbers(&sink.handle()), want);
        entries[0].truncate(99);
        assert!(sink.open(&sink_context(0, 1, Some((1, entries)))).is_err());
    }

    #[test]
    fn immediate_is_visible_at_once() {
        let sink = CollectSink::<Item>::immediate();
        let mut writer = sink.open(&sink_context(0, 1, None)).unwrap();
        write(&mut writer, 1);
        assert_eq!(sink.handle().len(), 1);
        assert!(writer.prepare(1).unwrap().is_empty());
        assert_eq!(sink.handle().take(), [("record".into(), 1)]);
        assert!(sink.handle().is_empty());
    }
}
