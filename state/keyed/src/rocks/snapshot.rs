//! Snapshots of a table in RocksDB.
//!
//! ```text
//! begin -> Flushing --all dirty entries written--> Held --end_flush-----> none
//!                                                   | snapshot_step
//!                                                   v
//!                                                Reading --all read-----> none
//! ```
//! Flushing writes the cached entries that were dirty at the beginning, in bounded steps. Then
//! the database holds the state of the beginning, and a native checkpoint can be taken (Held), or
//! an iterator, which keeps seeing that state, gives it out as batches (Reading).

use super::codec::{KEY_HEAD, hash_of, namespace_of};
use super::database::{Database, WRITE_BYTES};
use super::layout::Layout;
use super::table::{DiskTable, append_key, fail, get_bit, shorten, take_bit};
use super::view::Frozen;
use crate::heap::for_each_saved;
use crate::snapshot::{Packer, SnapshotSink};
use tidemill_base::{Batch, Error, Record, Result};

/// Entries read in one go by [`DiskTable::read`].
const READ_ENTRIES: usize = 10_000;

/// A snapshot in progress.
pub(super) struct Progress<L: Layout, V: Record> {
    namespace: i64,
    phase: Phase<L, V>,
}

enum Phase<L: Layout, V: Record> {
    Flushing { pending: Vec<u64>, word: usize },
    Held,
    Reading { view: Frozen, out: Packer<(L::Saved, V)> },
}

impl<L: Layout, V: Record> DiskTable<L, V> {
    /// Shows the entries of the table `name` of a database to `f`, as batches of a snapshot.
    ///
    /// # Errors
    /// If the name is open, if the database or `f` fails.
    pub fn read(
        database: &Database,
        name: &str,
        mut f: impl FnMut(&Batch) -> Result<()>,
    ) -> Result<()> {
        let mut table = Self::open(database, name)?;
        table.begin_snapshot(0, 0);
        let (mut batches, mut done) = (Vec::new(), false);
        while !done {
            done = table.snapshot_step(READ_ENTRIES, &mut batches)?;
            batches.drain(..).try_for_each(|(_, batch)| f(&batch))?;
        }
        Ok(())
    }

    /// Begins a snapshot of the entries as they are now; `namespace` is the timestamp of its
    /// records, unless the layout has namespaces of its own. Panics if one is running.
    pub fn begin_snapshot(&mut self, epoch: u64, namespace: i64) {
        assert!(self.snapshot.is_none(), "snapshot {epoch} begins while another runs");
        let phase = Phase::Flushing { pending: self.dirty.clone(), word: 0 };
        self.snapshot = Some(Progress { namespace, phase });
    }

    /// Whether a snapshot has begun and is not finished.
    pub fn is_snapshotting(&self) -> bool {
        self.snapshot.is_some()
    }

    /// Writes about `budget` further dirty entries to the database; true when it holds the state
    /// of the beginning, and a native checkpoint may be taken. Newer values stay in the cache,
    /// which may grow, until [`DiskTable::end_flush`].
    pub fn flush_step(&mut self, budget: usize) -> Result<bool> {
        let mut budget = budget.max(1) as isize;
        while budget > 0 {
            let Some(Progress { phase: Phase::Flushing { pending, word }, .. }) =
                &mut self.snapshot
            else {
                return Ok(true);
            };
            let Some(bits) = pending.get_mut(*word) else {
                self.hand_over()?;
                if let Some(progress) = &mut self.snapshot {
                    progress.phase = Phase::Held;
                }
                return Ok(true);
            };
            let bits = std::mem::take(bits);
            let first = *word as u32 * 64;
            *word += 1;
            budget -= 1 + bits.count_ones() as isize;
            for bit in crate::heap::Bits(bits) {
                self.write(first + bit)?;
                take_bit(&mut self.dirty, first + bit);
            }
        }
        self.hand_over()?;
        Ok(false)
    }

    /// Ends what [`DiskTable::begin_snapshot`] and [`DiskTable::flush_step`] prepared, when the
    /// native checkpoint has been taken or given up.
    pub fn end_flush(&mut self) {
        self.snapshot = None;
        self.delete_retired().unwrap_or_else(|e| fail(e));
    }

    /// Forgets the running snapshot, if any.
    pub fn abort_snapshot(&mut self) {
        self.end_flush();
    }

    /// Writes about `budget` further entries, as batches; true when the snapshot is complete (or
    /// none runs). A failure aborts it.
    pub fn snapshot_step(&mut self, budget: usize, out: &mut dyn SnapshotSink) -> Result<bool> {
        let done = self.try_snapshot_step(budget, out);
        if done.is_err() {
            self.snapshot = None;
        }
        done
    }

    fn try_snapshot_step(&mut self, budget: usize, out: &mut dyn SnapshotSink) -> Result<bool> {
        if self.snapshot.is_none() {
            return Ok(true);
        }
        if !self.flush_step(budget)? {
            return Ok(false);
        }
        let Some(Progress { namespace, phase }) = &mut self.snapshot else { return Ok(true) };
        if let Phase::Held = phase {
            let mut view = Frozen::new(self.db.db());
            view.iter.seek(self.prefix);
            *phase = Phase::Reading { view, out: Packer::new() };
            self.delete_retired()?;
            return Ok(false);
        }
        let Phase::Reading { view, out: packer } = phase else { return Ok(false) };
        let mut done = false;
        for _ in 0..budget.max(1) {
            let Some((key, value)) = view.iter.item().filter(|i| i.0.starts_with(&self.prefix))
            else {
                view.iter.status().map_err(|e| self.db.failed("reading", e))?;
                done = true;
                break;
            };
            if L::BY_NAMESPACE && namespace_of(key)? != *namespace {
                packer.flush(*namespace, true, out);
                *namespace = namespace_of(key)?;
            }
            let hash = hash_of(key)?;
            let (keys, values) = (&mut self.key_scratch, &mut self.value_scratch);
            keys.decode::<L::Key, _>(&key[KEY_HEAD..], |key| {
                let key = L::saved(key);
                values.decode::<V, _>(value, |value| {
                    packer.push((L::Saved::shorten(key), V::shorten(value)), *namespace, hash)
                })
            })???;
            view.iter.next();
        }
        packer.flush(*namespace, done, out);
        if done {
            self.snapshot = None;
        }
        Ok(done)
    }

    /// Adds the entries of a batch of a snapshot for which `keep(hash of the key)` holds. They go
    /// to the database at once: the table must not have been used yet.
    pub fn restore_batch(&mut self, batch: &Batch, keep: impl Fn(u64) -> bool) -> Result<()> {
        let mut bytes = Vec::new();
        let namespace = if batch.is_empty() { 0 } else { batch.timestamp(0) };
        for_each_saved::<L::Saved, V>(batch, keep, |saved, value, route| {
            let key = L::restored(namespace, saved);
            let hash = L::hash(shorten::<L>(key));
            if route != L::route(hash, shorten::<L>(key)) {
                return Err(Error::attempt(format!("the hash of key {key:?} is not {route:#x}")));
            }
            if let Some(id) = self.cache.find(hash, shorten::<L>(key)) {
                *self.change(id) = Some(V::from_view(value));
                return Ok(());
            }
            if L::SEEN {
                self.groups.change(L::group(shorten::<L>(key)), |group| {
                    (group.whole, group.stored) = (false, true);
                });
            }
            bytes.clear();
            append_key::<L>(self.prefix, hash, key, &mut self.key_scratch, &mut bytes)?;
            self.writes.put(&bytes, self.value_scratch.encode::<V>(value)?);
            if self.writes.size_in_bytes() >= WRITE_BYTES { self.hand_over() } else { Ok(()) }
        })?;
        self.hand_over()
    }

    /// Whether newer values have to stay in the cache.
    pub(super) fn is_held(&self) -> bool {
        let phase = self.snapshot.as_ref().map(|s| &s.phase);
        matches!(phase, Some(Phase::Flushing { .. } | Phase::Held))
    }

    /// Whether an entry has to be written before it is changed.
    pub(super) fn is_pending(&self, id: u32) -> bool {
        match &self.snapshot {
            Some(Progress { phase: Phase::Flushing { pending, .. }, .. }) => get_bit(pending, id),
            _ => false,
        }
    }

    /// Like `is_pending`, which becomes false.
    pub(super) fn takes_pending(&mut self, id: u32) -> bool {
        match &mut self.snapshot {
            Some(Progress { phase: Phase::Flushing { pending, .. }, .. }) => take_bit(pending, id),
            _ => false,
        }
    }
}
