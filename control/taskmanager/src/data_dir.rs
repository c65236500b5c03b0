//! The agent's directory.
//!
//! ```text
//!   DIR/lock                          held while an agent lives
//!   DIR/artifacts/<hash>              programs (cache.rs)
//!   DIR/logs/<job>/worker-<n>.log     what workers wrote (logs.rs)
//!   DIR/work/<job>-<n>/               a worker's state on disk; emptied when an agent starts
//! ```
//! Invariants
//!   D1  At most one agent uses a directory.

use crate::AgentError;
use crate::user::User;
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use tidemill_protocol::WorkerId;

/// The directory, locked.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    /// Unlocked when closed.
    _lock: File,
}

impl DataDir {
    /// Makes what is missing and takes the lock.
    ///
    /// # Errors
    /// Another agent has it; it cannot be written.
    pub(crate) fn open(path: &Path) -> Result<Self, AgentError> {
        let wrong = |what: String| AgentError::DataDir { path: path.display().to_string(), what };
        let io = |e: io::Error| wrong(format!("{e}; give a directory that can be written"));
        for part in ["artifacts", "logs", "work"] {
            fs::create_dir_all(path.join(part)).map_err(io)?;
        }
        let path = path.canonicalize().map_err(io)?;
        let lock = File::create(path.join("lock")).map_err(io)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|e| match e {
            rustix::io::Errno::WOULDBLOCK => {
                wrong("another TaskManager uses it: give each one its own".into())
            }
            e => io(e.into()),
        })?;
        let dir = DataDir { path, _lock: lock };
        // Programs of another user must reach their file and their state, and no log.
        for (part, mode) in [("artifacts", 0o755), ("work", 0o711), ("logs", 0o700)] {
            fs::set_permissions(dir.path.join(part), Permissions::from_mode(mode)).map_err(io)?;
        }
        // Workers of an agent that was killed were killed with it; what they left is of no use.
        for entry in fs::read_dir(dir.path.join("work")).map_err(io)?.flatten() {
            fs::remove_dir_all(entry.path()).map_err(io)?;
        }
        Ok(dir)
    }

    pub(crate) fn artifacts(&self) -> PathBuf {
        self.path.join("artifacts")
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.path.join("logs")
    }

    /// An empty directory for a worker's state, owned by its user.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn make_state_dir(&self, id: &WorkerId, user: Option<User>) -> io::Result<PathBuf> {
        let path = self.path.join("work").join(format!("{}-{}", id.job, id.number));
        DirBuilder::new().mode(0o700).create(&path)?;
        if let Some(user) = user {
            chown(&path, Some(user.uid), Some(user.gid))?;
        }
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_protocol::JobId;

    #[test]
    fn one_agent_a_directory() {
        let root = tempfile::tempdir().expect("tempdir");
        let dir = DataDir::open(root.path()).expect("free");
        let id = WorkerId { job: JobId::from_bytes([1; 16]), number: 2 };
        let state = dir.make_state_dir(&id, None).expect("new");
        fs::write(state.join("file"), "left").expect("write");
        let error = DataDir::open(root.path()).expect_err("taken").to_string();
        assert!(error.contains("another TaskManager"), "{error}");
        drop(dir);
        DataDir::open(root.path()).expect("free again");
        assert!(!state.exists(), "what a worker left is removed");
        assert!(DataDir::open(Path::new("/proc/nowhere")).is_err());
    }
}
