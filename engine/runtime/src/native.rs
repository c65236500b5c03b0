//! Checkpoints of state in RocksDB as the database's own files.
//!
//! A subtask's operator leaves in its snapshot one entry a file: small ones with their content,
//! tables by the name under which they are stored as shared files. Tables that the last complete
//! checkpoint of this life has are referred to; others are uploaded.
//!
//! ```text
//! begin -> tables flushed (part.rs) -> poll: checkpoint, checksums (elsewhere) -> files, entries
//! committed: the next checkpoint may refer to these tables
//! ```
//!
//! Invariants
//!   N1  A table is referred to only if a complete checkpoint of this life of the database has it:
//!       that one is kept until a later one is complete, and so is the stored file.
//!   N2  Links to uploaded files stay until their checkpoint or a later one is complete: until then
//!       the writer may read them.

mod restore;
#[cfg(test)]
mod tests;

pub(crate) use restore::{open, restore_on_heap};

use crate::context::{Context, SectionId, SectionKind, TaskEvent};
use crate::keyed_snapshot::encode_record;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use tidemill_base::{Error, Result};
use tidemill_keyed::rocks::{CheckpointJob, LazyDatabase, Memory, Outcome};
use tidemill_snapshot::{ShareSource, SharedFile, describe};

/// Longest file whose content is in its entry.
const INLINE_BYTES_MAX: u64 = 4 << 20;

/// Entry of a file: parallelism of the operator that wrote it, name in the database, then the
/// shared file (name, bytes, crc32) or the content.
type FileRecord = (u32, String, Option<(String, u64, u32)>, Vec<u8>);

/// Where an operator's entries of files are.
fn section(operator: u64) -> SectionId {
    SectionId { operator, kind: SectionKind::OperatorState, state: u16::MAX }
}

/// A checkpoint that was made, ready to be handed over.
struct Made {
    dir: PathBuf,
    files: Vec<(String, Kept)>,
}

enum Kept {
    /// A shared file.
    Table(SharedFile),
    Inline(Vec<u8>),
}

type Tables = BTreeMap<String, SharedFile>;

/// The native checkpoints of one operator's subtask. Clones share them.
#[derive(Clone)]
pub struct Native(Rc<Inner>);

struct Inner {
    operator: u64,
    database: LazyDatabase,
    memory: Memory,
    /// Checkpoints are linked below it.
    dir: PathBuf,
    running: RefCell<Option<Outcome<Result<Made>>>>,
    /// Tables of the last complete checkpoint.
    known: RefCell<Tables>,
    /// Tables of checkpoints that are not complete yet, by epoch.
    sent: RefCell<BTreeMap<u64, Tables>>,
}

impl std::fmt::Debug for Native {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Native({})", self.0.dir.display())
    }
}

impl Native {
    /// For the operator with this database; checkpoints are linked below `dir`.
    pub(crate) fn new(
        operator: u64,
        database: &LazyDatabase,
        memory: &Memory,
        dir: PathBuf,
    ) -> Self {
        Native(Rc::new(Inner {
            operator,
            database: database.clone(),
            memory: memory.clone(),
            dir,
            running: RefCell::default(),
            known: RefCell::default(),
            sent: RefCell::default(),
        }))
    }

    /// Whose checkpoints these are.
    pub(crate) fn operator(&self) -> u64 {
        self.0.operator
    }

    /// Makes the checkpoint of an epoch, all tables being flushed; true when the outbox has all of
    /// it. To be called until then.
    pub(crate) fn poll(&self, epoch: u64, context: &Context) -> Result<bool> {
        let mut running = self.0.running.borrow_mut();
        let outcome = match running.take() {
            Some(outcome) => outcome,
            None => self.start(epoch)?,
        };
        match outcome.poll()? {
            None => {
                *running = Some(outcome);
                Ok(false)
            }
            Some(made) => self.hand_over(epoch, made?, context).map(|()| true),
        }
    }

    fn start(&self, epoch: u64) -> Result<Outcome<Result<Made>>> {
        let inner = &self.0;
        let failed =
            |e| Error::attempt(format!("making {} for a checkpoint: {e}", inner.dir.display()));
        std::fs::create_dir_all(&inner.dir).map_err(failed)?;
        let job = inner.database.get()?.checkpoint_job(inner.dir.join(epoch.to_string()));
        let known = inner.known.borrow().clone();
        Ok(inner.memory.run(move || make(job, &known)))
    }

    fn hand_over(&self, epoch: u64, made: Made, context: &Context) -> Result<()> {
        let known = self.0.known.borrow();
        let mut tables = Tables::new();
        for (name, kept) in made.files {
            let (shared, content) = match kept {
                Kept::Inline(content) => (None, content),
                Kept::Table(file) => {
                    let source = match known.get(&name) {
                        Some(file) => ShareSource::Stored(file.clone()),
                        None => {
                            context.metrics.checkpoint_entry(epoch, file.bytes);
                            let path = made.dir.join(&name);
                            ShareSource::Path { name: file.name.clone(), path }
                        }
                    };
                    context.outbox.push(TaskEvent::File { epoch, source });
                    tables.insert(name.clone(), file.clone());
                    (Some((file.name, file.bytes, file.crc32)), Vec::new())
                }
            };
            let record: FileRecord = (context.info.parallelism, name, shared, content);
            let payload = encode_record::<FileRecord>(&record)?;
            context.entry(epoch, section(self.0.operator), payload, 1);
        }
        self.0.sent.borrow_mut().insert(epoch, tables);
        Ok(())
    }

    /// The checkpoint in progress is not wanted any more.
    pub(crate) fn abort(&self) {
        *self.0.running.borrow_mut() = None;
    }

    /// The epoch is complete (N1, N2).
    fn committed(&self, epoch: u64) {
        let mut sent = self.0.sent.borrow_mut();
        let Some(tables) = sent.remove(&epoch) else { return };
        *self.0.known.borrow_mut() = tables;
        sent.retain(|&e, _| e > epoch);
        let dir = self.0.dir.clone();
        self.0.memory.run(move || remove_links(&dir, epoch));
    }
}

/// Removes the links of checkpoints up to an epoch. What cannot be removed goes with the attempt.
fn remove_links(dir: &Path, epoch: u64) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let of = entry.file_name().to_str().and_then(|name| name.parse::<u64>().ok());
        if of.is_some_and(|e| e <= epoch) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

fn make(job: CheckpointJob, known: &Tables) -> Result<Made> {
    let checkpoint = job.run()?;
    let mut files = Vec::new();
    for file in checkpoint.files {
        let path = checkpoint.dir.join(&file.name);
        let failed = |e| Error::attempt(format!("reading {}: {e}", path.display()));
        let kept = if !file.is_table() && file.bytes <= INLINE_BYTES_MAX {
            Kept::Inline(std::fs::read(&path).map_err(failed)?)
        } else if let Some(known) = known.get(&file.name) {
            Kept::Table(known.clone())
        } else {
            let mut content = File::open(&path).map_err(failed)?;
            Kept::Table(describe(&mut content, ".sst").map_err(failed)?)
        };
        files.push((file.name, kept));
    }
    Ok(Made { dir: checkpoint.dir, files })
}

impl Context {
    /// The native checkpoints of an operator, if its state is in RocksDB.
    pub(crate) fn native(&self, operator: u64) -> Option<Native> {
        self.natives.borrow().iter().find(|n| n.operator() == operator).cloned()
    }

    /// The checkpoint is complete.
    pub(crate) fn committed(&self, epoch: u64) {
        self.natives.borrow().iter().for_each(|n| n.committed(epoch));
    }
}
