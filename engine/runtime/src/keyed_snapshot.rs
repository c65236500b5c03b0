//! Keyed state on its way into a snapshot and out of one.

use crate::context::{Context, SectionId, SubtaskInfo};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tidemill_base::{Batch, BatchBuilder, Buffer, Error, Result};
use tidemill_keyed::SnapshotSink;
use tidemill_snapshot::SnapshotReader;

/// Leaves the batches of one state's snapshot in the outbox.
pub struct EntrySink<'a> {
    context: &'a Context,
    epoch: u64,
    section: SectionId,
    /// Encoded bytes so far.
    pub bytes: u64,
}

impl<'a> EntrySink<'a> {
    /// For one state and epoch.
    pub fn new(context: &'a Context, epoch: u64, section: SectionId) -> Self {
        EntrySink { context, epoch, section, bytes: 0 }
    }
}

impl SnapshotSink for EntrySink<'_> {
    fn batch(&mut self, _namespace: i64, batch: Batch) -> Option<Buffer> {
        let mut payload = Vec::new();
        batch.encode(&mut payload);
        self.bytes += payload.len() as u64;
        self.context.entry(self.epoch, self.section, payload, batch.len() as u64);
        Some(batch.into_buffer())
    }
}

/// The restored batches of a state, not yet filtered by key. The namespace that a batch was
/// written with is the timestamp of its records.
pub fn restored_batches(entries: &[(u32, Vec<u8>)]) -> impl Iterator<Item = Result<Batch>> {
    entries.iter().map(|(_, payload)| Ok(Batch::decode(payload)?.0))
}

/// Whether something of a checkpoint was found damaged or missing while it was read. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Damage(Arc<AtomicBool>);

impl Damage {
    /// It was.
    pub fn note(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it was.
    pub fn is_noted(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// State by key in a stored checkpoint, read batch by batch.
#[derive(Clone)]
pub struct StoredKeys {
    reader: Arc<SnapshotReader>,
    damage: Damage,
}

impl StoredKeys {
    /// Reads a checkpoint whose number of key groups is the job's, and notes in `damage` if it cannot
    /// be read.
    pub fn new(reader: Arc<SnapshotReader>, damage: Damage) -> Self {
        StoredKeys { reader, damage }
    }

    /// The batches of a section, of those old subtasks that owned key groups of this one.
    pub fn batches(
        &self,
        section: SectionId,
        info: &SubtaskInfo,
    ) -> impl Iterator<Item = Result<Batch>> {
        let SectionId { operator, kind, state } = section;
        let manifest = self.reader.manifest();
        let old = manifest.operators.iter().find(|o| o.id == operator).map_or(1, |o| o.parallelism);
        let (new, groups) = (info.parallelism, info.max_parallelism);
        let mine = (0..groups).filter(|group| group * new / groups == info.subtask);
        let owners: BTreeSet<u32> = mine.map(|group| group * old / groups).collect();
        let sections = owners
            .into_iter()
            .flat_map(move |o| self.reader.sections(operator, Some(o), kind, state));
        sections.map(|section| {
            let section = section.map_err(|e| self.unreadable(e))?;
            Ok(Batch::decode(&section.payload)?.0)
        })
    }

    fn unreadable(&self, error: tidemill_snapshot::Error) -> Error {
        use tidemill_snapshot::Error as E;
        if matches!(error, E::Damaged(_) | E::Missing(_)) {
            self.damage.note();
        }
        match error {
            E::Retry(report) => Error::attempt(report.to_string()),
            error => Error::job(error.to_string()),
        }
    }
}

impl fmt::Debug for StoredKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoredKeys(checkpoint {})", self.reader.manifest().epoch)
    }
}

/// One record as an entry's payload: for small states of an operator.
pub fn encode_record<T: tidemill_base::Record>(record: &T) -> Result<Vec<u8>> {
    let mut bytes = 256;
    loop {
        let mut builder = BatchBuilder::new(Buffer::with_bytes(bytes));
        if builder.push::<T>(record.view(), 0, 0).is_ok() {
            let mut payload = Vec::new();
            builder.seal().encode(&mut payload);
            return Ok(payload);
        }
        bytes *= 2;
        if bytes > crate::output::RECORD_BYTES_MAX {
            return Err(tidemill_base::Error::job(format!(
                "an operator's state is larger than {} bytes",
                crate::output::RECORD_BYTES_MAX
            )));
        }
    }
}

/// Reads [`encode_record`]'s payload.
pub fn decode_record<T: tidemill_base::Record>(payload: &[u8]) -> Result<T> {
    let (batch, _) = Batch::decode(payload)?;
    batch.check::<T>()?;
    if batch.len() != 1 {
        return Err(tidemill_base::Error::attempt(format!(
            "damaged operator state: {} records instead of 1",
            batch.len()
        )));
    }
    Ok(T::from_view(batch.get::<T>(0).0))
}
