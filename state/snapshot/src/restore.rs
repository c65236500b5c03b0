//! Finds and verifies the checkpoint to restore: reads the facts that resolve.rs decides on.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::dir::{self, DirStore};
use crate::error::{Error, Result};
use crate::manifest::Manifest;
use crate::resolve::{Decision, Fact, Skipped, Step, next_step};
use crate::store::SnapshotStore;
use crate::verify::verify;

/// A checkpoint that was found whole: manifest, objects and shared files are verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// What it consists of.
    pub manifest: Arc<Manifest>,
    /// Newer checkpoints that were passed over, newest first.
    pub skipped: Vec<Skipped>,
    /// The first epoch beyond all that exist in the store, whole or not. The job continues
    /// here: an epoch number is never used twice.
    pub next_epoch: u64,
}

/// A store that was given by its place, and the checkpoint found in it.
#[derive(Clone)]
pub struct Opened {
    /// The store that holds the checkpoint.
    pub store: Arc<dyn SnapshotStore>,
    /// The checkpoint.
    pub restored: Restored,
}

/// The newest whole checkpoint of a store, fully verified. One that is torn or damaged is
/// skipped with a warning that names it and the one used instead. `None`: the store has never
/// held a complete checkpoint.
///
/// # Errors
/// [`Error::Damaged`] when there are checkpoints but none is whole: starting afresh then would
/// lose state silently. Errors that say nothing about the stored bytes (a refused permission, a
/// transient failure) are handed on: they must not make the job fall back to older state.
pub fn restore_latest(store: &dyn SnapshotStore) -> Result<Option<Restored>> {
    let listed = store.list()?;
    let next_epoch = listed.iter().map(|id| id.epoch.saturating_add(1)).max().unwrap_or(1);
    let mut facts = BTreeMap::new();
    let mut whole = None;
    loop {
        match next_step(&listed, &facts) {
            Step::Inspect(epoch) => {
                let (fact, manifest) = inspect(store, epoch)?;
                whole = manifest;
                facts.insert(epoch, fact);
            }
            Step::Decided(decision) => return conclude(store, decision, whole, next_epoch),
        }
    }
}

fn conclude(
    store: &dyn SnapshotStore,
    decision: Decision,
    whole: Option<Manifest>,
    next_epoch: u64,
) -> Result<Option<Restored>> {
    let place = store.locate(None);
    match (decision, whole) {
        (Decision::Restore { epoch, skipped }, Some(manifest)) => {
            for s in &skipped {
                tracing::warn!(
                    skipped = s.epoch,
                    used = epoch,
                    "checkpoint {} is skipped: {}; checkpoint {} is used instead",
                    store.locate(Some(s.epoch)),
                    s.why,
                    store.locate(Some(epoch)),
                );
            }
            Ok(Some(Restored { manifest: Arc::new(manifest), skipped, next_epoch }))
        }
        (Decision::Fresh { skipped }, _) => {
            for s in &skipped {
                let at = store.locate(Some(s.epoch));
                tracing::warn!(skipped = s.epoch, "checkpoint {at} is skipped: {}", s.why);
            }
            Ok(None)
        }
        (Decision::Lost { skipped }, _) => Err(lost(&place, &skipped)),
        (Decision::Restore { epoch, .. }, None) => {
            let seen =
                format!("checkpoint {epoch} was found whole, but its manifest is not at hand");
            Err(Error::refused(place, seen, "report this as a defect"))
        }
    }
}

fn lost(place: &str, skipped: &[Skipped]) -> Error {
    let each: Vec<String> =
        skipped.iter().map(|s| format!("checkpoint {}: {}", s.epoch, s.why)).collect();
    let seen = format!("no whole checkpoint is left ({})", each.join("; "));
    let Error::Damaged(mut report) = Error::damaged(place, seen) else {
        return Error::damaged(place, "no whole checkpoint is left");
    };
    report.remedy = "restore from a savepoint, or start afresh in an empty --checkpoint-dir \
                     (the state is lost then)"
        .to_owned();
    Error::Damaged(report)
}

/// Reads one committed checkpoint as a whole.
fn inspect(store: &dyn SnapshotStore, epoch: u64) -> Result<(Fact, Option<Manifest>)> {
    match restore_epoch(store, epoch) {
        Ok(manifest) => Ok((Fact::Whole, Some(manifest))),
        Err(Error::Damaged(report)) => Ok((Fact::Damaged(report_seen(&report)), None)),
        // It was listed as committed; it has been deleted since, or its medium is failing.
        Err(Error::Missing(report)) => Ok((Fact::Damaged(report_seen(&report)), None)),
        Err(e) => Err(e),
    }
}

fn report_seen(report: &crate::Report) -> String {
    format!("{}: {}", report.path, report.seen)
}

/// One given checkpoint, fully verified.
///
/// # Errors
/// [`Error::Missing`] when it was never completed, [`Error::Damaged`] when it is not whole, other
/// classes when it cannot be read.
pub fn restore_epoch(store: &dyn SnapshotStore, epoch: u64) -> Result<Manifest> {
    let manifest = store.load_manifest(epoch)?;
    verify(store, &manifest)?;
    Ok(manifest)
}

/// What `--restore <path>` names: the checkpoints' root directory (then the newest whole one, as
/// [`restore_latest`]), or one checkpoint's `chk-<epoch>` directory in it (then exactly that one,
/// or an error).
///
/// # Errors
/// [`Error::Missing`] when the path does not exist or holds no complete checkpoint; otherwise as
/// [`restore_latest`] and [`restore_epoch`].
pub fn open_path(path: &Path) -> Result<Opened> {
    // `chk-7/.`, links and the like: the name that counts is the real one.
    let real = path.canonicalize().map_err(|e| Error::reading("cannot open", path, &e))?;
    let epoch = real.file_name().and_then(|n| n.to_str()).and_then(dir::epoch_of);
    let Some((epoch, root)) = epoch.zip(real.parent()) else {
        return open_at(Arc::new(DirStore::existing(path)?), None);
    };
    DirStore::existing(&real)?;
    open_at(Arc::new(DirStore::existing(root)?), Some(epoch))
}

/// The same for an opened store: the newest whole checkpoint in it, or exactly that one.
///
/// # Errors
/// [`Error::Missing`] when there is no complete checkpoint; otherwise as [`restore_latest`] and
/// [`restore_epoch`].
pub fn open_at(store: Arc<dyn SnapshotStore>, epoch: Option<u64>) -> Result<Opened> {
    let Some(epoch) = epoch else {
        let Some(restored) = restore_latest(&*store)? else {
            let seen = "holds no complete checkpoint (no chk-<epoch> with a manifest.json)";
            return Err(Error::missing(store.locate(None), seen));
        };
        return Ok(Opened { store, restored });
    };
    let manifest = Arc::new(restore_epoch(&*store, epoch)?);
    let newest = store.list()?.first().map_or(epoch, |id| id.epoch);
    let next_epoch = newest.saturating_add(1);
    let restored = Restored { manifest, skipped: Vec::new(), next_epoch };
    Ok(Opened { store, restored })
}

/// The place of the store and the epoch in `<place>/chk-<epoch>`; for places that are no paths.
pub fn split_place(place: &str) -> (&str, Option<u64>) {
    let place = place.trim_end_matches('/');
    match place.rsplit_once('/') {
        Some((root, last)) => match dir::epoch_of(last) {
            Some(epoch) => (root, Some(epoch)),
            None => (place, None),
        },
        None => (place, None),
    }
}
