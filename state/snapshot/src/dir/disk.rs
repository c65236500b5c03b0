//! The file system calls that the directory store writes with, in one place: so that tests can
//! watch their order, and make any one of them fail.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A change to the disk, as a probe sees it just before it happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Op {
    MakeDir(PathBuf),
    Create(PathBuf),
    Write(PathBuf, Vec<u8>),
    SyncFile(PathBuf),
    Rename(PathBuf, PathBuf),
    SyncDir(PathBuf),
    Remove(PathBuf),
    RemoveDir(PathBuf),
}

/// Sees every change before it happens; an error takes the change's place.
pub(crate) trait Probe: Send + Sync {
    fn before(&self, op: Op) -> io::Result<()>;
}

/// The disk, watched by a probe in tests.
#[derive(Clone, Default)]
pub(super) struct Disk {
    probe: Option<Arc<dyn Probe>>,
}

/// A file that is being written.
pub(super) struct Writing {
    disk: Disk,
    path: PathBuf,
    file: File,
}

impl Disk {
    #[cfg(test)]
    pub(super) fn watched(probe: Arc<dyn Probe>) -> Self {
        Disk { probe: Some(probe) }
    }

    fn before(&self, op: impl FnOnce() -> Op) -> io::Result<()> {
        self.probe.as_ref().map_or(Ok(()), |probe| probe.before(op()))
    }

    /// Makes a directory; `false` when it was there.
    pub(super) fn make_dir(&self, path: &Path) -> io::Result<bool> {
        if path.is_dir() {
            return Ok(false);
        }
        self.before(|| Op::MakeDir(path.into()))?;
        match fs::create_dir(path) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(false),
            Err(e) => Err(e),
        }
    }

    pub(super) fn create(&self, path: &Path) -> io::Result<Writing> {
        self.before(|| Op::Create(path.into()))?;
        let file = File::options().write(true).create_new(true).open(path)?;
        Ok(Writing { disk: self.clone(), path: path.into(), file })
    }

    pub(super) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.before(|| Op::Rename(from.into(), to.into()))?;
        fs::rename(from, to)
    }

    pub(super) fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.before(|| Op::SyncDir(path.into()))?;
        File::open(path)?.sync_all()
    }

    /// Removes a file; one that is not there is fine.
    pub(super) fn remove(&self, path: &Path) -> io::Result<()> {
        self.before(|| Op::Remove(path.into()))?;
        gone(fs::remove_file(path))
    }

    /// Removes an empty directory; one that is not there is fine.
    pub(super) fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.before(|| Op::RemoveDir(path.into()))?;
        gone(fs::remove_dir(path))
    }
}

impl Writing {
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.disk.before(|| Op::Write(self.path.clone(), bytes.to_vec()))?;
        self.file.write_all(bytes)
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.disk.before(|| Op::SyncFile(self.path.clone()))?;
        self.file.sync_all()
    }
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
