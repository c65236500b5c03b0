//! The uid of every operator: the user's, or one derived from where the operator stands.
//!
//! The rule for a derived uid: `auto:<16 hex digits>:<name>`, where the digits hash
//!   - the operator's kind and name,
//!   - for each edge into it, in order of input and then of addition: the input's number and the
//!     operator id upstream (so the whole path of names from the sources, and a user's uid pins it),
//!   - its number among the operators for which all of the above is equal, in order of addition.
//!
//! So the same program gets the same ids; a branch added elsewhere, another parallelism, partitioning
//! or chaining does not change them; a renamed or moved operator and all below it get new ones. State
//! that must survive such changes needs a uid of the user's.
//!
//! Invariants
//!   U1  No two operators of a graph have the same uid or the same operator id.
//!   U2  A user's uid never starts with `auto:`.

use std::collections::HashMap;

use crate::check::{NAME_BYTES_MAX, OPERATORS_MAX};
use crate::ids::stable_hash;
use crate::logical::OperatorIndex;
use crate::{LogicalGraph, OperatorId, PlanError};

/// What a derived uid starts with (U2).
pub(crate) const AUTO: &str = "auto:";
/// The most bytes in any uid: a derived one holds a name.
pub(crate) const UID_BYTES_MAX: usize = AUTO.len() + 16 + 1 + NAME_BYTES_MAX;

const _: () = assert!(OPERATORS_MAX <= u32::MAX as usize);

/// The uid of each operator, by its index in the graph (U1).
pub(crate) fn resolve(
    graph: &LogicalGraph,
    order: &[OperatorIndex],
) -> Result<Vec<String>, PlanError> {
    let mut uids = vec![String::new(); graph.operators.len()];
    let mut twins: HashMap<Vec<u8>, u32> = HashMap::new();
    for &index in order {
        let spec = &graph.operators[index.0];
        uids[index.0] = match &spec.uid {
            Some(uid) => check_user_uid(graph, index, uid)?,
            None => {
                let mut place = place(graph, index, &uids);
                let twin = twins.entry(place.clone()).or_insert(0);
                place.extend_from_slice(&twin.to_le_bytes());
                *twin += 1;
                format!("{AUTO}{:016x}:{}", stable_hash(&place), spec.name)
            }
        };
    }
    check_unique(graph, &uids)?;
    Ok(uids)
}

/// Kind, name and upstream, each part with its length, so that no two places have the same bytes.
fn place(graph: &LogicalGraph, index: OperatorIndex, uids: &[String]) -> Vec<u8> {
    let spec = &graph.operators[index.0];
    let mut bytes = Vec::new();
    for part in [spec.kind.name(), &spec.name] {
        bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
        bytes.extend_from_slice(part.as_bytes());
    }
    let mut upstream: Vec<_> = graph.edges.iter().filter(|e| e.to == index).collect();
    upstream.sort_by_key(|e| e.input);
    for edge in upstream {
        bytes.extend_from_slice(&edge.input.to_le_bytes());
        bytes.extend_from_slice(&OperatorId::of_uid(&uids[edge.from.0]).get().to_le_bytes());
    }
    bytes
}

fn check_user_uid(
    graph: &LogicalGraph,
    index: OperatorIndex,
    uid: &str,
) -> Result<String, PlanError> {
    let why = if uid.is_empty() {
        "is empty; give it a name or leave it out"
    } else if uid.len() > NAME_BYTES_MAX {
        "is longer than 255 bytes; shorten it"
    } else if uid.chars().any(char::is_control) {
        "holds a control character; use printable ones"
    } else if uid.starts_with(AUTO) {
        "starts with `auto:`, which is kept for derived uids; choose another"
    } else {
        return Ok(uid.to_owned());
    };
    let uid = uid.chars().take(64).collect();
    Err(PlanError::BadUid { operator: graph.describe(index), uid, why })
}

fn check_unique(graph: &LogicalGraph, uids: &[String]) -> Result<(), PlanError> {
    let mut seen: HashMap<OperatorId, usize> = HashMap::new();
    for (second, uid) in uids.iter().enumerate() {
        let id = OperatorId::of_uid(uid);
        let Some(first) = seen.insert(id, second) else {
            continue;
        };
        let describe = |i| graph.describe(OperatorIndex(i));
        return Err(unequal(id, &uids[first], uid, describe(first), describe(second)));
    }
    Ok(())
}

/// The error for two operators with the same id: their uids are equal, or their hashes collide.
pub(crate) fn unequal(
    id: OperatorId,
    uid: &str,
    other: &str,
    first: String,
    second: String,
) -> PlanError {
    if uid == other {
        return PlanError::DuplicateUid { uid: uid.to_owned(), first, second };
    }
    let (first, second) = (uid.to_owned(), other.to_owned());
    PlanError::UidCollision { first, second, id: id.to_string() }
}
