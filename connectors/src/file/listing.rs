//! Which files there are.

use crate::io_error::io_error;
use std::fs::{self, Metadata};
use std::io::ErrorKind;
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

impl Listed {
    pub(crate) fn new(path: PathBuf, metadata: &Metadata) -> Self {
        Listed { path, bytes: metadata.len(), identity: identity(metadata) }
    }
}

/// The files of a path, in the order of their names.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    pub(crate) files: Vec<Listed>,
}

pub(crate) fn identity(metadata: &Metadata) -> Identity {
    (metadata.dev(), metadata.ino())
}

/// Which files: one, or those of a directory.
#[derive(Clone, Debug)]
pub(crate) struct Selection {
    pub(crate) path: PathBuf,
    /// How their names end.
    pub(crate) suffix: Option<String>,
    /// Those of the directories in it too, which are not hidden; links to directories are not
    /// followed.
    pub(crate) recursive: bool,
}

impl Selection {
    /// The file itself, or the directory's regular files that are not hidden.
    pub(crate) fn list(&self) -> Result<Listing> {
        let path = &self.path;
        let metadata = fs::metadata(path).map_err(|e| io_error("open", path, &e))?;
        if metadata.is_file() {
            return Ok(Listing { files: vec![Listed::new(path.to_owned(), &metadata)] });
        }
        if !metadata.is_dir() {
            return Err(Error::job(format!(
                "'{}' is neither a regular file nor a directory: copy it into a file first",
                path.display()
            )));
        }
        let (mut files, mut folders) = (Vec::new(), Vec::new());
        self.list_folder(path, &mut files, &mut folders)?;
        while let Some(folder) = folders.pop() {
            match self.list_folder(&folder, &mut files, &mut folders) {
                // It may have gone since the one that it was in was read.
                Err(_) if !folder.exists() => {}
                listed => listed?,
            }
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Listing { files })
    }

    fn list_folder(
        &self,
        folder: &Path,
        files: &mut Vec<Listed>,
        folders: &mut Vec<PathBuf>,
    ) -> Result<()> {
        let failed = |e| io_error("list", folder, &e);
        for entry in fs::read_dir(folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let (name, path) = (entry.file_name(), entry.path());
            if name.as_bytes().starts_with(b".") {
                continue;
            }
            if self.recursive && entry.file_type().is_ok_and(|t| t.is_dir()) {
                folders.push(path);
                continue;
            }
            if self.suffix.as_ref().is_some_and(|s| !name.as_bytes().ends_with(s.as_bytes())) {
                continue;
            }
            // A file may have gone since the directory was read; a broken link never was one.
            match fs::metadata(&path) {
                Ok(m) if m.is_file() => files.push(Listed::new(path, &m)),
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => return Err(io_error("open", &path, &e)),
            }
        }
        Ok(())
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
