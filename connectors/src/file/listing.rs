//! Which files there are.

use crate::io_error::io_error;
use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tidemill_base::{Error, Result};

use super::position::Identity;

/// A file as it was listed.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
    pub(crate) identity: Identity,
}

/// The files of a path, in the order of their names.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    pub(crate) files: Vec<Listed>,
}

pub(crate) fn identity(metadata: &Metadata) -> Identity {
    (metadata.dev(), metadata.ino())
}

impl Listing {
    /// The file itself, or the directory's regular files that are not hidden.
    pub(crate) fn read(path: &Path, suffix: Option<&str>) -> Result<Listing> {
        let metadata = fs::metadata(path).map_err(|e| io_error("open", path, &e))?;
        let listed =
            |path: PathBuf, m: &Metadata| Listed { path, bytes: m.len(), identity: identity(m) };
        if metadata.is_file() {
            return Ok(Listing { files: vec![listed(path.to_owned(), &metadata)] });
        }
        if !metadata.is_dir() {
            return Err(Error::job(format!(
                "'{}' is neither a regular file nor a directory: copy it into a file first",
                path.display()
            )));
        }
        let mut files = Vec::new();
        for entry in fs::read_dir(path).map_err(|e| io_error("list", path, &e))? {
            let entry = entry.map_err(|e| io_error("list", path, &e))?;
            let (name, path) = (entry.file_name(), entry.path());
            let wanted = suffix.is_none_or(|s| name.as_bytes().ends_with(s.as_bytes()));
            if !wanted || name.as_bytes().starts_with(b".") {
                continue;
            }
            // A file may have gone since the directory was read; a broken link never was one.
            match fs::metadata(&path) {
                Ok(m) if m.is_file() => files.push(listed(path, &m)),
                Ok(_) => {}
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(io_error("open", &path, &e)),
            }
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Listing { files })
    }
}

/// One listing for all subtasks of an attempt in this process (F3): files that grow while the
/// subtasks open would be parted differently by each.
#[derive(Clone, Debug, Default)]
pub(crate) struct SharedListing {
    shared: Arc<Mutex<(u32, Weak<Listing>)>>,
}

impl SharedListing {
    /// The attempt's listing, read by the first who asks; kept while one of them holds it.
    pub(crate) fn get(
        &self,
        attempt: u32,
        read: impl FnOnce() -> Result<Listing>,
    ) -> Result<Arc<Listing>> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(listing) = shared.1.upgrade().filter(|_| shared.0 == attempt) {
            return Ok(listing);
        }
        let listing = Arc::new(read()?);
        *shared = (attempt, Arc::downgrade(&listing));
        Ok(listing)
    }
}
