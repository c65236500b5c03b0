//! The coordinator's life as one table: phase x event -> rule. Its printed form is a golden test.
//!
//!   New --Started--> Waiting --due--> Collecting --all acked--> Closing --all written--> Storing
//!                       ^                 |                        |                        |
//!                       |<----------------+------- abort ----------+--- manifest failed ----|
//!                       |                 | (no store: all acked)                           | manifest stored
//!                       |                 v                                                 v  = commit point
//!                       |<-- all committed -- Committing <----------------------------------+
//!                       |
//!                       v
//!                     Ended      (from any phase: failed, cancelled; from Waiting and Committing: done)
//!
//! An event that names an epoch meets this table only if that epoch is the pending one. One that names
//! an earlier epoch is late and ignored; one that names an epoch never triggered, or a subtask or
//! writer that does not exist, is illegal.
//!
//! Not here: what a rule does (coordinator.rs).

use std::fmt;

/// Where a coordinator stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Not started.
    New,
    /// Running, no epoch pending.
    Waiting,
    /// An epoch is triggered; subtasks acknowledge.
    Collecting,
    /// All have; writers close their data objects.
    Closing,
    /// All are durable; the manifest is being stored. The epoch may be complete at any moment.
    Storing,
    /// The epoch is complete; sinks commit it.
    Committing,
    /// Over.
    Ended,
}

impl Phase {
    /// All phases, in order of life.
    pub const ALL: [Self; 7] = [
        Self::New,
        Self::Waiting,
        Self::Collecting,
        Self::Closing,
        Self::Storing,
        Self::Committing,
        Self::Ended,
    ];
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The name of an event, and `Deadline`: a tick at or after the pending epoch's deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "named as the variants of Event")]
pub enum EventName {
    Started,
    Tick,
    Deadline,
    Acked,
    Declined,
    SubtaskFinished,
    WriterFinished,
    WriterFailed,
    ManifestStored,
    ManifestFailed,
    CommitAcked,
    SavepointRequested,
    StopWithSavepoint,
    Failed,
    CancelRequested,
}

impl EventName {
    /// All names, in the order of [`crate::Event`].
    pub const ALL: [Self; 15] = [
        Self::Started,
        Self::Tick,
        Self::Deadline,
        Self::Acked,
        Self::Declined,
        Self::SubtaskFinished,
        Self::WriterFinished,
        Self::WriterFailed,
        Self::ManifestStored,
        Self::ManifestFailed,
        Self::CommitAcked,
        Self::SavepointRequested,
        Self::StopWithSavepoint,
        Self::Failed,
        Self::CancelRequested,
    ];
}

impl fmt::Display for EventName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// Note the subtasks, begin waiting.
    Start,
    /// See whether an epoch is due.
    Pulse,
    /// Strike one subtask off; after the last go on to Closing (without a store: Committing).
    Ack,
    /// Strike one writer off; after the last go on to Storing.
    Write,
    /// The commit point: go on to Committing.
    Commit,
    /// Strike one subtask off; after the last the epoch is over.
    CommitAck,
    /// Note that a subtask finished.
    Finish,
    /// Give the epoch up.
    Abort,
    /// Give the attempt up; whether the epoch is complete is for the store to say.
    Doubt,
    /// Put a savepoint in the queue.
    Queue,
    /// Answer that there will be no savepoint.
    Refuse,
    /// End the attempt.
    Fail,
    /// Give the epoch up and end the attempt.
    AbortFail,
    /// End the attempt and leave the epoch as the store has it.
    LeaveFail,
    /// End the job.
    Cancel,
    /// Give the epoch up and end the job.
    AbortCancel,
    /// End the job once the epoch is over; when asked again, at once.
    CancelLater,
    /// Nothing to do.
    Ignore,
    /// The caller broke the protocol; nothing changes.
    Illegal,
}

/// The table.
pub const fn rule(phase: Phase, event: EventName) -> Rule {
    use EventName as E;
    use Phase as P;
    use Rule as R;
    match (event, phase) {
        (E::Started, P::New) => R::Start,
        (E::Started, _) => R::Illegal,

        (E::Tick, P::New | P::Ended) => R::Ignore,
        (E::Tick, _) => R::Pulse,

        (E::Deadline, P::Collecting | P::Closing) => R::Abort,
        (E::Deadline, P::Storing | P::Committing) => R::Doubt,
        (E::Deadline, _) => R::Illegal,

        (E::Acked, P::Collecting) => R::Ack,
        (E::Declined, P::Collecting | P::Closing) => R::Abort,
        (E::Declined, P::Storing | P::Committing | P::Ended) => R::Ignore,
        (E::WriterFinished, P::Closing) => R::Write,
        (E::WriterFailed, P::Collecting | P::Closing) => R::Abort,
        (E::ManifestStored, P::Storing) => R::Commit,
        (E::ManifestFailed, P::Storing) => R::Abort,
        (E::CommitAcked, P::Committing) => R::CommitAck,

        // What comes again, later than it was needed.
        (E::Acked, P::Closing | P::Storing | P::Committing | P::Ended) => R::Ignore,
        (E::WriterFinished, P::Storing | P::Committing | P::Ended) => R::Ignore,
        (E::ManifestStored, P::Committing | P::Ended) => R::Ignore,
        (E::WriterFailed | E::ManifestFailed | E::CommitAcked, P::Ended) => R::Ignore,

        // What nobody asked for, or what takes back what was promised.
        (E::Acked | E::Declined, _) => R::Illegal,
        (E::WriterFinished | E::WriterFailed, _) => R::Illegal,
        (E::ManifestStored | E::ManifestFailed | E::CommitAcked, _) => R::Illegal,

        (E::SubtaskFinished, P::New) => R::Illegal,
        (E::SubtaskFinished, P::Ended) => R::Ignore,
        (E::SubtaskFinished, _) => R::Finish,

        (E::SavepointRequested | E::StopWithSavepoint, P::Ended) => R::Refuse,
        (E::SavepointRequested | E::StopWithSavepoint, _) => R::Queue,

        (E::Failed, P::New | P::Waiting) => R::Fail,
        (E::Failed, P::Collecting | P::Closing) => R::AbortFail,
        (E::Failed, P::Storing | P::Committing) => R::LeaveFail,
        (E::CancelRequested, P::New | P::Waiting) => R::Cancel,
        (E::CancelRequested, P::Collecting | P::Closing) => R::AbortCancel,
        (E::CancelRequested, P::Storing | P::Committing) => R::CancelLater,
        (E::Failed | E::CancelRequested, P::Ended) => R::Ignore,
    }
}

/// The table as text: a line an event, a column a phase; `-` is Ignore, `!` is Illegal.
pub fn matrix() -> String {
    let cell = |rule| match rule {
        Rule::Ignore => "-".to_owned(),
        Rule::Illegal => "!".to_owned(),
        rule => format!("{rule:?}"),
    };
    let line = |head: &str, cells: Vec<String>| {
        let cells: String = cells.iter().map(|c| format!("{c:<12}")).collect();
        format!("{head:<20}{}", cells).trim_end().to_owned() + "\n"
    };
    let mut text = line("", Phase::ALL.iter().map(ToString::to_string).collect());
    for event in EventName::ALL {
        let cells = Phase::ALL.iter().map(|&phase| cell(rule(phase, event))).collect();
        text += &line(&event.to_string(), cells);
    }
    text
}
