//! What the JobManagers of a test keep their jobs and programs in, and what happens to it.

use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use tidemill_jobmanager::metadata::{
    Change, CheckpointState, DirArtifacts, EmbeddedMetadata, JobRecord, Lead, MemoryArtifacts,
    MemoryMetadata, MetadataError, Pending, Term,
};
use tidemill_jobmanager::{ArtifactStore, MetadataStore, Stores, open_store};
use tidemill_protocol::JobId;

#[cfg(feature = "postgres")]
use super::postgres::Server;
use super::{Gate, eventually};

/// See the module.
#[derive(Clone)]
pub(crate) struct Kept {
    place: Arc<Place>,
    pub(crate) artifacts: Arc<dyn ArtifactStore>,
    told: Arc<Mutex<Told>>,
    /// In front of the checkpoint stores of JobManagers that start from now on.
    pub(crate) gate: Option<Arc<Gate>>,
}

enum Place {
    Memory(MemoryMetadata),
    File {
        dir: TempDir,
        /// `None` while it is opened anew.
        open: Mutex<Option<EmbeddedMetadata>>,
    },
    #[cfg(feature = "postgres")]
    Postgres {
        server: Server,
        _artifacts: TempDir,
    },
}

/// What a test wants the store to do, and what it saw.
#[derive(Default)]
struct Told {
    /// Every call fails with it.
    away: Option<String>,
    /// Whether a checkpoint's completion is written is not said.
    doubtful: bool,
    /// Only the candidate with this address is elected.
    heir: Option<String>,
    /// The heads and checkpoints that were written last.
    written: Vec<Change>,
}

impl Kept {
    fn new(place: Place, artifacts: Arc<dyn ArtifactStore>) -> Self {
        Kept { place: Arc::new(place), artifacts, told: Arc::default(), gate: None }
    }

    pub(crate) fn memory() -> Self {
        let artifacts = Arc::new(MemoryArtifacts::default());
        Self::new(Place::Memory(MemoryMetadata::default()), artifacts)
    }

    pub(crate) fn file() -> Self {
        let dir = TempDir::new().unwrap();
        let artifacts = DirArtifacts::open(&dir.path().join("artifacts")).unwrap();
        let open = EmbeddedMetadata::open(&dir.path().join("metadata.redb")).unwrap();
        Self::new(Place::File { dir, open: Mutex::new(Some(open)) }, Arc::new(artifacts))
    }

    #[cfg(feature = "postgres")]
    pub(crate) async fn postgres() -> Self {
        let dir = TempDir::new().unwrap();
        let artifacts = DirArtifacts::open(dir.path()).unwrap();
        let server = Server::start().await;
        Self::new(Place::Postgres { server, _artifacts: dir }, Arc::new(artifacts))
    }

    /// The server, where there is one.
    #[cfg(feature = "postgres")]
    pub(crate) fn server(&self) -> &Server {
        match &*self.place {
            Place::Postgres { server, .. } => server,
            _ => panic!("no server"),
        }
    }

    /// For one more JobManager.
    pub(crate) async fn stores(&self) -> Stores {
        let store: Box<dyn MetadataStore> = match &*self.place {
            Place::Memory(metadata) => Box::new(metadata.clone()),
            Place::File { open, .. } => Box::new(open.lock().unwrap().clone().unwrap()),
            #[cfg(feature = "postgres")]
            Place::Postgres { server, .. } => {
                Box::new(server.candidate(std::time::Duration::from_secs(2)).await)
            }
        };
        Stores {
            metadata: Arc::new(Watched { store, told: self.told.clone() }),
            artifacts: self.artifacts.clone(),
            snapshots: self.gate.as_ref().map_or_else(|| Arc::new(open_store) as _, Gate::opener),
        }
    }

    /// From now on every call fails as unavailable, until called with `None`.
    pub(crate) fn set_away(&self, why: Option<&str>) {
        self.told.lock().unwrap().away = why.map(str::to_owned);
    }

    /// From now on nobody learns whether a checkpoint is complete, until called with `false`.
    pub(crate) fn set_doubtful(&self, doubtful: bool) {
        self.told.lock().unwrap().doubtful = doubtful;
    }

    /// From now on only the candidate with this address is elected.
    pub(crate) fn depose(&self, heir: &str) {
        self.told.lock().unwrap().heir = Some(heir.to_owned());
    }

    /// All JobManagers were killed: what is left is found as by a process that starts.
    pub(crate) async fn all_killed(&self) {
        match &*self.place {
            Place::Memory(metadata) => metadata.depose(),
            Place::File { dir, open } => {
                drop(open.lock().unwrap().take());
                // Until what they had begun is over.
                eventually("the file is free", || async {
                    let opened = EmbeddedMetadata::open(&dir.path().join("metadata.redb")).ok();
                    *open.lock().unwrap() = opened;
                    open.lock().unwrap().is_some()
                })
                .await;
            }
            // Its lease ends.
            #[cfg(feature = "postgres")]
            Place::Postgres { .. } => {}
        }
    }

    /// What was written of a job last.
    pub(crate) fn job(&self, id: &JobId) -> Option<JobRecord> {
        let told = self.told.lock().unwrap();
        let mut record: Option<JobRecord> = None;
        for change in &told.written {
            match change {
                Change::Job(row) if row.id == *id => match &mut record {
                    Some(record) => record.job = (**row).clone(),
                    None => record = Some(JobRecord::new((**row).clone())),
                },
                Change::Checkpoint(job, row) if job == id => {
                    if let Some(record) = &mut record {
                        record.checkpoints.retain(|c| c.epoch != row.epoch);
                        record.checkpoints.push(row.clone());
                    }
                }
                _ => {}
            }
        }
        record
    }
}

/// A store that does what a test tells.
struct Watched {
    store: Box<dyn MetadataStore>,
    told: Arc<Mutex<Told>>,
}

impl Watched {
    fn check(&self) -> Result<(), MetadataError> {
        let away = self.told.lock().unwrap().away.clone();
        away.map_or(Ok(()), |why| Err(MetadataError::Unavailable(why)))
    }
}

impl MetadataStore for Watched {
    fn campaign<'a>(&'a self, address: &'a str) -> Pending<'a, Result<Lead, MetadataError>> {
        Box::pin(async move {
            self.check()?;
            let heir = self.told.lock().unwrap().heir.clone();
            if heir.is_some_and(|heir| heir != address) {
                self.store.resign().await;
                return Ok(Lead::Other { address: None });
            }
            self.store.campaign(address).await
        })
    }

    fn resign(&self) -> Pending<'_, ()> {
        self.store.resign()
    }

    fn load(&self, term: Term) -> Pending<'_, Result<Vec<JobRecord>, MetadataError>> {
        Box::pin(async move {
            self.check()?;
            self.store.load(term).await
        })
    }

    fn write<'a>(
        &'a self,
        term: Term,
        changes: &'a [Change],
    ) -> Pending<'a, Result<(), MetadataError>> {
        Box::pin(async move {
            self.check()?;
            let completes = |c: &Change| match c {
                Change::Checkpoint(_, row) => row.state == CheckpointState::Completed,
                _ => false,
            };
            if changes.iter().any(completes) && self.told.lock().unwrap().doubtful {
                return Err(MetadataError::InDoubt("a test".into()));
            }
            self.store.write(term, changes).await?;
            self.told.lock().unwrap().written.extend_from_slice(changes);
            Ok(())
        })
    }
}
