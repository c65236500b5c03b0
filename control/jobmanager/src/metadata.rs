//! What a JobManager must find again: the contract of the stores that keep it.
//!
//! Laws of [`MetadataStore`]
//!   Y1  `write` is all or nothing, and what it returned `Ok` for survives a crash.
//!   Y2  Changes are upserts: writing the same again changes nothing, so that what is in doubt may be
//!       written again.
//!   Y3  At most one candidate leads at a time; terms strictly increase; `write` with another term than
//!       the leader's present one is [`MetadataError::Fenced`] and changes nothing.
//!   Y4  `load` returns what all writes before it left, jobs in the order of their submission and
//!       histories in that of their numbers. Rows of a job that is not there are nothing.
//!   Y5  `holds` is `Ok` exactly when `write` with that term would be, and changes nothing.
//!
//! Laws of [`ArtifactStore`]
//!   Z1  What `put` returned `Ok` for is there, whole, under its hash, until `delete`.
//!   Z2  A file is there whole or not at all. `put` of what is there, and `delete` of what is not, are fine.

mod dir;
mod embedded;
mod memory;
#[cfg(feature = "postgres")]
mod postgres;
mod rows;
#[cfg(feature = "s3")]
mod s3;

pub use dir::DirArtifacts;
pub use embedded::EmbeddedMetadata;
pub use memory::{MemoryArtifacts, MemoryMetadata};
#[cfg(feature = "postgres")]
pub use postgres::{PostgresMetadata, PostgresSettings};
pub use rows::{
    CheckpointRow, CheckpointState, ExceptionRow, JobRecord, JobRow, SavepointRow, SavepointState,
    StatusRow,
};
#[cfg(feature = "s3")]
pub use s3::S3Artifacts;

use std::future::Future;
use std::path::Path;
use std::pin::Pin;

use tidemill_protocol::{ArtifactHash, JobId};
use tokio::io::AsyncRead;

/// A future of a trait that is used behind a pointer.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A period of leadership; they strictly increase.
pub type Term = u64;

/// Who leads, as the store says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lead {
    /// The asker.
    Mine {
        /// Its term.
        term: Term,
    },
    /// Somebody else, or nobody yet.
    Other {
        /// `host:port` of the leader's control port, where known.
        address: Option<String>,
    },
}

/// A change of what is kept. Each replaces what it names (Y2).
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A job's head.
    Job(Box<JobRow>),
    /// An entry of its status history, by number.
    Status(JobId, StatusRow),
    /// A checkpoint, by epoch.
    Checkpoint(JobId, CheckpointRow),
    /// A savepoint that was asked for, by trigger.
    Savepoint(JobId, SavepointRow),
    /// An entry of the exceptions, by number.
    Exception(JobId, ExceptionRow),
    /// A checkpoint that leaves the history.
    ForgetCheckpoint(JobId, u64),
    /// An exception that leaves the history.
    ForgetException(JobId, u64),
    /// Everything of a job.
    ForgetJob(JobId),
}

/// Why a metadata store did not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetadataError {
    /// Nothing was changed; the same may succeed later.
    #[error("the metadata store is not available: {0}")]
    Unavailable(String),
    /// It may have been done or not: do the same again, until the answer is another one (Y2).
    #[error("the metadata store went away meanwhile: {0}")]
    InDoubt(String),
    /// Another JobManager leads: stop acting for any job (Y3).
    #[error("another JobManager leads by now")]
    Fenced,
    /// Repeating cannot help.
    #[error("the metadata store refuses: {0}")]
    Refused(String),
}

/// Keeps jobs. See the laws at the top of this module.
pub trait MetadataStore: Send + Sync {
    /// Tries to become the leader or to stay it; to be called about once a second. `address` is told
    /// to those that do not lead.
    fn campaign<'a>(&'a self, address: &'a str) -> Pending<'a, Result<Lead, MetadataError>>;

    /// Gives leadership up, so that another does not have to wait for its end.
    fn resign(&self) -> Pending<'_, ()>;

    /// Everything (Y4).
    fn load(&self, term: Term) -> Pending<'_, Result<Vec<JobRecord>, MetadataError>>;

    /// Changes what is kept, all or nothing (Y1 to Y3).
    fn write<'a>(
        &'a self,
        term: Term,
        changes: &'a [Change],
    ) -> Pending<'a, Result<(), MetadataError>>;

    /// Whether a term still holds (Y5).
    fn holds(&self, term: Term) -> Pending<'_, Result<(), MetadataError>> {
        self.write(term, &[])
    }
}

/// Why an artifact store did not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the artifact store: {0}")]
pub struct ArtifactError(pub String);

/// A file that is being read.
pub struct ArtifactReader {
    /// Its length.
    pub bytes: u64,
    /// Its content.
    pub content: Box<dyn AsyncRead + Send + Unpin>,
}

/// Keeps program files by their hash. See the laws at the top of this module.
pub trait ArtifactStore: Send + Sync {
    /// Stores a file of this machine, which hashes to `hash`.
    fn put<'a>(
        &'a self,
        hash: &'a ArtifactHash,
        file: &'a Path,
    ) -> Pending<'a, Result<(), ArtifactError>>;

    /// Opens a file; `None` where there is none.
    fn open<'a>(
        &'a self,
        hash: &'a ArtifactHash,
    ) -> Pending<'a, Result<Option<ArtifactReader>, ArtifactError>>;

    /// Removes a file.
    fn delete<'a>(&'a self, hash: &'a ArtifactHash) -> Pending<'a, Result<(), ArtifactError>>;

    /// All that are there: what a crash left over is found by it.
    fn list(&self) -> Pending<'_, Result<Vec<ArtifactHash>, ArtifactError>>;
}
