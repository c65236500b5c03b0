//! From a stored checkpoint to what subtasks start with.

use super::options::{Options, RestoreFrom};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tidemill_base::{Error, Result};
use tidemill_protocol::{StoreError, StoreSettings, create_store};
use tidemill_runtime::context::{
    Damage, Restored, SectionId, SectionKind, SharedFiles, StoredKeys,
};
use tidemill_runtime::deploy::JobPlan;
use tidemill_snapshot::{
    DirStore, Manifest, SnapshotReader, SnapshotStore, StateEntry, open_at, open_path,
    restore_latest, split_place,
};

/// A checkpoint, loaded, and the epoch to go on with.
pub struct Loaded {
    /// `None`: a fresh start.
    pub restored: Option<Arc<Restored>>,
    /// The first epoch to trigger.
    pub next_epoch: u64,
}

fn store_error(e: tidemill_snapshot::Error) -> Error {
    match e {
        tidemill_snapshot::Error::Retry(r) => Error::attempt(r.to_string()),
        e => Error::job(e.to_string()),
    }
}

/// Why a checkpoint cannot be loaded.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The store's word.
    Store(tidemill_snapshot::Error),
    /// It is not one of this program.
    Job(Error),
}

impl Failure {
    /// Whether another checkpoint should be tried.
    pub(crate) fn is_damaged(&self) -> bool {
        use tidemill_snapshot::Error as E;
        matches!(self, Failure::Store(E::Damaged(_) | E::Missing(_)))
    }

    /// As the engine's error.
    pub(crate) fn into_error(self) -> Error {
        match self {
            Failure::Store(e) => store_error(e),
            Failure::Job(e) => e,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Store(e) => e.fmt(f),
            Failure::Job(e) => e.fmt(f),
        }
    }
}

impl From<tidemill_snapshot::Error> for Failure {
    fn from(e: tidemill_snapshot::Error) -> Self {
        Failure::Store(e)
    }
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Failure::Job(e)
    }
}

fn opening(e: StoreError) -> Error {
    match e {
        StoreError::Snapshot(e) => store_error(e),
        e => Error::job(e.to_string()),
    }
}

/// Opens where checkpoints go: a directory, made if it does not exist, or a bucket (`s3://bucket/prefix`).
pub(crate) fn open_store(place: &Path) -> Result<Arc<dyn SnapshotStore>> {
    match place.to_str().and_then(StoreSettings::bucket) {
        Some(bucket) => create_store(&bucket).map_err(opening),
        None => Ok(Arc::new(DirStore::create(place).map_err(store_error)?)),
    }
}

/// Opens what `--restore` names: a place of checkpoints, or one checkpoint in it.
fn open_place(place: &Path) -> Result<tidemill_snapshot::Opened> {
    let text = place.to_str().unwrap_or_default();
    let (root, epoch) = split_place(text);
    match StoreSettings::bucket(root) {
        Some(bucket) => {
            let store = tidemill_protocol::open_store(&bucket).map_err(opening)?;
            open_at(store, epoch).map_err(store_error)
        }
        None => open_path(place).map_err(store_error),
    }
}

/// Where a checkpoint lies, as `--restore` takes it from anywhere.
pub(crate) fn place_of(store: &dyn SnapshotStore, epoch: u64) -> PathBuf {
    let place = store.locate(Some(epoch));
    if StoreSettings::bucket(&place).is_some() {
        return PathBuf::from(place);
    }
    std::path::absolute(&place).unwrap_or_else(|_| PathBuf::from(place))
}

/// Loads what the options say to start from. A fresh start refuses a directory that holds
/// checkpoints: going on there would mix two lives of a job.
pub(crate) fn load_start(
    options: &Options,
    store: Option<&Arc<dyn SnapshotStore>>,
    plan: &JobPlan,
) -> Result<Loaded> {
    let next = |store: Option<&Arc<dyn SnapshotStore>>| -> Result<u64> {
        let Some(store) = store else { return Ok(1) };
        let listed = store.list().map_err(store_error)?;
        Ok(listed.iter().map(|id| id.epoch + 1).max().unwrap_or(1))
    };
    match &options.restore {
        None => {
            if let Some(store) = store
                && let Some(id) = store.list().map_err(store_error)?.first()
            {
                return Err(Error::job(format!(
                    "{} holds checkpoints of an earlier run (newest: {}); go on from them with \
                     --restore latest, or give an empty --checkpoint-dir",
                    store.locate(None),
                    id.epoch
                )));
            }
            Ok(Loaded { restored: None, next_epoch: 1 })
        }
        Some(RestoreFrom::Latest) => {
            let store = store.ok_or_else(|| {
                Error::job("--restore latest needs --checkpoint-dir: where to look")
            })?;
            load_latest(store.clone(), plan, options.allow_dropped_state)
        }
        Some(RestoreFrom::Path(path)) => {
            let opened = open_place(path)?;
            let manifest = opened.restored.manifest;
            let restored = load(opened.store, manifest, plan, options.allow_dropped_state)
                .map_err(Failure::into_error)?;
            let next_epoch = opened.restored.next_epoch.max(next(store)?);
            Ok(Loaded { restored: Some(restored), next_epoch })
        }
    }
}

/// The newest whole checkpoint of a store; a fresh start where there is none.
///
/// # Errors
/// When the store cannot be read, or the checkpoint is not one of this job.
pub fn load_latest(
    store: Arc<dyn SnapshotStore>,
    plan: &JobPlan,
    allow_dropped_state: bool,
) -> Result<Loaded> {
    match restore_latest(&*store).map_err(store_error)? {
        None => Ok(Loaded { restored: None, next_epoch: 1 }),
        Some(found) => Ok(Loaded {
            restored: Some(
                load(store, found.manifest, plan, allow_dropped_state)
                    .map_err(Failure::into_error)?,
            ),
            next_epoch: found.next_epoch,
        }),
    }
}

/// One complete checkpoint of a store. State by key is verified by the subtasks that read it.
///
/// # Errors
/// Why not, and whether another one should be tried: it is damaged, or something of it is gone. A place without any
/// checkpoint is the wrong one, or not mounted: nothing is known of the checkpoint then, and no other one is there.
pub fn load_epoch(
    store: Arc<dyn SnapshotStore>,
    epoch: u64,
    plan: &JobPlan,
    allow_dropped_state: bool,
) -> Result<Arc<Restored>, (Error, bool)> {
    let loaded = store
        .load_manifest(epoch)
        .map_err(|e| unseen(&*store, epoch, e))
        .and_then(|manifest| load(store.clone(), Arc::new(manifest), plan, allow_dropped_state));
    loaded.map_err(|e| {
        let damaged = e.is_damaged();
        (e.into_error().context(format!("checkpoint {epoch} cannot be restored")), damaged)
    })
}

/// The manifest of a checkpoint that is known to be complete cannot be read.
fn unseen(store: &dyn SnapshotStore, epoch: u64, error: tidemill_snapshot::Error) -> Failure {
    if !matches!(error, tidemill_snapshot::Error::Missing(_)) {
        return error.into();
    }
    match store.list() {
        Ok(listed) if listed.iter().any(|id| id.committed) => error.into(),
        Ok(_) => Failure::Job(not_there(&store.locate(None), epoch)),
        Err(e) => e.into(),
    }
}

/// A place where checkpoints were, and none is to be seen. It may come back.
pub(crate) fn not_there(place: &str, epoch: u64) -> Error {
    Error::attempt(format!(
        "{place}: no checkpoint is to be seen there from this host, although checkpoint {epoch} was stored; mount it \
         again, or put back what was removed: in a cluster every host needs the same place under this name"
    ))
}

/// How a section is named among an operator's states in the manifest.
pub(crate) fn state_kind(section: &SectionId) -> String {
    let kind = match section.kind {
        SectionKind::KeyedState => "keyed_state",
        SectionKind::OperatorState => "operator_state",
        SectionKind::Timers => "timers",
        SectionKind::ChannelState => "channel_state",
        SectionKind::Source => "source",
        SectionKind::Sink => "sink",
    };
    format!("{kind}/{}", section.state)
}

/// Loads a checkpoint of this program.
///
/// # Errors
/// When it is damaged or another program's.
pub(crate) fn load(
    store: Arc<dyn SnapshotStore>,
    manifest: Arc<Manifest>,
    plan: &JobPlan,
    allow_dropped_state: bool,
) -> Result<Arc<Restored>, Failure> {
    check_job(&manifest, plan, allow_dropped_state)?;
    let mut restored = Restored { epoch: manifest.epoch, ..Restored::default() };
    let declared: BTreeMap<(u64, &str), &StateEntry> = manifest
        .operators
        .iter()
        .flat_map(|o| o.states.iter().map(|s| ((o.id, s.kind.as_str()), s)))
        .collect();
    let reader = SnapshotReader::open(&*store, manifest.clone())?;
    for subtask in &manifest.subtasks {
        for section in &subtask.sections {
            let id =
                SectionId { operator: subtask.operator, kind: section.kind, state: section.state };
            if let Some(state) = declared.get(&(id.operator, state_kind(&id).as_str())) {
                restored.states.insert(id, (state.name.clone(), state.schema.clone()));
            }
            // Each subtask reads its own share.
            if matches!(id.kind, SectionKind::KeyedState | SectionKind::Timers) {
                continue;
            }
            let sections = reader.sections(id.operator, Some(subtask.subtask), id.kind, id.state);
            for payload in sections {
                let payload = payload?.payload;
                restored.sections.entry(id).or_default().push((subtask.subtask, payload));
            }
        }
    }
    restored.stored = Some(StoredKeys::new(Arc::new(reader), restored.damage.clone()));
    let damage = restored.damage.clone();
    restored.files = Some(Arc::new(StoredFiles { store, manifest, damage }));
    Ok(Arc::new(restored))
}

/// The shared files of a checkpoint.
struct StoredFiles {
    store: Arc<dyn SnapshotStore>,
    manifest: Arc<Manifest>,
    damage: Damage,
}

impl std::fmt::Debug for StoredFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StoredFiles({})", self.store.locate(Some(self.manifest.epoch)))
    }
}

impl StoredFiles {
    fn unreadable(&self, error: tidemill_snapshot::Error) -> Error {
        use tidemill_snapshot::Error as E;
        if matches!(error, E::Damaged(_) | E::Missing(_)) {
            self.damage.note();
        }
        store_error(error)
    }
}

impl SharedFiles for StoredFiles {
    fn fetch(&self, name: &str, to: &Path) -> Result<()> {
        let failed = |e| Error::attempt(format!("copying {name} to {}: {e}", to.display()));
        let from = self.store.get_shared(name).map_err(|e| self.unreadable(e))?;
        let mut file = File::create_new(to).map_err(failed)?;
        let mut buffer = vec![0; 1 << 20];
        let (mut at, mut crc) = (0, crc32fast::Hasher::new());
        while at < from.bytes() {
            let n = (from.bytes() - at).min(buffer.len() as u64) as usize;
            from.read_at(at, &mut buffer[..n]).map_err(|e| self.unreadable(e))?;
            crc.update(&buffer[..n]);
            file.write_all(&buffer[..n]).map_err(failed)?;
            at += n as u64;
        }
        let listed = self.manifest.shared.iter().find(|f| f.name == name);
        let (found, want) = ((at, crc.finalize()), listed.map(|f| (f.bytes, f.crc32)));
        if want == Some(found) {
            return Ok(());
        }
        self.damage.note();
        Err(Error::job(format!(
            "{} of checkpoint {} is damaged: its bytes and crc32 are {found:?}, the manifest says {want:?}",
            from.path(),
            self.manifest.epoch
        )))
    }
}

/// The checkpoint must be of this job: same key groups, and no operator with state gone.
fn check_job(manifest: &Manifest, plan: &JobPlan, allow_dropped_state: bool) -> Result<()> {
    let epoch = manifest.epoch;
    if manifest.max_parallelism != plan.max_parallelism {
        return Err(Error::job(format!(
            "checkpoint {epoch} has {} key groups, the program {}: max_parallelism is fixed for \
             the life of a job's state",
            manifest.max_parallelism, plan.max_parallelism
        )));
    }
    let has_state: std::collections::BTreeSet<u64> = manifest
        .subtasks
        .iter()
        .filter(|s| s.sections.iter().any(|x| x.records > 0))
        .map(|s| s.operator)
        .collect();
    let gone: Vec<String> = manifest
        .operators
        .iter()
        .filter(|o| has_state.contains(&o.id) && !plan.operator_ids.contains(&o.id))
        .map(|o| format!("'{}' (uid {})", o.name, o.uid))
        .collect();
    if gone.is_empty() {
        return Ok(());
    }
    let gone = gone.join(", ");
    if allow_dropped_state {
        tracing::warn!("the state of {gone} in checkpoint {epoch} is dropped, as allowed");
        return Ok(());
    }
    Err(Error::job(format!(
        "checkpoint {epoch} holds state of operators that the program no longer has: {gone}; \
         give the operator that takes it over the same uid, or drop it with --allow-dropped-state"
    )))
}
