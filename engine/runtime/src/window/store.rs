//! The sections of a window operator in a checkpoint.

use super::spec::{Spec, TIMESTAMP_MAX};
use super::{frontier, frontier::Frontier};
use crate::context::{Context, SectionId, SectionKind};
use crate::process::part::{Part, PartRef, Snapshots};
use tidemill_base::record::shape_of;
use tidemill_base::{Error, Key, Record, Result, Timestamp};
use tidemill_keyed::Backend;

/// Name of the windows' state in checkpoints' messages, and in a database.
pub(super) const WINDOWS: &str = "windows";

/// Names and takes the snapshots of a window operator's state.
pub(super) struct Store {
    pub(super) context: Context,
    operator: u64,
    backend: Backend,
    snapshots: Option<Snapshots>,
    shape: String,
}

impl Store {
    /// For windows `spec`, whose state by key has this shape.
    pub(super) fn open<K: Key, V: Record>(
        context: &Context,
        operator: u64,
        spec: &Spec,
    ) -> Result<Self> {
        let shape = format!("{}: {}", spec.text(), shape_of::<(K, V)>());
        let backend = context.backend(operator)?;
        Ok(Store { context: context.clone(), operator, backend, snapshots: None, shape })
    }

    /// Where the state by key is.
    pub(super) fn backend(&self) -> &Backend {
        &self.backend
    }

    /// The state by key as a part.
    pub(super) fn part<'a>(&self, part: &'a mut dyn Part) -> PartRef<'a> {
        let shape = Some(self.shape.clone());
        PartRef { shape, ..PartRef::keyed(0, WINDOWS, part) }
    }

    /// Declares and restores the state by key.
    pub(super) fn restore(&mut self, parts: &mut [PartRef<'_>]) -> Result<()> {
        self.snapshots = Some(Snapshots::open_parts(&self.context, self.operator, parts)?);
        Ok(())
    }

    /// Declares the frontier and restores it.
    pub(super) fn frontier(&self) -> Result<Frontier> {
        let entries = self.context.declare(self.section(), "fired up to", frontier::shape());
        Frontier::restore(&self.context.info, entries)
    }

    fn section(&self) -> SectionId {
        SectionId { operator: self.operator, kind: SectionKind::OperatorState, state: 0 }
    }

    /// Begins a snapshot.
    pub(super) fn begin(
        &mut self,
        epoch: u64,
        frontier: Option<&Frontier>,
        parts: &mut [PartRef<'_>],
    ) -> Result<()> {
        if let Some(frontier) = frontier {
            self.context.entry(epoch, self.section(), frontier.entry()?, 1);
        }
        if let Some(snapshots) = &mut self.snapshots {
            snapshots.begin_parts(epoch, parts);
        }
        Ok(())
    }

    /// A bounded step of the snapshot; true when it is complete.
    pub(super) fn step(&mut self, epoch: u64, parts: &mut [PartRef<'_>]) -> Result<bool> {
        self.snapshots.as_mut().map_or(Ok(true), |s| s.step(epoch, parts))
    }

    /// Forgets the snapshot.
    pub(super) fn abort(&mut self, parts: &mut [PartRef<'_>]) {
        if let Some(snapshots) = &mut self.snapshots {
            snapshots.abort(parts);
        }
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
