//! Where snapshots go: batches of entries, handed to a sink.

use std::marker::PhantomData;
use tidemill_base::{BUFFER_BYTES, Batch, BatchBuilder, Buffer, Error, Record, Result, Timestamp};

/// The largest state entry that a snapshot can hold, in bytes.
pub const ENTRY_BYTES_MAX: usize = 1 << 30;

/// Takes the batches of a snapshot.
pub trait SnapshotSink {
    /// Takes a batch of entries. `namespace` (a window slice's start, or 0) is also the timestamp
    /// of its records, and their hash is the hash of the key that partitions the state.
    fn batch(&mut self, namespace: i64, batch: Batch);

    /// An empty buffer for the next batch; a sink that recycles gives used ones.
    fn buffer(&mut self) -> Buffer {
        Buffer::pooled()
    }
}

impl SnapshotSink for Vec<(i64, Batch)> {
    fn batch(&mut self, namespace: i64, batch: Batch) {
        self.push((namespace, batch));
    }
}

/// Packs records into batches, outside of a sink's reach.
#[derive(Debug)]
pub(crate) struct Packer<T> {
    open: Option<BatchBuilder>,
    sealed: Vec<Batch>,
    record: PhantomData<fn(T)>,
}

impl<T: Record> Packer<T> {
    pub(crate) fn new() -> Self {
        Packer { open: None, sealed: Vec::new(), record: PhantomData }
    }

    /// Appends a record. Fails if it exceeds [`ENTRY_BYTES_MAX`].
    pub(crate) fn push(
        &mut self,
        view: T::View<'_>,
        namespace: Timestamp,
        hash: u64,
    ) -> Result<()> {
        let open = self.open.get_or_insert_with(|| BatchBuilder::new(Buffer::pooled()));
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
            let mut builder = BatchBuilder::new(Buffer::with_bytes(bytes));
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
            self.sealed.push(open.seal());
        }
    }

    /// Hands the full batches over, the unfinished one too if `all`.
    pub(crate) fn flush(&mut self, namespace: i64, all: bool, out: &mut dyn SnapshotSink) {
        if all {
            self.seal();
        }
        for batch in self.sealed.drain(..) {
            out.batch(namespace, batch);
        }
        if self.open.is_none() && !all {
            self.open = Some(BatchBuilder::new(out.buffer()));
        }
    }
}
