//! Checkpoint stores whose listing waits for the test: whoever is about to delete old checkpoints lists them first.

use std::sync::{Arc, Condvar, Mutex};

use tidemill_jobmanager::open_store;
use tidemill_protocol::StoreSettings;
use tidemill_snapshot::{
    CheckpointId, ObjectReader, ObjectWriter, Result, SharedFile, SnapshotStore,
};

use super::PATIENCE;

/// Shared by all stores that are opened through it.
#[derive(Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    closed: bool,
    waiting: usize,
    /// Listings so far.
    listed: usize,
    /// Stores whose listing had to wait and that are closed since.
    ended: usize,
}

impl Gate {
    pub(crate) fn close(&self) {
        self.state.lock().unwrap().closed = true;
    }

    pub(crate) fn open(&self) {
        self.state.lock().unwrap().closed = false;
        self.changed.notify_all();
    }

    pub(crate) fn waiting(&self) -> usize {
        self.state.lock().unwrap().waiting
    }

    pub(crate) fn listed(&self) -> usize {
        self.state.lock().unwrap().listed
    }

    pub(crate) fn ended(&self) -> usize {
        self.state.lock().unwrap().ended
    }

    /// Opens stores through the gate.
    pub(crate) fn opener(self: &Arc<Self>) -> tidemill_jobmanager::SnapshotOpener {
        let gate = self.clone();
        Arc::new(move |settings: &StoreSettings| {
            let (store, gate) = (open_store(settings)?, gate.clone());
            let store: Arc<dyn SnapshotStore> =
                Arc::new(Gated { store, gate, waited: Mutex::new(false) });
            Ok(store)
        })
    }
}

struct Gated {
    store: Arc<dyn SnapshotStore>,
    gate: Arc<Gate>,
    waited: Mutex<bool>,
}

impl Drop for Gated {
    fn drop(&mut self) {
        if *self.waited.lock().unwrap() {
            self.gate.state.lock().unwrap().ended += 1;
        }
    }
}

impl SnapshotStore for Gated {
    fn list(&self) -> Result<Vec<CheckpointId>> {
        let mut state = self.gate.state.lock().unwrap();
        state.listed += 1;
        if state.closed {
            *self.waited.lock().unwrap() = true;
            state.waiting += 1;
            // A test that failed meanwhile is not held up for ever.
            let waited = self.gate.changed.wait_timeout_while(state, 3 * PATIENCE, |s| s.closed);
            state = waited.unwrap().0;
            state.waiting -= 1;
        }
        drop(state);
        self.store.list()
    }
    fn locate(&self, epoch: Option<u64>) -> String {
        self.store.locate(epoch)
    }
    fn begin(&self, epoch: u64, name: &str) -> Result<Box<dyn ObjectWriter>> {
        self.store.begin(epoch, name)
    }
    fn write_manifest(&self, epoch: u64, bytes: &[u8]) -> Result<()> {
        self.store.write_manifest(epoch, bytes)
    }
    fn read_manifest(&self, epoch: u64) -> Result<Option<Vec<u8>>> {
        self.store.read_manifest(epoch)
    }
    fn open_object(&self, epoch: u64, name: &str) -> Result<Box<dyn ObjectReader>> {
        self.store.open_object(epoch, name)
    }
    fn put_shared(&self, name: &str, content: &mut dyn std::io::Read) -> Result<SharedFile> {
        self.store.put_shared(name, content)
    }
    fn get_shared(&self, name: &str) -> Result<Box<dyn ObjectReader>> {
        self.store.get_shared(name)
    }
    fn list_shared(&self) -> Result<Vec<String>> {
        self.store.list_shared()
    }
    fn delete(&self, epoch: u64) -> Result<()> {
        self.store.delete(epoch)
    }
    fn delete_shared(&self, name: &str) -> Result<()> {
        self.store.delete_shared(name)
    }
    fn remove_temporary(&self) -> Result<u64> {
        self.store.remove_temporary()
    }
    fn close(&self) -> Result<()> {
        self.store.close()
    }
}
