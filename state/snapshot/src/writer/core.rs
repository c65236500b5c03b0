//! What the writer does with each job. Synchronous and without a thread or clock, so that
//! simulation drives it directly.
//!
//! ```text
//!   (none) --Begin | Chunk | SubtaskDone--> Open --all done | Finish / write, Finished--> Settled
//!                                            | failure / Failed    | Abort / Aborted
//!                                            +------> Settled <----+
//!   Settled --anything of that epoch--> Settled   (late jobs of a lost epoch are dropped)
//! ```
//!
//! Invariants
//!   C1  Each epoch that was opened ends in exactly one of Finished, Failed, Aborted.
//!   C2  A failure settles its own epoch alone; the writer goes on.
//!   C3  Of an epoch that is not Finished, no object becomes visible.
//!   C4  An epoch finishes only when every expected subtask, and every subtask that handed in a
//!       chunk, is done.
//!   C5  What was stored of an epoch that was given up after Finished, or whose commit surely failed,
//!       is removed at once, or else before the next epoch begins: it may be what fills the disk.
//!
//! `Begin` may come late: a barrier can reach a subtask over a faster way than the coordinator's
//! trigger does, so the first job of an epoch opens it, whichever it is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::ChunkKey;
use crate::manifest::{Manifest, SharedFile, SubtaskId, WorkerPart, object_name};
use crate::object::ObjectBuilder;
use crate::retention::{self, Policy, Retained};
use crate::store::{ObjectWriter, SnapshotStore};

/// Settled epochs that are remembered one by one; all below the oldest count as settled.
const SETTLED_MAX: usize = 64;

/// Work for the writer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Job {
    /// A checkpoint starts. When all of `expect` are done it finishes by itself; with an empty
    /// list it waits for `Finish`.
    Begin {
        /// The checkpoint's epoch.
        epoch: u64,
        /// The subtasks of this worker that take part.
        expect: Vec<SubtaskId>,
    },
    /// A piece of a subtask's state.
    Chunk {
        /// The checkpoint's epoch.
        epoch: u64,
        /// Whose state.
        key: ChunkKey,
        /// The bytes, at most [`crate::PAYLOAD_BYTES_MAX`].
        payload: Vec<u8>,
        /// Records in it, for the manifest's counts.
        records: u64,
    },
    /// A file for `shared/` that a subtask's state consists of.
    Share {
        /// The checkpoint's epoch.
        epoch: u64,
        /// Where its content is.
        source: ShareSource,
    },
    /// A subtask has handed in everything.
    SubtaskDone {
        /// The checkpoint's epoch.
        epoch: u64,
        /// The subtask.
        subtask: SubtaskId,
    },
    /// Everything has been handed in.
    Finish {
        /// The checkpoint's epoch.
        epoch: u64,
    },
    /// The checkpoint is given up.
    Abort {
        /// The checkpoint's epoch.
        epoch: u64,
    },
    /// Commits a checkpoint of which this process coordinates all parts.
    Commit {
        /// The whole manifest.
        manifest: Box<Manifest>,
    },
    /// Deletes what is no longer needed. The epochs open in this writer are protected; `in_flight`
    /// names those that other workers write.
    Retain {
        /// How much to keep.
        policy: Policy,
        /// Epochs that are being written elsewhere.
        in_flight: BTreeSet<u64>,
        /// Epochs that a restore skipped as damaged.
        suspect: BTreeSet<u64>,
    },
}

/// Where a shared file's content is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShareSource {
    /// In a local file, to be stored under a name ([`crate::content_name`]).
    Path {
        /// The name under `shared/`.
        name: String,
        /// The local file; it must stay until the epoch has ended.
        path: PathBuf,
    },
    /// In the store already: referenced by the last committed checkpoint.
    Stored(SharedFile),
}

/// What became of the work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// This worker's part is durable: hand it to whoever assembles the manifest.
    Finished {
        /// The checkpoint's epoch.
        epoch: u64,
        /// Object, subtasks and shared files.
        part: WorkerPart,
    },
    /// This worker's part, or the commit, failed. The error's class says what to do: `InDoubt`
    /// means stop and restore, any other that this checkpoint is lost and the job goes on.
    Failed {
        /// The checkpoint's epoch.
        epoch: u64,
        /// Why.
        error: Error,
    },
    /// The epoch was given up as asked; nothing of it will become visible.
    Aborted {
        /// The checkpoint's epoch.
        epoch: u64,
    },
    /// The manifest is durable: the checkpoint exists.
    Committed {
        /// The checkpoint's epoch.
        epoch: u64,
    },
    /// Retention ran.
    Retained(Retained),
    /// Retention could not delete everything; the next run tries again.
    RetainFailed(Error),
}

/// Does jobs, one at a time.
pub struct WriterCore {
    store: Arc<dyn SnapshotStore>,
    object: String,
    open: BTreeMap<u64, Open>,
    settled: BTreeSet<u64>,
    settled_below: u64,
    /// Finished, and neither committed nor given up yet.
    finished: BTreeSet<u64>,
    /// Given up, and what was stored of them could not be removed (C5).
    leftovers: BTreeSet<u64>,
}

/// An epoch that is being written.
struct Open {
    builder: ObjectBuilder,
    writer: Box<dyn ObjectWriter>,
    expect: Vec<SubtaskId>,
    shared: Vec<SharedFile>,
}

impl WriterCore {
    /// A writer of `worker-<worker>.data` objects.
    pub fn new(store: Arc<dyn SnapshotStore>, worker: u32) -> Self {
        WriterCore {
            store,
            object: object_name(worker),
            open: BTreeMap::new(),
            settled: BTreeSet::new(),
            settled_below: 0,
            finished: BTreeSet::new(),
            leftovers: BTreeSet::new(),
        }
    }

    /// Does one job; what became of it goes to `out`.
    pub fn on(&mut self, job: Job, out: &mut Vec<Event>) {
        match job {
            Job::Begin { epoch, expect } => self.within(epoch, out, |open| {
                open.expect = expect;
                Ok(())
            }),
            Job::Chunk { epoch, key, payload, records } => {
                self.within(epoch, out, |open| open.chunk(key, &payload, records));
            }
            Job::Share { epoch, source } => {
                let store = Arc::clone(&self.store);
                self.within(epoch, out, |open| open.share(&*store, source));
            }
            Job::SubtaskDone { epoch, subtask } => self.within(epoch, out, |open| {
                open.builder.subtask_done(subtask);
                Ok(())
            }),
            Job::Finish { epoch } => self.finish(epoch, out),
            Job::Abort { epoch } => {
                if self.open.remove(&epoch).is_some() {
                    out.push(Event::Aborted { epoch });
                }
                self.settle(epoch);
                if self.finished.remove(&epoch) {
                    self.discard(epoch);
                }
            }
            Job::Commit { manifest } => out.push(self.commit(&manifest)),
            Job::Retain { policy, in_flight, suspect } => {
                self.clear_leftovers();
                out.push(self.retain(policy, in_flight, &suspect));
            }
        }
    }

    /// Epochs that are being written.
    pub fn open_epochs(&self) -> impl Iterator<Item = u64> + '_ {
        self.open.keys().copied()
    }

    fn is_settled(&self, epoch: u64) -> bool {
        epoch < self.settled_below || self.settled.contains(&epoch)
    }

    fn settle(&mut self, epoch: u64) {
        if epoch < self.settled_below {
            return;
        }
        self.settled.insert(epoch);
        if self.settled.len() > SETTLED_MAX
            && let Some(oldest) = self.settled.pop_first()
        {
            self.settled_below = oldest.saturating_add(1);
        }
    }

    /// Does a step of an epoch, opening it first if need be; then finishes it if it is complete.
    fn within(
        &mut self,
        epoch: u64,
        out: &mut Vec<Event>,
        step: impl FnOnce(&mut Open) -> Result<()>,
    ) {
        if !self.open.contains_key(&epoch) {
            if self.is_settled(epoch) {
                return;
            }
            self.clear_leftovers();
            match Open::begin(&*self.store, epoch, &self.object) {
                Ok(open) => self.open.insert(epoch, open),
                Err(error) => return self.fail(epoch, error, out),
            };
        }
        let Some(open) = self.open.get_mut(&epoch) else {
            return;
        };
        match step(open) {
            Err(error) => self.fail(epoch, error, out),
            Ok(()) if open.is_complete() => self.finish(epoch, out),
            Ok(()) => {}
        }
    }

    /// C2. Dropping the object's writer removes what it wrote.
    fn fail(&mut self, epoch: u64, error: Error, out: &mut Vec<Event>) {
        self.open.remove(&epoch);
        self.settle(epoch);
        out.push(Event::Failed { epoch, error });
    }

    fn finish(&mut self, epoch: u64, out: &mut Vec<Event>) {
        let Some(open) = self.open.remove(&epoch) else {
            if !self.is_settled(epoch) {
                let seen = format!("epoch {epoch} is to be finished, but nothing was handed in");
                let place = self.store.locate(Some(epoch));
                let error = Error::fail_checkpoint(place, seen, "send Begin before Finish");
                self.fail(epoch, error, out);
            }
            return;
        };
        let place = self.store.locate(Some(epoch));
        match open.finish(&place) {
            Ok(part) => {
                self.settle(epoch);
                self.finished.insert(epoch);
                if self.finished.len() > SETTLED_MAX {
                    self.finished.pop_first();
                }
                out.push(Event::Finished { epoch, part });
            }
            Err(error) => self.fail(epoch, error, out),
        }
    }

    fn commit(&mut self, manifest: &Manifest) -> Event {
        let epoch = manifest.epoch;
        self.finished.remove(&epoch);
        match self.store.put_manifest(manifest) {
            Ok(()) => Event::Committed { epoch },
            Err(error) => {
                if !matches!(error, Error::InDoubt(_)) {
                    self.discard(epoch);
                }
                Event::Failed { epoch, error }
            }
        }
    }

    /// Removes what was stored of an epoch that has no manifest and will never have one (C5).
    fn discard(&mut self, epoch: u64) {
        match self.store.read_manifest(epoch).and_then(|manifest| match manifest {
            None => self.store.delete(epoch),
            Some(_) => Ok(()),
        }) {
            Ok(()) => self.leftovers.remove(&epoch),
            Err(error) => {
                tracing::debug!(epoch, "what is stored of it is removed later: {error}");
                self.leftovers.insert(epoch)
            }
        };
    }

    fn clear_leftovers(&mut self) {
        for epoch in self.leftovers.clone() {
            self.discard(epoch);
        }
    }

    fn retain(
        &self,
        policy: Policy,
        mut in_flight: BTreeSet<u64>,
        suspect: &BTreeSet<u64>,
    ) -> Event {
        in_flight.extend(self.open_epochs());
        match retention::retain(&*self.store, policy, &in_flight, suspect) {
            Ok(retained) => Event::Retained(retained),
            Err(error) => Event::RetainFailed(error),
        }
    }
}

impl Open {
    fn begin(store: &dyn SnapshotStore, epoch: u64, object: &str) -> Result<Self> {
        let builder = ObjectBuilder::new(object);
        let mut writer = store.begin(epoch, object)?;
        writer.append(&builder.header())?;
        Ok(Open { builder, writer, expect: Vec::new(), shared: Vec::new() })
    }

    fn chunk(&mut self, key: ChunkKey, payload: &[u8], records: u64) -> Result<()> {
        let id = SubtaskId { operator: key.operator, subtask: key.subtask };
        let place = || format!("operator {:016x} subtask {}", id.operator, id.subtask);
        if self.builder.is_done(id) {
            let seen = "handed in a chunk after saying that it was done";
            return Err(Error::fail_checkpoint(place(), seen, "report this as a defect"));
        }
        let header = self.builder.chunk(key, payload, records).map_err(|e| {
            Error::fail_checkpoint(place(), e, "split the state into several chunks")
        })?;
        self.writer.append(&header)?;
        self.writer.append(payload)
    }

    fn share(&mut self, store: &dyn SnapshotStore, source: ShareSource) -> Result<()> {
        let file = match source {
            ShareSource::Stored(file) => file,
            ShareSource::Path { name, path } => {
                let mut content =
                    File::open(&path).map_err(|e| Error::writing("cannot open", &path, &e))?;
                store.put_shared(&name, &mut content)?
            }
        };
        self.shared.push(file);
        Ok(())
    }

    fn is_complete(&self) -> bool {
        !self.expect.is_empty() && self.expect.iter().all(|id| self.builder.is_done(*id))
    }

    /// C4, then makes the object durable.
    fn finish(mut self, place: &str) -> Result<WorkerPart> {
        let missing = self.expect.iter().find(|id| !self.builder.is_done(**id)).copied();
        if let Some(id) = missing.or_else(|| self.builder.unfinished().first().copied()) {
            let (operator, subtask) = (id.operator, id.subtask);
            let seen = format!("operator {operator:016x} subtask {subtask} is not done");
            let remedy = "send SubtaskDone for every subtask before Finish";
            return Err(Error::fail_checkpoint(place, seen, remedy));
        }
        self.shared.sort_by(|a, b| a.name.cmp(&b.name));
        self.shared.dedup();
        let part = self.builder.finish(self.shared);
        let written = self.writer.finish()?;
        if written != part.object.bytes {
            let seen = format!("{written} bytes were stored of {}", part.object.bytes);
            return Err(Error::fail_checkpoint(place, seen, "report this as a defect"));
        }
        Ok(part)
    }
}
