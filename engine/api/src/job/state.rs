//! Where an embedded job keeps keyed state, and the directories for it.
//!
//! State on disk is scratch: a checkpoint says what is in it. Each run has a directory of its own
//! with a lock, each attempt one below it; both go when they end. What a killed process left is
//! removed by the next run that uses the same place, because its lock is free.

use super::options::State;
use std::path::{Path, PathBuf};
use tidemill_base::Result;
use tidemill_runtime::backend::StateBackend;

/// The state of one run.
pub(crate) struct StateHome {
    #[cfg(feature = "rocksdb")]
    rocks: Option<rocks::Home>,
}

/// The state of one attempt; dropping it removes its directory.
pub(crate) struct AttemptState {
    /// What the attempt is deployed with.
    pub(crate) backend: StateBackend,
    dir: Option<PathBuf>,
}

impl Drop for AttemptState {
    fn drop(&mut self) {
        if let Some(dir) = &self.dir
            && let Err(e) = std::fs::remove_dir_all(dir)
        {
            tracing::warn!("state directory {} is left behind: {e}", dir.display());
        }
    }
}

#[cfg(not(feature = "rocksdb"))]
impl StateHome {
    /// Refuses what this build does not have.
    pub(crate) fn open(state: State, _: Option<&Path>, _: usize) -> Result<Self> {
        match state {
            State::Heap => Ok(StateHome {}),
            State::RocksDb => Err(tidemill_base::Error::job(
                "--state rocksdb: this build has no RocksDB; build with the feature 'rocksdb'",
            )),
        }
    }

    /// The place of an attempt.
    pub(crate) fn attempt(&self, _: u32) -> Result<AttemptState> {
        Ok(AttemptState { backend: StateBackend::Heap, dir: None })
    }
}

#[cfg(feature = "rocksdb")]
impl StateHome {
    /// Makes the run's directory, if it needs one: below `dir` or among the temporary ones.
    pub(crate) fn open(state: State, dir: Option<&Path>, slot_mib: usize) -> Result<Self> {
        let rocks = match state {
            State::Heap => None,
            State::RocksDb => Some(rocks::Home::open(dir, slot_mib)?),
        };
        Ok(StateHome { rocks })
    }

    /// The place of an attempt.
    pub(crate) fn attempt(&self, number: u32) -> Result<AttemptState> {
        match &self.rocks {
            None => Ok(AttemptState { backend: StateBackend::Heap, dir: None }),
            Some(home) => home.attempt(number),
        }
    }
}

#[cfg(feature = "rocksdb")]
mod rocks {
    use super::{AttemptState, PathBuf, Result, StateBackend};
    use rustix::fs::{FlockOperation, flock};
    use std::fs::File;
    use std::path::Path;
    use std::sync::atomic::{AtomicU32, Ordering};
    use tidemill_base::Error;
    use tidemill_keyed::rocks::RocksOptions;
    use tidemill_runtime::backend::RocksDb;

    /// Directories of runs begin with this, those being made with the other.
    const NAMES: [&str; 2] = ["tidemill-state-", ".tidemill-state-"];

    /// Runs of this process so far.
    static RUNS: AtomicU32 = AtomicU32::new(0);

    /// A run's directory; dropping it removes it.
    pub(super) struct Home {
        dir: PathBuf,
        slot: RocksOptions,
        _lock: File,
    }

    fn failed(dir: &Path, e: impl std::fmt::Display) -> Error {
        Error::job(format!("state directory {}: {e}; give another with --state-dir", dir.display()))
    }

    impl Home {
        pub(super) fn open(dir: Option<&Path>, slot_mib: usize) -> Result<Self> {
            let root = dir.map_or_else(std::env::temp_dir, Path::to_owned);
            std::fs::create_dir_all(&root).map_err(|e| failed(&root, e))?;
            sweep(&root);
            let run = RUNS.fetch_add(1, Ordering::Relaxed);
            let name = |prefix| format!("{prefix}{}-{run}", std::process::id());
            let (new, dir) = (root.join(name(NAMES[1])), root.join(name(NAMES[0])));
            // Locked before others see it: the lock is the file's, whatever its directory is called.
            std::fs::create_dir(&new).map_err(|e| failed(&new, e))?;
            let lock = File::create(new.join("lock")).map_err(|e| failed(&new, e))?;
            flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|e| failed(&new, e))?;
            std::fs::rename(&new, &dir).map_err(|e| failed(&dir, e))?;
            let memory_bytes = slot_mib << 20;
            let slot = RocksOptions { memory_bytes, ..RocksOptions::default() };
            Ok(Home { dir, slot, _lock: lock })
        }

        pub(super) fn attempt(&self, number: u32) -> Result<AttemptState> {
            let dir = self.dir.join(format!("attempt-{number}"));
            std::fs::create_dir(&dir).map_err(|e| failed(&dir, e))?;
            let options = RocksDb { dir: dir.clone(), slot: self.slot, incremental: true };
            Ok(AttemptState { backend: StateBackend::RocksDb(options), dir: Some(dir) })
        }
    }

    impl Drop for Home {
        fn drop(&mut self) {
            if let Err(e) = std::fs::remove_dir_all(&self.dir) {
                tracing::warn!("state directory {} is left behind: {e}", self.dir.display());
            }
        }
    }

    /// Removes what killed processes left. Nothing depends on its success.
    fn sweep(root: &Path) {
        let Ok(entries) = std::fs::read_dir(root) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            if !name.to_str().is_some_and(|n| n.starts_with(NAMES[0])) {
                continue;
            }
            let Ok(lock) = File::open(entry.path().join("lock")) else { continue };
            if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok()
                && std::fs::remove_dir_all(entry.path()).is_ok()
            {
                tracing::info!("removed {}, left by a killed job", entry.path().display());
            }
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn what_a_killed_run_left_is_removed_and_what_runs_is_not() {
            let root = tempfile::tempdir().unwrap();
            let left = root.path().join("tidemill-state-1-0");
            std::fs::create_dir(&left).unwrap();
            File::create(left.join("lock")).unwrap();
            let running = Home::open(Some(root.path()), 4).unwrap();
            assert!(!left.exists());
            let attempt = running.attempt(0).unwrap();
            let other = Home::open(Some(root.path()), 4).unwrap();
            assert!(running.dir.join("attempt-0").exists());
            drop(attempt);
            assert!(!running.dir.join("attempt-0").exists());
            let dirs = [running.dir.clone(), other.dir.clone()];
            drop((running, other));
            assert!(dirs.iter().all(|d| !d.exists()));
        }
    }
}
