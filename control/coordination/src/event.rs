//! What a coordinator is told, and what it asks for.

use std::collections::BTreeSet;
use std::fmt;

use thiserror::Error;
use tidemill_plan::SubtaskId;

use crate::{Epoch, Micros, SavepointId};

/// What happened. Events may come late, twice and out of order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// All subtasks run. Comes once, first.
    Started {
        /// Every subtask of the job; not empty.
        subtasks: BTreeSet<SubtaskId>,
    },
    /// Time passed; at least whenever the last [`Action::WakeAt`] is due, more often if it likes.
    Tick,
    /// A subtask handed its part of an epoch to its writer, and its sinks have prepared theirs.
    Acked {
        /// The epoch.
        epoch: Epoch,
        /// Who.
        subtask: SubtaskId,
    },
    /// A subtask could not take part in an epoch.
    Declined {
        /// The epoch.
        epoch: Epoch,
        /// Who.
        subtask: SubtaskId,
        /// Why.
        reason: String,
    },
    /// A subtask came to the end of its input. It goes on acknowledging epochs.
    SubtaskFinished {
        /// Who.
        subtask: SubtaskId,
    },
    /// A writer's data object of an epoch is durable.
    WriterFinished {
        /// The epoch.
        epoch: Epoch,
        /// Which writer.
        writer: u32,
    },
    /// A writer's data object of an epoch could not be made durable.
    WriterFailed {
        /// The epoch.
        epoch: Epoch,
        /// Which writer.
        writer: u32,
        /// Why.
        reason: String,
    },
    /// The manifest is visible: the epoch is complete. This is the commit point.
    ManifestStored {
        /// The epoch.
        epoch: Epoch,
    },
    /// The manifest is not visible **and never will be**. Where that is in doubt (an error after the
    /// rename, a connection lost during the transaction), ask the store again, or report
    /// [`Event::Failed`].
    ManifestFailed {
        /// The epoch.
        epoch: Epoch,
        /// Why.
        reason: String,
    },
    /// A subtask's sinks have committed an epoch (at once, where it has none).
    CommitAcked {
        /// The epoch.
        epoch: Epoch,
        /// Who.
        subtask: SubtaskId,
    },
    /// The user wants a savepoint. Answered by [`Action::SavepointDone`] or [`Action::SavepointFailed`].
    SavepointRequested {
        /// The caller's number for it.
        id: SavepointId,
    },
    /// The user wants a savepoint and then the job's end. Where the attempt fails between
    /// [`Action::SavepointDone`] and [`Action::JobDone`], the next attempt runs on unless asked again.
    StopWithSavepoint {
        /// The caller's number for it.
        id: SavepointId,
    },
    /// A subtask, a worker or the caller's own part failed: this attempt is over.
    Failed {
        /// Why.
        reason: String,
    },
    /// The user wants the job to end without a checkpoint. A second one does not wait for a commit.
    CancelRequested,
}

/// Why an epoch is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EpochKind {
    /// It was time.
    Periodic,
    /// The user asked.
    Savepoint(SavepointId),
    /// The user asked, and the job ends with it: sources need not read on behind its barrier.
    StopWithSavepoint(SavepointId),
    /// All subtasks have finished; it commits what the sinks still hold.
    Final,
}

impl EpochKind {
    /// The savepoint that this epoch is.
    pub const fn savepoint(self) -> Option<SavepointId> {
        match self {
            Self::Savepoint(id) | Self::StopWithSavepoint(id) => Some(id),
            Self::Periodic | Self::Final => None,
        }
    }
}

/// How a job ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All input was read, all output committed.
    Finished,
    /// It stopped with this savepoint.
    Stopped(SavepointId),
    /// The user cancelled it.
    Cancelled,
}

/// What the caller is to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send barriers of this epoch from all sources.
    Trigger {
        /// The epoch.
        epoch: Epoch,
        /// Why.
        kind: EpochKind,
        /// Milliseconds of alignment after which it turns unaligned (0: at once); `None`: never.
        aligned_timeout_ms: Option<u64>,
    },
    /// All subtasks have acknowledged: tell the writers to close their data objects.
    FinishObjects {
        /// The epoch.
        epoch: Epoch,
    },
    /// All data objects are durable: write the manifest.
    StoreManifest {
        /// The epoch.
        epoch: Epoch,
    },
    /// The epoch is complete: tell all subtasks to commit it.
    Commit {
        /// The epoch.
        epoch: Epoch,
    },
    /// The epoch will never be complete: tell subtasks and writers to drop it.
    Abort {
        /// The epoch.
        epoch: Epoch,
        /// Why.
        reason: AbortReason,
    },
    /// A checkpoint was completed: delete what no kept manifest references.
    Retain,
    /// A requested savepoint is complete.
    SavepointDone {
        /// The caller's number for it.
        id: SavepointId,
        /// Its epoch.
        epoch: Epoch,
    },
    /// A requested savepoint will not be.
    SavepointFailed {
        /// The caller's number for it.
        id: SavepointId,
        /// Why.
        reason: SavepointError,
    },
    /// The job is over; nothing follows.
    JobDone {
        /// How it ended.
        outcome: Outcome,
    },
    /// The attempt cannot go on; nothing follows. A restart strategy says what is next.
    FailJob {
        /// Why.
        reason: FailReason,
    },
    /// Send [`Event::Tick`] then; replaces any earlier one.
    WakeAt {
        /// When.
        at: Micros,
    },
}

/// Why an epoch was given up.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AbortReason {
    /// A subtask could not take part.
    #[error("{subtask} declined: {reason}")]
    Declined {
        /// Who.
        subtask: SubtaskId,
        /// Why.
        reason: String,
    },
    /// It took too long.
    #[error(
        "it took longer than {timeout_us} us; missing: {missing}; raise the checkpoint timeout, or find what holds them up"
    )]
    Expired {
        /// What it may take.
        timeout_us: Micros,
        /// Who has not acknowledged.
        missing: Missing,
    },
    /// A data object could not be stored.
    #[error("writer {writer} could not store its data object: {reason}")]
    Writer {
        /// Which writer.
        writer: u32,
        /// Why.
        reason: String,
    },
    /// The manifest could not be stored.
    #[error("the manifest could not be stored: {reason}")]
    Manifest {
        /// Why.
        reason: String,
    },
    /// The attempt ended first.
    #[error("the attempt failed: {reason}")]
    Failed {
        /// Why.
        reason: String,
    },
    /// The user cancelled the job first.
    #[error("the job was cancelled")]
    Cancelled,
}

/// Who has not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Subtasks.
    Subtasks(BTreeSet<SubtaskId>),
    /// Writers.
    Writers(BTreeSet<u32>),
}

impl fmt::Display for Missing {
    /// The first three, and how many more.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, count): (Vec<String>, _) = match self {
            Self::Subtasks(s) => (s.iter().take(3).map(ToString::to_string).collect(), s.len()),
            Self::Writers(w) => {
                (w.iter().take(3).map(|w| format!("writer {w}")).collect(), w.len())
            }
        };
        f.write_str(&first.join(", "))?;
        if count > first.len() { write!(f, " and {} more", count - first.len()) } else { Ok(()) }
    }
}

/// Why a savepoint was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SavepointError {
    /// Its epoch was given up.
    #[error("epoch {epoch} of the savepoint was aborted: {reason}")]
    Aborted {
        /// The epoch.
        epoch: Epoch,
        /// Why.
        reason: AbortReason,
    },
    /// The attempt ended while the manifest was being stored.
    #[error(
        "the job ended while the manifest of epoch {epoch} was being stored; look in the store whether the savepoint is there"
    )]
    InDoubt {
        /// The epoch.
        epoch: Epoch,
    },
    /// The job ended before it began.
    #[error("the job ended first")]
    JobEnded,
    /// There is no store.
    #[error("the job runs without a checkpoint store; start it with a checkpoint directory")]
    NoStore,
    /// Too many wait already.
    #[error("{waiting} savepoints wait already; ask again when they are done")]
    QueueFull {
        /// How many.
        waiting: usize,
    },
}

/// Why an attempt cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FailReason {
    /// Too many checkpoints in a row failed.
    #[error(
        "{failures} checkpoints in a row failed, {tolerated} are tolerated; the last, epoch {epoch}, because {last}"
    )]
    TooManyFailures {
        /// How many.
        failures: u32,
        /// How many may.
        tolerated: u32,
        /// The last one.
        epoch: Epoch,
        /// Why it failed.
        last: AbortReason,
    },
    /// The store does not answer, so the epoch may or may not be complete.
    #[error(
        "the store did not say within {timeout_us} us whether epoch {epoch} is complete; restore what it has, and check the store"
    )]
    ManifestInDoubt {
        /// The epoch.
        epoch: Epoch,
        /// What it may take.
        timeout_us: Micros,
    },
    /// An epoch is complete but sinks do not commit it; restoring it commits it again.
    #[error(
        "epoch {epoch} is complete but was not committed within {timeout_us} us by {missing}; check what these sinks write to"
    )]
    CommitExpired {
        /// The epoch.
        epoch: Epoch,
        /// What it may take.
        timeout_us: Micros,
        /// Who has not committed.
        missing: Missing,
    },
}
