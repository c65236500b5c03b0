//! Where snapshots go: batches of entries, handed to a sink.

use std::collections::VecDeque;
use std::marker::PhantomData;
use tidemill_base::{BUFFER_BYTES, Batch, BatchBuilder, Buffer, Error, Record, Result, Timestamp};

/// The largest state entry that a snapshot can hold, in bytes.
pub const ENTRY_BYTES_MAX: usize = 1 << 30;

/// Full batches that one call hands over. A step of a snapshot fills fewer; more are there where the
/// sink took none for a while, and records went on to change entries that had to be written first.
pub(crate) const BATCHES_MAX: usize = 8;

/// Takes the batches of a snapshot.
pub trait SnapshotSink {
    /// Takes a batch of entries. `namespace` (a window slice's start, or 0) is also the timestamp
    /// of its records, and their hash is the hash of the key that partitions the state. A sink that
    /// is done with the batch gives its buffer back, for later batches.
    fn batch(&mut self, namespace: i64, batch: Batch) -> Option<Buffer>;
}

impl SnapshotSink for Vec<(i64, Batch)> {
    fn batch(&mut self, namespace: i64, batch: Batch) -> Option<Buffer> {
        self.push((namespace, batch));
        None
    }
}

/// Packs records into batches, outside of a sink's reach.
#[derive(Debug)]
pub(crate) struct Packer<T> {
    open: Option<BatchBuilder>,
    sealed: VecDeque<Batch>,
    /// Buffers that the sink has given back, [`BATCHES_MAX`] at most: fresh ones would have to be zeroed.
    spare: Vec<Buffer>,
    record: PhantomData<fn(T)>,
}

impl<T: Record> Packer<T> {
    pub(crate) fn new() -> Self {
        Packer { open: None, sealed: VecDeque::new(), spare: Vec::new(), record: PhantomData }
    }

    /// Appends a record. Fails if it exceeds [`ENTRY_BYTES_MAX`].
    #[inline]
    pub(crate) fn push(
        &mut self,
        view: T::View<'_>,
        namespace: Timestamp,
        hash: u64,
    ) -> Result<()> {
        let spare = &mut self.spare;
        let open = self.open.get_or_insert_with(|| BatchBuilder::new(pooled(spare)));
        if open.push::<T>(T::shorten(view), namespace, hash).is_ok() {
            return Ok(());
        }
        self.push_to_new(view, namespace, hash)
    }

    #[cold]
    fn push_to_new(&mut self, view: T::View<'_>, namespace: Timestamp, hash: u64) -> Result<()> {
        self.seal();
        let mut bytes = BUFFER_BYTES;
        while bytes <= ENTRY_BYTES_MAX {
            let buffer = match bytes {
                BUFFER_BYTES => pooled(&mut self.spare),
                _ => Buffer::with_bytes(bytes),
            };
            let mut builder = BatchBuilder::new(buffer);
            if builder.push::<T>(T::shorten(view), namespace, hash).is_ok() {
                self.open = Some(builder);
                if bytes > BUFFER_BYTES {
                    self.seal();
                }
                return Ok(());
            }
            bytes *= 2;
        }
        Err(Error::job(format!(
            "a state entry of more than {ENTRY_BYTES_MAX} bytes cannot be written to a snapshot; \
             keep less under one key (a map state splits it)"
        )))
    }

    fn seal(&mut self) {
        if let Some(open) = self.open.take().filter(|o| !o.is_empty()) {
            self.sealed.push_back(open.seal());
        }
    }

    /// Whether there are so many full batches that they should be handed over before more is written.
    pub(crate) fn is_behind(&self) -> bool {
        self.sealed.len() >= BATCHES_MAX
    }

    /// Hands the full batches over, the unfinished one too if `all`.
    #[cfg(feature = "rocksdb")]
    pub(crate) fn flush(&mut self, namespace: i64, all: bool, out: &mut dyn SnapshotSink) {
        while !self.flush_part(namespace, all, out) {}
    }

    /// Hands full batches over, [`BATCHES_MAX`] at most, the unfinished one too if `all`; true when there is none
    /// left.
    pub(crate) fn flush_part(
        &mut self,
        namespace: i64,
        all: bool,
        out: &mut dyn SnapshotSink,
    ) -> bool {
        if all {
            self.seal();
        }
        let part = self.sealed.len().min(BATCHES_MAX);
        for batch in self.sealed.drain(..part) {
            let buffer = out.batch(namespace, batch);
            if self.spare.len() < BATCHES_MAX {
                self.spare.extend(buffer.filter(Buffer::is_pooled));
            }
        }
        self.sealed.is_empty()
    }
}

fn pooled(spare: &mut Vec<Buffer>) -> Buffer {
    spare.pop().unwrap_or_else(Buffer::pooled)
}
