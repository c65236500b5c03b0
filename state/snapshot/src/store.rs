//! The storage contract. Blocking: called from an unpinned I/O thread, never from a core.
//!
//! Laws (each is a case of the contract suite, run against every implementation)
//!   S1  A checkpoint exists when its manifest does: `write_manifest` is the commit point, and
//!       is all or nothing.
//!   S2  What `finish`, `write_manifest` and `put_shared` have returned survives a crash.
//!   S3  An object is visible when `finish` returned; a writer that is dropped, or failed, leaves
//!       nothing visible.
//!   S4  A committed checkpoint never changes: `begin` and `write_manifest` refuse its epoch.
//!   S5  `delete` takes the manifest away first, and is idempotent.
//!   S6  `put_shared` is idempotent for equal content and refuses other content under a name.

use std::fmt::Write as _;
use std::io;

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::manifest::{Manifest, SharedFile};

/// A checkpoint in a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CheckpointId {
    /// Its epoch.
    pub epoch: u64,
    /// Whether it has a manifest (which may yet prove damaged).
    pub committed: bool,
}

/// Appends to one data object.
pub trait ObjectWriter: Send {
    /// Appends bytes.
    ///
    /// # Errors
    /// After an error the writer is of no more use: drop it, and nothing remains.
    fn append(&mut self, bytes: &[u8]) -> Result<()>;

    /// Makes the object durable and visible; returns its length in bytes.
    ///
    /// # Errors
    /// Nothing remains then.
    fn finish(self: Box<Self>) -> Result<u64>;
}

/// Random access to one object or shared file.
pub trait ObjectReader: Send + Sync {
    /// Length in bytes.
    fn bytes(&self) -> u64;

    /// Where it lies, for messages.
    fn path(&self) -> &str;

    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the object ends before `buf` is full.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()>;
}

/// Where checkpoints live. See the laws at the top of this module.
pub trait SnapshotStore: Send + Sync {
    /// Where the store, or an epoch in it, lies; for messages and for `--restore`.
    fn locate(&self, epoch: Option<u64>) -> String;

    /// Starts the data object `name` (see [`crate::object_name`]) of an epoch. An earlier object
    /// of that name in an uncommitted epoch is replaced when this one is finished.
    ///
    /// # Errors
    /// [`Error::Refused`] for a committed epoch or a malformed name, otherwise by cause.
    fn begin(&self, epoch: u64, name: &str) -> Result<Box<dyn ObjectWriter>>;

    /// Commits: stores the manifest's bytes durably, all or nothing.
    ///
    /// # Errors
    /// [`Error::Refused`] for a committed epoch; [`Error::InDoubt`] when it is not known whether
    /// the manifest is there.
    fn write_manifest(&self, epoch: u64, bytes: &[u8]) -> Result<()>;

    /// The manifest's bytes; `None` when the epoch has none.
    ///
    /// # Errors
    /// By cause.
    fn read_manifest(&self, epoch: u64) -> Result<Option<Vec<u8>>>;

    /// Every epoch of which anything is stored, newest first.
    ///
    /// # Errors
    /// By cause. A store that does not exist yet is empty.
    fn list(&self) -> Result<Vec<CheckpointId>>;

    /// Opens a data object.
    ///
    /// # Errors
    /// [`Error::Missing`] when there is none, otherwise by cause.
    fn open_object(&self, epoch: u64, name: &str) -> Result<Box<dyn ObjectReader>>;

    /// Stores a shared file durably. For `name` see [`content_name`].
    ///
    /// # Errors
    /// [`Error::Refused`] when the name is malformed or taken by other content.
    fn put_shared(&self, name: &str, content: &mut dyn io::Read) -> Result<SharedFile>;

    /// Opens a shared file.
    ///
    /// # Errors
    /// [`Error::Missing`] when there is none, otherwise by cause.
    fn get_shared(&self, name: &str) -> Result<Box<dyn ObjectReader>>;

    /// The names of all shared files.
    ///
    /// # Errors
    /// By cause.
    fn list_shared(&self) -> Result<Vec<String>>;

    /// Deletes an epoch, manifest first. An epoch that does not exist is fine.
    ///
    /// # Errors
    /// By cause; what was not deleted can be deleted by calling again.
    fn delete(&self, epoch: u64) -> Result<()>;

    /// Deletes a shared file. One that does not exist is fine.
    ///
    /// # Errors
    /// By cause.
    fn delete_shared(&self, name: &str) -> Result<()>;

    /// Removes what crashed writers left beside finished files; returns how many. Only to be
    /// called while nothing is being written.
    ///
    /// # Errors
    /// By cause.
    fn remove_temporary(&self) -> Result<u64> {
        Ok(0)
    }

    /// Nothing will be written here any more: removes what a store without checkpoints consists of.
    /// One that still has any is left as it is.
    ///
    /// # Errors
    /// By cause.
    fn close(&self) -> Result<()> {
        Ok(())
    }

    /// Commits a checkpoint: checks that the manifest agrees with itself and that everything it
    /// names is stored at full length, then writes it.
    ///
    /// # Errors
    /// As [`write_manifest`](Self::write_manifest); [`Error::FailCheckpoint`] when the manifest
    /// contradicts itself or the store.
    fn put_manifest(&self, manifest: &Manifest) -> Result<()> {
        let place = self.locate(Some(manifest.epoch));
        let wrong = |seen: String| {
            let remedy = "nothing was committed; the previous checkpoint stays valid";
            Error::fail_checkpoint(&place, format!("cannot commit: {seen}"), remedy)
        };
        let bytes = manifest.encode().map_err(wrong)?;
        let check = |name: &str, want: u64, found: Result<Box<dyn ObjectReader>>| match found {
            Ok(object) if object.bytes() == want => Ok(()),
            Ok(object) => Err(wrong(format!("{name} has {} of {want} bytes", object.bytes()))),
            Err(Error::Missing(_)) => Err(wrong(format!(
                "{name} is not stored here: do all hosts write to the same place under this name?"
            ))),
            Err(e) => Err(e),
        };
        for o in &manifest.objects {
            check(&o.name, o.bytes, self.open_object(manifest.epoch, &o.name))?;
        }
        for s in &manifest.shared {
            check(&format!("shared file {}", s.name), s.bytes, self.get_shared(&s.name))?;
        }
        self.write_manifest(manifest.epoch, &bytes)
    }

    /// Reads and verifies a manifest (not the objects: see [`crate::verify`]).
    ///
    /// # Errors
    /// [`Error::Missing`] when the epoch is not committed, [`Error::Damaged`] when the manifest
    /// is torn, altered or another epoch's, [`Error::Refused`] when it is of another version.
    fn load_manifest(&self, epoch: u64) -> Result<Manifest> {
        use crate::manifest::Unreadable;
        let place = self.locate(Some(epoch));
        let Some(bytes) = self.read_manifest(epoch)? else {
            return Err(Error::missing(
                place,
                "has no manifest: it is not there, or was never completed",
            ));
        };
        let manifest = Manifest::read(&bytes).map_err(|e| match e {
            Unreadable::Damaged(seen) => Error::damaged(&place, format!("manifest is {seen}")),
            Unreadable::Version(found) => Error::refused(
                &place,
                format!("manifest version {found}, this build reads {}", crate::MANIFEST_VERSION),
                "run the build that wrote it, or restore from another checkpoint",
            ),
        })?;
        if manifest.epoch != epoch {
            let seen = format!("the manifest is that of epoch {}", manifest.epoch);
            return Err(Error::damaged(place, seen));
        }
        Ok(manifest)
    }
}

/// A name for a shared file that no other content has: 128 bits of its SHA-256, its length in
/// bytes and a suffix, as in `4f1c…-65536.sst`.
///
/// # Errors
/// Those of the reader.
pub fn content_name(content: &mut dyn io::Read, suffix: &str) -> io::Result<String> {
    Ok(describe(content, suffix)?.name)
}

/// What [`SnapshotStore::put_shared`] will return for this content under its
/// [`content_name`].
///
/// # Errors
/// Those of the reader.
pub fn describe(content: &mut dyn io::Read, suffix: &str) -> io::Result<SharedFile> {
    let (mut sha, mut crc) = (Sha256::new(), crc32fast::Hasher::new());
    let mut bytes = 0u64;
    let mut buf = vec![0; 64 << 10];
    loop {
        match content.read(&mut buf) {
            Ok(0) => break,
            Ok(n) => {
                sha.update(&buf[..n]);
                crc.update(&buf[..n]);
                bytes += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    let mut name = String::with_capacity(64);
    for byte in &sha.finalize()[..16] {
        let _ = write!(name, "{byte:02x}");
    }
    let _ = write!(name, "-{bytes}{suffix}");
    Ok(SharedFile { name, bytes, crc32: crc.finalize() })
}

/// Copies a reader in pieces, counting and summing; `sink` takes each piece.
pub(crate) fn copy_summed(
    content: &mut dyn io::Read,
    place: &str,
    mut sink: impl FnMut(&[u8]) -> Result<()>,
) -> Result<(u64, u32)> {
    let mut crc = crc32fast::Hasher::new();
    let mut bytes = 0u64;
    let mut buf = vec![0; 256 << 10];
    loop {
        match content.read(&mut buf) {
            Ok(0) => return Ok((bytes, crc.finalize())),
            Ok(n) => {
                crc.update(&buf[..n]);
                bytes += n as u64;
                sink(&buf[..n])?;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => {
                let seen = format!("cannot read the content to be stored: {e}");
                let remedy = "check the disk that holds the state backend's files";
                return Err(Error::fail_checkpoint(place, seen, remedy));
            }
        }
    }
}

/// Length and crc32 of a stored file.
pub(crate) fn sum(object: &dyn ObjectReader) -> Result<(u64, u32)> {
    let mut crc = crc32fast::Hasher::new();
    let mut buf = vec![0; 256 << 10];
    let mut at = 0;
    while at < object.bytes() {
        let n = (object.bytes() - at).min(buf.len() as u64) as usize;
        object.read_at(at, &mut buf[..n])?;
        crc.update(&buf[..n]);
        at += n as u64;
    }
    Ok((at, crc.finalize()))
}

/// What to say to a reader that asks for more than there is.
pub(crate) fn beyond(object: &dyn ObjectReader, offset: u64, n: usize) -> Error {
    let len = object.bytes();
    let seen = format!("torn: ends at byte {len}, but {n} bytes from {offset} were expected");
    Error::damaged(object.path(), seen)
}

/// S6: what to say when a name is taken by other content.
pub(crate) fn taken(place: &str, found: (u64, u32), wanted: (u64, u32)) -> Error {
    let (fb, fc, wb, wc) = (found.0, found.1, wanted.0, wanted.1);
    let seen = format!(
        "already holds {fb} bytes with crc32 {fc:08x}, not the {wb} bytes with crc32 {wc:08x} to be stored"
    );
    Error::refused(place, seen, "name shared files by their content (content_name)")
}

/// S4: what to say to a writer of a committed epoch.
pub(crate) fn committed(place: &str) -> Error {
    let remedy = "continue at an epoch beyond all that exist (Restored::next_epoch)";
    Error::refused(place, "this checkpoint is complete and never changes", remedy)
}
