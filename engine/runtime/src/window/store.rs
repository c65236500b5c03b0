//! The sections of a window operator in a checkpoint.

use super::spec::{Spec, TIMESTAMP_MAX};
use super::{frontier, frontier::Frontier};
use crate::context::{Context, SectionId, SectionKind};
use crate::keyed_snapshot::EntrySink;
use tidemill_base::record::shape_of;
use tidemill_base::{Batch, Error, Key, Record, Result, Timestamp};

/// Entries written in one step of a snapshot.
pub(super) const SNAPSHOT_ENTRIES: usize = if cfg!(feature = "check") { 20 } else { 2048 };

/// Names the sections, and carries entries to the outbox.
pub(super) struct Store {
    pub(super) context: Context,
    operator: u64,
}

impl Store {
    pub(super) fn new(context: &Context, operator: u64) -> Self {
        Store { context: context.clone(), operator }
    }

    fn section(&self, kind: SectionKind) -> SectionId {
        SectionId { operator: self.operator, kind, state: 0 }
    }

    /// Declares the state by key and gives its restored batches to `take`.
    pub(super) fn restore<K: Key, V: Record>(
        &self,
        spec: &Spec,
        mut take: impl FnMut(&Batch) -> Result<()>,
    ) -> Result<()> {
        let shape = format!("{}: {}", spec.text(), shape_of::<(K, V)>());
        let section = self.section(SectionKind::KeyedState);
        self.context.declare_keyed(section, "windows", shape).try_for_each(|batch| take(&batch?))
    }

    /// Declares the frontier and restores it.
    pub(super) fn frontier(&self) -> Result<Frontier> {
        let section = self.section(SectionKind::OperatorState);
        let entries = self.context.declare(section, "fired up to", frontier::shape());
        Frontier::restore(&self.context.info, entries)
    }

    /// Whether a key is this subtask's.
    pub(super) fn owns(&self) -> impl Fn(u64) -> bool + '_ {
        |hash| self.context.info.owns(hash)
    }

    /// Writes the frontier.
    pub(super) fn write_frontier(&self, epoch: u64, frontier: &Frontier) -> Result<()> {
        let section = self.section(SectionKind::OperatorState);
        self.context.entry(epoch, section, frontier.entry()?, 1);
        Ok(())
    }

    /// Takes batches of state by key.
    pub(super) fn sink(&self, epoch: u64) -> EntrySink<'_> {
        EntrySink::new(&self.context, epoch, self.section(SectionKind::KeyedState))
    }

    /// The machine's clock, as of this step.
    pub(super) fn wall_ms(&self) -> Timestamp {
        self.context.time.wall_ms()
    }
}

/// Fails on timestamps that windows cannot handle.
#[inline(always)]
pub(super) fn check_timestamp(t: Timestamp) -> Result<()> {
    if (-TIMESTAMP_MAX..=TIMESTAMP_MAX).contains(&t) { Ok(()) } else { no_timestamp(t) }
}

#[cold]
fn no_timestamp(t: Timestamp) -> Result<()> {
    Err(Error::job(format!(
        "a record in an event-time window has timestamp {t}: give the source a watermark strategy, \
         or use processing-time windows"
    )))
}
