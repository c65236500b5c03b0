//! What an error of PostgreSQL means for who asked.

use std::error::Error as _;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_postgres::error::SqlState;

use crate::metadata::MetadataError;

/// How far a write has come (P5).
#[derive(Debug, Default)]
pub(super) struct Progress {
    committing: AtomicBool,
}

impl Progress {
    /// From now on it may be done.
    pub(super) fn commits(&self) {
        self.committing.store(true, Ordering::Relaxed);
    }

    fn is_committing(&self) -> bool {
        self.committing.load(Ordering::Relaxed)
    }
}

/// Why it was not done.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server is not there, or cannot do it now.
    Away(String),
    /// The server has answered that it did not do it and would not next time.
    Refused(String),
    /// The server has answered to a COMMIT that it rolled back.
    RolledBack(String),
    /// This process may not even try: settings or rights are wrong.
    Lasting(String),
    /// The tables are of a newer version (P6).
    Newer(String),
    /// Another leads.
    Fenced,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Away(why)
            | Failure::Refused(why)
            | Failure::RolledBack(why)
            | Failure::Lasting(why)
            | Failure::Newer(why) => f.write_str(why),
            Failure::Fenced => f.write_str("another JobManager leads"),
        }
    }
}

impl Failure {
    pub(super) fn silent(server: &str) -> Self {
        Failure::Away(format!("{server} does not answer"))
    }

    /// Waiting does not help.
    pub(super) fn is_lasting(&self) -> bool {
        matches!(self, Failure::Lasting(_) | Failure::Refused(_) | Failure::Newer(_))
    }

    /// Whether another connection is to be made before the next try.
    pub(super) fn ends_session(&self) -> bool {
        !matches!(self, Failure::Fenced | Failure::Refused(_))
    }

    /// What the caller is told.
    pub(super) fn told(self, progress: &Progress) -> MetadataError {
        match self {
            Failure::Away(why) if progress.is_committing() => MetadataError::InDoubt(why),
            Failure::Away(why) | Failure::RolledBack(why) | Failure::Lasting(why) => {
                MetadataError::Unavailable(why)
            }
            Failure::Refused(why) => MetadataError::Refused(why),
            // P6: it is to stop acting, as if another led.
            Failure::Fenced | Failure::Newer(_) => MetadataError::Fenced,
        }
    }

    /// An answer to COMMIT. What is not certainly rolled back is in doubt.
    pub(super) fn of_commit(e: &tokio_postgres::Error) -> Self {
        match class_of(e) {
            // Transaction rollback, constraints.
            Some("40" | "23") => Failure::RolledBack(text(e)),
            _ => Failure::Away(text(e)),
        }
    }

    /// An error of making a connection.
    pub(super) fn of_connecting(server: &str, e: &tokio_postgres::Error) -> Self {
        let why = format!("{server}: {}", text(e));
        let state = e.code();
        let remedy = if state == Some(&SqlState::INVALID_CATALOG_NAME) {
            "make the database (createdb), or correct its name in the URL"
        } else if class_of(e) == Some("28") || is_authentication(e) {
            "correct user and password, or let them in by pg_hba.conf"
        } else if state == Some(&SqlState::INSUFFICIENT_PRIVILEGE) {
            "grant this user CONNECT on the database"
        } else {
            return Failure::Away(why);
        };
        Failure::Lasting(format!("{why}; {remedy}"))
    }
}

impl From<tokio_postgres::Error> for Failure {
    /// An error before a COMMIT was sent (P5).
    fn from(e: tokio_postgres::Error) -> Self {
        match class_of(&e) {
            // Data, constraints, syntax and rights, features, limits: the same again ends the same way.
            Some("0A" | "22" | "23" | "42" | "54") => Failure::Refused(text(&e)),
            // A parameter that has no form in SQL.
            None if !e.is_closed() && e.to_string().starts_with("error serializing") => {
                Failure::Refused(text(&e))
            }
            _ => Failure::Away(text(&e)),
        }
    }
}

fn class_of(e: &tokio_postgres::Error) -> Option<&str> {
    e.code().and_then(|state| state.code().get(..2))
}

/// Told by the client, not by the server: a password is wanted and there is none.
fn is_authentication(e: &tokio_postgres::Error) -> bool {
    e.code().is_none()
        && (e.to_string().contains("authentication") || text(e).contains("password missing"))
}

/// The error with its causes and what the server added.
pub(super) fn text(e: &tokio_postgres::Error) -> String {
    let Some(db) = e.as_db_error() else {
        let mut text = e.to_string();
        let mut cause = e.source();
        while let Some(e) = cause {
            text.push_str(": ");
            text.push_str(&e.to_string());
            cause = e.source();
        }
        return text;
    };
    let mut text = format!("{} ({})", db.message(), db.code().code());
    for more in [db.detail(), db.hint()].into_iter().flatten() {
        text.push_str("; ");
        text.push_str(more);
    }
    text
}
