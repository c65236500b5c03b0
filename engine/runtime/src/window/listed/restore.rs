//! Windows from a snapshot, with the timers that follow from them (L1, L4).

use super::cell::{Cell, NEVER, Rules};
use crate::process::part::Part;
use tidemill_base::record::shape_of;
use tidemill_base::{Batch, Error, Key, Record, Result};
use tidemill_keyed::{SnapshotSink, Table, TimerQueue};

/// Windows and timers while they are restored.
pub(super) struct Restoring<'a, K: Key, A: Record> {
    pub(super) rules: &'a Rules,
    pub(super) keys: &'a mut Table<K, Vec<Cell<A>>>,
    pub(super) timers: &'a mut TimerQueue<K>,
    pub(super) wall_timers: &'a mut TimerQueue<K>,
}

impl<K: Key, A: Record> Part for Restoring<'_, K, A> {
    fn shape(&self) -> String {
        shape_of::<(K, Vec<Cell<A>>)>()
    }
    fn begin_snapshot(&mut self, _: u64) {}
    fn snapshot_step(&mut self, _: usize, _: &mut dyn SnapshotSink) -> Result<bool> {
        Ok(true)
    }
    fn abort_snapshot(&mut self) {}
    fn restore_batch(&mut self, batch: &Batch, keep: &dyn Fn(u64) -> bool) -> Result<()> {
        batch.check::<(K, Vec<Cell<A>>)>()?;
        for ((key, cells), _, hash) in batch.iter::<(K, Vec<Cell<A>>)>() {
            if !keep(hash) {
                continue;
            }
            if hash != K::hash(K::shorten(key)) {
                return Err(Error::attempt(format!("the hash of key {key:?} is not {hash:#x}")));
            }
            let mut cells = Vec::<Cell<A>>::from_view(cells);
            for cell in &mut cells {
                cell.timer = self.rules.due(cell);
                self.timers.register(cell.timer, hash, K::shorten(key));
                if cell.early_wall != NEVER {
                    self.wall_timers.register(cell.early_wall, hash, K::shorten(key));
                }
            }
            self.keys.put(hash, key, cells);
        }
        Ok(())
    }
    fn is_on_disk(&self) -> bool {
        self.keys.is_on_disk()
    }
    #[cfg(feature = "rocksdb")]
    fn restore_from(
        &mut self,
        database: &tidemill_keyed::rocks::Database,
        name: &str,
        keep: &dyn Fn(u64) -> bool,
    ) -> Result<()> {
        use tidemill_keyed::rocks::RocksTable;
        RocksTable::<K, Vec<Cell<A>>>::read(database, name, |b| self.restore_batch(b, keep))
    }
}
