//! Following files as they grow, are rotated, appear and go.
//!
//! Invariants
//!   T1  A file is known by its inode while it is open, which keeps the inode from being used again;
//!       after a restart by its inode or else its path, and by its first bytes.
//!   T2  A file belongs to the subtask that the checkpoint's entry was dealt to; one that the
//!       checkpoint does not know, to the hash of its inode. All subtasks agree on it.

use super::block::read_full;
use super::listing::{Listed, Listing, Selection};
use super::position::{Entry, Identity, Tailed};
use super::reader::{Assignment, SourceFile, identity_of, open_sequential};
use crate::io_error::io_error;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tidemill_base::hash::{combine, hash_u64};
use tidemill_base::{Error, Micros, Result};
use tidemill_runtime::source::SourceContext;

/// How often to look for new files.
const LOOK_EVERY_US: Micros = 1_000_000;

/// A file that is not listed any more and has been silent for so long is forgotten.
const FORGET_AFTER_US: Micros = 60_000_000;

/// Bytes that tell a file from another with the same inode.
const HEAD_BYTES: u64 = 1 << 10;

/// A file to follow, open.
pub(crate) struct Followed {
    pub(crate) path: PathBuf,
    pub(crate) identity: Identity,
    pub(crate) handle: File,
    pub(crate) position: u64,
}

/// What is known of a file that is followed.
pub(crate) struct Tracked {
    pub(crate) identity: Identity,
    /// Length and checksum of its first bytes.
    head: (u64, u64),
    /// When the source began not to list it.
    unlisted: Option<Micros>,
    /// How much of it had been read, and when that was new.
    seen: (u64, Micros),
}

impl Tracked {
    pub(crate) fn new(identity: Identity) -> Self {
        Tracked { identity, head: (0, 0), unlisted: None, seen: (0, 0) }
    }
}

/// Where new files are looked for, and whose they are.
pub(crate) struct Follow {
    selection: Selection,
    look_at: Micros,
    subtask: u32,
    parallelism: u32,
    /// In the checkpoint, dealt to this subtask.
    own: HashSet<Identity>,
    /// In the checkpoint, dealt to another.
    foreign: HashSet<Identity>,
}

/// Whose a new file is.
fn owner((dev, ino): Identity, parallelism: u32) -> u32 {
    (combine(hash_u64(dev), hash_u64(ino)) % u64::from(parallelism.max(1))) as u32
}

fn list(selection: &Selection) -> Result<Listing> {
    match std::fs::metadata(&selection.path) {
        // Between two files of a rotation.
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Listing::default()),
        _ => selection.list(),
    }
}

/// Opens a listed file; `None` if another has taken its place, or none.
fn open(listed: &Listed, position: u64) -> Result<Option<Followed>> {
    let handle = match open_sequential(&listed.path) {
        Ok(handle) => handle,
        Err(_) if !listed.path.exists() => return Ok(None),
        Err(e) => return Err(e),
    };
    let (path, identity) = (listed.path.clone(), identity_of(&handle, &listed.path)?);
    let same = identity == listed.identity;
    Ok(same.then_some(Followed { path, identity, handle, position }))
}

/// The files of a fresh start.
pub(crate) fn fresh(listing: &Arc<Listing>, cx: &SourceContext) -> Result<Assignment> {
    let mut followed = Vec::new();
    for file in &listing.files {
        if owner(file.identity, cx.parallelism) == cx.subtask {
            followed.extend(open(file, 0)?);
        }
    }
    let listing = Some(listing.clone());
    Ok(Assignment { parts: Vec::new(), followed, foreign: Vec::new(), listing })
}

/// The files of a checkpoint, as far as they are still there.
pub(crate) fn restore(
    selection: &Selection,
    skip_missing: bool,
    cx: &SourceContext,
) -> Result<Assignment> {
    let (mut followed, mut foreign) = (Vec::new(), Vec::new());
    for (i, entry) in cx.all_restored().into_iter().enumerate() {
        let tailed = match Entry::decode(entry)? {
            Entry::Marker => continue,
            Entry::Tailed(tailed) => tailed,
            Entry::Range { path, .. } => {
                return Err(Error::job(format!(
                    "the checkpoint is of a source that reads '{}' once: restore it without \
                     .tail(true)",
                    path.display()
                )));
            }
        };
        let mine = i as u32 % cx.parallelism.max(1) == cx.subtask;
        match (resolve(selection, &tailed)?, mine) {
            (Some(file), true) => followed.push(file),
            (Some(file), false) => foreign.push(file.identity),
            (None, true) if skip_missing => tracing::warn!(
                path = %tailed.path.display(),
                position = tailed.position,
                "the file of the checkpoint has gone; going on without it"
            ),
            (None, true) => return Err(missing(&tailed)),
            (None, false) => {}
        }
    }
    Ok(Assignment { parts: Vec::new(), followed, foreign, listing: None })
}

#[cold]
fn missing(tailed: &Tailed) -> Error {
    Error::job(format!(
        "'{}', read up to byte {} when the checkpoint was made, is not there any more, under this \
         or another name: put it back, or go on without it by .skip_missing(true)",
        tailed.path.display(),
        tailed.position
    ))
}

/// Finds a file of the checkpoint again (T1).
fn resolve(selection: &Selection, tailed: &Tailed) -> Result<Option<Followed>> {
    let path = &selection.path;
    let folder = if path.is_dir() { Some(path.as_path()) } else { path.parent() };
    let folder = folder.filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let recursive = selection.recursive && path.is_dir();
    let all = Selection { path: folder.to_owned(), suffix: None, recursive };
    let listed = list(&all)?.files;
    let same_inode = listed.iter().find(|l| l.identity == tailed.identity);
    let by_path =
        std::fs::metadata(&tailed.path).ok().map(|m| Listed::new(tailed.path.clone(), &m));
    for candidate in same_inode.into_iter().chain(&by_path) {
        if let Some(found) = open(candidate, tailed.position)?
            && candidate.bytes >= tailed.head.0
            && head(&found.handle, &found.path, tailed.head.0)? == tailed.head
        {
            if candidate.bytes < tailed.position {
                let file = SourceFile::<()>::closed(candidate.path.clone());
                return Err(file.shrunk(candidate.bytes, tailed.position));
            }
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Length and checksum of the first `bytes` bytes, which are there.
fn head(file: &File, path: &Path, bytes: u64) -> Result<(u64, u64)> {
    let mut start = vec![0; bytes.min(HEAD_BYTES) as usize];
    let have = read_full(file, path, &mut start, 0)?;
    Ok((have as u64, u64::from(crc32fast::hash(&start[..have]))))
}

impl Follow {
    pub(crate) fn new(selection: &Selection, assignment: &Assignment, cx: &SourceContext) -> Self {
        Follow {
            selection: selection.clone(),
            look_at: 0,
            subtask: cx.subtask,
            parallelism: cx.parallelism,
            own: assignment.followed.iter().map(|f| f.identity).collect(),
            foreign: assignment.foreign.iter().copied().collect(),
        }
    }

    pub(crate) fn is_due(&self, now: Micros) -> bool {
        now >= self.look_at
    }

    /// Notes what became of the files, and opens those that are new to this subtask.
    pub(crate) fn look<H>(
        &mut self,
        now: Micros,
        files: &mut [SourceFile<H>],
    ) -> Result<Vec<Followed>> {
        self.look_at = now + LOOK_EVERY_US;
        let mut known = HashMap::new();
        for file in files.iter_mut() {
            if let Some(tracked) = &mut file.tracked {
                tracked.unlisted.get_or_insert(now);
                known.insert(tracked.identity, file);
            }
        }
        let mut new = Vec::new();
        for listed in list(&self.selection)?.files {
            if let Some(file) = known.get_mut(&listed.identity) {
                if let Some(tracked) = &mut file.tracked {
                    tracked.unlisted = None;
                }
                file.path = listed.path;
            } else if self.is_mine(listed.identity) {
                new.extend(open(&listed, 0)?);
            }
        }
        Ok(new)
    }

    fn is_mine(&self, identity: Identity) -> bool {
        let hashed = || owner(identity, self.parallelism) == self.subtask;
        self.own.contains(&identity) || (!self.foreign.contains(&identity) && hashed())
    }
}

impl<H> SourceFile<H> {
    /// The file as the checkpoint stores it.
    pub(crate) fn tailed(&mut self, position: u64) -> Result<Tailed> {
        let handle = self.handle()?;
        let (identity, mut known) = match &self.tracked {
            Some(tracked) => (tracked.identity, tracked.head),
            None => (identity_of(handle, &self.path)?, (0, 0)),
        };
        if known.0 < HEAD_BYTES.min(position) {
            known = head(handle, &self.path, position)?;
        }
        if let Some(tracked) = &mut self.tracked {
            tracked.head = known;
        }
        Ok(Tailed { path: self.path.clone(), identity, position, head: known })
    }

    /// All of the file has been read up to `position`. Where it ends, if it is gone: deleted, or
    /// not listed and silent for a while.
    pub(crate) fn end_of_gone(&mut self, position: u64, now: Micros) -> Result<Option<u64>> {
        let metadata = self.handle()?.metadata().map_err(|e| io_error("read", &self.path, &e))?;
        if metadata.len() < position {
            return Err(self.shrunk(metadata.len(), position));
        }
        let Some(tracked) = &mut self.tracked else { return Ok(None) };
        if tracked.seen.0 != metadata.len() {
            tracked.seen = (metadata.len(), now);
        }
        let since = tracked.unlisted.map(|at| at.max(tracked.seen.1));
        let forgotten = since.is_some_and(|at| now >= at + FORGET_AFTER_US);
        Ok((metadata.nlink() == 0 || forgotten).then_some(metadata.len()))
    }
}
