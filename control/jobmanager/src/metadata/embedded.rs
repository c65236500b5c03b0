//! Metadata in one file, for a JobManager that is alone on its machine: the default.
//!
//! ```text
//!   tidemill    "format" -> FORMAT, "term" -> the last term given
//!   jobs        job id -> (number in the order of submission, JobRow)
//!   statuses    (job id, number)  -> StatusRow
//!   checkpoints (job id, epoch)   -> CheckpointRow
//!   savepoints  (job id, trigger) -> SavepointRow
//!   exceptions  (job id, number)  -> ExceptionRow
//! ```
//! Rows are JSON, the file is redb's: copy on write, with a checksum for each page and one commit for each
//! write, which is on the disk when it returns.
//!
//! Invariants
//!   E1  At most one process has the file open: redb locks it.
//!   E2  A term is in the file before anybody leads by it; a write checks the file's term in the
//!       transaction that it writes by (Y3).
//!   E3  Work on the file is done one by one, in the order in which it was asked for. Work that began is
//!       carried to its end even where nobody waits for it any more, and before any other begins.
//!   E4  A file appears under its name whole: it is made under another one.
//!   E5  After an error of the disk the file is opened anew before its next use.

mod file;
mod rows;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Change, JobRecord, Lead, MetadataError, MetadataStore, Pending, Term};
use crate::config::JobManagerError;
use file::{Failure, MetadataFile};

/// Who leads among the candidates of this process.
#[derive(Debug, Default)]
struct Election {
    leader: Option<Leader>,
    candidates: u64,
}

#[derive(Debug)]
struct Leader {
    candidate: u64,
    term: Term,
    address: String,
}

/// Metadata in a file. A clone is another candidate for leadership; one that is dropped does not lead.
#[derive(Debug)]
pub struct EmbeddedMetadata {
    me: u64,
    election: Arc<Mutex<Election>>,
    /// Fair, which makes the order of E3.
    file: Arc<tokio::sync::Mutex<MetadataFile>>,
}

impl Clone for EmbeddedMetadata {
    fn clone(&self) -> Self {
        let mut election = lock(&self.election);
        election.candidates += 1;
        EmbeddedMetadata {
            me: election.candidates,
            election: self.election.clone(),
            file: self.file.clone(),
        }
    }
}

impl Drop for EmbeddedMetadata {
    fn drop(&mut self) {
        self.step_down();
    }
}

fn lock(election: &Mutex<Election>) -> MutexGuard<'_, Election> {
    election.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Election {
    fn term_of(&self, candidate: u64) -> Option<Term> {
        self.leader.as_ref().filter(|l| l.candidate == candidate).map(|l| l.term)
    }
}

impl EmbeddedMetadata {
    /// Opens a file, or makes it where there is none; blocking.
    ///
    /// # Errors
    /// Another process has it; it is damaged, of a newer version, or something else; the disk's.
    pub fn open(path: &Path) -> Result<Self, JobManagerError> {
        let file = MetadataFile::open(path).map_err(JobManagerError::Store)?;
        Ok(EmbeddedMetadata {
            me: 0,
            election: Arc::default(),
            file: Arc::new(tokio::sync::Mutex::new(file)),
        })
    }

    fn step_down(&self) {
        let mut election = lock(&self.election);
        if election.term_of(self.me).is_some() {
            election.leader = None;
        }
    }

    /// E3: who is given up while waiting for its turn leaves nothing; who has begun keeps its turn.
    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut MetadataFile, &Mutex<Election>) -> Result<T, MetadataError>
        + Send
        + 'static,
    ) -> Result<T, MetadataError> {
        let mut file = self.file.clone().lock_owned().await;
        let election = self.election.clone();
        let done = tokio::task::spawn_blocking(move || work(&mut file, &election));
        done.await.unwrap_or_else(|e| Err(MetadataError::InDoubt(e.to_string())))
    }
}

impl MetadataStore for EmbeddedMetadata {
    fn campaign<'a>(&'a self, address: &'a str) -> Pending<'a, Result<Lead, MetadataError>> {
        let (me, address) = (self.me, address.to_owned());
        Box::pin(self.work(move |file, election| {
            match &lock(election).leader {
                Some(leader) if leader.candidate == me => {
                    return Ok(Lead::Mine { term: leader.term });
                }
                Some(leader) => return Ok(Lead::Other { address: Some(leader.address.clone()) }),
                None => {}
            }
            // E2. Where the commit is in doubt, the next one takes the term after it.
            let term = file.next_term().map_err(|e| match e {
                Failure::Undone(why) | Failure::InDoubt(why) => MetadataError::Unavailable(why),
                other => other.into(),
            })?;
            lock(election).leader = Some(Leader { candidate: me, term, address });
            Ok(Lead::Mine { term })
        }))
    }

    fn resign(&self) -> Pending<'_, ()> {
        self.step_down();
        Box::pin(std::future::ready(()))
    }

    fn load(&self, term: Term) -> Pending<'_, Result<Vec<JobRecord>, MetadataError>> {
        Box::pin(self.work(move |file, _| Ok(file.load(term)?)))
    }

    fn write<'a>(
        &'a self,
        term: Term,
        changes: &'a [Change],
    ) -> Pending<'a, Result<(), MetadataError>> {
        let (me, changes) = (self.me, changes.to_vec());
        Box::pin(self.work(move |file, election| {
            if lock(election).term_of(me) != Some(term) {
                return Err(MetadataError::Fenced);
            }
            let written = file.write(term, &changes);
            if let Err(Failure::Fenced) = written {
                // Another process had the file meanwhile: the next candidacy gets a term above its.
                lock(election).leader = None;
            }
            Ok(written?)
        }))
    }

    /// Without a commit, which would be one more for the disk.
    fn holds(&self, term: Term) -> Pending<'_, Result<(), MetadataError>> {
        let me = self.me;
        Box::pin(self.work(move |file, election| {
            if lock(election).term_of(me) != Some(term) {
                return Err(MetadataError::Fenced);
            }
            Ok(file.check(term)?)
        }))
    }
}
