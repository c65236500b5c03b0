//! Where a life keeps its state: in memory, or in a directory that is gone after it.

use crate::scenario::State;
use tidemill_runtime::backend::StateBackend;

/// The state of a life.
pub(super) struct Disk {
    state: State,
    #[cfg(feature = "rocksdb")]
    dir: tempfile::TempDir,
}

#[cfg(not(feature = "rocksdb"))]
impl Disk {
    pub(super) fn new(state: State) -> Result<Self, String> {
        Ok(Disk { state })
    }

    pub(super) fn backend(&self) -> StateBackend {
        match self.state {
            State::Heap | State::Entries | State::Files => StateBackend::Heap,
        }
    }
}

#[cfg(feature = "rocksdb")]
impl Disk {
    pub(super) fn new(state: State) -> Result<Self, String> {
        // In memory where that can be had: nothing here has to survive.
        let memory = std::path::Path::new("/dev/shm");
        let root = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let dir = tempfile::Builder::new().prefix("tidemill-sim").tempdir_in(root);
        Ok(Disk { state, dir: dir.map_err(|e| format!("directory for state: {e}"))? })
    }

    pub(super) fn backend(&self) -> StateBackend {
        use tidemill_keyed::rocks::RocksOptions;
        use tidemill_runtime::backend::RocksDb;
        if self.state == State::Heap {
            return StateBackend::Heap;
        }
        // Ample memory for those with files; a few entries of each table for the others, so that what
        // is read and written depends on the database.
        let memory_bytes = if self.state == State::Files { 32 << 20 } else { 0 };
        StateBackend::RocksDb(RocksDb {
            dir: self.dir.path().to_owned(),
            // Nothing in the background: the same calls make the same files.
            slot: RocksOptions { memory_bytes, background_jobs: 1, concurrent: false },
            incremental: self.state == State::Files,
        })
    }
}
