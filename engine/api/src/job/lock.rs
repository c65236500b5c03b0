//! One job at a time in a checkpoint directory: two (the second started by mistake, or by a supervisor
//! that believed the first dead) would commit each other's output and leave neither whole.

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs::File;
use std::path::Path;
use tidemill_base::{Error, Result};

/// Hidden beside the checkpoints. It stays there: the lock is the kernel's, and goes with the process.
const NAME: &str = ".lock";

/// The directory is ours as long as this lives.
pub(super) struct Lock {
    _file: Option<File>,
}

impl Lock {
    /// Takes the directory, which exists.
    pub(super) fn take(dir: &Path) -> Result<Lock> {
        let path = dir.join(NAME);
        let opened = File::options().create(true).truncate(false).write(true).open(&path);
        let file = opened.map_err(|e| {
            let path = path.display();
            Error::job(format!("{path}: cannot open: {e}; the job must be allowed to write there"))
        })?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Lock { _file: Some(file) }),
            Err(Errno::WOULDBLOCK) => Err(Error::job(format!(
                "{} is in use by a job that runs; end that one first, or give another \
                 --checkpoint-dir",
                dir.display()
            ))),
            Err(error) => {
                tracing::warn!(
                    "{}: cannot be locked ({error}); make sure that no other job uses it",
                    dir.display()
                );
                Ok(Lock { _file: None })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_owner_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = Lock::take(dir.path()).unwrap();
        let error = Lock::take(dir.path()).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains("is in use by a job that runs"), "{error}");
        drop(first);
        Lock::take(dir.path()).unwrap();
    }
}
