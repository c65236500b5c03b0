//! The engine's error: what went wrong, and what the caller has to do about it.

use std::fmt;

/// What the caller must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The same call may succeed later.
    Retry,
    /// This attempt of the job has failed; a restart from the last checkpoint may succeed.
    FailAttempt,
    /// The job cannot succeed without a change by the user: do not restart.
    FailJob,
}

/// An error that names the thing, the value seen and the remedy.
#[derive(Clone, Debug)]
pub struct Error {
    severity: Severity,
    message: String,
}

/// Result with the engine's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error after which the same call may succeed.
    pub fn retry(message: impl Into<String>) -> Self {
        Error { severity: Severity::Retry, message: message.into() }
    }
    /// An error that ends this attempt; the restart strategy decides what follows.
    pub fn attempt(message: impl Into<String>) -> Self {
        Error { severity: Severity::FailAttempt, message: message.into() }
    }
    /// An error that no restart cures (bad configuration, bad program, bad input).
    pub fn job(message: impl Into<String>) -> Self {
        Error { severity: Severity::FailJob, message: message.into() }
    }
    /// What the caller must do.
    pub fn severity(&self) -> Severity {
        self.severity
    }
    /// The same error, its message opened by `what: `.
    #[must_use]
    pub fn context(mut self, what: impl fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
