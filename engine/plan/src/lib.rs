//! From the operators of a job to the tasks that run it. Pure: no I/O, no clock, no threads.
//!
//! A program composes a [`LogicalGraph`] of operators and edges; [`LogicalGraph::plan`] checks it and
//! fuses chained operators into the tasks of a [`PhysicalPlan`], which renders as JSON, mermaid and
//! graphviz, and is read back from that JSON by whoever schedules the job.
//!
//! ```
//! use tidemill_plan::{Edge, LogicalGraph, OperatorKind, OperatorSpec};
//!
//! let mut graph = LogicalGraph::new("WordCount").with_parallelism(4);
//! let lines = graph.add_operator(OperatorSpec::new("lines", OperatorKind::Source));
//! let words = graph.add_operator(OperatorSpec::new("words", OperatorKind::FlatMap));
//! let count = graph.add_operator(OperatorSpec::new("count", OperatorKind::Window).uid("count").stateful());
//! let out = graph.add_operator(OperatorSpec::new("out", OperatorKind::Sink));
//! graph.connect(Edge::chained(lines, words));
//! graph.connect(Edge::hash(words, count));
//! graph.connect(Edge::chained(count, out));
//! let plan = graph.plan()?;
//! assert_eq!(plan.tasks().len(), 2);
//! assert_eq!(plan.slots(), 4);
//! assert_eq!(plan.key_groups(plan.tasks()[1].id, 0), Some(0..32));
//! # Ok::<(), tidemill_plan::PlanError>(())
//! ```
#![forbid(unsafe_code)]

mod chain;
mod check;
mod error;
mod ids;
mod key_group;
mod logical;
mod operator;
mod physical;
mod render;
mod topology;
mod tree;
mod uid;

pub use error::PlanError;
pub use ids::{OperatorId, SubtaskId, TaskId};
pub use key_group::{
    DEFAULT_MAX_PARALLELISM, KeyGroupShare, MAX_PARALLELISM_LIMIT, check_parallelism,
    key_group_range, owner_of, redistribute,
};
pub use logical::{Edge, EdgeIndex, LogicalGraph, OperatorIndex};
pub use operator::{OperatorKind, OperatorSpec, Partitioning};
pub use physical::{PhysicalOperator, PhysicalPlan, Task, TaskEdge};
