//! State in RocksDB, behind a write-back cache on the heap.
//!
//! One [`Database`] holds many tables. Bytes of an entry:
//! ```text
//! key:   table u64 | namespace i64, sign flipped | hash of the key u64 | archive of K
//!        (big-endian, so that a table, a namespace and a range of key groups are each contiguous)
//! value: archive of V
//! ```
//! The namespace is a window's slice, or a timer's time, or 0; the hash is the one that partitions
//! the state, whatever else K holds ([`layout`]).
//! There is no write-ahead log: what a checkpoint does not hold is recomputed after a failure.

mod background;
mod cached;
mod checkpoint;
pub(crate) mod codec;
pub(crate) mod database;
mod groups;
pub mod layout;
mod lazy;
mod memory;
mod retain;
mod retire;
mod scan;
mod slices;
mod snapshot;
#[cfg(rocksdb_of_system)]
mod system;
pub(crate) mod table;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod view;

pub use background::Outcome;
pub use checkpoint::{CheckpointFile, CheckpointJob, NativeCheckpoint};
pub use database::Database;
pub use lazy::LazyDatabase;
pub use memory::{Memory, RocksOptions};
pub use scan::GroupWalk;
pub use slices::DiskSlices;
pub use table::{DiskTable, RocksTable};
