//! The graph of operators that a program composes.
//!
//! Invariants
//!   L1  Operators and edges are only ever added; an index stays valid.
//!   L2  Nothing is judged before `plan`: the program may name, connect and tune in any order.

use crate::key_group::DEFAULT_MAX_PARALLELISM;
use crate::{OperatorSpec, Partitioning, PhysicalPlan, PlanError};

/// Place of an operator in the graph that handed it out, counted in order of addition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperatorIndex(pub(crate) usize);

/// Place of an edge in the graph that handed it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EdgeIndex(pub(crate) usize);

/// A stream from one operator to an input of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edge {
    /// Who makes it.
    pub from: OperatorIndex,
    /// Who reads it.
    pub to: OperatorIndex,
    /// How its records spread over the reader's subtasks.
    pub partitioning: Partitioning,
    /// Which of the reader's inputs it feeds, from 0. Several edges may feed one input.
    pub input: u32,
    /// Whether both ends are fused into one task. Only a forward edge between equal parallelisms
    /// whose reader has no other edge can be.
    pub chained: bool,
}

impl Edge {
    /// An edge to input 0 through a channel.
    pub const fn new(from: OperatorIndex, to: OperatorIndex, partitioning: Partitioning) -> Self {
        Self { from, to, partitioning, input: 0, chained: false }
    }

    /// A forward edge whose ends are fused.
    pub const fn chained(from: OperatorIndex, to: OperatorIndex) -> Self {
        Self { from, to, partitioning: Partitioning::Forward, input: 0, chained: true }
    }

    /// A forward edge through a channel.
    pub const fn forward(from: OperatorIndex, to: OperatorIndex) -> Self {
        Self::new(from, to, Partitioning::Forward)
    }

    /// An edge that goes by key.
    pub const fn hash(from: OperatorIndex, to: OperatorIndex) -> Self {
        Self::new(from, to, Partitioning::Hash)
    }

    /// An edge that deals out evenly.
    pub const fn rebalance(from: OperatorIndex, to: OperatorIndex) -> Self {
        Self::new(from, to, Partitioning::Rebalance)
    }

    /// An edge that copies to every subtask.
    pub const fn broadcast(from: OperatorIndex, to: OperatorIndex) -> Self {
        Self::new(from, to, Partitioning::Broadcast)
    }

    /// The same edge to another input.
    #[must_use]
    pub const fn input(mut self, input: u32) -> Self {
        self.input = input;
        self
    }
}

/// A job as its program composes it: operators and the streams between them.
#[derive(Clone, Debug)]
pub struct LogicalGraph {
    pub(crate) job: String,
    pub(crate) parallelism: u32,
    pub(crate) max_parallelism: u32,
    pub(crate) operators: Vec<OperatorSpec>,
    pub(crate) edges: Vec<Edge>,
}

impl LogicalGraph {
    /// An empty graph of parallelism 1 with [`DEFAULT_MAX_PARALLELISM`] key groups.
    pub fn new(job: impl Into<String>) -> Self {
        Self {
            job: job.into(),
            parallelism: 1,
            max_parallelism: DEFAULT_MAX_PARALLELISM,
            operators: Vec::new(),
            edges: Vec::new(),
        }
    }

    /// The parallelism of operators that have none of their own.
    #[must_use]
    pub fn with_parallelism(mut self, parallelism: u32) -> Self {
        self.parallelism = parallelism;
        self
    }

    /// The number of key groups, fixed for the life of the job's state.
    #[must_use]
    pub fn with_max_parallelism(mut self, max_parallelism: u32) -> Self {
        self.max_parallelism = max_parallelism;
        self
    }

    /// See [`LogicalGraph::with_parallelism`].
    pub fn set_parallelism(&mut self, parallelism: u32) {
        self.parallelism = parallelism;
    }

    /// See [`LogicalGraph::with_max_parallelism`].
    pub fn set_max_parallelism(&mut self, max_parallelism: u32) {
        self.max_parallelism = max_parallelism;
    }

    /// The parallelism of operators that have none of their own.
    pub fn parallelism(&self) -> u32 {
        self.parallelism
    }

    /// The job's name.
    pub fn job(&self) -> &str {
        &self.job
    }

    /// Adds an operator (L1).
    pub fn add_operator(&mut self, spec: OperatorSpec) -> OperatorIndex {
        self.operators.push(spec);
        OperatorIndex(self.operators.len() - 1)
    }

    /// Adds an edge (L1, L2).
    pub fn connect(&mut self, edge: Edge) -> EdgeIndex {
        self.edges.push(edge);
        EdgeIndex(self.edges.len() - 1)
    }

    /// An operator, to name or tune it after it was added. `None` for an index of another graph.
    pub fn operator_mut(&mut self, index: OperatorIndex) -> Option<&mut OperatorSpec> {
        self.operators.get_mut(index.0)
    }

    /// An operator.
    pub fn operator(&self, index: OperatorIndex) -> Option<&OperatorSpec> {
        self.operators.get(index.0)
    }

    /// An edge, to change its partitioning or chaining after it was added.
    pub fn edge_mut(&mut self, index: EdgeIndex) -> Option<&mut Edge> {
        self.edges.get_mut(index.0)
    }

    /// All operators in order of addition.
    pub fn operators(&self) -> &[OperatorSpec] {
        &self.operators
    }

    /// All edges in order of addition.
    pub fn edges(&self) -> &[Edge] {
        &self.edges
    }

    /// Checks the graph and makes its tasks. The same program gives the same plan.
    ///
    /// # Errors
    /// The first thing that is wrong, as a [`PlanError`].
    pub fn plan(&self) -> Result<PhysicalPlan, PlanError> {
        crate::check::check(self)?;
        let order = crate::topology::sort(self)?;
        let uids = crate::uid::resolve(self, &order)?;
        crate::chain::fuse(self, &order, &uids)
    }

    /// The stable id of every operator, in order of addition.
    ///
    /// # Errors
    /// As [`LogicalGraph::plan`].
    pub fn operator_ids(&self) -> Result<Vec<crate::OperatorId>, PlanError> {
        crate::check::check(self)?;
        let order = crate::topology::sort(self)?;
        let uids = crate::uid::resolve(self, &order)?;
        Ok(uids.iter().map(|uid| crate::OperatorId::of_uid(uid)).collect())
    }

    /// The parallelism of an operator that is known to exist.
    pub(crate) fn parallelism_of(&self, index: OperatorIndex) -> u32 {
        self.operators[index.0].parallelism.unwrap_or(self.parallelism)
    }

    /// `kind "name" (operator N)`, for messages.
    pub(crate) fn describe(&self, index: OperatorIndex) -> String {
        let spec = &self.operators[index.0];
        format!("{} {:?} (operator {})", spec.kind, spec.name, index.0)
    }
}
