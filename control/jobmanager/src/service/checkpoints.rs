//! A checkpoint's last steps: manifest, row, retention. What blocks runs on threads for that.
//!
//! ```text
//!   StoreManifest --manifest stored--> row --written--> ManifestStored
//!         |  within the checkpoint's time  |  certain that it never will be
//!         +-----------------------------> ManifestFailed
//! ```
//! A manifest without a row is no checkpoint, so an error before the row is never in doubt.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tidemill_coordination::{Epoch, MasterEvent, Micros};
use tidemill_protocol::{JobId, StoreSettings};
use tidemill_snapshot::{Error, Manifest, Policy, Retained, SnapshotStore};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::Service;
use super::event::{Done, Then};
use super::jobs::{Committing, Job};
use crate::metadata::{Change, CheckpointRow, CheckpointState};
use crate::stores::SnapshotOpener;

/// Between tries of what looks transient.
const PAUSE: Duration = Duration::from_millis(200);
/// Between tries to delete what a finished job left.
const CLEAR_PAUSE: Duration = Duration::from_secs(1);
/// How long before the coordinator's own timeout a commit is given up, where that is certain.
const MARGIN_US: Micros = 500_000;

/// Does something with a store on a thread that may block.
pub(crate) async fn with_store<T: Send + 'static>(
    opener: &SnapshotOpener,
    settings: &StoreSettings,
    work: impl FnOnce(&dyn SnapshotStore) -> Result<T, Error> + Send + 'static,
) -> Result<T, Failed> {
    let (opener, settings) = (opener.clone(), settings.clone());
    let run = move || {
        let store = opener(&settings).map_err(Failed::Opening)?;
        work(&*store).map_err(Failed::Store)
    };
    spawn_blocking(run).await.unwrap_or_else(|e| Err(Failed::Opening(e.to_string())))
}

/// Why a store did not do it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failed {
    /// It is not there.
    #[error("{0}")]
    Opening(String),
    /// It says no.
    #[error("{0}")]
    Store(Error),
}

async fn put_manifest(
    opener: SnapshotOpener,
    settings: StoreSettings,
    manifest: Arc<Manifest>,
) -> Result<(), String> {
    loop {
        let this = manifest.clone();
        match with_store(&opener, &settings, move |s| s.put_manifest(&this)).await {
            Ok(()) => return Ok(()),
            Err(Failed::Store(Error::Retry(report))) => {
                debug!("a manifest is not stored yet: {report}");
                sleep(PAUSE).await;
            }
            Err(e) => return Err(e.to_string()),
        }
    }
}

impl Job {
    /// Until when the epoch that is being taken may be committed.
    fn commit_by(&self, checkpoint_timeout_ms: u64, now: Micros) -> Micros {
        let by = self.triggered_at() + checkpoint_timeout_ms.saturating_mul(1_000);
        by.saturating_sub(MARGIN_US).max(now + MARGIN_US / 5)
    }
}

impl Service {
    pub(super) fn commit(&mut self, id: &JobId, mut manifest: Manifest) {
        let now = self.now();
        let Some(term) = self.term else { return };
        manifest.created_at_ms = self.wall_ms();
        let epoch = manifest.epoch;
        let manifest = Arc::new(manifest);
        let Some(job) = self.jobs.get_mut(id) else { return };
        let expires = job.commit_by(self.config.jobs.checkpoint_timeout_ms, now);
        let store = job.row().store.clone();
        job.committing = Some(Box::new(Committing { epoch, manifest: manifest.clone(), expires }));
        let (opener, done, id) = (self.stores.snapshots.clone(), self.done.clone(), id.clone());
        tokio::spawn(async move {
            let limit = Duration::from_micros(expires.saturating_sub(now));
            let late = |_| Err(format!("the store did not take the manifest within {limit:?}"));
            let put = put_manifest(opener, store, manifest);
            let result = timeout(limit, put).await.unwrap_or_else(late);
            let _ = done.send(Done::Manifest { term, job: id, epoch, result });
        });
    }

    pub(super) fn on_manifest(&mut self, id: &JobId, epoch: Epoch, result: Result<(), String>) {
        if let Err(reason) = result {
            return self.not_committed(id, epoch, reason);
        }
        let Some(term) = self.term else { return };
        let now_ms = self.wall_ms();
        let Some(job) = self.jobs.get_mut(id) else { return };
        let Some((row, expires)) = job.complete_row(epoch, now_ms) else { return };
        // What is known of the job so far goes first.
        let mut changes = job.history.take();
        changes.push(Change::Checkpoint(id.clone(), row));
        let then = Then::Committed { job: id.clone(), epoch };
        self.recorder.write(term, changes, then, Some(expires));
    }

    /// The commit point is passed.
    pub(super) fn committed(&mut self, id: &JobId, epoch: Epoch) {
        let now_ms = self.wall_ms();
        let Some(job) = self.jobs.get_mut(id) else { return };
        if let Some((row, _)) = job.complete_row(epoch, now_ms) {
            job.history.saw_checkpoint(row);
            self.settle(id, MasterEvent::ManifestStored { epoch });
        }
    }

    pub(super) fn not_committed(&mut self, id: &JobId, epoch: Epoch, reason: String) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        if job.committing.as_ref().is_some_and(|c| c.epoch == epoch) {
            warn!("job {id}: checkpoint {epoch} is not complete: {reason}");
            super::effects::fail_checkpoint(&mut job.history, epoch, &reason);
            self.settle(id, MasterEvent::ManifestFailed { epoch, reason });
        }
    }

    /// Deletes what an epoch left that will not be complete.
    pub(super) fn discard(&mut self, id: &JobId, epoch: Epoch) {
        let Some(fence) = self.fence() else { return };
        let Some(job) = self.jobs.get_mut(id) else { return };
        super::effects::fail_checkpoint(&mut job.history, epoch, "it was given up");
        if job.history.checkpoint(epoch).is_some_and(|c| c.state == CheckpointState::Completed) {
            return;
        }
        let (opener, store, id) =
            (self.stores.snapshots.clone(), job.row().store.clone(), id.clone());
        tokio::spawn(async move {
            if let Err(e) = fence.with_store(&opener, &store, move |s| s.delete(epoch)).await {
                // Retention finds it.
                debug!("job {id}: what epoch {epoch} left is not deleted yet: {e}");
            }
        });
    }

    /// Deletes old checkpoints; one run at a time.
    pub(super) fn retain(&mut self, id: &JobId) {
        let Some(fence) = self.fence() else { return };
        let keep = self.config.jobs.keep.max(1);
        let protected = self.starting_points(id);
        let Some(job) = self.jobs.get_mut(id) else { return };
        if std::mem::replace(&mut job.retaining, true) {
            return;
        }
        let rows = &job.history.record().checkpoints;
        let in_state = |state| rows.iter().filter(move |c| c.state == state).map(|c| c.epoch);
        let whole: BTreeSet<u64> = in_state(CheckpointState::Completed).collect();
        let old = old(rows, keep);
        let mut in_flight: BTreeSet<u64> = in_state(CheckpointState::InProgress).collect();
        in_flight.extend(job.committing.as_ref().map(|c| c.epoch));
        in_flight.extend(protected);
        let (opener, store) = (self.stores.snapshots.clone(), job.row().store.clone());
        let (done, id) = (self.done.clone(), id.clone());
        tokio::spawn(async move {
            let work = move |s: &dyn SnapshotStore| retain(s, keep, &whole, &in_flight, &old);
            let result = fence.with_store(&opener, &store, work).await.map_err(|e| e.to_string());
            let _ = done.send(Done::Retained { term: fence.term, job: id, result });
        });
    }

    pub(super) fn on_retained(&mut self, id: &JobId, result: Result<Retained, String>) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        job.retaining = false;
        match result {
            Ok(retained) => {
                for epoch in retained.checkpoints {
                    job.history.change_checkpoint(epoch, |row| {
                        if row.state == CheckpointState::Completed {
                            row.state = CheckpointState::Expired;
                            row.location = None;
                        }
                    });
                }
                let changes = job.history.take();
                self.note(changes);
            }
            Err(e) => warn!("job {id}: old checkpoints are not deleted yet: {e}"),
        }
    }

    /// Epochs of a job's store that other jobs would restart from.
    fn starting_points(&self, id: &JobId) -> Vec<Epoch> {
        let Some(store) = self.jobs.get(id).map(|job| job.row().store.clone()) else {
            return Vec::new();
        };
        let live = self.jobs.values().filter(|job| job.is_live());
        let initial = live.filter_map(|job| job.row().initial.as_ref());
        initial.filter(|from| from.store == store).map(|from| from.epoch).collect()
    }

    /// A job ended well: its checkpoints are of no more use, its savepoints stay. What is away now is
    /// tried again for as long as this JobManager leads: no later run looks for them.
    pub(super) fn clear_checkpoints(&mut self, id: &JobId) {
        let Some(fence) = self.fence() else { return };
        let protected = self.starting_points(id);
        let Some(job) = self.jobs.get_mut(id) else { return };
        let rows = &job.history.record().checkpoints;
        let kept = |c: &&CheckpointRow| c.savepoint && c.state == CheckpointState::Completed;
        let mut kept: BTreeSet<u64> = rows.iter().filter(kept).map(|c| c.epoch).collect();
        kept.extend(protected);
        let (opener, store) = (self.stores.snapshots.clone(), job.row().store.clone());
        let (done, id) = (self.done.clone(), id.clone());
        tokio::spawn(async move {
            let term = fence.term;
            let work = move |s: &dyn SnapshotStore| {
                let mut cleared = Retained::default();
                let end = clear(s, &kept, &mut cleared);
                Ok((cleared, end))
            };
            let result = fence.with_store(&opener, &store, work).await;
            let (cleared, end) = match result {
                Ok((cleared, end)) => (cleared, end.map_err(Failed::Store)),
                Err(e) => (Retained::default(), Err(e)),
            };
            // What is gone is gone, also where the rest is not.
            let _ = done.send(Done::Retained { term, job: id.clone(), result: Ok(cleared) });
            let Err(e) = end else { return };
            if matches!(e, Failed::Store(Error::Retry(_))) {
                debug!("job {id}: its checkpoints are not deleted yet: {e}; trying on");
                sleep(CLEAR_PAUSE).await;
                let _ = done.send(Done::NotCleared { term, job: id });
            } else {
                warn!("job {id}: its checkpoints are of no more use and stay: {e}");
            }
        });
    }
}

impl Job {
    /// The row that makes an epoch complete, if it is the one being committed.
    fn complete_row(&self, epoch: Epoch, now_ms: i64) -> Option<(CheckpointRow, Micros)> {
        let committing = self.committing.as_ref().filter(|c| c.epoch == epoch)?;
        let known = self.history.checkpoint(epoch);
        let triggered_ms = known.map_or(now_ms, |row| row.triggered_ms);
        let totals = committing.manifest.totals;
        let row = CheckpointRow {
            epoch,
            state: CheckpointState::Completed,
            savepoint: committing.manifest.savepoint,
            triggered_ms,
            duration_ms: Some((now_ms - triggered_ms).max(0) as u64),
            object_bytes: totals.object_bytes,
            shared_bytes: totals.shared_bytes,
            records: totals.records,
            location: Some(locate(&self.row().store, epoch)),
            reason: None,
        };
        Some((row, committing.expires))
    }
}

/// Where an epoch lies, as users name it.
pub(crate) fn locate(store: &StoreSettings, epoch: Epoch) -> String {
    match store {
        StoreSettings::Dir { path } => format!("{}/chk-{epoch}", path.trim_end_matches('/')),
        StoreSettings::S3 { bucket, prefix, .. } => format!("s3://{bucket}/{prefix}chk-{epoch}"),
    }
}

/// Keeps the newest whole ones. What has no row is no checkpoint, whatever the store says.
///
/// Of the `old` ones, those that are gone are told with those that are deleted now: a JobManager may have deleted them
/// and ended, or lost its store, before it had recorded that.
fn retain(
    store: &dyn SnapshotStore,
    keep: usize,
    whole: &BTreeSet<u64>,
    in_flight: &BTreeSet<u64>,
    old: &[u64],
) -> Result<Retained, Error> {
    let listed = store.list()?;
    let suspect = listed.iter().map(|c| c.epoch).filter(|e| !whole.contains(e)).collect();
    let there: BTreeSet<u64> = listed.iter().filter(|c| c.committed).map(|c| c.epoch).collect();
    let mut retained = tidemill_snapshot::retain(store, Policy { keep }, in_flight, &suspect)?;
    retained.checkpoints.extend(old.iter().filter(|e| !there.contains(e)));
    Ok(retained)
}

/// Complete epochs that retention lets go: beyond the newest `keep`, and no savepoints. Never more, so that a store that
/// shows nothing for a while (a directory that is not mounted) takes nothing away.
fn old(rows: &[CheckpointRow], keep: usize) -> Vec<Epoch> {
    let whole = rows.iter().filter(|c| c.state == CheckpointState::Completed && !c.savepoint);
    let mut epochs: Vec<Epoch> = whole.map(|c| c.epoch).collect();
    epochs.sort_unstable();
    epochs.truncate(epochs.len().saturating_sub(keep));
    epochs
}

/// Deletes all but these; tells what is gone, also where it ends early.
fn clear(
    store: &dyn SnapshotStore,
    kept: &BTreeSet<u64>,
    cleared: &mut Retained,
) -> Result<(), Error> {
    for checkpoint in store.list()?.into_iter().filter(|c| !kept.contains(&c.epoch)) {
        store.delete(checkpoint.epoch)?;
        cleared.checkpoints.push(checkpoint.epoch);
    }
    // Savepoints are complete in themselves; what is protected may share.
    if kept.is_empty() {
        for name in store.list_shared()? {
            store.delete_shared(&name)?;
        }
        // What was deleted is deleted all the same.
        if let Err(e) = store.close() {
            debug!("{} stays: {e}", store.locate(None));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use tidemill_snapshot::{DirStore, JobFacts};

    fn row(epoch: Epoch, savepoint: bool, state: CheckpointState) -> CheckpointRow {
        CheckpointRow {
            epoch,
            state,
            savepoint,
            triggered_ms: 0,
            duration_ms: None,
            object_bytes: 0,
            shared_bytes: 0,
            records: 0,
            location: None,
            reason: None,
        }
    }

    fn commit(store: &DirStore, epoch: Epoch, savepoint: bool) {
        let facts = JobFacts {
            job: "a job".into(),
            epoch,
            created_at_ms: 0,
            savepoint,
            parallelism: 1,
            max_parallelism: 128,
            operators: Vec::new(),
            properties: BTreeMap::new(),
        };
        store.put_manifest(&Manifest::assemble(facts, Vec::new())).unwrap();
    }

    #[test]
    fn what_an_earlier_job_manager_deleted_and_did_not_record_is_told_as_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let store = DirStore::create(dir.path()).unwrap();
        let whole = CheckpointState::Completed;
        // Epochs 1, 3 and 5 are gone; 2 is a savepoint, 4 a failure that left nothing.
        let mut rows: Vec<_> = (1..=8).map(|epoch| row(epoch, epoch == 2, whole)).collect();
        rows[3].state = CheckpointState::Failed;
        let known: BTreeSet<u64> =
            rows.iter().filter(|r| r.state == whole).map(|r| r.epoch).collect();
        for epoch in [2, 6, 7, 8] {
            commit(&store, epoch, epoch == 2);
        }
        assert_eq!(old(&rows, 2), [1, 3, 5, 6]);
        let retained = retain(&store, 2, &known, &BTreeSet::new(), &old(&rows, 2)).unwrap();
        assert_eq!(retained.checkpoints, [6, 1, 3, 5]);
        // An empty place is no reason to forget those that are to be kept.
        let empty = tempfile::tempdir().unwrap();
        let empty = DirStore::create(empty.path()).unwrap();
        let retained = retain(&empty, 2, &known, &BTreeSet::new(), &old(&rows, 2)).unwrap();
        assert_eq!(retained.checkpoints, [1, 3, 5, 6]);
    }
}
