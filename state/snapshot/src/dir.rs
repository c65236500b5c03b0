//! Checkpoints in a local (or mounted) directory.
//!
//! ```text
//! <root>/
//!   chk-<epoch>/
//!     worker-<n>.data     one object per worker (format.rs)
//!     manifest.json       the commit point, written last
//!   shared/<name>         files that several checkpoints reference
//! ```
//! While being written, a file is called `.<name>.<process>-<count>.tmp`: unique, so that a
//! fenced writer that is still alive cannot finish another's file.
//!
//! Invariants
//!   D1  A file gets its final name by rename, after its content was synced; the directory is
//!       synced before the call returns. So a final name never stands for partial content.
//!   D2  Before the manifest is renamed, all directories on its path are synced.
//!   D3  After a failed commit the manifest is certainly absent, or the error is `InDoubt`.
//!   D4  A failed write leaves no temporary file, unless the process dies as well.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};
use crate::manifest::{self, MANIFEST_BYTES_MAX, SharedFile};
use crate::store::{self, CheckpointId, ObjectReader, ObjectWriter, SnapshotStore};

mod disk;
#[cfg(test)]
mod tests;

use disk::{Disk, Writing};
#[cfg(test)]
pub(crate) use disk::{Op, Probe};

const MANIFEST: &str = "manifest.json";
const SHARED: &str = "shared";
/// Small appends are gathered to writes of this many bytes.
const WRITE_BYTES: usize = 256 << 10;

/// Checkpoints in a directory.
#[derive(Clone)]
pub struct DirStore {
    root: PathBuf,
    disk: Disk,
}

impl DirStore {
    /// A store in `root`, which is made when it does not exist.
    ///
    /// # Errors
    /// When `root` cannot be made, or is not a directory that can be written to.
    pub fn create(root: impl Into<PathBuf>) -> Result<Self> {
        let store = DirStore { root: root.into(), disk: Disk::default() };
        store.make_root()?;
        // Better to learn now than at the first checkpoint that nothing can be written here.
        let probe = temporary(&store.root, "probe");
        store.disk.create(&probe).map_err(|e| Error::writing("cannot create", &probe, &e))?;
        store.disk.remove(&probe).map_err(|e| Error::writing("cannot remove", &probe, &e))?;
        Ok(store)
    }

    /// The store in a directory that exists; nothing is written.
    ///
    /// # Errors
    /// [`Error::Missing`] when it does not exist, [`Error::Refused`] when it is no directory.
    pub fn existing(root: impl Into<PathBuf>) -> Result<Self> {
        let root = root.into();
        let meta = fs::metadata(&root).map_err(|e| Error::reading("cannot open", &root, &e))?;
        if !meta.is_dir() {
            let remedy = "name the checkpoints' directory, or a chk-<epoch> directory in it";
            return Err(Error::refused(root.display(), "is not a directory", remedy));
        }
        Ok(DirStore { root, disk: Disk::default() })
    }

    #[cfg(test)]
    pub(crate) fn watched(root: &Path, probe: std::sync::Arc<dyn Probe>) -> Self {
        DirStore { root: root.into(), disk: Disk::watched(probe) }
    }

    /// The root directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of a checkpoint, there or not.
    pub fn epoch_dir(&self, epoch: u64) -> PathBuf {
        self.root.join(epoch_name(epoch))
    }

    fn shared_dir(&self) -> PathBuf {
        self.root.join(SHARED)
    }

    /// `mkdir -p` with every new name synced into its parent.
    fn make_root(&self) -> Result<()> {
        let mut absent = vec![self.root.as_path()];
        while let Some(parent) = absent.last().and_then(|p| p.parent()) {
            if parent.as_os_str().is_empty() || parent.exists() {
                break;
            }
            absent.push(parent);
        }
        absent.into_iter().rev().try_for_each(|path| self.make_dir(path).map(|_| ()))
    }

    /// Makes one directory and syncs its parent when it is new.
    fn make_dir(&self, path: &Path) -> Result<bool> {
        let fail = |e| Error::writing("cannot make the directory", path, &e);
        let new = self.disk.make_dir(path).map_err(fail)?;
        if new && let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            self.sync_dir(parent)?;
        }
        Ok(new)
    }

    fn sync_dir(&self, path: &Path) -> Result<()> {
        let fail = |e| Error::writing("cannot sync the directory", path, &e);
        self.disk.sync_dir(path).map_err(fail)
    }

    fn refuse_committed(&self, epoch: u64) -> Result<()> {
        let path = self.epoch_dir(epoch).join(MANIFEST);
        match path.try_exists() {
            Ok(false) => Ok(()),
            Ok(true) => Err(store::committed(&path.display().to_string())),
            Err(e) => Err(Error::reading("cannot look for", &path, &e)),
        }
    }

    /// Takes a manifest back whose commit failed half-way (D3).
    fn undo(&self, dir: &Path, cause: Error) -> Error {
        let path = dir.join(MANIFEST);
        let undone = self.disk.remove(&path).and_then(|()| self.disk.sync_dir(dir));
        let Err(e) = undone else { return cause };
        let mut report = cause.report().clone();
        report.seen = format!("{}; and cannot be taken back: {e}", report.seen);
        report.remedy = format!(
            "stop the job and restore: whether {} was committed will be seen then",
            dir.display()
        );
        Error::InDoubt(report)
    }

    fn commit(&self, dir: &Path, bytes: &[u8]) -> Result<()> {
        let mut file = Pending::create(&self.disk, dir, MANIFEST)?;
        file.append(bytes)?;
        file.sync()?;
        // D2: a directory that another process made may not have been synced by it.
        self.sync_dir(dir)?;
        self.sync_dir(&self.root)?;
        let named = file.rename().and_then(|()| self.sync_dir(dir));
        named.map_err(|cause| self.undo(dir, cause))
    }
}

fn epoch_name(epoch: u64) -> String {
    format!("chk-{epoch}")
}

/// The epoch of a directory named `chk-<epoch>`.
pub(crate) fn epoch_of(name: &str) -> Option<u64> {
    let epoch = name.strip_prefix("chk-")?.parse().ok()?;
    (epoch_name(epoch) == name).then_some(epoch)
}

fn temporary(dir: &Path, name: &str) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    dir.join(format!(".{name}.{}-{count}.tmp", std::process::id()))
}

fn is_temporary(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(".tmp")
}

/// Names in a directory; none when it does not exist.
fn names(dir: &Path) -> Result<Vec<String>> {
    let fail = |e| Error::reading("cannot list", dir, &e);
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(fail)?,
    };
    let name = |entry: io::Result<fs::DirEntry>| match entry {
        // A name that is not UTF-8 is not ours.
        Ok(entry) => entry.file_name().into_string().ok().map(Ok),
        Err(e) => Some(Err(fail(e))),
    };
    entries.filter_map(name).collect()
}

impl SnapshotStore for DirStore {
    fn locate(&self, epoch: Option<u64>) -> String {
        epoch.map_or(self.root.clone(), |e| self.epoch_dir(e)).display().to_string()
    }

    fn begin(&self, epoch: u64, name: &str) -> Result<Box<dyn ObjectWriter>> {
        let dir = self.epoch_dir(epoch);
        manifest::check_object_name(name)
            .map_err(|seen| Error::refused(dir.display(), seen, "use object_name(worker)"))?;
        self.refuse_committed(epoch)?;
        self.make_dir(&dir)?;
        Ok(Box::new(Pending::create(&self.disk, &dir, name)?))
    }

    fn write_manifest(&self, epoch: u64, bytes: &[u8]) -> Result<()> {
        self.refuse_committed(epoch)?;
        let dir = self.epoch_dir(epoch);
        self.make_dir(&dir)?;
        self.commit(&dir, bytes)
    }

    fn read_manifest(&self, epoch: u64) -> Result<Option<Vec<u8>>> {
        let path = self.epoch_dir(epoch).join(MANIFEST);
        let file = match Reader::open(&path) {
            Err(Error::Missing(_)) => return Ok(None),
            file => file?,
        };
        if file.bytes > MANIFEST_BYTES_MAX {
            let seen = format!("{} bytes, a manifest has at most {MANIFEST_BYTES_MAX}", file.bytes);
            return Err(Error::damaged(path.display(), seen));
        }
        let mut bytes = vec![0; file.bytes as usize];
        file.read_at(0, &mut bytes)?;
        Ok(Some(bytes))
    }

    fn list(&self) -> Result<Vec<CheckpointId>> {
        let mut found = Vec::new();
        for epoch in names(&self.root)?.iter().filter_map(|name| epoch_of(name)) {
            let dir = self.epoch_dir(epoch);
            if dir.is_dir() {
                let path = dir.join(MANIFEST);
                let committed =
                    path.try_exists().map_err(|e| Error::reading("cannot look for", &path, &e))?;
                found.push(CheckpointId { epoch, committed });
            }
        }
        found.sort_by_key(|id| std::cmp::Reverse(id.epoch));
        Ok(found)
    }

    fn open_object(&self, epoch: u64, name: &str) -> Result<Box<dyn ObjectReader>> {
        let path = self.epoch_dir(epoch).join(name);
        manifest::check_object_name(name).map_err(|seen| Error::missing(path.display(), seen))?;
        Ok(Box::new(Reader::open(&path)?))
    }

    fn put_shared(&self, name: &str, content: &mut dyn io::Read) -> Result<SharedFile> {
        let dir = self.shared_dir();
        let path = dir.join(name);
        let place = path.display().to_string();
        manifest::check_shared_name(name)
            .map_err(|seen| Error::refused(&place, seen, "use content_name"))?;
        self.make_dir(&dir)?;
        let mut file = Pending::create(&self.disk, &dir, name)?;
        let wanted = store::copy_summed(content, &place, |piece| file.append(piece))?;
        match Reader::open(&path) {
            Ok(old) => {
                let found = store::sum(&old)?;
                if found != wanted {
                    return Err(store::taken(&place, found, wanted));
                }
                // S2: it may have been renamed by a writer that died before its sync.
                self.sync_dir(&dir)?;
            }
            Err(Error::Missing(_)) => file.publish()?,
            Err(e) => return Err(e),
        }
        Ok(SharedFile { name: name.to_owned(), bytes: wanted.0, crc32: wanted.1 })
    }

    fn get_shared(&self, name: &str) -> Result<Box<dyn ObjectReader>> {
        let path = self.shared_dir().join(name);
        manifest::check_shared_name(name).map_err(|seen| Error::missing(path.display(), seen))?;
        Ok(Box::new(Reader::open(&path)?))
    }

    fn list_shared(&self) -> Result<Vec<String>> {
        let mut found = names(&self.shared_dir())?;
        found.retain(|name| manifest::check_shared_name(name).is_ok());
        found.sort();
        Ok(found)
    }

    fn delete(&self, epoch: u64) -> Result<()> {
        let dir = self.epoch_dir(epoch);
        if !dir.is_dir() {
            return Ok(());
        }
        let remove = |path: PathBuf| {
            self.disk.remove(&path).map_err(|e| Error::writing("cannot remove", &path, &e))
        };
        // S5: while it is being deleted it must not look complete.
        remove(dir.join(MANIFEST))?;
        self.sync_dir(&dir)?;
        for name in names(&dir)? {
            if is_temporary(&name) || manifest::check_object_name(&name).is_ok() {
                remove(dir.join(name))?;
            }
        }
        // What else lies there was put there by someone else: leave it, and the directory.
        match self.disk.remove_dir(&dir) {
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            other => other.map_err(|e| Error::writing("cannot remove", &dir, &e))?,
        }
        self.sync_dir(&self.root)
    }

    fn delete_shared(&self, name: &str) -> Result<()> {
        let path = self.shared_dir().join(name);
        manifest::check_shared_name(name)
            .map_err(|seen| Error::refused(path.display(), seen, "use a name from list_shared"))?;
        self.disk.remove(&path).map_err(|e| Error::writing("cannot remove", &path, &e))
    }

    fn remove_temporary(&self) -> Result<u64> {
        let mut dirs = vec![self.root.clone(), self.shared_dir()];
        dirs.extend(self.list()?.iter().filter(|c| c.committed).map(|c| self.epoch_dir(c.epoch)));
        let mut removed = 0;
        for dir in dirs {
            for name in names(&dir)?.into_iter().filter(|name| is_temporary(name)) {
                let path = dir.join(name);
                self.disk.remove(&path).map_err(|e| Error::writing("cannot remove", &path, &e))?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    fn close(&self) -> Result<()> {
        for dir in [self.shared_dir(), self.root.clone()] {
            match self.disk.remove_dir(&dir) {
                Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => {}
                other => other.map_err(|e| Error::writing("cannot remove", &dir, &e))?,
            }
        }
        Ok(())
    }
}

/// A file under its temporary name. Dropped before it was published, it is removed (D4).
struct Pending {
    disk: Disk,
    dir: PathBuf,
    name: String,
    temporary: PathBuf,
    file: Writing,
    buf: Vec<u8>,
    bytes: u64,
    published: bool,
}

impl Pending {
    fn create(disk: &Disk, dir: &Path, name: &str) -> Result<Self> {
        let temporary = temporary(dir, name);
        let fail = |e| Error::writing("cannot create", &temporary, &e);
        let file = disk.create(&temporary).map_err(fail)?;
        let (disk, dir, name) = (disk.clone(), dir.to_owned(), name.to_owned());
        let (buf, bytes, published) = (Vec::new(), 0, false);
        Ok(Pending { disk, dir, name, temporary, file, buf, bytes, published })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write(bytes).map_err(|e| Error::writing("cannot write", &self.temporary, &e))
    }

    fn sync(&mut self) -> Result<()> {
        let buf = std::mem::take(&mut self.buf);
        self.write(&buf)?;
        self.file.sync().map_err(|e| Error::writing("cannot sync", &self.temporary, &e))
    }

    fn rename(&mut self) -> Result<()> {
        let path = self.dir.join(&self.name);
        self.disk
            .rename(&self.temporary, &path)
            .map_err(|e| Error::writing("cannot rename the finished file to", &path, &e))?;
        self.published = true;
        Ok(())
    }

    /// Gives the synced content its final name, durably (D1).
    fn publish(mut self) -> Result<()> {
        self.sync()?;
        self.rename()?;
        self.disk.sync_dir(&self.dir).map_err(|e| {
            // Nothing refers to the file yet, so it may go; if it stays, it does no harm.
            let _ = self.disk.remove(&self.dir.join(&self.name));
            Error::writing("cannot sync the directory", &self.dir, &e)
        })
    }
}

impl ObjectWriter for Pending {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes += bytes.len() as u64;
        if self.buf.len() + bytes.len() < WRITE_BYTES {
            self.buf.extend_from_slice(bytes);
            return Ok(());
        }
        let mut buf = std::mem::take(&mut self.buf);
        self.write(&buf)?;
        buf.clear();
        self.buf = buf;
        if bytes.len() >= WRITE_BYTES {
            return self.write(bytes);
        }
        self.buf.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<u64> {
        let bytes = self.bytes;
        self.publish().map(|()| bytes)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.published {
            // The reason for dropping has been reported; a leftover is collected by retention.
            let _ = self.disk.remove(&self.temporary);
        }
    }
}

#[derive(Debug)]
struct Reader {
    path: String,
    file: File,
    bytes: u64,
}

impl Reader {
    fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::reading("cannot open", path, &e))?;
        let meta = file.metadata().map_err(|e| Error::reading("cannot stat", path, &e))?;
        let path = path.display().to_string();
        if !meta.is_file() {
            return Err(Error::damaged(path, "is not a file"));
        }
        Ok(Reader { path, file, bytes: meta.len() })
    }
}

impl ObjectReader for Reader {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn path(&self) -> &str {
        &self.path
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > self.bytes) {
            return Err(store::beyond(self, offset, buf.len()));
        }
        self.file.read_exact_at(buf, offset).map_err(|e| {
            let doing = format!("cannot read {} bytes at {offset}", buf.len());
            Error::reading(&doing, Path::new(&self.path), &e)
        })
    }
}
