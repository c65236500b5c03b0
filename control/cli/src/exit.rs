//! How the process ends: exit codes, and the failures behind them.

use std::process::ExitCode;

use crate::settings::ConfigError;

/// The job failed; or something on this machine did.
pub(crate) const FAILED: u8 = 1;
/// The command line or the configuration is wrong.
pub(crate) const USAGE: u8 = 2;
/// The job was cancelled.
pub(crate) const CANCELLED: u8 = 3;
/// The JobManager refuses.
pub(crate) const REFUSED: u8 = 4;
/// The JobManager cannot be reached.
pub(crate) const UNREACHABLE: u8 = 5;
/// Refused for now: [`REFUSED`] for who started the command.
pub(crate) const UNAVAILABLE: u8 = 254;
/// Ended by Ctrl-C, as a shell has it.
pub(crate) const INTERRUPTED: u8 = 130;

/// For `--help`.
pub(crate) const HELP: &str = "\
Exit codes: 0 done, or the job finished or stopped with a savepoint; 1 the job failed, or something on
this machine did; 2 the command line or the configuration is wrong; 3 the job was cancelled; 4 the
JobManager refuses; 5 it cannot be reached; 130 Ctrl-C.";

/// Why a command ends without having done what it was to do.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Failure {
    code: u8,
    text: String,
}

impl Failure {
    pub(crate) fn new(code: u8, text: impl Into<String>) -> Self {
        Failure { code, text: text.into() }
    }

    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Failure::new(USAGE, text)
    }

    pub(crate) fn here(text: impl Into<String>) -> Self {
        Failure::new(FAILED, text)
    }

    pub(crate) fn code(&self) -> ExitCode {
        ExitCode::from(if self.code == UNAVAILABLE { REFUSED } else { self.code })
    }

    /// Whether the same may be answered later: the JobManager is away, or another is about to lead.
    pub(crate) fn may_pass(&self) -> bool {
        self.code == UNREACHABLE || self.code == UNAVAILABLE
    }
}

impl From<ConfigError> for Failure {
    fn from(e: ConfigError) -> Self {
        Failure::usage(e.to_string())
    }
}
