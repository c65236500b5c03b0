//! Secrets: read from files or the environment, never from the command line.
//!
//! Invariants
//!   X1  A secret that this process makes is readable by its user alone from the first moment.
//!   X2  A file is made by one process at most; others read what it wrote.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tidemill_protocol::auth::Key;
use tracing::{info, warn};

use crate::exit::Failure;
use crate::settings::Settings;

/// Bytes of a secret that is made.
const SECRET_BYTES: usize = 32;

/// Whether a missing cluster secret is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    Make,
    Refuse,
}

/// The cluster secret.
///
/// # Errors
/// There is none, or it cannot be read or made.
pub(crate) fn cluster(
    settings: &Settings,
    data_dir: &Path,
    missing: Missing,
) -> Result<Key, Failure> {
    if let Some(secret) = variable("TIDEMILL_SECRET")? {
        return Ok(Key::from_secret(&secret));
    }
    let named = settings.path("security.secret_file");
    let path = named.clone().unwrap_or_else(|| data_dir.join("cluster.secret"));
    match read(&path) {
        Ok(secret) => Ok(Key::from_secret(&secret)),
        Err(e) if e.kind() == ErrorKind::NotFound && named.is_none() => match missing {
            Missing::Make => make(&path),
            Missing::Refuse => Err(Failure::usage(format!(
                "there is no cluster secret in {}: copy that file from the JobManager's data directory, or give \
                 security.secret_file or TIDEMILL_SECRET",
                path.display()
            ))),
        },
        Err(e) => Err(Failure::usage(format!("the cluster secret {}: {e}", path.display()))),
    }
}

/// The token of REST, if there is one.
///
/// # Errors
/// It is named and cannot be read.
pub(crate) fn token(settings: &Settings) -> Result<Option<String>, Failure> {
    if let Some(token) = variable("TIDEMILL_TOKEN")? {
        return Ok(Some(token));
    }
    let Some(path) = settings.path("security.token_file") else { return Ok(None) };
    let wrong = |e| Failure::usage(format!("security.token_file {}: {e}", path.display()));
    read(&path).map(Some).map_err(wrong)
}

/// A variable that holds a secret.
fn variable(name: &str) -> Result<Option<String>, Failure> {
    match std::env::var(name) {
        Ok(text) if text.trim().is_empty() => {
            Err(Failure::usage(format!("the variable {name} is empty: give a value, or none")))
        }
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(e) => Err(Failure::usage(format!("the variable {name}: {e}"))),
    }
}

/// A file's text, without blanks around it.
pub(crate) fn read(path: &PathBuf) -> std::io::Result<String> {
    let mode = fs::metadata(path)?.permissions().mode();
    if mode & 0o004 != 0 {
        warn!("{}: every user of this host can read it; chmod 600 it", path.display());
    }
    let text = fs::read_to_string(path)?.trim().to_owned();
    if text.is_empty() {
        return Err(std::io::Error::other("it is empty"));
    }
    Ok(text)
}

/// Makes a secret (X1, X2).
fn make(path: &Path) -> Result<Key, Failure> {
    let cannot = |e: String| {
        Failure::here(format!("a cluster secret cannot be made in {}: {e}", path.display()))
    };
    let mut bytes = [0; SECRET_BYTES];
    getrandom::fill(&mut bytes).map_err(|e| cannot(e.to_string()))?;
    let text: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    // Whole under its name, or not there: a rename that fails where somebody was faster.
    let own = path.with_extension(format!("new-{}", std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&own)?;
        writeln!(file, "{text}")?;
        file.sync_all()?;
        fs::hard_link(&own, path)
    };
    let written = write();
    let _ = fs::remove_file(&own);
    match written {
        Ok(()) => {
            info!("made a cluster secret: {}", path.display());
            Ok(Key::from_secret(&text))
        }
        Err(e) if e.kind() == ErrorKind::AlreadyExists => read(&path.to_owned())
            .map(|secret| Key::from_secret(&secret))
            .map_err(|e| cannot(e.to_string())),
        Err(e) => Err(cannot(e.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_made_once_and_for_its_user_alone() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("cluster.secret");
        let first = make(&path).expect("made");
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let second = make(&path).expect("read");
        assert!(first == second, "X2");
        assert_eq!(fs::read_dir(dir.path()).expect("dir").count(), 1, "nothing else is left");
    }

    #[test]
    fn an_empty_file_is_no_secret() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("secret");
        fs::write(&path, " \n").expect("write");
        assert!(read(&path).expect_err("empty").to_string().contains("empty"));
    }
}
