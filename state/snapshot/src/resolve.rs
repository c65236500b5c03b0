//! Which checkpoint to restore. Pure: told what was found, says what to look at next.
//!
//! Invariants
//!   R1  The newest whole checkpoint is used; nothing older is ever looked at.
//!   R2  A checkpoint that was committed and is damaged is never passed over in silence, and if
//!       nothing whole is left the answer is a failure, never a fresh start.
//!
//! Not here: reading (restore.rs).

use std::collections::BTreeMap;

use crate::store::CheckpointId;

/// What inspecting a checkpoint showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// Manifest, objects and shared files are all as they were written.
    Whole,
    /// It has no manifest: the job died, or is still, writing it.
    NeverCompleted,
    /// It was committed, but is torn or altered; the text names the file and what was seen.
    Damaged(String),
}

/// A checkpoint that was passed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Its epoch.
    pub epoch: u64,
    /// Why, in a sentence.
    pub why: String,
    /// Whether it was committed and then damaged (as opposed to never completed).
    pub damaged: bool,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Inspect this epoch, add the fact, and ask again.
    Inspect(u64),
    /// All is known.
    Decided(Decision),
}

/// The outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Restore `epoch`; newer ones were skipped, newest first.
    Restore {
        /// The epoch to restore.
        epoch: u64,
        /// What was passed over.
        skipped: Vec<Skipped>,
    },
    /// No checkpoint was ever completed: start from the beginning.
    Fresh {
        /// What was passed over.
        skipped: Vec<Skipped>,
    },
    /// Checkpoints were completed, but none is whole.
    Lost {
        /// What was passed over.
        skipped: Vec<Skipped>,
    },
}

/// Decides from the listing and what is known so far.
pub fn next_step(listed: &[CheckpointId], facts: &BTreeMap<u64, Fact>) -> Step {
    let mut newest_first: Vec<CheckpointId> = listed.to_vec();
    newest_first.sort_by_key(|id| std::cmp::Reverse(id.epoch));
    let mut skipped = Vec::new();
    for CheckpointId { epoch, committed } in newest_first {
        let fact = if committed { facts.get(&epoch) } else { Some(&Fact::NeverCompleted) };
        match fact {
            None => return Step::Inspect(epoch),
            Some(Fact::Whole) => return Step::Decided(Decision::Restore { epoch, skipped }),
            Some(Fact::NeverCompleted) => skipped.push(Skipped {
                epoch,
                why: "it was never completed (no manifest)".to_owned(),
                damaged: false,
            }),
            Some(Fact::Damaged(why)) => {
                skipped.push(Skipped { epoch, why: why.clone(), damaged: true });
            }
        }
    }
    let lost = skipped.iter().any(|s| s.damaged);
    Step::Decided(if lost { Decision::Lost { skipped } } else { Decision::Fresh { skipped } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fact() -> impl Strategy<Value = Fact> {
        prop_oneof![
            Just(Fact::Whole),
            Just(Fact::NeverCompleted),
            Just(Fact::Damaged("x".to_owned())),
        ]
    }

    proptest! {
        /// Against the obvious oracle, with lazily discovered facts.
        #[test]
        fn newest_whole_one(truth in prop::collection::btree_map(0u64..50, fact(), 0..8)) {
            let listed: Vec<CheckpointId> = truth.iter()
                .map(|(e, f)| CheckpointId { epoch: *e, committed: *f != Fact::NeverCompleted })
                .collect();
            let mut facts = BTreeMap::new();
            let decision = loop {
                match next_step(&listed, &facts) {
                    Step::Inspect(e) => {
                        prop_assert!(facts.insert(e, truth[&e].clone()).is_none(), "asked twice");
                    }
                    Step::Decided(d) => break d,
                }
            };
            let newest = truth.iter().rev().find(|(_, f)| **f == Fact::Whole).map(|(e, _)| *e);
            let newer: Vec<u64> = truth.keys().rev().copied()
                .take_while(|e| newest.is_none_or(|n| *e > n)).collect();
            let epochs = |s: &[Skipped]| s.iter().map(|s| s.epoch).collect::<Vec<_>>();
            match decision {
                Decision::Restore { epoch, skipped } => {
                    prop_assert_eq!(Some(epoch), newest);
                    prop_assert_eq!(epochs(&skipped), newer);
                    prop_assert!(facts.keys().all(|e| *e >= epoch), "R1");
                }
                Decision::Fresh { skipped } => {
                    prop_assert!(newest.is_none() && skipped.iter().all(|s| !s.damaged));
                    prop_assert!(truth.values().all(|f| *f == Fact::NeverCompleted));
                }
                Decision::Lost { skipped } => {
                    prop_assert_eq!(newest, None);
                    prop_assert_eq!(epochs(&skipped), newer);
                    prop_assert!(skipped.iter().any(|s| s.damaged), "R2");
                }
            }
        }
    }
}
