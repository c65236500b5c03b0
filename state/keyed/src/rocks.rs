//! State in RocksDB, behind a write-back cache on the heap.
//!
//! One [`Database`] holds many tables. Bytes of an entry:
//! ```text
//! key:   table u64 | namespace i64, sign flipped | hash of the key u64 | archive of K
//!        (big-endian, so that a table, a namespace and a range of key groups are each contiguous)
//! value: archive of V
//! ```
//! There is no write-ahead log: what a checkpoint does not hold is recomputed after a failure.

mod background;
mod cached;
mod checkpoint;
mod codec;
mod database;
mod lazy;
mod memory;
mod retain;
mod snapshot;
#[cfg(rocksdb_of_system)]
mod system;
mod table;
#[cfg(test)]
mod tests;

pub use background::Outcome;
pub use checkpoint::{CheckpointFile, CheckpointJob, NativeCheckpoint};
pub use database::Database;
pub use lazy::LazyDatabase;
pub use memory::{Memory, RocksOptions};
pub use table::RocksTable;
