//! Snapshots beside processing: bounded steps, and no copy of the table.
//!
//! Beginning copies one bit an entry: which entries are to be written. A step writes some of
//! them and clears their bits; whoever is about to change, remove or move an entry whose bit is
//! still set writes it first (H2). Entries that are added meanwhile have no bit. So what is written is
//! the table as it was at the beginning, in some order, each entry once.
//!
//! A step writes no more than a table's size asks for: records wait while it lasts, and a small
//! table is written soon enough in small steps. Nor does it hand over more than some batches, however
//! much records had written before they changed it while the sink took nothing.

#![expect(unsafe_code, reason = "pending ids are live (H2)")]

use super::slab::Entry;
use super::{Bits, Hashes, HeapTable};
use crate::snapshot::{Packer, SnapshotSink};
use std::ops::Range;
use tidemill_base::key::KeyHeap;
use tidemill_base::{Batch, Error, Key, Record, Result};

/// A snapshot takes about so many steps, if they may be long enough...
const STEPS: usize = 1_500;

/// ...and no step writes fewer entries than this, if it may.
const STEP_ENTRIES_MIN: usize = 500;

/// A snapshot in progress.
pub(super) struct Snapshot<K: Key, V: Record> {
    epoch: u64,
    namespace: i64,
    pending: Vec<u64>,
    /// Words below this have no bit set.
    word: usize,
    out: Packer<(K, V)>,
    error: Option<Error>,
}

impl<K: Key, V: Record> Snapshot<K, V> {
    /// Clears the bit of `id`; whether it was set.
    #[inline(always)]
    pub(super) fn take(&mut self, id: u32) -> bool {
        match self.pending.get_mut(id as usize / 64) {
            Some(word) => {
                let bit = 1 << (id % 64);
                let set = *word & bit != 0;
                *word &= !bit;
                set
            }
            None => false,
        }
    }

    /// The bits of the entries that are to be written; there may be more words than ids.
    pub(super) fn pending(&mut self) -> &mut Vec<u64> {
        &mut self.pending
    }

    /// Writes an entry that is about to change or move. Not inlined: few records of a run need it.
    #[inline(never)]
    pub(super) fn write(
        &mut self,
        entry: &Entry<K::Slot, V>,
        keys: &KeyHeap,
        hashes: Option<Hashes<K>>,
    ) {
        self.push(entry, keys, hashes);
    }

    /// Writes an entry. A failure is kept for the next step.
    #[inline(always)]
    fn push(&mut self, entry: &Entry<K::Slot, V>, keys: &KeyHeap, hashes: Option<Hashes<K>>) {
        let key = K::load(&entry.key, keys);
        let hash = match hashes {
            Some(hashes) => (hashes.route)(K::shorten(key)),
            None => K::hash(K::shorten(key)),
        };
        if let Err(error) = self.out.push((key, entry.value.view()), self.namespace, hash) {
            self.error.get_or_insert(error);
        }
    }
}

impl<K: Key, V: Record> HeapTable<K, V> {
    /// Begins a snapshot of the entries as they are now. `namespace` becomes the timestamp of
    /// its records. Panics if one is running: finish or abort it first.
    pub fn begin_snapshot(&mut self, epoch: u64, namespace: i64) {
        let running = self.snapshot.as_ref().map(|s| s.epoch);
        assert!(running.is_none(), "snapshot {epoch} begins while {running:?} runs");
        let mut pending = std::mem::take(&mut self.spare);
        pending.clear();
        pending.extend_from_slice(self.store.live());
        let out = Packer::new();
        self.snapshot =
            Some(Box::new(Snapshot { epoch, namespace, pending, word: 0, out, error: None }));
    }

    /// Whether a snapshot has begun and is not finished.
    #[inline]
    pub fn is_snapshotting(&self) -> bool {
        self.snapshot.is_some()
    }

    /// The epoch of the running snapshot.
    pub fn snapshot_epoch(&self) -> Option<u64> {
        self.snapshot.as_ref().map(|s| s.epoch)
    }

    /// Writes about `budget` further entries; true when the snapshot is complete (or none runs).
    /// Fails if an entry cannot be written; the snapshot is then aborted.
    pub fn snapshot_step(&mut self, budget: usize, out: &mut dyn SnapshotSink) -> Result<bool> {
        let Some(mut snapshot) = self.snapshot.take() else { return Ok(true) };
        let pace = (self.len() / STEPS).max(STEP_ENTRIES_MIN);
        let mut budget = budget.clamp(1, pace) as isize;
        if snapshot.out.is_behind() {
            budget = 0;
        }
        while budget > 0 && snapshot.error.is_none() && snapshot.word < snapshot.pending.len() {
            let bits = std::mem::take(&mut snapshot.pending[snapshot.word]);
            for bit in Bits(bits) {
                let id = snapshot.word as u32 * 64 + bit;
                self.write(&mut snapshot, id);
            }
            snapshot.word += 1;
            budget -= 1 + bits.count_ones() as isize;
        }
        if let Some(error) = snapshot.error.take() {
            self.spare = snapshot.pending;
            return Err(error.context(format_args!("snapshot {}", snapshot.epoch)));
        }
        let written = snapshot.word == snapshot.pending.len();
        let done = snapshot.out.flush_part(snapshot.namespace, written, out) && written;
        if done {
            self.spare = snapshot.pending;
        } else {
            self.snapshot = Some(snapshot);
        }
        Ok(done)
    }

    /// Forgets the running snapshot, if any.
    pub fn abort_snapshot(&mut self) {
        if let Some(snapshot) = self.snapshot.take() {
            self.spare = snapshot.pending;
        }
    }

    /// Adds the entries of a batch of a snapshot for which `keep(hash of the key)` holds.
    /// Fails if the batch is damaged or holds entries of another type.
    pub fn restore_batch(&mut self, batch: &Batch, keep: impl Fn(u64) -> bool) -> Result<()> {
        for_each_saved::<K, V>(batch, keep, |key, value, hash| {
            if hash != K::hash(K::shorten(key)) {
                return Err(Error::attempt(format!("the hash of key {key:?} is not {hash:#x}")));
            }
            self.insert(hash, key, V::from_view(value));
            Ok(())
        })
    }

    #[inline(always)]
    fn write(&self, snapshot: &mut Snapshot<K, V>, id: u32) {
        // SAFETY: H2, the entry was live at the beginning and has neither been removed nor been given
        // another id since, as either would have cleared its bit.
        snapshot.push(unsafe { self.store.get(id) }, &self.keys, self.hashes);
    }

    /// Writes the entry `id` if the running snapshot still needs it.
    #[inline(always)]
    pub(super) fn save(&mut self, id: u32) {
        if let Some(snapshot) = &mut self.snapshot
            && snapshot.take(id)
        {
            // SAFETY: H2, as in `write`.
            snapshot.write(unsafe { self.store.get(id) }, &self.keys, self.hashes);
        }
    }

    /// Writes those entries of a range of ids that the running snapshot still needs.
    pub(super) fn save_range(&mut self, ids: Range<u32>) {
        if self.snapshot.is_some() {
            ids.for_each(|id| self.save(id));
        }
    }

    /// Writes all entries that the running snapshot still needs.
    pub(super) fn save_all(&mut self) {
        let Some(mut snapshot) = self.snapshot.take() else { return };
        for word in snapshot.word..snapshot.pending.len() {
            for bit in Bits(std::mem::take(&mut snapshot.pending[word])) {
                self.write(&mut snapshot, word as u32 * 64 + bit);
            }
        }
        snapshot.word = snapshot.pending.len();
        self.snapshot = Some(snapshot);
    }
}

/// Checks a batch of `(K, V)` and calls `f(key, value, hash)` for the records that `keep`.
pub(crate) fn for_each_saved<K: Key, V: Record>(
    batch: &Batch,
    keep: impl Fn(u64) -> bool,
    mut f: impl FnMut(K::View<'_>, V::View<'_>, u64) -> Result<()>,
) -> Result<()> {
    batch.check::<(K, V)>()?;
    for (view, _, hash) in batch.iter::<(K, V)>() {
        if keep(hash) {
            let (key, value) = view;
            f(key, value, hash)?;
        }
    }
    Ok(())
}
