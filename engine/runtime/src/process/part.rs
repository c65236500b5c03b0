//! The states of one operator's subtask on their way into snapshots and out of them.
//!
//! Invariants
//!   P1  A snapshot holds every part as it was at `begin`, whatever happens until it is complete.
//!   P2  A keyed part is restored from the entries of all old subtasks, filtered by key; a part of
//!       kind `OperatorState` from old subtask 0 alone.
//!   P3  The restored watermark is the minimum over the old subtasks.

use crate::backend::StatePlace;
use crate::context::{Context, SectionId, SectionKind};
use crate::keyed_snapshot::{EntrySink, decode_record, encode_record, restored_batches};
use crate::native::{Native, restore_on_heap};
use tidemill_base::record::shape_of;
use tidemill_base::{Batch, Error, Key, Record, Result, Timestamp, WATERMARK_MIN};
use tidemill_keyed::{HeapTable, Slices, SnapshotSink, StateTable, Table, TimerQueue};

/// Entries that one step of a snapshot writes; 1,000 take 10 to 20 microseconds.
pub const STEP_ENTRIES: usize = if cfg!(feature = "check") { 100 } else { 3_000 };

/// How many entries are written to an outbox in the time in which one goes to a database.
const FLUSH_COST: usize = 8;

/// A table, timers, or another state that is snapshotted beside processing.
pub trait Part {
    /// Shape of what is stored; a restored state must have the same.
    fn shape(&self) -> String;
    /// Begins a snapshot of the state as it is now.
    fn begin_snapshot(&mut self, epoch: u64);
    /// Writes about `budget` further entries; true when complete.
    fn snapshot_step(&mut self, budget: usize, out: &mut dyn SnapshotSink) -> Result<bool>;
    /// Forgets the running snapshot, if any.
    fn abort_snapshot(&mut self);
    /// Adds the entries of a batch for which `keep(hash of the key)` holds.
    fn restore_batch(&mut self, batch: &Batch, keep: &dyn Fn(u64) -> bool) -> Result<()>;
    /// Whether it is in a database, whose files may be its snapshot.
    fn is_on_disk(&self) -> bool {
        false
    }
    /// Writes about `budget` entries to the database; true when it holds the state of the
    /// snapshot's beginning. Then [`Part::end_flush`] ends the snapshot.
    fn flush_step(&mut self, _budget: usize) -> Result<bool> {
        Ok(true)
    }
    /// The database's files are safe.
    fn end_flush(&mut self) {}
    /// Adds the entries of the table `name` of a database for which `keep(hash of the key)` holds.
    #[cfg(feature = "rocksdb")]
    fn restore_from(
        &mut self,
        _database: &tidemill_keyed::rocks::Database,
        _name: &str,
        _keep: &dyn Fn(u64) -> bool,
    ) -> Result<()> {
        Ok(())
    }
}

/// A part with its address in the operator.
pub struct PartRef<'a> {
    /// Keyed state, timers, or state of the operator (the same in all subtasks).
    pub kind: SectionKind,
    /// Unique among the operator's parts of the kind. 0 of `OperatorState` is the watermark.
    pub number: u16,
    /// For messages.
    pub name: String,
    /// The state.
    pub part: &'a mut dyn Part,
    /// Its shape, where that says more than what is stored.
    pub shape: Option<String>,
    /// Whether it is only in a database's files: it follows from other parts, which snapshots of
    /// entries have.
    pub derived: bool,
}

impl<'a> PartRef<'a> {
    /// State by key.
    pub fn keyed(number: u16, name: impl Into<String>, part: &'a mut dyn Part) -> Self {
        Self::new(SectionKind::KeyedState, number, name, part)
    }
    /// Any state.
    pub fn new(
        kind: SectionKind,
        number: u16,
        name: impl Into<String>,
        part: &'a mut dyn Part,
    ) -> Self {
        PartRef { kind, number, name: name.into(), part, shape: None, derived: false }
    }
    fn is_on_disk(&self) -> bool {
        self.part.is_on_disk()
    }
    fn shape(&self) -> String {
        self.shape.clone().unwrap_or_else(|| self.part.shape())
    }
    /// Timers.
    pub fn timers(number: u16, name: impl Into<String>, part: &'a mut dyn Part) -> Self {
        Self::new(SectionKind::Timers, number, name, part)
    }
}

/// Declares, restores and snapshots the parts of an operator. The parts are passed to every call,
/// always the same ones in the same order.
pub struct Snapshots {
    context: Context,
    operator: u64,
    /// Epoch of the running snapshot, and the part that it is at.
    running: Option<(u64, usize)>,
    /// Makes the snapshot of parts in a database, where its files are to be it.
    native: Option<Native>,
    /// Whether the running snapshot is in files.
    in_files: bool,
}

impl Snapshots {
    /// Declares the parts and restores them from the checkpoint in the context; returns the
    /// restored watermark, too.
    pub fn open(
        context: &Context,
        operator: u64,
        parts: &mut [PartRef<'_>],
    ) -> Result<(Self, Timestamp)> {
        let section = watermark_section(operator);
        let mut watermark = None;
        for (_, payload) in context.declare(section, "watermark", shape_of::<i64>()) {
            let old: Timestamp = decode_record::<i64>(payload)?;
            watermark = Some(watermark.map_or(old, |w: Timestamp| w.min(old)));
        }
        Ok((Self::open_parts(context, operator, parts)?, watermark.unwrap_or(WATERMARK_MIN)))
    }

    /// Like [`Snapshots::open`], for operators that keep their own watermark.
    pub(crate) fn open_parts(
        context: &Context,
        operator: u64,
        parts: &mut [PartRef<'_>],
    ) -> Result<Self> {
        for (i, p) in parts.iter().enumerate() {
            let twin = parts[..i].iter().find(|o| (o.kind, o.number) == (p.kind, p.number));
            if let Some(twin) = twin {
                return Err(Error::job(format!(
                    "states '{}' and '{}' have the same address in checkpoints: rename one",
                    twin.name, p.name
                )));
            }
        }
        for p in parts.iter_mut().filter(|p| !p.derived) {
            restore(context, operator, p)
                .map_err(|e| e.context(format_args!("state '{}'", p.name)))?;
        }
        if matches!(context.place, StatePlace::Heap) {
            restore_on_heap(context, operator, parts)?;
        }
        let native = context.native(operator).filter(|_| parts.iter().any(PartRef::is_on_disk));
        let context = context.clone();
        Ok(Snapshots { context, operator, running: None, native, in_files: false })
    }

    /// Begins the snapshot of an epoch.
    pub fn begin(
        &mut self,
        epoch: u64,
        watermark: Timestamp,
        parts: &mut [PartRef<'_>],
    ) -> Result<()> {
        let payload = encode_record::<i64>(&watermark)?;
        self.context.entry(epoch, watermark_section(self.operator), payload, 1);
        self.begin_parts(epoch, parts);
        Ok(())
    }

    /// Like [`Snapshots::begin`], for operators that keep their own watermark.
    pub(crate) fn begin_parts(&mut self, epoch: u64, parts: &mut [PartRef<'_>]) {
        self.abort(parts);
        self.in_files = self.native.is_some() && !self.context.whole.get();
        for p in parts.iter_mut().filter(|p| self.in_files || !p.derived) {
            p.part.begin_snapshot(epoch);
        }
        self.running = Some((epoch, 0));
    }

    /// A bounded step; true when the snapshot is complete.
    pub fn step(&mut self, epoch: u64, parts: &mut [PartRef<'_>]) -> Result<bool> {
        let Some((running, at)) = &mut self.running else { return Ok(true) };
        debug_assert_eq!(*running, epoch);
        let mut budget = STEP_ENTRIES;
        while let Some(p) = parts.get_mut(*at) {
            let done = if self.in_files && p.is_on_disk() {
                p.part.flush_step(budget / FLUSH_COST)?
            } else if p.derived {
                true
            } else {
                let section = SectionId { operator: self.operator, kind: p.kind, state: p.number };
                // Reading a database takes longer than memory, too.
                let budget = if p.is_on_disk() { budget / FLUSH_COST } else { budget };
                p.part.snapshot_step(budget, &mut EntrySink::new(&self.context, epoch, section))?
            };
            if !done {
                return Ok(false);
            }
            *at += 1;
            budget = (budget / 2).max(64);
        }
        if let Some(native) = self.native.as_ref().filter(|_| self.in_files) {
            if !native.poll(epoch, &self.context)? {
                return Ok(false);
            }
            parts.iter_mut().filter(|p| p.is_on_disk()).for_each(|p| p.part.end_flush());
        }
        self.running = None;
        Ok(true)
    }

    /// Forgets the running snapshot, if any.
    pub fn abort(&mut self, parts: &mut [PartRef<'_>]) {
        if self.running.take().is_some() {
            for p in parts {
                p.part.abort_snapshot();
            }
            if let Some(native) = &self.native {
                native.abort();
            }
        }
    }
}

fn watermark_section(operator: u64) -> SectionId {
    SectionId { operator, kind: SectionKind::OperatorState, state: 0 }
}

fn restore(context: &Context, operator: u64, p: &mut PartRef<'_>) -> Result<()> {
    let section = SectionId { operator, kind: p.kind, state: p.number };
    if p.kind == SectionKind::OperatorState {
        let entries = context.declare(section, &p.name, p.shape());
        let first: Vec<_> = entries.iter().filter(|(old, _)| *old == 0).cloned().collect();
        return restored_batches(&first).try_for_each(|b| p.part.restore_batch(&b?, &|_| true));
    }
    context
        .declare_keyed(section, &p.name, p.shape())
        .try_for_each(|b| p.part.restore_batch(&b?, &|hash| context.info.owns(hash)))
}

impl<K: Key, V: Record> Part for HeapTable<K, V> {
    fn shape(&self) -> String {
        shape_of::<(K, V)>()
    }
    fn begin_snapshot(&mut self, epoch: u64) {
        HeapTable::begin_snapshot(self, epoch, 0);
    }
    fn snapshot_step(&mut self, budget: usize, out: &mut dyn SnapshotSink) -> Result<bool> {
        HeapTable::snapshot_step(self, budget, out)
    }
    fn abort_snapshot(&mut self) {
        HeapTable::abort_snapshot(self);
    }
    fn restore_batch(&mut self, batch: &Batch, keep: &dyn Fn(u64) -> bool) -> Result<()> {
        HeapTable::restore_batch(self, batch, keep)
    }
}

impl<K: Key, V: Record> Part for Table<K, V> {
    fn shape(&self) -> String {
        shape_of::<(K, V)>()
    }
    fn begin_snapshot(&mut self, epoch: u64) {
        Table::begin_snapshot(self, epoch, 0);
    }
    fn snapshot_step(&mut self, budget: usize, out: &mut dyn SnapshotSink) -> Result<bool> {
        Table::snapshot_step(self, budget, out)
    }
    fn abort_snapshot(&mut self) {
        Table::abort_snapshot(self);
    }
    fn restore_batch(&mut self, batch: &Batch, keep: &dyn Fn(u64) -> bool) -> Result<()> {
        Table::restore_batch(self, batch, keep)
    }
    fn is_on_disk(&self) -> bool {
        Table::is_on_disk(self)
    }
    fn flush_step(&mut self, budget: usize) -> Result<bool> {
        Table::flush_step(self, budget)
    }
    fn end_flush(&mut self) {
        Table::end_flush(self);
    }
    #[cfg(feature = "rocksdb")]
    fn restore_from(
        &mut self,
        database: &tidemill_keyed::rocks::Database,
        name: &str,
        keep: &dyn Fn(u64) -> bool,
    ) -> Result<()> {
        Table::restore_from(self, database, name, keep)
    }
}

impl<K: Key, V: Record> Part for Slices<K, V> {
    fn shape(&self) -> String {
        format!("slices<{}>", shape_of::<(K, V)>())
    }
    fn begin_snapshot(&mut self, epoch: u64) {
        Slices::begin_snapshot(self, epoch);
    }
    fn snapshot_step(&mut self, budget: usize, out: &mut dyn SnapshotSink) -> Result<bool> {
        Slices::snapshot_step(self, budget, out)
    }
    fn abort_snapshot(&mut self) {
        Slices::abort_snapshot(self);
    }
    fn restore_batch(&mut self, batch: &Batch, keep: &dyn Fn(u64) -> bool) -> Result<()> {
        Slices::restore_batch(self, batch, keep)
    }
    fn is_on_disk(&self) -> bool {
        Slices::is_on_disk(self)
    }
    fn flush_step(&mut self, budget: usize) -> Result<bool> {
        Slices::flush_step(self, budget)
    }
    fn end_flush(&mut self) {
        Slices::end_flush(self);
    }
    #[cfg(feature = "rocksdb")]
    fn restore_from(
        &mut self,
        database: &tidemill_keyed::rocks::Database,
        name: &str,
        keep: &dyn Fn(u64) -> bool,
    ) -> Result<()> {
        Slices::restore_from(self, database, name, keep)
    }
}

impl<K: Key> Part for TimerQueue<K> {
    fn shape(&self) -> String {
        format!("timers<{}>", self.key_shape())
    }
    fn begin_snapshot(&mut self, epoch: u64) {
        TimerQueue::begin_snapshot(self, epoch, 0);
    }
    fn snapshot_step(&mut self, budget: usize, out: &mut dyn SnapshotSink) -> Result<bool> {
        TimerQueue::snapshot_step(self, budget, out)
    }
    fn abort_snapshot(&mut self) {
        TimerQueue::abort_snapshot(self);
    }
    fn restore_batch(&mut self, batch: &Batch, keep: &dyn Fn(u64) -> bool) -> Result<()> {
        TimerQueue::restore_batch(self, batch, keep)
    }
    fn is_on_disk(&self) -> bool {
        TimerQueue::is_on_disk(self)
    }
    fn flush_step(&mut self, budget: usize) -> Result<bool> {
        TimerQueue::flush_step(self, budget)
    }
    fn end_flush(&mut self) {
        TimerQueue::end_flush(self);
    }
    #[cfg(feature = "rocksdb")]
    fn restore_from(
        &mut self,
        database: &tidemill_keyed::rocks::Database,
        name: &str,
        keep: &dyn Fn(u64) -> bool,
    ) -> Result<()> {
        TimerQueue::restore_from(self, database, name, keep)
    }
}

impl Part for Box<dyn StateTable> {
    fn shape(&self) -> String {
        format!("{}<{},{}>", self.kind(), self.key_shape(), self.value_shape())
    }
    fn begin_snapshot(&mut self, epoch: u64) {
        (**self).begin_snapshot(epoch);
    }
    fn snapshot_step(&mut self, budget: usize, out: &mut dyn SnapshotSink) -> Result<bool> {
        (**self).snapshot_step(budget, out)
    }
    fn abort_snapshot(&mut self) {
        (**self).abort_snapshot();
    }
    fn restore_batch(&mut self, batch: &Batch, keep: &dyn Fn(u64) -> bool) -> Result<()> {
        (**self).restore_batch(batch, keep)
    }
    fn is_on_disk(&self) -> bool {
        (**self).is_on_disk()
    }
    fn flush_step(&mut self, budget: usize) -> Result<bool> {
        (**self).flush_step(budget)
    }
    fn end_flush(&mut self) {
        (**self).end_flush();
    }
    #[cfg(feature = "rocksdb")]
    fn restore_from(
        &mut self,
        database: &tidemill_keyed::rocks::Database,
        _: &str,
        keep: &dyn Fn(u64) -> bool,
    ) -> Result<()> {
        (**self).restore_from(database, keep)
    }
}
