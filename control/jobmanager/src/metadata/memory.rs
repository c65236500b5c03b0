//! Stores that forget: for tests. Clones share what they keep, so that a second JobManager may find it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidemill_protocol::{ArtifactHash, JobId};

use super::{
    ArtifactError, ArtifactReader, ArtifactStore, Change, JobRecord, Lead, MetadataError,
    MetadataStore, Pending, Term,
};

#[derive(Debug, Default)]
struct Shared {
    term: Term,
    /// Which clone leads, and its address.
    leader: Option<(u64, String)>,
    next: u64,
    /// In the order of their submission.
    jobs: Vec<JobRecord>,
}

/// Metadata in memory. A clone is another candidate for leadership.
#[derive(Debug)]
pub struct MemoryMetadata {
    me: u64,
    shared: Arc<Mutex<Shared>>,
}

impl Default for MemoryMetadata {
    fn default() -> Self {
        MemoryMetadata {
            me: 0,
            shared: Arc::new(Mutex::new(Shared { next: 1, ..Shared::default() })),
        }
    }
}

impl Clone for MemoryMetadata {
    fn clone(&self) -> Self {
        let mut shared = self.lock();
        shared.next += 1;
        MemoryMetadata { me: shared.next, shared: self.shared.clone() }
    }
}

impl MemoryMetadata {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes leadership from whoever has it, as when its lease ends.
    pub fn depose(&self) {
        self.lock().leader = None;
    }
}

impl MetadataStore for MemoryMetadata {
    fn campaign<'a>(&'a self, address: &'a str) -> Pending<'a, Result<Lead, MetadataError>> {
        let mut shared = self.lock();
        let lead = match &shared.leader {
            Some((leader, _)) if *leader == self.me => Lead::Mine { term: shared.term },
            Some((_, address)) => Lead::Other { address: Some(address.clone()) },
            None => {
                shared.term += 1;
                shared.leader = Some((self.me, address.to_owned()));
                Lead::Mine { term: shared.term }
            }
        };
        Box::pin(std::future::ready(Ok(lead)))
    }

    fn resign(&self) -> Pending<'_, ()> {
        let mut shared = self.lock();
        if shared.leader.as_ref().is_some_and(|l| l.0 == self.me) {
            shared.leader = None;
        }
        Box::pin(std::future::ready(()))
    }

    fn load(&self, term: Term) -> Pending<'_, Result<Vec<JobRecord>, MetadataError>> {
        let shared = self.lock();
        let known = shared.term == term;
        let answer = if known { Ok(shared.jobs.clone()) } else { Err(MetadataError::Fenced) };
        Box::pin(std::future::ready(answer))
    }

    fn write<'a>(
        &'a self,
        term: Term,
        changes: &'a [Change],
    ) -> Pending<'a, Result<(), MetadataError>> {
        let mut shared = self.lock();
        let mine = shared.leader.as_ref().is_some_and(|l| l.0 == self.me) && shared.term == term;
        if mine {
            changes.iter().for_each(|change| apply(&mut shared.jobs, change));
        }
        let answer = if mine { Ok(()) } else { Err(MetadataError::Fenced) };
        Box::pin(std::future::ready(answer))
    }
}

/// In the order of their keys.
fn put<T: Clone, K: Ord>(rows: &mut Vec<T>, row: &T, key: impl Fn(&T) -> K) {
    match rows.binary_search_by_key(&key(row), &key) {
        Ok(at) => rows[at] = row.clone(),
        Err(at) => rows.insert(at, row.clone()),
    }
}

fn apply(jobs: &mut Vec<JobRecord>, change: &Change) {
    let of = |jobs: &mut Vec<JobRecord>, id: &JobId, f: &mut dyn FnMut(&mut JobRecord)| {
        jobs.iter_mut().filter(|r| r.job.id == *id).for_each(f);
    };
    match change {
        Change::Job(row) => match jobs.iter_mut().find(|r| r.job.id == row.id) {
            Some(known) => known.job = (**row).clone(),
            None => jobs.push(JobRecord::new((**row).clone())),
        },
        Change::Status(id, row) => of(jobs, id, &mut |r| put(&mut r.statuses, row, |s| s.number)),
        Change::Checkpoint(id, row) => {
            of(jobs, id, &mut |r| put(&mut r.checkpoints, row, |c| c.epoch));
        }
        Change::Savepoint(id, row) => {
            of(jobs, id, &mut |r| put(&mut r.savepoints, row, |s| s.trigger));
        }
        Change::Exception(id, row) => {
            of(jobs, id, &mut |r| put(&mut r.exceptions, row, |e| e.number));
        }
        Change::ForgetCheckpoint(id, epoch) => {
            of(jobs, id, &mut |r| r.checkpoints.retain(|c| c.epoch != *epoch));
        }
        Change::ForgetException(id, number) => {
            of(jobs, id, &mut |r| r.exceptions.retain(|e| e.number != *number));
        }
        Change::ForgetJob(id) => jobs.retain(|r| r.job.id != *id),
    }
}

/// Program files in memory.
#[derive(Clone, Debug, Default)]
pub struct MemoryArtifacts {
    files: Arc<Mutex<BTreeMap<ArtifactHash, Arc<[u8]>>>>,
}

impl MemoryArtifacts {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<ArtifactHash, Arc<[u8]>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ArtifactStore for MemoryArtifacts {
    fn put<'a>(
        &'a self,
        hash: &'a ArtifactHash,
        file: &'a Path,
    ) -> Pending<'a, Result<(), ArtifactError>> {
        Box::pin(async move {
            let bytes = tokio::fs::read(file).await.map_err(|e| ArtifactError(e.to_string()))?;
            self.lock().insert(hash.clone(), bytes.into());
            Ok(())
        })
    }

    fn open<'a>(
        &'a self,
        hash: &'a ArtifactHash,
    ) -> Pending<'a, Result<Option<ArtifactReader>, ArtifactError>> {
        let found = self.lock().get(hash).map(|bytes| ArtifactReader {
            bytes: bytes.len() as u64,
            content: Box::new(std::io::Cursor::new(bytes.clone())),
        });
        Box::pin(std::future::ready(Ok(found)))
    }

    fn delete<'a>(&'a self, hash: &'a ArtifactHash) -> Pending<'a, Result<(), ArtifactError>> {
        self.lock().remove(hash);
        Box::pin(std::future::ready(Ok(())))
    }

    fn list(&self) -> Pending<'_, Result<Vec<ArtifactHash>, ArtifactError>> {
        let all = self.lock().keys().cloned().collect();
        Box::pin(std::future::ready(Ok(all)))
    }
}
