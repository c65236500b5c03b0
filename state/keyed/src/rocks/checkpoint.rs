//! Native checkpoints: hard links to the database's files, of which only new ones need uploading.
//!
//! ```text
//! tables: begin_flush, flush_step ... -> [job.run(), on any thread] -> tables: end_flush
//! ```
//! Between begin and end, tables do not write newer values, so the files hold the state as it was
//! at the beginning. A database never gives the name of a table file to other content; a database
//! that was opened from a checkpoint's files may give their names again.

use super::database::{Database, failed};
use rocksdb::DB;
use rocksdb::checkpoint::Checkpoint;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tidemill_base::{Error, Result};

/// Makes a native checkpoint; takes as long as writing the memtables out.
pub struct CheckpointJob {
    db: Arc<DB>,
    dir: PathBuf,
}

/// A file of a native checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointFile {
    /// Name in the checkpoint's directory.
    pub name: String,
    /// Length in bytes.
    pub bytes: u64,
}

impl CheckpointFile {
    /// Whether it holds entries, never changes, and is in later checkpoints under the same name.
    pub fn is_table(&self) -> bool {
        self.name.ends_with(".sst")
    }
}

/// A native checkpoint in its directory, which the caller deletes when the files are uploaded.
#[derive(Clone, Debug)]
pub struct NativeCheckpoint {
    /// The directory.
    pub dir: PathBuf,
    /// All its files, by name.
    pub files: Vec<CheckpointFile>,
}

impl CheckpointJob {
    /// Makes the checkpoint. Fails if the directory exists or the disk does.
    pub fn run(self) -> Result<NativeCheckpoint> {
        let at = |e| failed(&self.dir, "making a checkpoint", e);
        Checkpoint::new(&*self.db).map_err(at)?.create_checkpoint(&self.dir).map_err(at)?;
        let files = list(&self.dir)
            .map_err(|e| Error::attempt(format!("listing {}: {e}", self.dir.display())))?;
        Ok(NativeCheckpoint { dir: self.dir, files })
    }
}

fn list(dir: &Path) -> std::io::Result<Vec<CheckpointFile>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        files.push(CheckpointFile { name, bytes: entry.metadata()?.len() });
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

impl Database {
    /// A job that makes a native checkpoint in `dir`, which must not exist and should be on the
    /// same file system. All tables must have been flushed and not ended (see the module).
    pub fn checkpoint_job(&self, dir: PathBuf) -> CheckpointJob {
        CheckpointJob { db: self.db().clone(), dir }
    }
}
