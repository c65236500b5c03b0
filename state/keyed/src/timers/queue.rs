//! Timers in memory or in RocksDB, chosen at run time.

use super::Timers;
#[cfg(feature = "rocksdb")]
use super::disk::DiskTimers;
use crate::snapshot::SnapshotSink;
use tidemill_base::{Batch, Key, Result, Timestamp};

/// Timers of one of the backends. Methods do what those of [`Timers`] do.
#[cfg_attr(
    feature = "rocksdb",
    expect(clippy::large_enum_variant, reason = "no indirection on the heap's path")
)]
pub enum TimerQueue<K: Key> {
    /// In memory.
    Heap(Timers<K>),
    /// In RocksDB, the next ones in memory.
    #[cfg(feature = "rocksdb")]
    Rocks(Box<DiskTimers<K>>),
}

impl<K: Key> Default for TimerQueue<K> {
    fn default() -> Self {
        TimerQueue::Heap(Timers::new())
    }
}

macro_rules! either {
    ($self:ident, $timers:ident => $heap:expr, $disk:expr) => {
        match $self {
            TimerQueue::Heap($timers) => $heap,
            #[cfg(feature = "rocksdb")]
            TimerQueue::Rocks($timers) => $disk,
        }
    };
}

impl<K: Key> TimerQueue<K> {
    /// Whether timers are in a database.
    pub fn is_on_disk(&self) -> bool {
        !matches!(self, TimerQueue::Heap(_))
    }

    /// Adds a timer, if it is not there.
    #[inline]
    pub fn register(&mut self, time: Timestamp, hash: u64, key: K::View<'_>) {
        either!(self, t => { t.register(time, hash, key); }, t.register(time, hash, key));
    }

    /// Removes a timer, if it is there.
    pub fn delete(&mut self, time: Timestamp, hash: u64, key: K::View<'_>) {
        either!(self, t => { t.delete(time, hash, key); }, t.delete(time, hash, key));
    }

    /// A time that the earliest timer is not before; `None` if there is no timer. On the heap it is
    /// the earliest timer's; in RocksDB it is that once [`TimerQueue::pop_due`] has found nothing
    /// due at it.
    #[inline]
    pub fn next_time(&self) -> Option<Timestamp> {
        either!(self, t => t.next_time(), t.next_time())
    }

    /// See [`Timers::pop_due`].
    ///
    /// # Errors
    /// If the database fails.
    #[inline]
    pub fn pop_due<R>(
        &mut self,
        now: Timestamp,
        f: impl FnOnce(Timestamp, u64, K::View<'_>) -> R,
    ) -> Result<Option<R>> {
        either!(self, t => Ok(t.pop_due(now, f)), t.pop_due(now, f))
    }

    /// Shows (hash, key) of the next timers that are due at `now` to `f`, about `max` of them: those
    /// whose state has to be read first. On the heap none has.
    ///
    /// # Errors
    /// If the database or `f` fails.
    #[cfg_attr(not(feature = "rocksdb"), expect(unused_variables, reason = "heap: nothing to do"))]
    pub fn look_ahead(
        &mut self,
        now: Timestamp,
        max: usize,
        f: impl FnMut(u64, K::View<'_>) -> Result<()>,
    ) -> Result<()> {
        either!(self, _t => Ok(()), _t.look_ahead(now, max, f))
    }

    /// Shape of the key.
    pub fn key_shape(&self) -> String {
        tidemill_base::record::shape_of::<(i64, K)>()
    }

    /// Begins a snapshot of the timers as they are now. Panics if one is running.
    pub fn begin_snapshot(&mut self, epoch: u64, namespace: i64) {
        either!(self, t => t.begin_snapshot(epoch, namespace), t.begin_snapshot(epoch, namespace));
    }

    /// Whether a snapshot has begun and is not finished.
    pub fn is_snapshotting(&self) -> bool {
        either!(self, t => t.is_snapshotting(), t.is_snapshotting())
    }

    /// Writes about `budget` further timers; true when the snapshot is complete (or none runs).
    pub fn snapshot_step(&mut self, budget: usize, out: &mut dyn SnapshotSink) -> Result<bool> {
        either!(self, t => t.snapshot_step(budget, out), t.snapshot_step(budget, out))
    }

    /// Forgets the running snapshot, if any.
    pub fn abort_snapshot(&mut self) {
        either!(self, t => t.abort_snapshot(), t.end_flush());
    }

    /// See [`Table::flush_step`](crate::Table::flush_step).
    #[cfg_attr(not(feature = "rocksdb"), expect(unused_variables, reason = "heap: nothing to do"))]
    pub fn flush_step(&mut self, budget: usize) -> Result<bool> {
        either!(self, _t => Ok(true), _t.flush_step(budget))
    }

    /// See [`Table::end_flush`](crate::Table::end_flush).
    pub fn end_flush(&mut self) {
        either!(self, _t => (), _t.end_flush());
    }

    /// Registers the timers of a batch of a snapshot for which `keep(hash of the key)` holds.
    pub fn restore_batch(&mut self, batch: &Batch, keep: impl Fn(u64) -> bool) -> Result<()> {
        either!(self, t => t.restore_batch(batch, keep), t.restore_batch(batch, keep))
    }

    /// Registers the timers `name` of a database for which `keep(hash of the key)` holds.
    #[cfg(feature = "rocksdb")]
    pub fn restore_from(
        &mut self,
        database: &crate::rocks::Database,
        name: &str,
        keep: &dyn Fn(u64) -> bool,
    ) -> Result<()> {
        let mut other = DiskTimers::<K>::open(database, name)?;
        other.begin_snapshot(0, 0);
        let (mut batches, mut done) = (Vec::new(), false);
        while !done {
            done = other.snapshot_step(10_000, &mut batches)?;
            for (_, batch) in batches.drain(..) {
                self.restore_batch(&batch, keep)?;
            }
        }
        Ok(())
    }
}
