//! Errors of the operating system, with the path and the remedy.

use std::io::{self, ErrorKind};
use std::path::Path;
use tidemill_base::Error;

/// An error while `doing` (e.g. `open`) something to `path`. What only the user can cure fails the
/// job, everything else the attempt.
pub(crate) fn io_error(doing: &str, path: &Path, error: &io::Error) -> Error {
    let (job, remedy) = match error.kind() {
        ErrorKind::NotFound => (true, "check the path"),
        ErrorKind::PermissionDenied => (true, "give this user the permission, on its folders too"),
        ErrorKind::ReadOnlyFilesystem | ErrorKind::NotADirectory | ErrorKind::IsADirectory => {
            (true, "choose another path")
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => (false, "free some space"),
        _ if error.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error()) => {
            (false, "raise the limit of open files (ulimit -n)")
        }
        _ => (false, "see the system's log"),
    };
    let message = format!("cannot {doing} '{}': {error}; {remedy}", path.display());
    if job { Error::job(message) } else { Error::attempt(message) }
}
