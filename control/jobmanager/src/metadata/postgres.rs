//! Metadata in PostgreSQL, for several JobManagers of which one leads. Tables: `postgres/schema.sql`.
//!
//! ```text
//!   leadership   one row: the last term given, who has it     changed by elections alone
//!   lease        one row: how often the leader has renewed    changed by the leader, twice a second
//! ```
//! Invariants
//!   P1  Every write locks the row of `leadership` first and goes on only if that names this candidate and
//!       the write's term (Y3): whatever time a process has slept, what it writes then is refused if
//!       another was elected. No clock has a part in it.
//!   P2  Nothing of a write is sent before the lock is answered. So a write of a connection that was given
//!       up holds the lock until it is done, and neither overtakes nor follows its repetition.
//!   P3  A candidate takes the lease over only if it has watched it for its whole length by its own
//!       clock, the database answering all the while, and has not seen it renewed (watch.rs). So a
//!       leader does not lose its lease by the database being away.
//!   P4  A renewal waits for no write, nor a write for it: they have a connection and a row of their own.
//!   P5  What failed before its COMMIT was sent has changed nothing; where the answer to a COMMIT is not
//!       had, it is in doubt (failure.rs).
//!   P6  A database whose tables are of a newer version is not written to, and this process does not lead.

mod election;
mod failure;
mod load;
mod migrate;
mod session;
mod watch;
mod write;

use std::time::Duration;

use tidemill_base::Clock;
use tidemill_base::clock::SystemClock;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tracing::{info, warn};

use super::{Change, JobRecord, Lead, MetadataError, MetadataStore, Pending, Term};
use crate::config::JobManagerError;
use failure::{Failure, Progress};
use session::{Server, Session};
use watch::Watch;

/// What one operation may take, connecting included: less than its callers wait, so that they are told what
/// became of it.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(8);

/// Settings of [`PostgresMetadata`] beyond the URL.
#[derive(Clone)]
pub struct PostgresSettings {
    /// The password, where it does not stand in the URL.
    pub password: Option<String>,
    /// How long a leader may be silent, the database answering, before another takes over.
    pub lease: Duration,
}

impl Default for PostgresSettings {
    /// No password, 5 s.
    fn default() -> Self {
        PostgresSettings { password: None, lease: Duration::from_secs(5) }
    }
}

impl std::fmt::Debug for PostgresSettings {
    /// Without the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresSettings").field("lease", &self.lease).finish_non_exhaustive()
    }
}

/// Metadata in PostgreSQL; each is a candidate for leadership.
#[derive(Debug)]
pub struct PostgresMetadata {
    server: Server,
    /// This candidate, by chance: another life of the same JobManager is another one.
    me: String,
    clock: SystemClock,
    /// P4: for reading and writing.
    work: Mutex<Option<Session>>,
    /// P4: for elections.
    lease: Mutex<Candidacy>,
}

#[derive(Debug)]
struct Candidacy {
    session: Option<Session>,
    watch: Watch,
    /// It was said that the tables are newer.
    outdated: bool,
}

impl PostgresMetadata {
    /// The database that a URL names, `postgres://user@host:port/database`; a socket's directory as
    /// `postgres:///database?host=/run/postgresql`. Several hosts may be named: the one that can be written
    /// to is used. Connections are not encrypted.
    ///
    /// Makes or updates the tables. Where no server answers, that is done when one does.
    ///
    /// # Errors
    /// Where waiting does not help: the URL, the password, the database, rights, a newer schema.
    pub async fn connect(url: &str) -> Result<Self, JobManagerError> {
        Self::connect_with(url, PostgresSettings::default()).await
    }

    /// The same with settings.
    ///
    /// # Errors
    /// As [`PostgresMetadata::connect`].
    pub async fn connect_with(
        url: &str,
        settings: PostgresSettings,
    ) -> Result<Self, JobManagerError> {
        let server = Server::new(url, &settings).map_err(JobManagerError::Setting)?;
        let mut chance = [0; 16];
        getrandom::fill(&mut chance).map_err(|e| {
            JobManagerError::Store(format!("the system gives no random bytes: {e}"))
        })?;
        let store = PostgresMetadata {
            me: chance.iter().map(|byte| format!("{byte:02x}")).collect(),
            clock: SystemClock::new(),
            work: Mutex::new(None),
            lease: Mutex::new(Candidacy {
                session: None,
                watch: Watch::new(settings.lease.as_micros() as u64),
                outdated: false,
            }),
            server,
        };
        let mut work = store.work.lock().await;
        match timeout(OPERATION_TIMEOUT, store.server.session(&mut work)).await {
            Ok(Ok(_)) => info!("metadata in {}", store.server.name()),
            Ok(Err(e)) if e.is_lasting() => return Err(JobManagerError::Store(e.to_string())),
            Ok(Err(e)) => warn!("{e}; waiting for it"),
            Err(_) => warn!("{} does not answer; waiting for it", store.server.name()),
        }
        drop(work);
        Ok(store)
    }
}

/// Ends an operation: its answer, and a connection that is not to be used again closed.
fn settle<T>(
    slot: &mut Option<Session>,
    server: &Server,
    progress: &Progress,
    done: Result<Result<T, Failure>, tokio::time::error::Elapsed>,
) -> Result<T, MetadataError> {
    let done = done.unwrap_or_else(|_| Err(Failure::silent(server.name())));
    done.map_err(|failure| {
        if failure.ends_session() {
            *slot = None;
        }
        failure.told(progress)
    })
}

impl MetadataStore for PostgresMetadata {
    fn campaign<'a>(&'a self, address: &'a str) -> Pending<'a, Result<Lead, MetadataError>> {
        Box::pin(async move {
            let Candidacy { session, watch, outdated } = &mut *self.lease.lock().await;
            let progress = Progress::default();
            let done = timeout(OPERATION_TIMEOUT, async {
                let session = self.server.session(session).await?;
                let now = self.clock.now();
                election::stand(session, &self.me, address, watch, now).await
            });
            let done = done.await;
            if !matches!(done, Ok(Ok(_))) {
                watch.interrupt();
            }
            // P6: whoever leads, it is not this one.
            let newer = if let Ok(Err(Failure::Newer(why))) = &done { Some(why) } else { None };
            if let Some(why) = newer {
                if !std::mem::replace(outdated, true) {
                    warn!("not a candidate for leadership: {why}");
                }
                return Ok(Lead::Other { address: None });
            }
            *outdated = false;
            // Progress stays at its beginning: what is in doubt is looked up by the next candidacy.
            settle(session, &self.server, &progress, done)
        })
    }

    fn resign(&self) -> Pending<'_, ()> {
        Box::pin(async move {
            let Candidacy { session, .. } = &mut *self.lease.lock().await;
            let done = timeout(OPERATION_TIMEOUT, async {
                election::resign(self.server.session(session).await?, &self.me).await
            });
            let done = done.await;
            if let Err(e) = settle(session, &self.server, &Progress::default(), done) {
                warn!("{e}; another JobManager leads when the lease has ended");
            }
        })
    }

    fn load(&self, term: Term) -> Pending<'_, Result<Vec<JobRecord>, MetadataError>> {
        Box::pin(async move {
            let slot = &mut *self.work.lock().await;
            let done = timeout(OPERATION_TIMEOUT, async {
                load::load(self.server.session(slot).await?, &self.me, term).await
            });
            let done = done.await;
            settle(slot, &self.server, &Progress::default(), done)
        })
    }

    fn write<'a>(
        &'a self,
        term: Term,
        changes: &'a [Change],
    ) -> Pending<'a, Result<(), MetadataError>> {
        Box::pin(async move {
            let slot = &mut *self.work.lock().await;
            let progress = Progress::default();
            let done = timeout(OPERATION_TIMEOUT, async {
                let session = self.server.session(slot).await?;
                write::write(session, &self.me, term, changes, &progress).await
            });
            let done = done.await;
            settle(slot, &self.server, &progress, done)
        })
    }
}
