//! Snapshots of timers in RocksDB: as those of a table (`rocks/snapshot.rs`).

use super::DiskTimers;
use crate::heap::{Bits, for_each_saved};
use crate::rocks::codec::{KEY_HEAD, hash_of};
use crate::rocks::table::{fail, take_bit};
use crate::rocks::view::Frozen;
use crate::snapshot::{Packer, SnapshotSink};
use tidemill_base::{Batch, Key, Result};

/// A snapshot in progress.
pub(super) struct Flush<K: Key> {
    namespace: i64,
    phase: Phase<K>,
}

enum Phase<K: Key> {
    Flushing { pending: Vec<u64>, word: usize },
    Held,
    Reading { view: Frozen, out: Packer<((i64, K), ())> },
}

impl<K: Key> DiskTimers<K> {
    /// Begins a snapshot of the timers as they are now. Panics if one is running.
    pub fn begin_snapshot(&mut self, epoch: u64, namespace: i64) {
        assert!(self.flush.is_none(), "snapshot {epoch} begins while another runs");
        let phase = Phase::Flushing { pending: self.dirty.clone(), word: 0 };
        self.flush = Some(Flush { namespace, phase });
    }

    /// Whether a snapshot has begun and is not finished.
    pub fn is_snapshotting(&self) -> bool {
        self.flush.is_some()
    }

    /// Writes about `budget` further timers to the database; true when it has those of the
    /// beginning.
    pub fn flush_step(&mut self, budget: usize) -> Result<bool> {
        let mut budget = budget.max(1) as isize;
        while budget > 0 {
            let Some(Flush { phase: Phase::Flushing { pending, word }, .. }) = &mut self.flush
            else {
                return Ok(true);
            };
            let Some(bits) = pending.get_mut(*word) else {
                self.hand_over()?;
                if let Some(flush) = &mut self.flush {
                    flush.phase = Phase::Held;
                }
                return Ok(true);
            };
            let bits = std::mem::take(bits);
            let first = *word as u32 * 64;
            *word += 1;
            budget -= 1 + bits.count_ones() as isize;
            for bit in Bits(bits) {
                self.write_id(first + bit)?;
                take_bit(&mut self.dirty, first + bit);
            }
        }
        self.hand_over()?;
        Ok(false)
    }

    /// Ends or forgets the snapshot: what was removed meanwhile is deleted.
    pub fn end_flush(&mut self) {
        self.flush = None;
        self.delete_gone().unwrap_or_else(|e| fail(e));
    }

    fn delete_gone(&mut self) -> Result<()> {
        for key in std::mem::take(&mut self.gone) {
            self.writes.delete(key);
        }
        self.hand_over()
    }

    /// Writes about `budget` further timers, as batches; true when the snapshot is complete (or
    /// none runs). A failure aborts it.
    pub fn snapshot_step(&mut self, budget: usize, out: &mut dyn SnapshotSink) -> Result<bool> {
        let done = self.try_snapshot_step(budget, out);
        if done.is_err() {
            self.flush = None;
        }
        done
    }

    fn try_snapshot_step(&mut self, budget: usize, out: &mut dyn SnapshotSink) -> Result<bool> {
        if self.flush.is_none() {
            return Ok(true);
        }
        if !self.flush_step(budget)? {
            return Ok(false);
        }
        let Some(Flush { namespace, phase }) = &mut self.flush else { return Ok(true) };
        if let Phase::Held = phase {
            let mut view = Frozen::new(self.db.db());
            view.iter.seek(self.prefix);
            *phase = Phase::Reading { view, out: Packer::new() };
            self.delete_gone()?;
            return Ok(false);
        }
        let Phase::Reading { view, out: packer } = phase else { return Ok(false) };
        let mut done = false;
        for _ in 0..budget.max(1) {
            let Some(bytes) = view.iter.key().filter(|k| k.starts_with(&self.prefix)) else {
                view.iter.status().map_err(|e| self.db.failed("reading", e))?;
                done = true;
                break;
            };
            let hash = hash_of(bytes)?;
            self.scratch.decode::<(i64, K), _>(&bytes[KEY_HEAD..], |(time, key)| {
                packer.push(((time, K::shorten(key)), ()), *namespace, hash)
            })??;
            view.iter.next();
        }
        packer.flush(*namespace, done, out);
        if done {
            self.flush = None;
        }
        Ok(done)
    }

    /// Registers the timers of a batch of a snapshot for which `keep(hash of the key)` holds.
    pub fn restore_batch(&mut self, batch: &Batch, keep: impl Fn(u64) -> bool) -> Result<()> {
        for_each_saved::<(i64, K), ()>(batch, keep, |(time, key), (), _| {
            self.register(time, K::hash(K::shorten(key)), key);
            Ok(())
        })
    }

    /// Whether the database may be given nothing new (D3).
    pub(super) fn is_held(&self) -> bool {
        let phase = self.flush.as_ref().map(|s| &s.phase);
        matches!(phase, Some(Phase::Flushing { .. } | Phase::Held))
    }

    /// Whether a timer has to be written before it is removed; it is not asked for again.
    pub(super) fn takes_pending(&mut self, id: u32) -> bool {
        match &mut self.flush {
            Some(Flush { phase: Phase::Flushing { pending, .. }, .. }) => take_bit(pending, id),
            _ => false,
        }
    }
}
