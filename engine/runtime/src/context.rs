//! What a subtask knows of its place in the job, and how it talks to the outside.
//!
//! A task never calls out: it leaves events in its [`Outbox`], which the slot's shell carries to
//! the snapshot writer and the coordinator. The simulation reads the same outbox.

use crate::backend::StatePlace;
use crate::blocking::Blocking;
use crate::keyed_snapshot::restored_batches;
use crate::native::Native;
use crate::skew::SkewSeat;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use tidemill_base::clock::StepTime;
use tidemill_base::hash::key_group;
use tidemill_base::metrics::TaskMetrics;
use tidemill_base::{Batch, Error, Result};

pub use crate::keyed_snapshot::{Damage, StoredKeys};
pub use tidemill_snapshot::{SectionKind, ShareSource};

/// Which subtask this is.
#[derive(Clone, Debug)]
pub struct SubtaskInfo {
    /// Id of the task, stable in the job graph.
    pub task: u64,
    /// The operators of the chain, for messages.
    pub task_name: Arc<str>,
    /// Index in `0..parallelism`.
    pub subtask: u32,
    /// Number of subtasks of the task.
    pub parallelism: u32,
    /// Number of key groups of the job.
    pub max_parallelism: u32,
    /// Attempt of the job, from 0.
    pub attempt: u32,
}

impl SubtaskInfo {
    /// Whether the key with this hash belongs to this subtask.
    pub fn owns(&self, hash: u64) -> bool {
        owner(hash, self.parallelism, self.max_parallelism) == self.subtask
    }
}

/// The subtask that owns a key, by its hash.
#[inline]
pub fn owner(hash: u64, parallelism: u32, max_parallelism: u32) -> u32 {
    key_group(hash, max_parallelism) * parallelism / max_parallelism
}

/// Address of a section: operator, kind, state index within the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SectionId {
    /// The operator.
    pub operator: u64,
    /// What it holds.
    pub kind: SectionKind,
    /// Which of the operator's states of this kind.
    pub state: u16,
}

/// Entries of a restored checkpoint, by section, each with the subtask that wrote it.
#[derive(Debug, Default)]
pub struct Restored {
    /// The checkpoint's id.
    pub epoch: u64,
    /// Name and shape of each state in it.
    pub states: std::collections::BTreeMap<SectionId, (String, String)>,
    /// `(subtask that wrote it, payload)` in the order written.
    pub sections: std::collections::BTreeMap<SectionId, Vec<(u32, Vec<u8>)>>,
    /// Where state by key is read from, if it is not in `sections`: each subtask reads its own share.
    pub stored: Option<StoredKeys>,
    /// Where its shared files are.
    pub files: Option<Arc<dyn SharedFiles>>,
    /// Whether `stored` or `files` were found damaged, which then fails the task that reads them.
    pub damage: Damage,
}

/// Reads the shared files of a checkpoint.
pub trait SharedFiles: std::fmt::Debug + Send + Sync {
    /// Copies the shared file `name` to `to`, which does not exist.
    ///
    /// # Errors
    /// If it cannot be read or written.
    fn fetch(&self, name: &str, to: &std::path::Path) -> Result<()>;
}

impl Restored {
    /// The entries of a section.
    pub fn entries(&self, id: SectionId) -> &[(u32, Vec<u8>)] {
        self.sections.get(&id).map_or(&[], Vec::as_slice)
    }
}

/// A state that an operator declares, for the manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateDeclaration {
    /// Where its entries are.
    pub section: SectionId,
    /// Name within the operator.
    pub name: String,
    /// Shape of what is stored; a restored state must have the same.
    pub shape: String,
}

/// What a task tells the outside.
#[derive(Debug)]
pub enum TaskEvent {
    /// One entry of a snapshot.
    Entry {
        /// Checkpoint.
        epoch: u64,
        /// Section it belongs to.
        section: SectionId,
        /// Bytes.
        payload: Vec<u8>,
        /// Number of records in it.
        records: u64,
    },
    /// A shared file that a snapshot consists of.
    File {
        /// Checkpoint.
        epoch: u64,
        /// Where its content is.
        source: ShareSource,
    },
    /// Everything of this subtask's snapshot has been left in the outbox.
    Acknowledged {
        /// Checkpoint.
        epoch: u64,
    },
    /// The sink has committed.
    Committed {
        /// Checkpoint.
        epoch: u64,
    },
    /// All input is processed; the task stays to acknowledge checkpoints.
    Finished,
}

/// Events of one subtask, in order, until the shell takes them.
#[derive(Clone, Debug, Default)]
pub struct Outbox {
    events: Rc<RefCell<VecDeque<TaskEvent>>>,
}

impl Outbox {
    /// Leaves an event.
    pub fn push(&self, event: TaskEvent) {
        self.events.borrow_mut().push_back(event);
    }
    /// Takes the oldest event.
    pub fn pop(&self) -> Option<TaskEvent> {
        self.events.borrow_mut().pop_front()
    }
    /// Puts back what could not be carried.
    pub fn put_back(&self, event: TaskEvent) {
        self.events.borrow_mut().push_front(event);
    }
    /// Events waiting: incremental snapshots pause above a bound.
    pub fn len(&self) -> usize {
        self.events.borrow().len()
    }
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Everything that operators of one subtask share.
#[derive(Clone, Debug)]
pub struct Context {
    /// Which subtask.
    pub info: SubtaskInfo,
    /// Time of the current step.
    pub time: StepTime,
    /// Way out.
    pub outbox: Outbox,
    /// Counters.
    pub metrics: Arc<TaskMetrics>,
    /// Checkpoint to start from.
    pub restored: Option<Arc<Restored>>,
    /// Where keyed state is kept.
    pub place: StatePlace,
    /// Whether snapshots that begin now must refer to nothing outside of their checkpoint.
    pub whole: Rc<Cell<bool>>,
    /// Native checkpoints of the operators whose state is in RocksDB.
    pub natives: Rc<RefCell<Vec<Native>>>,
    /// States declared while the task was built.
    pub states: Rc<RefCell<Vec<StateDeclaration>>>,
    /// The first error that an operator met while it could not return one.
    pub failure: Failure,
    /// A source's place among those that its records meet.
    pub skew: Option<SkewSeat>,
    /// Who makes calls that block.
    pub blocking: Blocking,
}

/// A place for the first error of a subtask: `push` returns nothing, so that chains stay fused,
/// and the task looks here after each run of records.
#[derive(Clone, Debug, Default)]
pub struct Failure {
    error: Rc<RefCell<Option<Error>>>,
}

impl Failure {
    /// Keeps the error, if it is the first.
    #[cold]
    pub fn set(&self, error: Error) {
        self.error.borrow_mut().get_or_insert(error);
    }
    /// Whether there is one.
    pub fn is_set(&self) -> bool {
        self.error.borrow().is_some()
    }
    /// The error, if there is one.
    #[inline]
    pub fn check(&self) -> Result<()> {
        if self.error.borrow().is_none() { Ok(()) } else { self.take() }
    }
    #[cold]
    fn take(&self) -> Result<()> {
        self.error.borrow_mut().take().map_or(Ok(()), Err)
    }
}

impl Context {
    /// A context for tests and tools: subtask 0 of 1, nothing restored.
    pub fn for_test() -> Self {
        Context {
            info: SubtaskInfo {
                task: 0,
                task_name: "test".into(),
                subtask: 0,
                parallelism: 1,
                max_parallelism: 128,
                attempt: 0,
            },
            time: StepTime::default(),
            outbox: Outbox::default(),
            metrics: Arc::default(),
            restored: None,
            place: StatePlace::default(),
            whole: Rc::default(),
            natives: Rc::default(),
            states: Rc::default(),
            failure: Failure::default(),
            skew: None,
            blocking: Blocking::default(),
        }
    }

    /// Like [`Context::declare`], for state by key: the stored batches of those subtasks that owned
    /// keys of this one, not yet filtered by key. They are read one at a time.
    pub fn declare_keyed(
        &self,
        section: SectionId,
        name: &str,
        shape: String,
    ) -> impl Iterator<Item = Result<Batch>> {
        let entries = self.declare(section, name, shape);
        let stored = self.restored.as_deref().and_then(|r| r.stored.as_ref());
        let stored = stored.filter(|_| !self.failure.is_set());
        let read = stored.into_iter().flat_map(move |s| s.batches(section, &self.info));
        restored_batches(entries).chain(read)
    }

    /// Declares a state and returns its entries in the restored checkpoint. A stored state of
    /// another shape fails the subtask: it returns no entries.
    pub fn declare(&self, section: SectionId, name: &str, shape: String) -> &[(u32, Vec<u8>)] {
        let declaration = StateDeclaration { section, name: name.to_owned(), shape };
        let entries = match self.restored.as_deref() {
            Some(restored) => self.compatible(restored, &declaration),
            None => &[],
        };
        self.states.borrow_mut().push(declaration);
        entries
    }

    fn compatible<'a>(
        &self,
        restored: &'a Restored,
        wanted: &StateDeclaration,
    ) -> &'a [(u32, Vec<u8>)] {
        match restored.states.get(&wanted.section) {
            Some((name, shape)) if *shape != wanted.shape => {
                self.failure.set(Error::job(format!(
                    "state '{}' of task '{}' has another type than in checkpoint {}: stored as \
                     '{name}' with shape {shape}, the program has {}; restore with the program \
                     that wrote it, or give the operator a new uid and --allow-dropped-state",
                    wanted.name, self.info.task_name, restored.epoch, wanted.shape
                )));
                &[]
            }
            _ => restored.entries(wanted.section),
        }
    }

    /// Leaves one entry of a snapshot.
    pub fn entry(&self, epoch: u64, section: SectionId, payload: Vec<u8>, records: u64) {
        self.metrics.checkpoint_entry(epoch, payload.len() as u64);
        self.outbox.push(TaskEvent::Entry { epoch, section, payload, records });
    }
}
