//! The head of a checkpoint's manifest: the job's operators with the states that its subtasks declared.

use std::collections::BTreeMap;

use tidemill_plan::PhysicalPlan;
use tidemill_protocol::SubtaskStates;
use tidemill_snapshot::{JobFacts, Manifest, OperatorEntry, StateEntry, WorkerPart};

/// The states that a job's operators declared, each once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Declared {
    /// By operator, then by kind and index.
    states: BTreeMap<u64, BTreeMap<String, StateEntry>>,
}

impl Declared {
    /// Takes in what subtasks declared; every subtask of an operator declares the same.
    pub fn add(&mut self, subtasks: &[SubtaskStates]) {
        for s in subtasks {
            let known = self.states.entry(s.operator).or_default();
            for state in &s.states {
                known.insert(state.kind.clone(), state.clone());
            }
        }
    }

    /// The manifest of a complete checkpoint.
    pub fn manifest(
        &self,
        plan: &PhysicalPlan,
        epoch: u64,
        created_at_ms: i64,
        savepoint: bool,
        parts: impl IntoIterator<Item = WorkerPart>,
    ) -> Manifest {
        let states = |id: u64| self.states.get(&id).into_iter().flat_map(|s| s.values().cloned());
        let operators = plan
            .tasks()
            .iter()
            .flat_map(|t| t.operators.iter().map(move |o| (t.parallelism, o)))
            .map(|(parallelism, o)| OperatorEntry {
                uid: o.uid.clone(),
                id: o.id.get(),
                name: o.name.clone(),
                parallelism,
                states: states(o.id.get()).collect(),
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
        Manifest::assemble(facts, parts)
    }
}
