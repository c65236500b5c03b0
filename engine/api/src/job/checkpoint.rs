//! What a complete checkpoint says about the job: the head of its manifest.

use super::restore::state_kind;
use std::collections::BTreeMap;
use tidemill_plan::PhysicalPlan;
use tidemill_protocol::SubtaskStates;
use tidemill_runtime::context::{StateDeclaration, SubtaskInfo};
use tidemill_snapshot::{Manifest, StateEntry, WorkerPart};

/// The operators with the states that their subtasks declared.
#[derive(Clone, Debug, Default)]
pub struct Declared(tidemill_coordination::Declared);

impl Declared {
    /// Takes in what one slot's subtasks declared.
    pub fn add(&mut self, subtasks: &[(SubtaskInfo, Vec<StateDeclaration>)]) {
        self.0.add(&states_of(subtasks));
    }

    /// The manifest of a complete checkpoint.
    pub fn manifest(
        &self,
        plan: &PhysicalPlan,
        epoch: u64,
        created_at_ms: i64,
        savepoint: bool,
        part: WorkerPart,
    ) -> Manifest {
        self.0.manifest(plan, epoch, created_at_ms, savepoint, [part])
    }
}

/// What subtasks declared, as manifests describe it.
pub fn states_of(subtasks: &[(SubtaskInfo, Vec<StateDeclaration>)]) -> Vec<SubtaskStates> {
    let mut by_operator: BTreeMap<u64, BTreeMap<String, StateEntry>> = BTreeMap::new();
    for d in subtasks.iter().flat_map(|(_, states)| states) {
        let kind = state_kind(&d.section);
        let entry = StateEntry {
            name: d.name.clone(),
            kind: kind.clone(),
            schema: d.shape.clone(),
            fingerprint: tidemill_base::hash::hash_bytes(d.shape.as_bytes()),
        };
        by_operator.entry(d.section.operator).or_default().insert(kind, entry);
    }
    let states = |(operator, states): (u64, BTreeMap<String, StateEntry>)| SubtaskStates {
        operator,
        states: states.into_values().collect(),
    };
    by_operator.into_iter().map(states).collect()
}
