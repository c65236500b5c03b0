//! Fuses the operators of a checked graph into tasks.
//!
//! Invariants
//!   F1  A task is a tree: its head, and operators whose only edge is a chained one from within it.
//!   F2  So every edge between tasks enters a head, and tasks in the order of their heads are in
//!       topological order.
//!   F3  A task's operators stand in topological order, head first; all have its parallelism.

use crate::check::OPERATORS_MAX;
use crate::logical::OperatorIndex;
use crate::physical::{PhysicalOperator, PhysicalPlan, Task, TaskEdge};
use crate::{LogicalGraph, OperatorId, PlanError, TaskId};

const _: () = assert!(OPERATORS_MAX <= u32::MAX as usize);

/// The tasks and edges of `graph`; `uids` are by operator index.
pub(crate) fn fuse(
    graph: &LogicalGraph,
    order: &[OperatorIndex],
    uids: &[String],
) -> Result<PhysicalPlan, PlanError> {
    let mut task_of = vec![0_usize; graph.operators.len()];
    let mut tasks: Vec<Task> = Vec::new();
    for &index in order {
        let chained_from = graph.edges.iter().find(|e| e.to == index && e.chained).map(|e| e.from);
        let mut operator = physical(graph, index, &uids[index.0]);
        task_of[index.0] = match chained_from {
            Some(upstream) => task_of[upstream.0],
            None => {
                tasks.push(Task {
                    id: task_id(tasks.len()),
                    name: String::new(),
                    parallelism: graph.parallelism_of(index),
                    operators: Vec::new(),
                });
                tasks.len() - 1
            }
        };
        let operators = &mut tasks[task_of[index.0]].operators;
        let upstream = chained_from.map(|upstream| OperatorId::of_uid(&uids[upstream.0]));
        if upstream != operators.last().map(|before| before.id) {
            operator.upstream = upstream;
        }
        operators.push(operator);
    }
    for task in &mut tasks {
        task.name = task.chain_name();
    }
    let mut edges: Vec<TaskEdge> = graph
        .edges
        .iter()
        .filter(|e| !e.chained)
        .map(|e| TaskEdge {
            from: task_id(task_of[e.from.0]),
            to: task_id(task_of[e.to.0]),
            from_operator: OperatorId::of_uid(&uids[e.from.0]),
            partitioning: e.partitioning,
            input: e.input,
        })
        .collect();
    // Stable: edges that are alike stay in order of addition.
    edges.sort_by_key(|e| (e.from, e.to, e.input));
    PhysicalPlan::new(graph.job.clone(), graph.parallelism, graph.max_parallelism, tasks, edges)
}

fn physical(graph: &LogicalGraph, index: OperatorIndex, uid: &str) -> PhysicalOperator {
    let spec = &graph.operators[index.0];
    PhysicalOperator {
        id: OperatorId::of_uid(uid),
        uid: uid.to_owned(),
        name: spec.name.clone(),
        kind: spec.kind,
        stateful: spec.stateful,
        upstream: None,
    }
}

fn task_id(index: usize) -> TaskId {
    // At most OPERATORS_MAX tasks, which fits by the assertion above.
    TaskId(u32::try_from(index).unwrap_or(u32::MAX))
}
