//! Which program files are kept (J5): those of jobs, and those of uploads that are being looked at.
//! Shared between the service, which knows jobs, and REST, which takes uploads.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tidemill_protocol::ArtifactHash;
use tokio::time::sleep;
use tracing::{debug, warn};

use super::fence::Fence;
use crate::metadata::{ArtifactError, ArtifactStore, MetadataError};

/// Between tries to learn whether this JobManager leads.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Known {
    /// Of the term in which this JobManager leads.
    fence: Option<Fence>,
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
        if known.fence.is_some() {
            drop(known);
            self.delete(hash.clone());
        }
    }

    fn delete(&self, hash: ArtifactHash) {
        // At the process's end there is nobody to do it: the next leader does.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let files = self.clone();
        runtime.spawn(async move {
            while let Err(MetadataError::Unavailable(_) | MetadataError::InDoubt(_)) =
                files.delete_unwanted(&hash).await
            {
                sleep(PAUSE).await;
            }
        });
    }

    /// # Errors
    /// Whether this JobManager leads is not known, or it does not: nothing is deleted then.
    async fn delete_unwanted(&self, hash: &ArtifactHash) -> Result<(), MetadataError> {
        let _turn = self.turn.lock().await;
        let fence = {
            let known = self.lock();
            known.fence.clone().filter(|_| !known.pins.contains_key(hash))
        };
        let Some(fence) = fence else { return Ok(()) };
        fence.check().await?;
        match self.store.delete(hash).await {
            Ok(()) => debug!("artifact {hash} was of no more use and is deleted"),
            Err(e) => warn!("artifact {hash} is of no more use and cannot be deleted: {e}"),
        }
        Ok(())
    }

    /// From now on this JobManager deletes what nobody needs: also what a crash left over.
    pub(super) fn lead(&self, used: BTreeSet<ArtifactHash>, fence: Option<Fence>) {
        self.lock().fence = fence;
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
        self.lock().fence = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::{Lead, MemoryArtifacts, MemoryMetadata, MetadataStore};
    use tidemill_base::clock::SystemClock;

    #[tokio::test]
    async fn a_file_of_no_more_use_is_deleted_by_who_leads_alone() {
        for deposed in [false, true] {
            let metadata = Arc::new(MemoryMetadata::default());
            let Ok(Lead::Mine { term }) = metadata.campaign("here:1").await else { panic!() };
            let files = Files::new(Arc::new(MemoryArtifacts::default()));
            let fence = Fence { metadata: metadata.clone(), term, clock: SystemClock::new() };
            files.lead(BTreeSet::new(), Some(fence));
            let file = tempfile::NamedTempFile::new().expect("a file");
            let hash = ArtifactHash::from_bytes([7; 32]);
            let pin = files.put(hash.clone(), file.path()).await.expect("stored");
            files.delete_unwanted(&hash).await.expect("nothing is asked: it is pinned");
            assert!(files.store.list().await.expect("listed").contains(&hash), "it is pinned");
            if deposed {
                // Another one leads, and uses the file; this one has not heard of it.
                metadata.depose();
                let next = (*metadata).clone().campaign("there:2").await;
                assert!(matches!(next, Ok(Lead::Mine { .. })), "{next:?}");
            }
            drop(pin);
            let deleted = files.delete_unwanted(&hash).await;
            assert_eq!(deleted, if deposed { Err(MetadataError::Fenced) } else { Ok(()) });
            let left = files.store.list().await.expect("listed");
            assert_eq!(left.contains(&hash), deposed, "deposed: {deposed}");
        }
    }
}
