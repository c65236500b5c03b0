//! Where the operators of a subtask keep their keyed state.
//!
//! An operator in RocksDB has a database of its own, in a directory that is new for each attempt:
//! what it begins with comes from the checkpoint. The databases of a slot share its memory.

use crate::context::Context;
#[cfg(feature = "rocksdb")]
use std::path::PathBuf;
use tidemill_base::{Key, Result};
#[cfg(feature = "rocksdb")]
use tidemill_keyed::rocks::{LazyDatabase, Memory, RocksOptions};
use tidemill_keyed::{Backend, CurrentKey, StateTime, States};

/// Where a job keeps keyed state.
#[derive(Clone, Debug, Default)]
pub enum StateBackend {
    /// In memory.
    #[default]
    Heap,
    /// In RocksDB.
    #[cfg(feature = "rocksdb")]
    RocksDb {
        /// A directory of this attempt alone; whoever deploys makes and deletes it.
        dir: PathBuf,
        /// Memory of each slot, in bytes.
        slot_bytes: usize,
    },
}

impl StateBackend {
    /// The place of one slot's state. To be called on a thread that is not pinned.
    ///
    /// # Errors
    /// If RocksDB cannot be started.
    pub fn slot(&self) -> Result<StatePlace> {
        match self {
            StateBackend::Heap => Ok(StatePlace::Heap),
            #[cfg(feature = "rocksdb")]
            StateBackend::RocksDb { dir, slot_bytes } => {
                let options = RocksOptions { memory_bytes: *slot_bytes, ..Default::default() };
                Ok(StatePlace::RocksDb { dir: dir.clone(), memory: Memory::new(options)? })
            }
        }
    }
}

/// Where the subtasks of one slot keep keyed state.
#[derive(Clone, Debug, Default)]
pub enum StatePlace {
    /// In memory.
    #[default]
    Heap,
    /// In RocksDB.
    #[cfg(feature = "rocksdb")]
    RocksDb {
        /// The attempt's directory.
        dir: PathBuf,
        /// What the slot's databases share.
        memory: Memory,
    },
}

impl Context {
    /// The backend of an operator. Once for each operator: it owns its directory.
    #[cfg_attr(not(feature = "rocksdb"), expect(unused_variables, reason = "directories only"))]
    pub fn backend(&self, operator: u64) -> Backend {
        match &self.place {
            StatePlace::Heap => Backend::Heap,
            #[cfg(feature = "rocksdb")]
            StatePlace::RocksDb { dir, memory } => {
                let dir = dir.join(format!("{operator:016x}-{}", self.info.subtask));
                Backend::Rocks(LazyDatabase::new(&dir, memory))
            }
        }
    }

    /// The states of an operator: empty, in its backend.
    pub fn keyed_states<K: Key>(&self, operator: u64) -> States<K> {
        States::with_backend(CurrentKey::new(), StateTime::new(), self.backend(operator), "")
    }
}
