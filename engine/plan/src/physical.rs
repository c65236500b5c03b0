//! The tasks that run a job, and the edges between them.
//!
//! JSON, stable (fields may be added, none is renamed or removed):
//! ```text
//! {"job": "WordCount", "parallelism": 4, "max_parallelism": 128,
//!  "tasks": [{"id": 0, "name": "lines -> words", "parallelism": 4,
//!             "operators": [{"id": "0123456789abcdef", "uid": "lines", "name": "lines",
//!                            "kind": "source", "stateful": true}, ...]}, ...],
//!  "edges": [{"from": 0, "to": 1, "from_operator": "fedcba9876543210",
//!             "partitioning": "hash", "input": 0}, ...]}
//! ```
//! `from` and `to` are task ids; `from_operator` is the operator of the sending task whose output the
//! edge carries (a task is a tree and may have several ends); an edge always enters its task's head.
//! An operator that is not fed by the one listed before it has `"upstream"`: the id of the one that
//! feeds it.
//!
//! Invariants (hold for every value of [`PhysicalPlan`], also for one read from JSON)
//!   Q1  `tasks[i].id == i`, and every edge goes from a lower to a higher task: no cycles.
//!   Q2  Every operator's id is the hash of its uid, and unique.
//!   Q3  1 <= parallelism <= max_parallelism; a forward edge joins equal parallelisms.
//!   Q4  Every input of a head is fed, every other operator has one input, fed by an earlier one of
//!       its task, and nothing leaves a sink.
//!   Q5  There are a source and a sink, and every task without outgoing edges holds a sink.
//!
//! Not here: how tasks come to be (chain.rs), pictures (render/).

use std::collections::HashMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::check::{EDGES_MAX, NAME_BYTES_MAX, OPERATORS_MAX, check_name};
use crate::key_group::{check_parallelism, key_group_range};
use crate::uid::{AUTO, UID_BYTES_MAX, unequal};
use crate::{OperatorId, OperatorKind, Partitioning, PlanError, SubtaskId, TaskId};

/// An operator within its task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhysicalOperator {
    /// Hash of the uid; names the operator's state.
    pub id: OperatorId,
    /// The user's uid, or a derived one.
    pub uid: String,
    /// For people.
    pub name: String,
    /// What it does.
    pub kind: OperatorKind,
    /// Whether it keeps state in checkpoints.
    pub stateful: bool,
    /// The operator of the same task that feeds it, where that is not the one listed before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<OperatorId>,
}

impl PhysicalOperator {
    /// Whether the user chose the uid. A stateful operator without one loses its state when it is
    /// renamed or moved.
    pub fn has_user_uid(&self) -> bool {
        !self.uid.starts_with(AUTO)
    }
}

/// Operators fused into one unit of execution, with its number of subtasks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Its place in the plan.
    pub id: TaskId,
    /// The names of its operators, joined by ` -> `; those that one operator feeds stand in brackets.
    pub name: String,
    /// Its number of subtasks.
    pub parallelism: u32,
    /// Head first, in topological order, never empty.
    pub operators: Vec<PhysicalOperator>,
}

impl Task {
    /// The operator that reads the task's inputs, or is its source.
    pub fn head(&self) -> &PhysicalOperator {
        &self.operators[0]
    }

    /// All its subtasks.
    pub fn subtasks(&self) -> impl Iterator<Item = SubtaskId> + use<> {
        let task = self.id;
        (0..self.parallelism).map(move |subtask| SubtaskId { task, subtask })
    }
}

/// A channel bundle from one task to an input of another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskEdge {
    /// The sending task.
    pub from: TaskId,
    /// The receiving task.
    pub to: TaskId,
    /// The operator of the sending task whose output this is.
    pub from_operator: OperatorId,
    /// How records spread over the receiver's subtasks.
    pub partitioning: Partitioning,
    /// The input of the receiver's head, from 0.
    pub input: u32,
}

/// A job ready to be deployed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct PhysicalPlan {
    job: String,
    parallelism: u32,
    max_parallelism: u32,
    tasks: Vec<Task>,
    edges: Vec<TaskEdge>,
}

/// A plan as it was read, of which nothing is known yet.
#[derive(Deserialize)]
struct Unchecked {
    job: String,
    parallelism: u32,
    max_parallelism: u32,
    tasks: Vec<Task>,
    edges: Vec<TaskEdge>,
}

impl TryFrom<Unchecked> for PhysicalPlan {
    type Error = PlanError;

    fn try_from(raw: Unchecked) -> Result<Self, PlanError> {
        Self::new(raw.job, raw.parallelism, raw.max_parallelism, raw.tasks, raw.edges)
    }
}

impl PhysicalPlan {
    /// Checks Q1 to Q5.
    pub(crate) fn new(
        job: String,
        parallelism: u32,
        max_parallelism: u32,
        tasks: Vec<Task>,
        edges: Vec<TaskEdge>,
    ) -> Result<Self, PlanError> {
        let plan = Self { job, parallelism, max_parallelism, tasks, edges };
        plan.check_tasks()?;
        plan.check_ids()?;
        plan.check_edges()?;
        plan.check_ends()?;
        Ok(plan)
    }

    /// Reads a plan from its JSON and checks it: the text may come from anywhere.
    ///
    /// # Errors
    /// [`PlanError::Malformed`] with the place and the remedy.
    pub fn from_json(json: &str) -> Result<Self, PlanError> {
        serde_json::from_str(json).map_err(|e| PlanError::Malformed { why: e.to_string() })
    }

    /// A number that two plans share only if they are equal: a hash of the plan's JSON.
    pub fn fingerprint(&self) -> u64 {
        crate::ids::stable_hash(self.to_json().as_bytes())
    }

    /// The job's name.
    pub fn job(&self) -> &str {
        &self.job
    }

    /// The job's default parallelism; tasks may have others.
    pub fn parallelism(&self) -> u32 {
        self.parallelism
    }

    /// The number of key groups.
    pub fn max_parallelism(&self) -> u32 {
        self.max_parallelism
    }

    /// The tasks in topological order; a task's id is its place.
    pub fn tasks(&self) -> &[Task] {
        &self.tasks
    }

    /// A task by its id.
    pub fn task(&self, id: TaskId) -> Option<&Task> {
        self.tasks.get(id.index())
    }

    /// The edges between tasks, by sender, receiver, input.
    pub fn edges(&self) -> &[TaskEdge] {
        &self.edges
    }

    /// The edges into a task.
    pub fn inputs_of(&self, task: TaskId) -> impl Iterator<Item = &TaskEdge> {
        self.edges.iter().filter(move |e| e.to == task)
    }

    /// The edges out of a task.
    pub fn outputs_of(&self, task: TaskId) -> impl Iterator<Item = &TaskEdge> {
        self.edges.iter().filter(move |e| e.from == task)
    }

    /// All operators of all tasks.
    pub fn operators(&self) -> impl Iterator<Item = &PhysicalOperator> {
        self.tasks.iter().flat_map(|t| &t.operators)
    }

    /// The slots that the job needs: the largest parallelism of its tasks. Subtask `i` sits in slot `i`.
    pub fn slots(&self) -> u32 {
        self.tasks.iter().map(|t| t.parallelism).max().unwrap_or(0)
    }

    /// Every subtask of the job.
    pub fn subtasks(&self) -> impl Iterator<Item = SubtaskId> + '_ {
        self.tasks.iter().flat_map(Task::subtasks)
    }

    /// The subtasks in a slot, in topological order.
    pub fn subtasks_in_slot(&self, slot: u32) -> impl Iterator<Item = SubtaskId> + '_ {
        self.subtasks().filter(move |s| s.slot() == slot)
    }

    /// The key groups that a subtask owns; `None` where there is no such subtask.
    pub fn key_groups(&self, task: TaskId, subtask: u32) -> Option<Range<u32>> {
        let parallelism = self.task(task)?.parallelism;
        (subtask < parallelism).then(|| key_group_range(subtask, parallelism, self.max_parallelism))
    }

    /// Q1 for tasks, Q3 for each, Q4 within each.
    fn check_tasks(&self) -> Result<(), PlanError> {
        check_name("the job", &self.job)?;
        let job = format!("job {:?}", self.job);
        check_parallelism(&job, self.parallelism, self.max_parallelism)?;
        let count = self.operators().count();
        if count > OPERATORS_MAX {
            let job = self.job.clone();
            return Err(PlanError::TooManyOperators { job, count, limit: OPERATORS_MAX });
        }
        for (place, task) in self.tasks.iter().enumerate() {
            if task.id.index() != place {
                return inconsistent(format!("task number {place} has id {}", task.id));
            }
            if task.operators.is_empty() {
                return inconsistent(format!("task {place} has no operators"));
            }
            let what = format!("task {place}");
            check_parallelism(&what, task.parallelism, self.max_parallelism)?;
            for (at, operator) in task.operators.iter().enumerate() {
                let describe = || format!("{} {:?}", operator.kind, operator.name);
                if at > 0 && operator.kind.inputs() != 1 {
                    return inconsistent(format!(
                        "{} stands within task {place}, but it can only head one",
                        describe()
                    ));
                }
                let Some(upstream) = operator.upstream else { continue };
                let Some(feeds) = task.operators[..at].iter().find(|o| o.id == upstream) else {
                    return inconsistent(format!(
                        "{} of task {place} is fed by {upstream}, which does not stand before it",
                        describe()
                    ));
                };
                if feeds.kind == OperatorKind::Sink {
                    let operator = format!("{} {:?}", feeds.kind, feeds.name);
                    return Err(PlanError::AfterSink { operator });
                }
            }
        }
        Ok(())
    }

    /// Q2, and the lengths of names.
    fn check_ids(&self) -> Result<(), PlanError> {
        let mut seen: HashMap<OperatorId, &PhysicalOperator> = HashMap::new();
        for operator in self.operators() {
            let describe = |o: &PhysicalOperator| format!("{} {:?}", o.kind, o.name);
            check_name(operator.kind.name(), &operator.name)?;
            let limit = if operator.has_user_uid() { NAME_BYTES_MAX } else { UID_BYTES_MAX };
            if operator.uid.is_empty() || operator.uid.len() > limit {
                let bytes = operator.uid.len();
                return inconsistent(format!(
                    "the uid of {} has {bytes} bytes",
                    describe(operator)
                ));
            }
            let (uid, id) = (&operator.uid, operator.id);
            if id != OperatorId::of_uid(uid) {
                return inconsistent(format!("{} has id {id}, not its uid's", describe(operator)));
            }
            if let Some(other) = seen.insert(id, operator) {
                return Err(unequal(id, &other.uid, uid, describe(other), describe(operator)));
            }
        }
        Ok(())
    }

    /// Q1, Q3, Q4 for edges.
    fn check_edges(&self) -> Result<(), PlanError> {
        if self.edges.len() > EDGES_MAX {
            let (job, count) = (self.job.clone(), self.edges.len());
            return Err(PlanError::TooManyEdges { job, count, limit: EDGES_MAX });
        }
        for edge in &self.edges {
            let (Some(from), Some(to)) = (self.task(edge.from), self.task(edge.to)) else {
                return inconsistent(format!("no such tasks: edge {} -> {}", edge.from, edge.to));
            };
            if edge.from >= edge.to {
                return inconsistent(format!("edge {} -> {} goes backwards", edge.from, edge.to));
            }
            let Some(sender) = from.operators.iter().find(|o| o.id == edge.from_operator) else {
                let id = edge.from_operator;
                return inconsistent(format!("task {} has no operator {id}", edge.from));
            };
            if sender.kind == OperatorKind::Sink {
                let operator = format!("{} {:?}", sender.kind, sender.name);
                return Err(PlanError::AfterSink { operator });
            }
            let (input, inputs) = (edge.input, to.head().kind.inputs());
            if input >= inputs {
                let operator = format!("{} {:?}", to.head().kind, to.head().name);
                return Err(PlanError::NoSuchInput { operator, input, inputs });
            }
            if edge.partitioning == Partitioning::Forward && from.parallelism != to.parallelism {
                return Err(PlanError::ForwardMismatch {
                    from: format!("task {} {:?}", from.id, from.name),
                    from_parallelism: from.parallelism,
                    to: format!("task {} {:?}", to.id, to.name),
                    to_parallelism: to.parallelism,
                });
            }
        }
        Ok(())
    }

    /// Q4 for inputs, Q5.
    fn check_ends(&self) -> Result<(), PlanError> {
        let job = || self.job.clone();
        if !self.operators().any(|o| o.kind == OperatorKind::Source) {
            return Err(PlanError::NoSource { job: job() });
        }
        if !self.operators().any(|o| o.kind == OperatorKind::Sink) {
            return Err(PlanError::NoSink { job: job() });
        }
        for task in &self.tasks {
            let operator = || format!("task {} {:?}", task.id, task.name);
            for input in 0..task.head().kind.inputs() {
                if !self.inputs_of(task.id).any(|e| e.input == input) {
                    return Err(PlanError::MissingInput { operator: operator(), input });
                }
            }
            let ends_in_sink = task.operators.iter().any(|o| o.kind == OperatorKind::Sink);
            if !ends_in_sink && self.outputs_of(task.id).next().is_none() {
                return Err(PlanError::DanglingStream { operator: operator() });
            }
        }
        Ok(())
    }
}

fn inconsistent(why: String) -> Result<(), PlanError> {
    Err(PlanError::Inconsistent { why })
}
