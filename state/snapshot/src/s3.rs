//! Checkpoints in a bucket of S3, or of a server that speaks its language.
//!
//! ```text
//!   s3://<bucket>/<prefix>
//!     chk-<epoch>/worker-<n>.data     one object per worker (format.rs)
//!     chk-<epoch>/manifest.json       the commit point, written last (s3/commit.rs)
//!     shared/<name>                   files that several checkpoints reference
//! ```
//! Requires a server that shows what it has acknowledged to every reader at once, as S3 does.
//!
//! Invariants
//!   B1  An object becomes visible whole, by one request (s3/upload.rs).
//!   B2  The manifest is put conditionally, and its outcome is known or `InDoubt` (s3/commit.rs).
//!   B3  Every call ends within a small multiple of `S3Limits::operation`, whatever the server does
//!       (s3/bucket.rs).
//!   B4  A shared file with a name by content ([`crate::content_name`]) is stored once: its content is compared
//!       with the name, not with what is stored.
//!   B5  An upload that was given up, or whose process died, leaves at most parts that nobody sees;
//!       `remove_temporary` removes them where the server lists them, a rule of the bucket everywhere.
//!
//! After a failure that the server never explained, a data object may become visible later. No manifest
//! names it, and it goes with its epoch.

mod bucket;
mod client;
mod commit;
mod failure;
mod reader;
mod runtime;
mod settings;
#[cfg(test)]
pub(crate) mod tests;
mod upload;

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};

use sha2::{Digest, Sha256};

use crate::dir::epoch_of;
use crate::error::{Error, Result};
use crate::manifest::{self, MANIFEST_BYTES_MAX, SharedFile};
use crate::store::{self, CheckpointId, ObjectReader, ObjectWriter, SnapshotStore};
use bucket::Bucket;
use failure::{Failure, Kind};
use reader::Reader;
use upload::Upload;

pub use objects::S3Objects;
pub use settings::{PART_BYTES_MIN, S3Credentials, S3Limits, S3Settings};

mod objects;

const MANIFEST: &str = "manifest.json";
const SHARED: &str = "shared/";
/// Opened stores that are remembered.
const STORES_MAX: usize = 256;
/// Leftovers are looked for at the first and then at each so many-th call.
const SWEEP_EVERY: u64 = 64;

/// Checkpoints in a bucket.
#[derive(Clone)]
pub struct S3Store {
    bucket: Bucket,
}

impl S3Store {
    /// The store in a bucket, after a first look into it. Opening the same again asks nothing. Call it from an
    /// unpinned thread: the first call of the process starts the threads for S3.
    ///
    /// # Errors
    /// When settings cannot be, or the bucket cannot be listed.
    pub fn open(settings: &S3Settings) -> Result<Self> {
        static OPENED: Mutex<Vec<(S3Settings, S3Store)>> = Mutex::new(Vec::new());
        let lock = || OPENED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, store)) = lock().iter().find(|(known, _)| known == settings) {
            return Ok(store.clone());
        }
        let bucket = Bucket::new(settings)?;
        let of = bucket.clone();
        let looked = bucket.wait(async move { of.page("", None, 1).await })?;
        looked.map_err(|f| Failure { kind: no_bucket(f.kind), ..f }).map_err(Failure::reading)?;
        let store = S3Store { bucket };
        let mut opened = lock();
        if opened.len() >= STORES_MAX {
            opened.remove(0);
        }
        opened.push((settings.clone(), store.clone()));
        Ok(store)
    }

    /// The same, and makes sure that something can be stored: better to learn now than at the first
    /// checkpoint. Leaves nothing in the bucket.
    ///
    /// # Errors
    /// As [`open`](Self::open), and when nothing can be stored.
    pub fn create(settings: &S3Settings) -> Result<Self> {
        let store = S3Store::open(settings)?;
        let bucket = store.bucket.clone();
        let tried = store.bucket.wait(async move {
            let id = bucket.create("probe", "").await?;
            bucket.abort("probe", &id).await
        })?;
        // A server without multipart uploads takes small checkpoints all the same.
        match tried {
            Err(failure) if failure.kind != Kind::Unsupported => Err(failure.writing()),
            _ => Ok(store),
        }
    }

    fn place(&self, key: &str) -> String {
        self.bucket.place(key)
    }

    fn names(&self, below: &str) -> Result<Vec<(String, u64)>> {
        let (bucket, of) = (self.bucket.clone(), below.to_owned());
        self.bucket.wait(async move { bucket.list(&of).await })?.map_err(Failure::reading)
    }

    fn remove(&self, keys: Vec<String>) -> Result<()> {
        let bucket = self.bucket.clone();
        self.bucket.wait(async move { bucket.delete(&keys).await })?.map_err(Failure::writing)
    }

    /// Length of an object, where there is one.
    fn length(&self, key: &str) -> Result<Option<u64>> {
        let (bucket, of) = (self.bucket.clone(), key.to_owned());
        let head = self.bucket.wait(async move { bucket.head(&of).await })?;
        Ok(head.map_err(Failure::reading)?.map(|head| head.bytes))
    }
}

/// A listing finds no name: it is the bucket that is missing.
fn no_bucket(kind: Kind) -> Kind {
    if kind == Kind::Missing { Kind::Permanent } else { kind }
}

fn epoch_key(epoch: u64, name: &str) -> String {
    format!("chk-{epoch}/{name}")
}

/// The epoch and the rest of `chk-<epoch>/<name>`.
fn of_epoch(key: &str) -> Option<(u64, &str)> {
    let (dir, name) = key.split_once('/')?;
    Some((epoch_of(dir)?, name))
}

/// Whether the store wrote it: anything else is left alone.
fn is_ours(name: &str) -> bool {
    name == MANIFEST || manifest::check_object_name(name).is_ok()
}

impl SnapshotStore for S3Store {
    fn locate(&self, epoch: Option<u64>) -> String {
        let place = self.place(&epoch.map_or_else(String::new, |e| epoch_key(e, "")));
        place.trim_end_matches('/').to_owned()
    }

    fn begin(&self, epoch: u64, name: &str) -> Result<Box<dyn ObjectWriter>> {
        let key = epoch_key(epoch, name);
        manifest::check_object_name(name)
            .map_err(|seen| Error::refused(self.place(&key), seen, "use object_name(worker)"))?;
        let bucket = self.bucket.clone();
        let manifest = epoch_key(epoch, MANIFEST);
        self.bucket.wait(async move { commit::refuse_existing(&bucket, &manifest).await })??;
        Ok(Box::new(Upload::new(&self.bucket, key)))
    }

    fn write_manifest(&self, epoch: u64, bytes: &[u8]) -> Result<()> {
        let key = epoch_key(epoch, MANIFEST);
        if bytes.is_empty() {
            let seen = "an empty manifest is the mark of a checkpoint that was given up";
            return Err(Error::refused(self.place(&key), seen, "report this as a defect"));
        }
        self.bucket.wait(commit::commit(self.bucket.clone(), key, bytes.to_vec()))?
    }

    fn read_manifest(&self, epoch: u64) -> Result<Option<Vec<u8>>> {
        let (bucket, key) = (self.bucket.clone(), epoch_key(epoch, MANIFEST));
        let read = async move { bucket.read(&key, MANIFEST_BYTES_MAX).await };
        let found = self.bucket.wait(read)??;
        // N3.
        Ok(found.filter(|bytes| !bytes.is_empty()).map(|bytes| bytes.to_vec()))
    }

    fn list(&self) -> Result<Vec<CheckpointId>> {
        let mut found: Vec<CheckpointId> = Vec::new();
        for (key, bytes) in self.names("chk-")? {
            let Some((epoch, name)) = of_epoch(&key) else { continue };
            // N3.
            let committed = name == MANIFEST && bytes > 0;
            // Names come in order: those of an epoch one after the other.
            match found.last_mut().filter(|id| id.epoch == epoch) {
                Some(id) => id.committed |= committed,
                None => found.push(CheckpointId { epoch, committed }),
            }
        }
        found.sort_by_key(|id| std::cmp::Reverse(id.epoch));
        Ok(found)
    }

    fn open_object(&self, epoch: u64, name: &str) -> Result<Box<dyn ObjectReader>> {
        let key = epoch_key(epoch, name);
        manifest::check_object_name(name).map_err(|seen| Error::missing(self.place(&key), seen))?;
        Reader::open(&self.bucket, &key)
    }

    fn put_shared(&self, name: &str, content: &mut dyn io::Read) -> Result<SharedFile> {
        let key = format!("{SHARED}{name}");
        let place = self.place(&key);
        manifest::check_shared_name(name)
            .map_err(|seen| Error::refused(&place, seen, "use content_name"))?;
        let stored = self.length(&key)?;
        let mut upload = stored.is_none().then(|| Upload::new(&self.bucket, key.clone()));
        let mut sha = Sha256::new();
        let wanted = store::copy_summed(content, &place, |piece| {
            sha.update(piece);
            upload.as_mut().map_or(Ok(()), |upload| upload.push(piece))
        })?;
        let named = named_by(name, &sha.finalize(), wanted.0);
        if named == Some(false) {
            let seen = "the name is that of other content than is to be stored";
            return Err(Error::refused(
                &place,
                seen,
                "name shared files by their content (content_name)",
            ));
        }
        match (upload, stored) {
            (Some(upload), _) => {
                upload.end()?;
            }
            // B4. Nothing but this content was ever stored under this name.
            (None, Some(bytes)) if named == Some(true) && bytes == wanted.0 => {}
            (None, _) => {
                let found = store::sum(&*Reader::open(&self.bucket, &key)?)?;
                if found != wanted {
                    return Err(store::taken(&place, found, wanted));
                }
            }
        }
        Ok(SharedFile { name: name.to_owned(), bytes: wanted.0, crc32: wanted.1 })
    }

    fn get_shared(&self, name: &str) -> Result<Box<dyn ObjectReader>> {
        let key = format!("{SHARED}{name}");
        manifest::check_shared_name(name).map_err(|seen| Error::missing(self.place(&key), seen))?;
        Reader::open(&self.bucket, &key)
    }

    fn list_shared(&self) -> Result<Vec<String>> {
        let names = self.names(SHARED)?.into_iter();
        let mut found: Vec<String> =
            names.filter_map(|(key, _)| Some(key.strip_prefix(SHARED)?.to_owned())).collect();
        found.retain(|name| manifest::check_shared_name(name).is_ok());
        found.sort();
        Ok(found)
    }

    fn delete(&self, epoch: u64) -> Result<()> {
        // S5: while it is being deleted it must not look complete.
        self.remove(vec![epoch_key(epoch, MANIFEST)])?;
        let below = epoch_key(epoch, "");
        let ours = |key: &String| key.strip_prefix(&below).is_some_and(is_ours);
        self.remove(self.names(&below)?.into_iter().map(|(key, _)| key).filter(ours).collect())
    }

    fn delete_shared(&self, name: &str) -> Result<()> {
        let key = format!("{SHARED}{name}");
        manifest::check_shared_name(name).map_err(|seen| {
            Error::refused(self.place(&key), seen, "use a name from list_shared")
        })?;
        self.remove(vec![key])
    }

    fn remove_temporary(&self) -> Result<u64> {
        let sweeps = &self.bucket.inner().sweeps;
        if !sweeps.fetch_add(1, Ordering::Relaxed).is_multiple_of(SWEEP_EVERY) {
            return Ok(0);
        }
        let newest = self.list()?.iter().find(|id| id.committed).map_or(0, |id| id.epoch);
        let bucket = self.bucket.clone();
        self.bucket.wait(sweep(bucket, newest))?.map_err(Failure::writing)
    }
}

/// Whether a name of [`crate::content_name`]'s form is that of this content; `None` for other names.
fn named_by(name: &str, sha: &[u8], bytes: u64) -> Option<bool> {
    let (hash, rest) = name.split_once('-')?;
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let length: u64 = rest[..digits].parse().ok()?;
    if hash.len() != 32 || !hash.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let same = |(i, pair): (usize, &[u8])| {
        std::str::from_utf8(pair).is_ok_and(|pair| u8::from_str_radix(pair, 16) == Ok(sha[i]))
    };
    Some(length == bytes && hash.as_bytes().chunks(2).enumerate().all(same))
}

/// Gives up the uploads of dead writers: those of epochs that are over, and of shared files.
async fn sweep(bucket: Bucket, newest: u64) -> Result<u64, Failure> {
    let mut given_up = 0;
    for below in ["chk-", SHARED] {
        let open = match bucket.uploads(below).await {
            // Not every server lists them, and not everyone may: the bucket's own rule has to do then.
            Err(failure) if matches!(failure.kind, Kind::Unsupported | Kind::Denied) => {
                tracing::debug!("{}: {}", failure.report.path, failure.report.seen);
                return Ok(0);
            }
            open => open?,
        };
        for (key, id) in open {
            let over = match of_epoch(&key) {
                Some((epoch, name)) => epoch <= newest && is_ours(name),
                None => key.starts_with(SHARED),
            };
            if over {
                bucket.abort(&key, &id).await?;
                given_up += 1;
            }
        }
    }
    Ok(given_up)
}
