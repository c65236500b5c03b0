//! Which checkpoints and shared files to delete, and deleting them.
//!
//! Invariants
//!   T1  The newest `keep` whole checkpoints stay, and so does every savepoint. One that is known
//!       or suspected to be damaged does not count as whole.
//!   T2  A shared file that a kept manifest references is never deleted; while a manifest cannot
//!       be read, what it references is unknown, and no shared file is deleted at all.
//!   T3  A checkpoint whose manifest cannot be read is never deleted: it may be a savepoint.
//!   T4  Nothing of an epoch in flight is deleted, and while one is in flight no shared file and
//!       no temporary file is: it may be about to reference it.
//!   T5  Checkpoints go before the shared files that only they reference, oldest first; the first
//!       failure ends the run.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Error, Result};
use crate::store::SnapshotStore;

/// How much to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Whole checkpoints to keep, besides savepoints; 0 counts as 1.
    pub keep: usize,
}

impl Default for Policy {
    /// Two: the newest, and one to fall back on when the newest proves damaged.
    fn default() -> Self {
        Policy { keep: 2 }
    }
}

/// What is known of one stored epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// Committed, and its manifest is whole.
    Committed {
        /// Never deleted.
        savepoint: bool,
        /// It was found damaged elsewhere (a restore skipped it).
        suspect: bool,
        /// Names of the shared files it references.
        shared: BTreeSet<String>,
    },
    /// No manifest.
    Uncommitted,
    /// A manifest that cannot be read.
    Unreadable,
}

/// What the decision is made from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Every stored epoch.
    pub checkpoints: BTreeMap<u64, Seen>,
    /// Every stored shared file.
    pub shared: BTreeSet<String>,
    /// Epochs that are being written.
    pub in_flight: BTreeSet<u64>,
}

/// What to delete, in this order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Epochs, oldest first.
    pub checkpoints: Vec<u64>,
    /// Shared files.
    pub shared: Vec<String>,
    /// Whether leftovers of crashed writers may go.
    pub temporary: bool,
}

/// What was deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retained {
    /// Epochs, oldest first.
    pub checkpoints: Vec<u64>,
    /// Shared files.
    pub shared: Vec<String>,
    /// Number of leftovers of crashed writers.
    pub temporary: u64,
}

/// Decides what to delete.
pub fn plan(policy: Policy, facts: &Facts) -> Plan {
    let whole = |seen: &Seen| matches!(seen, Seen::Committed { suspect: false, .. });
    let regular = |seen: &Seen| matches!(seen, Seen::Committed { savepoint: false, .. });
    let mut newest = facts.checkpoints.iter().rev();
    let kept: BTreeSet<u64> = newest
        .by_ref()
        .filter(|(_, seen)| whole(seen) && regular(seen))
        .take(policy.keep.max(1))
        .map(|(epoch, _)| *epoch)
        .collect();
    let full = kept.len() == policy.keep.max(1);
    let newest_whole = kept.last().copied();
    let oldest_kept = kept.first().copied().filter(|_| full);
    let dispensable = |epoch: u64, seen: &Seen| match seen {
        Seen::Committed { savepoint: true, .. } | Seen::Unreadable => false,
        // While fewer than `keep` whole ones exist, all that was committed stays (T1); a suspect
        // one goes only when it is older than all that are kept.
        Seen::Committed { .. } => oldest_kept.is_some_and(|oldest| epoch < oldest),
        Seen::Uncommitted => newest_whole.is_some_and(|newest| epoch < newest),
    };
    let checkpoints: Vec<u64> = facts
        .checkpoints
        .iter()
        .filter(|(epoch, seen)| dispensable(**epoch, seen) && !facts.in_flight.contains(epoch))
        .map(|(epoch, _)| *epoch)
        .collect();
    let quiet = facts.in_flight.is_empty();
    let known = !facts.checkpoints.values().any(|seen| *seen == Seen::Unreadable);
    let shared = if quiet && known { orphans(facts, &checkpoints) } else { Vec::new() };
    Plan { checkpoints, shared, temporary: quiet }
}

/// Shared files that nothing references but what is about to be deleted (T2).
fn orphans(facts: &Facts, deleted: &[u64]) -> Vec<String> {
    let mut referenced = BTreeSet::new();
    for (epoch, seen) in &facts.checkpoints {
        if let Seen::Committed { shared, .. } = seen
            && deleted.binary_search(epoch).is_err()
        {
            referenced.extend(shared);
        }
    }
    facts.shared.iter().filter(|name| !referenced.contains(name)).cloned().collect()
}

/// Deletes what the policy no longer keeps. `in_flight` are the epochs being written, `suspect`
/// those that a restore skipped as damaged. No checkpoint may begin while this runs; call it
/// where checkpoints are committed. (Should one begin all the same, its commit fails rather than
/// reference a deleted file: `put_manifest` looks.)
///
/// # Errors
/// The first failure; what was not deleted is deleted by the next run.
pub fn retain(
    store: &dyn SnapshotStore,
    policy: Policy,
    in_flight: &BTreeSet<u64>,
    suspect: &BTreeSet<u64>,
) -> Result<Retained> {
    let facts = gather(store, in_flight, suspect)?;
    let plan = plan(policy, &facts);
    for epoch in &plan.checkpoints {
        store.delete(*epoch)?;
    }
    for name in &plan.shared {
        store.delete_shared(name)?;
    }
    let temporary = if plan.temporary { store.remove_temporary()? } else { 0 };
    Ok(Retained { checkpoints: plan.checkpoints, shared: plan.shared, temporary })
}

fn gather(
    store: &dyn SnapshotStore,
    in_flight: &BTreeSet<u64>,
    suspect: &BTreeSet<u64>,
) -> Result<Facts> {
    let mut facts = Facts { in_flight: in_flight.clone(), ..Facts::default() };
    for id in store.list()? {
        let seen = match store.load_manifest(id.epoch) {
            Ok(manifest) => Seen::Committed {
                savepoint: manifest.savepoint,
                suspect: suspect.contains(&id.epoch),
                shared: manifest.shared.into_iter().map(|s| s.name).collect(),
            },
            Err(Error::Missing(_)) => Seen::Uncommitted,
            Err(Error::Damaged(report) | Error::Refused(report)) => {
                tracing::warn!(
                    epoch = id.epoch,
                    "{}: {}; it is kept, and so are all shared files, until it is removed by hand",
                    report.path,
                    report.seen
                );
                Seen::Unreadable
            }
            Err(e) => return Err(e),
        };
        facts.checkpoints.insert(id.epoch, seen);
    }
    facts.shared = store.list_shared()?.into_iter().collect();
    Ok(facts)
}
