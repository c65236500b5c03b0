//! Program files in a directory.
//!
//! ```text
//!   DIR/<hash>         a program
//!   DIR/.put-<chance>  one that is being stored; locked by who does
//! ```
//! Invariants
//!   D1  A file gets its name by rename, when its content is on the disk and has been found to have that
//!       hash; the directory is on the disk before `put` returns. So a name never stands for other bytes.
//!   D2  What a crash left is removed at the next opening: it is what nobody holds a lock on.
//!   D3  Nothing is named by a client: a name is a hash, or chance.
//!
//! `open` does not hash again: whoever fetches a program checks what arrived.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tempfile::Builder;
use tidemill_protocol::ArtifactHash;

use super::{ArtifactError, ArtifactReader, ArtifactStore, Pending};
use crate::config::JobManagerError;

const UNFINISHED: &str = ".put-";
/// What is copied at once.
const PIECE_BYTES: usize = 256 << 10;

/// Program files in a directory; several JobManagers may share one.
#[derive(Clone, Debug)]
pub struct DirArtifacts {
    path: PathBuf,
}

impl DirArtifacts {
    /// Opens a directory, or makes it where there is none; blocking.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn open(path: &Path) -> Result<Self, JobManagerError> {
        let failed = |e: io::Error| {
            JobManagerError::Store(format!(
                "the artifacts' directory {}: {e}; give one that can be written",
                path.display()
            ))
        };
        fs::create_dir_all(path).map_err(failed)?;
        if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed)?;
        }
        // Better to learn now than at the first upload that nothing can be written here.
        Builder::new().prefix(UNFINISHED).tempfile_in(path).map_err(failed)?;
        remove_unfinished(path).map_err(failed)?;
        Ok(DirArtifacts { path: path.to_owned() })
    }

    fn file(&self, hash: &ArtifactHash) -> PathBuf {
        self.path.join(hash.as_str())
    }

    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> io::Result<T> + Send + 'static,
    ) -> Result<T, ArtifactError> {
        let store = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&store)).await;
        let done = done.unwrap_or_else(|e| Err(io::Error::other(e)));
        done.map_err(|e| ArtifactError(format!("{}: {e}", self.path.display())))
    }

    fn store(&self, hash: &ArtifactHash, source: &Path) -> io::Result<()> {
        let mut source = File::open(source)?;
        let mut new = Builder::new().prefix(UNFINISHED).tempfile_in(&self.path)?;
        new.as_file().lock()?;
        let mut digest = Sha256::new();
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let read = match source.read(&mut piece) {
                Ok(0) => break,
                Ok(read) => &piece[..read],
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            digest.update(read);
            new.write_all(read)?;
        }
        let found = ArtifactHash::from_bytes(digest.finalize().into());
        if found != *hash {
            let what =
                format!("a file that is said to be {hash} is {found}: it was changed meanwhile");
            return Err(io::Error::new(ErrorKind::InvalidData, what));
        }
        new.as_file().sync_all()?;
        new.persist(self.file(hash)).map_err(|e| e.error)?;
        File::open(&self.path)?.sync_all()
    }

    fn hashes(&self) -> io::Result<Vec<ArtifactHash>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            all.extend(entry?.file_name().to_str().and_then(|name| name.parse().ok()));
        }
        all.sort();
        Ok(all)
    }
}

fn unless_absent(e: io::Error) -> io::Result<()> {
    if e.kind() == ErrorKind::NotFound { Ok(()) } else { Err(e) }
}

/// D2.
fn remove_unfinished(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            continue;
        }
        match File::open(entry.path()) {
            // Somebody writes it.
            Ok(file) if file.try_lock().is_err() => {}
            Ok(_) => fs::remove_file(entry.path()).or_else(unless_absent)?,
            Err(e) => unless_absent(e)?,
        }
    }
    Ok(())
}

impl ArtifactStore for DirArtifacts {
    fn put<'a>(
        &'a self,
        hash: &'a ArtifactHash,
        file: &'a Path,
    ) -> Pending<'a, Result<(), ArtifactError>> {
        let (hash, file) = (hash.clone(), file.to_owned());
        Box::pin(self.work(move |store| store.store(&hash, &file)))
    }

    fn open<'a>(
        &'a self,
        hash: &'a ArtifactHash,
    ) -> Pending<'a, Result<Option<ArtifactReader>, ArtifactError>> {
        let hash = hash.clone();
        Box::pin(self.work(move |store| {
            let file = match File::open(store.file(&hash)) {
                Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
                file => file?,
            };
            let bytes = file.metadata()?.len();
            Ok(Some(ArtifactReader { bytes, content: Box::new(tokio::fs::File::from_std(file)) }))
        }))
    }

    fn delete<'a>(&'a self, hash: &'a ArtifactHash) -> Pending<'a, Result<(), ArtifactError>> {
        let hash = hash.clone();
        Box::pin(self.work(move |store| fs::remove_file(store.file(&hash)).or_else(unless_absent)))
    }

    fn list(&self) -> Pending<'_, Result<Vec<ArtifactHash>, ArtifactError>> {
        Box::pin(self.work(|store| store.hashes()))
    }
}
