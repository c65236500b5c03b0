//! Keyed state: what operators remember for each key, on the heap or in RocksDB.
//!
//! - [`heap`]: a hash table with bounded pauses and snapshots beside processing
//! - `rocks` (feature `rocksdb`): tables in RocksDB behind a write-back cache
//! - [`table`]: either of the two, chosen at run time; so are [`Slices`] and [`TimerQueue`]
//! - [`slices`]: one table for each window slice
//! - [`current`], [`state`]: value, list, map and reducing state for user functions, with TTL
//! - [`timers`]: timers ordered by time
//! - [`snapshot`]: where snapshots go

#![deny(unsafe_code)]

mod arena;
pub mod current;
pub mod heap;
#[cfg(feature = "rocksdb")]
pub mod rocks;
pub mod slices;
pub mod snapshot;
pub mod state;
pub mod table;
pub mod timers;

mod prefetch;
pub(crate) use prefetch::prefetch;

pub use arena::Pager;
pub use current::{CurrentKey, StateTime};
pub use heap::{Aim, Cursor, Found, HeapTable, Vacant};
pub use slices::{SliceTables, SliceWalk, Slices};
pub use snapshot::{ENTRY_BYTES_MAX, SnapshotSink};
pub use state::{
    ListState, MapState, ReducingState, StateKind, StateTable, StateTtl, States, TtlTime,
    ValueState,
};
pub use table::{Backend, Table};
pub use timers::{TimerQueue, Timers};
