//! Which subtask owns which key groups, and who inherits what when the parallelism changes.
//!
//! Invariants
//!   G1  The ranges of the subtasks 0, 1, ... are contiguous, disjoint, and cover every key group.
//!   G2  `owner_of` is the inverse of `key_group_range`.
//!   G3  The sizes of two ranges differ by at most one.
//!   G4  What `redistribute` gives to the new subtasks are exactly the ranges of the old ones, once.

use std::ops::Range;

use crate::PlanError;

/// Number of key groups of a job that does not choose: the most subtasks that keyed state can spread over.
pub const DEFAULT_MAX_PARALLELISM: u32 = 128;

/// The most key groups that a job can have.
pub const MAX_PARALLELISM_LIMIT: u32 = 1 << 15;

const _: () = assert!(DEFAULT_MAX_PARALLELISM <= MAX_PARALLELISM_LIMIT);
const _: () = assert!(MAX_PARALLELISM_LIMIT.checked_mul(MAX_PARALLELISM_LIMIT).is_some());

/// The key groups of old subtask `old_subtask` that a new subtask inherits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyGroupShare {
    /// The subtask that wrote them.
    pub old_subtask: u32,
    /// The key groups, never empty.
    pub key_groups: Range<u32>,
}

/// The key groups that subtask `subtask` of `parallelism` owns (G1, G3).
///
/// # Panics
/// Unless `subtask < parallelism <= max_parallelism <= MAX_PARALLELISM_LIMIT`; numbers from outside go
/// through [`check_parallelism`] first.
pub fn key_group_range(subtask: u32, parallelism: u32, max_parallelism: u32) -> Range<u32> {
    assert!(max_parallelism <= MAX_PARALLELISM_LIMIT, "max_parallelism {max_parallelism}");
    assert!(parallelism <= max_parallelism, "parallelism {parallelism} of {max_parallelism}");
    assert!(subtask < parallelism, "subtask {subtask} of parallelism {parallelism}");
    let start = (subtask * max_parallelism).div_ceil(parallelism);
    let end = ((subtask + 1) * max_parallelism).div_ceil(parallelism);
    start..end
}

/// The subtask that owns `key_group` (G2).
///
/// # Panics
/// Unless `key_group < max_parallelism <= MAX_PARALLELISM_LIMIT` and `1 <= parallelism <= max_parallelism`.
pub fn owner_of(key_group: u32, parallelism: u32, max_parallelism: u32) -> u32 {
    assert!(max_parallelism <= MAX_PARALLELISM_LIMIT, "max_parallelism {max_parallelism}");
    assert!(
        (1..=max_parallelism).contains(&parallelism),
        "parallelism {parallelism} of {max_parallelism}"
    );
    assert!(key_group < max_parallelism, "key group {key_group} of {max_parallelism}");
    key_group * parallelism / max_parallelism
}

/// Whose keyed state subtask `subtask` of `new_parallelism` reads when it restores what
/// `old_parallelism` subtasks wrote: in order of the old subtask, with the key groups to read (G4).
///
/// # Errors
/// When a number does not fit: the old ones come from a manifest.
pub fn redistribute(
    old_parallelism: u32,
    new_parallelism: u32,
    max_parallelism: u32,
    subtask: u32,
) -> Result<Vec<KeyGroupShare>, PlanError> {
    check_parallelism("the restored checkpoint", old_parallelism, max_parallelism)?;
    check_parallelism("the restoring job", new_parallelism, max_parallelism)?;
    if subtask >= new_parallelism {
        return Err(PlanError::Subtask { subtask, parallelism: new_parallelism });
    }
    let mine = key_group_range(subtask, new_parallelism, max_parallelism);
    let first = owner_of(mine.start, old_parallelism, max_parallelism);
    let last = owner_of(mine.end - 1, old_parallelism, max_parallelism);
    let share = |old_subtask| {
        let theirs = key_group_range(old_subtask, old_parallelism, max_parallelism);
        let key_groups = theirs.start.max(mine.start)..theirs.end.min(mine.end);
        KeyGroupShare { old_subtask, key_groups }
    };
    Ok((first..=last).map(share).collect())
}

/// Checks `1 <= parallelism <= max_parallelism <= MAX_PARALLELISM_LIMIT`; `what` names the owner of the
/// numbers in the message.
///
/// # Errors
/// [`PlanError::Parallelism`] or [`PlanError::MaxParallelism`].
pub fn check_parallelism(
    what: &str,
    parallelism: u32,
    max_parallelism: u32,
) -> Result<(), PlanError> {
    if !(1..=MAX_PARALLELISM_LIMIT).contains(&max_parallelism) {
        return Err(PlanError::MaxParallelism { max_parallelism, limit: MAX_PARALLELISM_LIMIT });
    }
    if !(1..=max_parallelism).contains(&parallelism) {
        return Err(PlanError::Parallelism { what: what.to_owned(), parallelism, max_parallelism });
    }
    Ok(())
}
