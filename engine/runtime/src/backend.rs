//! Where the operators of a subtask keep their keyed state.
//!
//! An operator in RocksDB has a database of its own, in a directory that is new for each attempt:
//! what it begins with comes from the checkpoint. The databases of a slot share its memory.

use crate::context::Context;
#[cfg(feature = "rocksdb")]
use crate::native::{self, Native};
#[cfg(feature = "rocksdb")]
use std::path::PathBuf;
use tidemill_base::{Key, Result};
#[cfg(feature = "rocksdb")]
use tidemill_keyed::rocks::{Memory, RocksOptions};
use tidemill_keyed::{Backend, CurrentKey, StateTime, States};

/// Where a job keeps keyed state.
#[derive(Clone, Debug, Default)]
pub enum StateBackend {
    /// In memory.
    #[default]
    Heap,
    /// In RocksDB.
    #[cfg(feature = "rocksdb")]
    RocksDb(RocksDb),
}

/// How a job keeps state in RocksDB.
#[cfg(feature = "rocksdb")]
#[derive(Clone, Debug)]
pub struct RocksDb {
    /// A directory of this attempt alone; whoever deploys makes and deletes it.
    pub dir: PathBuf,
    /// What each slot may use.
    pub slot: RocksOptions,
    /// Whether checkpoints consist of the databases' files, of which only new ones are stored
    /// again. If not, they hold entries, as those of the heap.
    pub incremental: bool,
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
            StateBackend::RocksDb(options) => {
                let memory = Memory::new(options.slot)?;
                Ok(StatePlace::RocksDb { options: options.clone(), memory })
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
        /// How.
        options: RocksDb,
        /// What the slot's databases share.
        memory: Memory,
    },
}

impl Context {
    /// The backend of an operator, with what the checkpoint has in files. Once for each operator:
    /// it owns its directory.
    ///
    /// # Errors
    /// If a database cannot be restored.
    #[cfg_attr(not(feature = "rocksdb"), expect(unused_variables, reason = "directories only"))]
    pub fn backend(&self, operator: u64) -> Result<Backend> {
        match &self.place {
            StatePlace::Heap => Ok(Backend::Heap),
            #[cfg(feature = "rocksdb")]
            StatePlace::RocksDb { options, memory } => {
                let name = format!("{operator:016x}-{}", self.info.subtask);
                let database = native::open(self, operator, &options.dir.join(&name), memory)?;
                if options.incremental {
                    let links = options.dir.join(format!("{name}.checkpoints"));
                    let native = Native::new(operator, &database, memory, links);
                    self.natives.borrow_mut().push(native);
                }
                Ok(Backend::Rocks(database))
            }
        }
    }

    /// The states of an operator: those of the checkpoint's files, in its backend.
    ///
    /// # Errors
    /// As [`Context::backend`].
    pub fn keyed_states<K: Key>(&self, operator: u64) -> Result<States<K>> {
        let backend = self.backend(operator)?;
        Ok(States::with_backend(CurrentKey::new(), StateTime::new(), backend, ""))
    }
}
