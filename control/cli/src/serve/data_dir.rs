//! The data directory.
//!
//! ```text
//!   DIR/cluster.secret        mode 0600 (secrets.rs)
//!   DIR/jobmanager.lock       held while a JobManager lives
//!   DIR/metadata.db           jobs, where metadata is embedded
//!   DIR/artifacts/            programs, where they have no other place
//!   DIR/checkpoints/<job>/    checkpoints, where they have no other place
//!   DIR/uploads/              programs that are not accepted yet
//!   DIR/taskmanager/          of the command taskmanager: its own lock, programs, logs, workers' state
//!   DIR/taskmanager-<n>/      of the command local
//! ```
//! Invariants
//!   F1  At most one JobManager uses a directory.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::exit::Failure;
use crate::settings::Settings;

/// The directory of the settings, made where it is missing.
///
/// # Errors
/// It cannot be had.
pub(super) fn open(settings: &Settings) -> Result<PathBuf, Failure> {
    let path = match settings.path("data_dir") {
        Some(path) => path,
        None => usual()?,
    };
    let wrong = |e: std::io::Error| {
        Failure::usage(format!(
            "the data directory {}: {e}; give one that can be written by --data-dir",
            path.display()
        ))
    };
    fs::create_dir_all(&path).map_err(wrong)?;
    path.canonicalize().map_err(wrong)
}

fn usual() -> Result<PathBuf, Failure> {
    if rustix::process::geteuid().is_root() {
        return Ok("/var/lib/tidemill".into());
    }
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let home = || absolute("HOME").map(|home| home.join(".local/share"));
    let data = absolute("XDG_DATA_HOME").or_else(home);
    let none = || Failure::usage("there is no home directory to keep data in: give --data-dir");
    data.map(|dir| dir.join("tidemill")).ok_or_else(none)
}

/// Held while a JobManager lives (F1).
#[derive(Debug)]
pub(super) struct Lock {
    /// Unlocked when closed.
    _file: File,
}

/// Takes the JobManager's lock.
///
/// # Errors
/// Another one has it.
pub(super) fn lock(data_dir: &Path) -> Result<Lock, Failure> {
    let path = data_dir.join("jobmanager.lock");
    let wrong = |e: std::io::Error| Failure::usage(format!("{}: {e}", path.display()));
    let file = File::create(&path).map_err(wrong)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|e| match e {
        rustix::io::Errno::WOULDBLOCK => Failure::usage(format!(
            "the data directory {} is in use by another JobManager: end that one, or give another directory by \
             --data-dir",
            data_dir.display()
        )),
        e => wrong(e.into()),
    })?;
    Ok(Lock { _file: file })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_job_manager_a_directory() {
        let dir = tempfile::tempdir().expect("tempdir");
        let held = lock(dir.path()).expect("free");
        let error = lock(dir.path()).expect_err("taken").to_string();
        assert!(error.contains("in use by another JobManager"), "{error}");
        drop(held);
        lock(dir.path()).expect("free again");
    }
}
