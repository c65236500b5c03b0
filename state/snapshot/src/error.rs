//! What went wrong, and what the caller must do about it.
//!
//! The variant is the instruction; the [`Report`] inside names the file, what was seen there,
//! and the remedy. Nothing here is logged: an error is either handed on or logged, never both.

use std::fmt;
use std::io;
use std::path::Path;

/// Result of every call of this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure of the checkpoint store, by what the caller must do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Transient: the same call may succeed later, and nothing has been changed.
    #[error("{0}")]
    Retry(Report),
    /// This checkpoint is lost; the job goes on and a later checkpoint may succeed.
    #[error("{0}")]
    FailCheckpoint(Report),
    /// The commit may or may not have happened and could not be undone. Do not treat the epoch
    /// as failed (two-phase sinks must not roll back): stop the job and restore.
    #[error("{0}")]
    InDoubt(Report),
    /// Stored bytes are not what was written. Another checkpoint must be used.
    #[error("{0}")]
    Damaged(Report),
    /// The named thing does not exist.
    #[error("{0}")]
    Missing(Report),
    /// Repeating cannot help: the caller or the user must change something first.
    #[error("{0}")]
    Refused(Report),
}

/// The file, what was seen, and the remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Path of the file or directory, or address of the object.
    pub path: String,
    /// What was seen there.
    pub seen: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.path, self.seen, self.remedy)
    }
}

const REMEDY_DAMAGED: &str =
    "restore from another checkpoint or a savepoint, and check the disk that holds this one";

impl Error {
    /// The report inside, whatever the class.
    pub fn report(&self) -> &Report {
        match self {
            Error::Retry(r)
            | Error::FailCheckpoint(r)
            | Error::InDoubt(r)
            | Error::Damaged(r)
            | Error::Missing(r)
            | Error::Refused(r) => r,
        }
    }

    pub(crate) fn damaged(path: impl fmt::Display, seen: impl fmt::Display) -> Self {
        Error::Damaged(report(path, seen, REMEDY_DAMAGED))
    }

    pub(crate) fn missing(path: impl fmt::Display, seen: impl fmt::Display) -> Self {
        Error::Missing(report(path, seen, "check the path, or restore from another checkpoint"))
    }

    pub(crate) fn refused(
        path: impl fmt::Display,
        seen: impl fmt::Display,
        remedy: impl fmt::Display,
    ) -> Self {
        Error::Refused(report(path, seen, remedy))
    }

    pub(crate) fn fail_checkpoint(
        path: impl fmt::Display,
        seen: impl fmt::Display,
        remedy: impl fmt::Display,
    ) -> Self {
        Error::FailCheckpoint(report(path, seen, remedy))
    }

    /// Classifies a failed write of `path`; `doing` is a verb phrase ("cannot rename").
    pub(crate) fn writing(doing: &str, path: &Path, e: &io::Error) -> Self {
        use io::ErrorKind as K;
        let remedy = match e.kind() {
            K::Interrupted | K::TimedOut | K::WouldBlock | K::ResourceBusy => {
                let remedy = "this looks transient: the next attempt may succeed";
                return Error::Retry(report(path.display(), format!("{doing}: {e}"), remedy));
            }
            K::StorageFull | K::QuotaExceeded | K::FileTooLarge => {
                "free space on this disk, keep fewer checkpoints, or choose another --checkpoint-dir"
            }
            K::PermissionDenied | K::ReadOnlyFilesystem => {
                "give this user write access, or choose another --checkpoint-dir"
            }
            K::NotFound => "the checkpoint directory was removed or unmounted: restore it",
            _ => "check the disk and the kernel's log, or choose another --checkpoint-dir",
        };
        Error::FailCheckpoint(report(path.display(), format!("{doing}: {e}"), remedy))
    }

    /// Classifies a failed read of `path`; `doing` is a verb phrase ("cannot open").
    pub(crate) fn reading(doing: &str, path: &Path, e: &io::Error) -> Self {
        use io::ErrorKind as K;
        const EIO: i32 = 5;
        let (path, seen) = (path.display(), format!("{doing}: {e}"));
        match e.kind() {
            K::NotFound => Error::missing(path, seen),
            K::Interrupted | K::TimedOut | K::WouldBlock | K::ResourceBusy => {
                Error::Retry(report(path, seen, "this looks transient: try again"))
            }
            K::UnexpectedEof | K::InvalidData | K::NotADirectory | K::IsADirectory => {
                Error::damaged(path, seen)
            }
            _ if e.raw_os_error() == Some(EIO) => Error::damaged(path, seen),
            K::PermissionDenied => Error::refused(path, seen, "give this user read access"),
            _ => Error::refused(path, seen, "cure the cause named above, then try again"),
        }
    }
}

fn report(path: impl fmt::Display, seen: impl fmt::Display, remedy: impl fmt::Display) -> Report {
    Report { path: path.to_string(), seen: seen.to_string(), remedy: remedy.to_string() }
}
