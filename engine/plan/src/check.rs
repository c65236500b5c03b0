//! What must hold of a graph before it is sorted and fused. Cycles: topology.rs; uids: uid.rs.

use crate::key_group::check_parallelism;
use crate::logical::{Edge, OperatorIndex};
use crate::{LogicalGraph, OperatorKind, Partitioning, PlanError};

/// The most operators in a job.
pub(crate) const OPERATORS_MAX: usize = 4096;
/// The most edges in a job.
pub(crate) const EDGES_MAX: usize = 4 * OPERATORS_MAX;
/// The most bytes in a name or a uid.
pub(crate) const NAME_BYTES_MAX: usize = 255;

/// Everything that can be said of operators and edges one by one.
pub(crate) fn check(graph: &LogicalGraph) -> Result<(), PlanError> {
    check_job(graph)?;
    for index in 0..graph.operators.len() {
        check_operator(graph, OperatorIndex(index))?;
    }
    for edge in &graph.edges {
        check_edge(graph, edge)?;
    }
    check_streams(graph)
}

fn check_job(graph: &LogicalGraph) -> Result<(), PlanError> {
    let job = || graph.job.clone();
    check_name("the job", &graph.job)?;
    if graph.operators.len() > OPERATORS_MAX {
        let count = graph.operators.len();
        return Err(PlanError::TooManyOperators { job: job(), count, limit: OPERATORS_MAX });
    }
    if graph.edges.len() > EDGES_MAX {
        let count = graph.edges.len();
        return Err(PlanError::TooManyEdges { job: job(), count, limit: EDGES_MAX });
    }
    check_parallelism(&format!("job {:?}", graph.job), graph.parallelism, graph.max_parallelism)?;
    let has = |kind| graph.operators.iter().any(|o| o.kind == kind);
    if !has(OperatorKind::Source) {
        return Err(PlanError::NoSource { job: job() });
    }
    if !has(OperatorKind::Sink) {
        return Err(PlanError::NoSink { job: job() });
    }
    Ok(())
}

/// Checks the length of a name; the message quotes its beginning only.
pub(crate) fn check_name(what: &str, name: &str) -> Result<(), PlanError> {
    if name.len() <= NAME_BYTES_MAX {
        return Ok(());
    }
    let start: String = name.chars().take(32).collect();
    let what = format!("{what} {start:?}...");
    Err(PlanError::LongName { what, bytes: name.len(), limit: NAME_BYTES_MAX })
}

fn check_operator(graph: &LogicalGraph, index: OperatorIndex) -> Result<(), PlanError> {
    let spec = &graph.operators[index.0];
    check_name(&format!("{} (operator {})", spec.kind, index.0), &spec.name)?;
    let parallelism = graph.parallelism_of(index);
    check_parallelism(&graph.describe(index), parallelism, graph.max_parallelism)
}

fn check_edge(graph: &LogicalGraph, edge: &Edge) -> Result<(), PlanError> {
    for end in [edge.from, edge.to] {
        if end.0 >= graph.operators.len() {
            let (index, count) = (end.0, graph.operators.len());
            return Err(PlanError::NoSuchOperator { index, job: graph.job.clone(), count });
        }
    }
    let (from, to) = (&graph.operators[edge.from.0], &graph.operators[edge.to.0]);
    if from.kind == OperatorKind::Sink {
        return Err(PlanError::AfterSink { operator: graph.describe(edge.from) });
    }
    if edge.input >= to.kind.inputs() {
        let (input, inputs) = (edge.input, to.kind.inputs());
        let operator = graph.describe(edge.to);
        return Err(PlanError::NoSuchInput { operator, input, inputs });
    }
    let (from_p, to_p) = (graph.parallelism_of(edge.from), graph.parallelism_of(edge.to));
    if edge.partitioning == Partitioning::Forward && from_p != to_p {
        return Err(PlanError::ForwardMismatch {
            from: graph.describe(edge.from),
            from_parallelism: from_p,
            to: graph.describe(edge.to),
            to_parallelism: to_p,
        });
    }
    check_chained(graph, edge)
}

fn check_chained(graph: &LogicalGraph, edge: &Edge) -> Result<(), PlanError> {
    let why = if !edge.chained {
        return Ok(());
    } else if edge.partitioning != Partitioning::Forward {
        "the edge between them is not a forward edge, so it needs a channel"
    } else if graph.operators[edge.to.0].kind.inputs() != 1 {
        "an operator with two inputs starts a task of its own"
    } else if graph.edges.iter().filter(|other| other.to == edge.to).count() != 1 {
        "another stream feeds it too, so it starts a task of its own"
    } else {
        return Ok(());
    };
    let (from, to) = (graph.describe(edge.from), graph.describe(edge.to));
    Err(PlanError::BadChain { from, to, why })
}

/// Every input is fed and every stream is read.
fn check_streams(graph: &LogicalGraph) -> Result<(), PlanError> {
    for (index, spec) in graph.operators.iter().enumerate() {
        let operator = || graph.describe(OperatorIndex(index));
        for input in 0..spec.kind.inputs() {
            if !graph.edges.iter().any(|e| e.to.0 == index && e.input == input) {
                return Err(PlanError::MissingInput { operator: operator(), input });
            }
        }
        let read = graph.edges.iter().any(|e| e.from.0 == index);
        if !read && spec.kind != OperatorKind::Sink {
            return Err(PlanError::DanglingStream { operator: operator() });
        }
    }
    Ok(())
}
