//! Ids of operators, tasks and subtasks.
//!
//! Invariants
//!   P1  An operator's id is a function of its uid alone, the same on every machine and in every
//!       version: state on disk is found by it.
//!
//! Not here: how a uid comes to be (uid.rs).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Stable id of an operator: a 64-bit hash of its uid. Written as 16 hexadecimal digits, in JSON as a
/// string of them, because JSON readers may keep only 53 bits of a number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperatorId(u64);

impl OperatorId {
    /// The id of the operator with this uid (P1).
    pub fn of_uid(uid: &str) -> Self {
        Self(stable_hash(uid.as_bytes()))
    }

    /// An id read back from where [`OperatorId::get`] was stored.
    pub const fn new(id: u64) -> Self {
        Self(id)
    }

    /// The id as a number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for OperatorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for OperatorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OperatorId({self})")
    }
}

impl FromStr for OperatorId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let lower_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() != 16 || !text.bytes().all(lower_hex) {
            return Err(format!(
                "operator id {text:?} is not 16 lower-case hexadecimal digits; take it from the job's plan"
            ));
        }
        let id = u64::from_str_radix(text, 16).map_err(|e| format!("operator id {text:?}: {e}"))?;
        Ok(Self(id))
    }
}

impl Serialize for OperatorId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for OperatorId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Position of a task in its plan, counted from 0 in topological order.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct TaskId(pub u32);

impl TaskId {
    /// The task's place in [`crate::PhysicalPlan::tasks`].
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One of the parallel instances of a task. Subtask `i` of every task sits in slot `i`.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct SubtaskId {
    /// The task.
    pub task: TaskId,
    /// The instance, from 0 to the task's parallelism - 1.
    pub subtask: u32,
}

impl SubtaskId {
    /// Subtask `subtask` of task number `task`.
    pub const fn new(task: u32, subtask: u32) -> Self {
        Self { task: TaskId(task), subtask }
    }

    /// The slot that hosts this subtask.
    pub const fn slot(self) -> u32 {
        self.subtask
    }
}

impl fmt::Display for SubtaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "task {} subtask {}", self.task, self.subtask)
    }
}

/// FNV-1a over the bytes, its result spread over all bits. Fixed forever (P1).
pub(crate) fn stable_hash(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for &byte in bytes {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}
