//! Which program files are kept (J5): those of jobs, and those of uploads that are being looked at.
//! Shared between the service, which knows jobs, and REST, which takes uploads.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidemill_protocol::ArtifactHash;
use tracing::warn;

use crate::metadata::{ArtifactError, ArtifactStore};

#[derive(Default)]
struct Known {
    leads: bool,
    pins: BTreeMap<ArtifactHash, u32>,
}

/// See the module.
#[derive(Clone)]
pub(crate) struct Files {
    store: Arc<dyn ArtifactStore>,
    known: Arc<Mutex<Known>>,
    /// Held while a file is stored or deleted: neither overtakes the other.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// Keeps a file for as long as it lives.
pub(crate) struct Pin {
    files: Files,
    pub(crate) hash: ArtifactHash,
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.files.unpin(&self.hash);
    }
}

impl Files {
    pub(crate) fn new(store: Arc<dyn ArtifactStore>) -> Self {
        Files { store, known: Arc::default(), turn: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores a file and keeps it.
    ///
    /// # Errors
    /// Those of the store; nothing is kept then.
    pub(crate) async fn put(&self, hash: ArtifactHash, file: &Path) -> Result<Pin, ArtifactError> {
        let pin = self.pin(&hash);
        let _turn = self.turn.lock().await;
        self.store.put(&hash, file).await?;
        Ok(pin)
    }

    pub(super) fn pin(&self, hash: &ArtifactHash) -> Pin {
        *self.lock().pins.entry(hash.clone()).or_default() += 1;
        Pin { files: self.clone(), hash: hash.clone() }
    }

    fn unpin(&self, hash: &ArtifactHash) {
        let mut known = self.lock();
        let gone = known.pins.get_mut(hash).is_some_and(|n| {
            *n = n.saturating_sub(1);
            *n == 0
        });
        if !gone {
            return;
        }
        known.pins.remove(hash);
        if known.leads {
            drop(known);
            self.delete(hash.clone());
        }
    }

    fn delete(&self, hash: ArtifactHash) {
        // At the process's end there is nobody to do it: the next leader does.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let files = self.clone();
        runtime.spawn(async move {
            let _turn = files.turn.lock().await;
            let wanted = {
                let known = files.lock();
                !known.leads || known.pins.contains_key(&hash)
            };
            if !wanted && let Err(e) = files.store.delete(&hash).await {
                warn!("artifact {hash} is of no more use and cannot be deleted: {e}");
            }
        });
    }

    /// From now on this JobManager deletes what nobody needs: also what a crash left over.
    pub(super) fn lead(&self, used: BTreeSet<ArtifactHash>) {
        self.lock().leads = true;
        let files = self.clone();
        tokio::spawn(async move {
            match files.store.list().await {
                Ok(all) => {
                    all.into_iter().filter(|h| !used.contains(h)).for_each(|h| files.delete(h))
                }
                Err(e) => warn!("artifacts that a crash left over are not looked for: {e}"),
            }
        });
    }

    /// From now on another JobManager does.
    pub(super) fn follow(&self) {
        self.lock().leads = false;
    }
}
