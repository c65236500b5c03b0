//! State for user functions: handles that read and write the current key's state, and the
//! tables behind them, all snapshot-able through [`StateTable`].
//!
//! A handle knows its value type only; which key type it belongs to is behind one virtual call.
//! Handles and tables live in one subtask and are shared by `Rc`.

mod ahead;
mod list;
mod map;
mod reducing;
mod states;
#[cfg(test)]
mod tests;
mod ttl;
mod value;

pub use list::ListState;
pub use map::MapState;
pub use reducing::ReducingState;
pub use states::States;
pub use ttl::{StateTtl, TtlTime};
pub use value::ValueState;

use crate::snapshot::SnapshotSink;
use std::fmt;
use tidemill_base::{Batch, Result};

/// What a state is to its user. Part of the checkpoint format by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateKind {
    /// One value a key.
    Value,
    /// A list of values a key.
    List,
    /// A map of values a key.
    Map,
    /// One value a key, merged on writing.
    Reducing,
    /// Timers.
    Timers,
}

impl fmt::Display for StateKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StateKind::Value => "value",
            StateKind::List => "list",
            StateKind::Map => "map",
            StateKind::Reducing => "reducing",
            StateKind::Timers => "timers",
        })
    }
}

/// One named state of an operator, of any type: what checkpoints need.
///
/// Law: restoring all batches of a snapshot into empty tables, each with the key groups of one
/// subtask, gives together the state at `begin_snapshot`, whatever was done to it afterwards.
pub trait StateTable {
    /// Name, unique in its operator.
    fn name(&self) -> &str;
    /// Kind.
    fn kind(&self) -> StateKind;
    /// Shape of the key (see `Record::shape`).
    fn key_shape(&self) -> String;
    /// Shape of what is stored for a key, expiry included.
    fn value_shape(&self) -> String;
    /// Begins a snapshot of the state as it is now. Panics if one is running.
    fn begin_snapshot(&mut self, epoch: u64);
    /// Writes about `budget` further entries; true when the snapshot is complete (or none runs).
    fn snapshot_step(&mut self, budget: usize, out: &mut dyn SnapshotSink) -> Result<bool>;
    /// Forgets the running snapshot, if any.
    fn abort_snapshot(&mut self);
    /// Adds the entries of a batch for which `keep(hash of the key)` holds.
    fn restore_batch(&mut self, batch: &Batch, keep: &dyn Fn(u64) -> bool) -> Result<()>;
    /// Whether the entries are in a database, which [`StateTable::flush_step`] writes to.
    fn is_on_disk(&self) -> bool {
        false
    }
    /// Records are to come, this many; whether they should be announced by [`StateTable::want`]:
    /// where the records before them have read much of the state.
    fn looks_ahead(&mut self, _records: usize) -> bool {
        false
    }
    /// Takes note that the current key's entry is needed soon.
    fn want(&mut self) -> Result<()> {
        Ok(())
    }
    /// Reads what the entries noted lack, at once.
    fn fetch(&mut self) -> Result<()> {
        Ok(())
    }
    /// See [`Table::flush_step`](crate::Table::flush_step).
    fn flush_step(&mut self, _budget: usize) -> Result<bool> {
        Ok(true)
    }
    /// See [`Table::end_flush`](crate::Table::end_flush).
    fn end_flush(&mut self) {}
    /// See [`Table::restore_from`](crate::Table::restore_from). Nothing to do for states that are
    /// never in a database.
    #[cfg(feature = "rocksdb")]
    fn restore_from(
        &mut self,
        _database: &crate::rocks::Database,
        _keep: &dyn Fn(u64) -> bool,
    ) -> Result<()> {
        Ok(())
    }
    /// Number of entries, expired ones included.
    fn len(&self) -> usize;
    /// Whether there is no entry.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Bytes held by the tables.
    fn bytes(&self) -> usize;
    /// Looks at about `budget` entries, going round, and removes the expired ones.
    /// If the disk fails, the next `snapshot_step` says so.
    fn expire_step(&mut self, budget: usize);
    /// Asks the CPU for the index slots of a key's hash.
    fn prefetch_index(&self, _hash: u64) {}
    /// Asks the CPU for the entry of a key's hash, once the slots have arrived.
    fn prefetch_entry(&self, _hash: u64) {}
}
