//! Checkpoints in memory: for tests, simulation, and jobs that need no recovery.
//!
//! Invariants: those of the contract (store.rs). "Durable" means until the store is dropped.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};
use crate::manifest::{self, SharedFile};
use crate::store::{self, CheckpointId, ObjectReader, ObjectWriter, SnapshotStore};

/// Checkpoints in memory. Clones share the content.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    checkpoints: BTreeMap<u64, Checkpoint>,
    shared: BTreeMap<String, Arc<Vec<u8>>>,
}

#[derive(Debug, Default)]
struct Checkpoint {
    manifest: Option<Vec<u8>>,
    objects: BTreeMap<String, Arc<Vec<u8>>>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Alters stored bytes behind the store's back, for tests of what happens then. `file` is
    /// `manifest.json` or an object's name. Returns whether there was such a file.
    pub fn tamper(&self, epoch: u64, file: &str, alter: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut inner = self.lock();
        let Some(checkpoint) = inner.checkpoints.get_mut(&epoch) else {
            return false;
        };
        if file == "manifest.json" {
            return checkpoint.manifest.as_mut().map(alter).is_some();
        }
        checkpoint.objects.get_mut(file).map(Arc::make_mut).map(alter).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every critical section leaves the maps whole, so a poisoned lock is usable.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn is_committed(&self, epoch: u64) -> bool {
        self.checkpoints.get(&epoch).is_some_and(|c| c.manifest.is_some())
    }
}

fn place(epoch: u64, file: &str) -> String {
    format!("memory:chk-{epoch}/{file}")
}

impl SnapshotStore for MemoryStore {
    fn locate(&self, epoch: Option<u64>) -> String {
        epoch.map_or_else(|| "memory:".to_owned(), |e| format!("memory:chk-{e}"))
    }

    fn begin(&self, epoch: u64, name: &str) -> Result<Box<dyn ObjectWriter>> {
        let place = place(epoch, name);
        manifest::check_object_name(name)
            .map_err(|seen| Error::refused(&place, seen, "use object_name(worker)"))?;
        let mut inner = self.lock();
        if inner.is_committed(epoch) {
            return Err(store::committed(&place));
        }
        inner.checkpoints.entry(epoch).or_default();
        let (store, name) = (self.clone(), name.to_owned());
        Ok(Box::new(Writer { store, epoch, name, bytes: Vec::new() }))
    }

    fn write_manifest(&self, epoch: u64, bytes: &[u8]) -> Result<()> {
        let mut inner = self.lock();
        if inner.is_committed(epoch) {
            return Err(store::committed(&place(epoch, "manifest.json")));
        }
        inner.checkpoints.entry(epoch).or_default().manifest = Some(bytes.to_vec());
        Ok(())
    }

    fn read_manifest(&self, epoch: u64) -> Result<Option<Vec<u8>>> {
        Ok(self.lock().checkpoints.get(&epoch).and_then(|c| c.manifest.clone()))
    }

    fn list(&self) -> Result<Vec<CheckpointId>> {
        let inner = self.lock();
        let id = |(epoch, c): (&u64, &Checkpoint)| CheckpointId {
            epoch: *epoch,
            committed: c.manifest.is_some(),
        };
        Ok(inner.checkpoints.iter().rev().map(id).collect())
    }

    fn open_object(&self, epoch: u64, name: &str) -> Result<Box<dyn ObjectReader>> {
        let inner = self.lock();
        let found = inner.checkpoints.get(&epoch).and_then(|c| c.objects.get(name));
        Reader::open(place(epoch, name), found)
    }

    fn put_shared(&self, name: &str, content: &mut dyn io::Read) -> Result<SharedFile> {
        let place = format!("memory:shared/{name}");
        manifest::check_shared_name(name)
            .map_err(|seen| Error::refused(&place, seen, "use content_name"))?;
        let mut stored = Vec::new();
        let wanted = store::copy_summed(content, &place, |piece| {
            stored.extend_from_slice(piece);
            Ok(())
        })?;
        let mut inner = self.lock();
        if let Some(old) = inner.shared.get(name) {
            let found = (old.len() as u64, crc32fast::hash(old));
            if found != wanted {
                return Err(store::taken(&place, found, wanted));
            }
        } else {
            inner.shared.insert(name.to_owned(), Arc::new(stored));
        }
        Ok(SharedFile { name: name.to_owned(), bytes: wanted.0, crc32: wanted.1 })
    }

    fn get_shared(&self, name: &str) -> Result<Box<dyn ObjectReader>> {
        Reader::open(format!("memory:shared/{name}"), self.lock().shared.get(name))
    }

    fn list_shared(&self) -> Result<Vec<String>> {
        Ok(self.lock().shared.keys().cloned().collect())
    }

    fn delete(&self, epoch: u64) -> Result<()> {
        self.lock().checkpoints.remove(&epoch);
        Ok(())
    }

    fn delete_shared(&self, name: &str) -> Result<()> {
        self.lock().shared.remove(name);
        Ok(())
    }
}

struct Writer {
    store: MemoryStore,
    epoch: u64,
    name: String,
    bytes: Vec<u8>,
}

impl ObjectWriter for Writer {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<u64> {
        let bytes = self.bytes.len() as u64;
        let mut inner = self.store.lock();
        if inner.is_committed(self.epoch) {
            return Err(store::committed(&place(self.epoch, &self.name)));
        }
        let objects = &mut inner.checkpoints.entry(self.epoch).or_default().objects;
        objects.insert(self.name.clone(), Arc::new(self.bytes));
        Ok(bytes)
    }
}

struct Reader {
    path: String,
    bytes: Arc<Vec<u8>>,
}

impl Reader {
    fn open(path: String, found: Option<&Arc<Vec<u8>>>) -> Result<Box<dyn ObjectReader>> {
        match found {
            Some(bytes) => Ok(Box::new(Reader { path, bytes: Arc::clone(bytes) })),
            None => Err(Error::missing(path, "does not exist")),
        }
    }
}

impl ObjectReader for Reader {
    fn bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn path(&self) -> &str {
        &self.path
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let found = usize::try_from(offset)
            .ok()
            .and_then(|at| self.bytes.get(at..at.checked_add(buf.len())?));
        let Some(found) = found else {
            return Err(store::beyond(self, offset, buf.len()));
        };
        buf.copy_from_slice(found);
        Ok(())
    }
}
