//! What a complete checkpoint says about the job: the head of its manifest.

use super::restore::state_kind;
use std::collections::BTreeMap;
use tidemill_plan::PhysicalPlan;
use tidemill_runtime::context::{StateDeclaration, SubtaskInfo};
use tidemill_snapshot::{JobFacts, Manifest, OperatorEntry, StateEntry, WorkerPart};

/// The operators with the states that their subtasks declared.
#[derive(Clone, Debug, Default)]
pub struct Declared {
    /// By operator, then by kind and index.
    states: BTreeMap<u64, BTreeMap<String, StateEntry>>,
}

impl Declared {
    /// Takes in what one slot's subtasks declared.
    pub fn add(&mut self, subtasks: &[(SubtaskInfo, Vec<StateDeclaration>)]) {
        for d in subtasks.iter().flat_map(|(_, states)| states) {
            let kind = state_kind(&d.section);
            let entry = StateEntry {
                name: d.name.clone(),
                kind: kind.clone(),
                schema: d.shape.clone(),
                fingerprint: tidemill_base::hash::hash_bytes(d.shape.as_bytes()),
            };
            self.states.entry(d.section.operator).or_default().insert(kind, entry);
        }
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
        let operators = plan
            .tasks()
            .iter()
            .flat_map(|t| t.operators.iter().map(move |o| (t.parallelism, o)))
            .map(|(parallelism, o)| OperatorEntry {
                uid: o.uid.clone(),
                id: o.id.get(),
                name: o.name.clone(),
                parallelism,
                states: self
                    .states
                    .get(&o.id.get())
                    .map(|s| s.values().cloned().collect())
                    .unwrap_or_default(),
            })
            .collect();
        let mut properties = BTreeMap::new();
        properties.insert("tidemill".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
        let facts = JobFacts {
            job: plan.job().to_owned(),
            epoch,
            created_at_ms,
            savepoint,
            parallelism: plan.parallelism(),
            max_parallelism: plan.max_parallelism(),
            operators,
            properties,
        };
        Manifest::assemble(facts, [part])
    }
}
