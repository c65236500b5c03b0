//! What an operator and a partitioning are, before anybody plans them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What an operator does, as far as a plan needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperatorKind {
    /// Reads from outside; has no input.
    Source,
    /// One record in, one out.
    Map,
    /// One record in, none or the same out.
    Filter,
    /// One record in, any number out.
    FlatMap,
    /// Assigns event timestamps and makes watermarks.
    Timestamps,
    /// Computes the key of each record; the edge behind it is usually hashed.
    KeyBy,
    /// Keyed rolling reduction.
    Reduce,
    /// Keyed windows.
    Window,
    /// A process function, keyed or not.
    Process,
    /// A process function over two inputs.
    CoProcess,
    /// A process function whose input 1 is broadcast.
    BroadcastProcess,
    /// A window or interval join of input 0 with input 1.
    Join,
    /// Several streams of one type as one.
    Union,
    /// A side output taken as a stream.
    SideOutput,
    /// Writes to outside; nothing follows it.
    Sink,
}

impl OperatorKind {
    /// All kinds, in the order of their declaration.
    pub const ALL: [Self; 15] = [
        Self::Source,
        Self::Map,
        Self::Filter,
        Self::FlatMap,
        Self::Timestamps,
        Self::KeyBy,
        Self::Reduce,
        Self::Window,
        Self::Process,
        Self::CoProcess,
        Self::BroadcastProcess,
        Self::Join,
        Self::Union,
        Self::SideOutput,
        Self::Sink,
    ];

    /// How many inputs such an operator has; any number of edges may feed one input.
    pub const fn inputs(self) -> u32 {
        match self {
            Self::Source => 0,
            Self::CoProcess | Self::BroadcastProcess | Self::Join => 2,
            _ => 1,
        }
    }

    /// The name used in JSON and in messages: `snake_case`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Map => "map",
            Self::Filter => "filter",
            Self::FlatMap => "flat_map",
            Self::Timestamps => "timestamps",
            Self::KeyBy => "key_by",
            Self::Reduce => "reduce",
            Self::Window => "window",
            Self::Process => "process",
            Self::CoProcess => "co_process",
            Self::BroadcastProcess => "broadcast_process",
            Self::Join => "join",
            Self::Union => "union",
            Self::SideOutput => "side_output",
            Self::Sink => "sink",
        }
    }
}

impl fmt::Display for OperatorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which subtask of the receiving task gets a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Partitioning {
    /// The subtask of the same number; both sides have the same parallelism.
    Forward,
    /// The subtask that owns the key group of the record's key.
    Hash,
    /// One after the other.
    Rebalance,
    /// Every one of them.
    Broadcast,
}

impl Partitioning {
    /// The name used in JSON, pictures and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Hash => "hash",
            Self::Rebalance => "rebalance",
            Self::Broadcast => "broadcast",
        }
    }
}

impl fmt::Display for Partitioning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An operator as the user wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorSpec {
    /// Shown to people; need not be unique. At most 255 bytes.
    pub name: String,
    /// What it does.
    pub kind: OperatorKind,
    /// The user's stable name for its state; derived where absent. 1 to 255 bytes.
    pub uid: Option<String>,
    /// Number of subtasks; the job's default where absent.
    pub parallelism: Option<u32>,
    /// Whether it keeps state in checkpoints.
    pub stateful: bool,
}

impl OperatorSpec {
    /// A stateless operator of the job's parallelism with a derived uid.
    pub fn new(name: impl Into<String>, kind: OperatorKind) -> Self {
        Self { name: name.into(), kind, uid: None, parallelism: None, stateful: false }
    }

    /// Gives the operator a uid.
    #[must_use]
    pub fn uid(mut self, uid: impl Into<String>) -> Self {
        self.uid = Some(uid.into());
        self
    }

    /// Gives the operator a parallelism of its own.
    #[must_use]
    pub fn parallelism(mut self, parallelism: u32) -> Self {
        self.parallelism = Some(parallelism);
        self
    }

    /// Says that the operator keeps state in checkpoints.
    #[must_use]
    pub fn stateful(mut self) -> Self {
        self.stateful = true;
        self
    }
}
