//! What a program has composed so far: operators, tasks and edges. Streams share it.
//!
//! Invariants
//!   G1  Operators and edges are only added; a number stays valid.
//!   G2  A task is registered when its head is, behind all that feed it: upstream tasks come first.
//!   G3  The first mistake of the program is kept and reported when the job starts.
//!   G4  A chain is open until it is closed, a branch as well as a task's own: a graph with an open
//!       one is refused, for what stands in it would not be built.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use tidemill_base::{Error, Result};
use tidemill_plan::{Edge, LogicalGraph, OperatorIndex, OperatorKind, OperatorSpec, Partitioning};
use tidemill_runtime::deploy::{Build, EdgePlan, JobPlan, TaskPlan, Wiring};

/// An operator, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Operator {
    pub(crate) number: usize,
    pub(crate) index: OperatorIndex,
}

struct EdgeDraft {
    from: usize,
    to: usize,
    input: usize,
    partitioning: Partitioning,
}

/// How far a stream has come within its task. A task is a tree: several streams may be at several of
/// its ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chain {
    /// Its number among all chains, branches included.
    number: usize,
    /// Number of the task.
    task: usize,
    /// The task's first operator.
    pub(crate) head: Operator,
    /// The stream's last one.
    pub(crate) last: Operator,
}

struct TaskDraft {
    /// Head first; an operator's place is what its stages know it by.
    operators: Vec<Operator>,
    /// `None` until its own chain (not a branch of it) is closed.
    factory: Option<Box<dyn Fn() -> Build>>,
}

struct Inner {
    logical: LogicalGraph,
    indices: Vec<OperatorIndex>,
    edges: Vec<EdgeDraft>,
    tasks: Vec<TaskDraft>,
    /// Chains begun so far.
    chains: usize,
    /// Those not closed yet, each with its last operator (G4).
    open: BTreeMap<usize, Operator>,
    mistake: Option<Error>,
    max_skew: Option<i64>,
}

/// The graph under construction; clones share it.
#[derive(Clone)]
pub(crate) struct Graph {
    inner: Rc<RefCell<Inner>>,
}

impl Graph {
    pub(crate) fn new(job: &str) -> Self {
        Graph {
            inner: Rc::new(RefCell::new(Inner {
                logical: LogicalGraph::new(job),
                indices: Vec::new(),
                edges: Vec::new(),
                tasks: Vec::new(),
                chains: 0,
                open: BTreeMap::new(),
                mistake: None,
                max_skew: None,
            })),
        }
    }

    pub(crate) fn with_logical<R>(&self, f: impl FnOnce(&mut LogicalGraph) -> R) -> R {
        f(&mut self.inner.borrow_mut().logical)
    }

    pub(crate) fn set_max_skew(&self, max_skew: Option<i64>) {
        self.inner.borrow_mut().max_skew = max_skew;
    }

    /// Keeps the first mistake (G3).
    pub(crate) fn mistake(&self, message: impl Into<String>) {
        self.inner.borrow_mut().mistake.get_or_insert_with(|| Error::job(message));
    }

    pub(crate) fn add(&self, name: &str, kind: OperatorKind, stateful: bool) -> Operator {
        let inner = &mut *self.inner.borrow_mut();
        let mut spec = OperatorSpec::new(name, kind);
        spec.stateful = stateful;
        let index = inner.logical.add_operator(spec);
        inner.indices.push(index);
        Operator { number: inner.indices.len() - 1, index }
    }

    pub(crate) fn edit(&self, operator: Operator, f: impl FnOnce(&mut OperatorSpec)) {
        if let Some(spec) = self.inner.borrow_mut().logical.operator_mut(operator.index) {
            f(spec);
        }
    }

    /// Registers the task that begins with `head` (G2).
    pub(crate) fn begin(&self, head: Operator) -> Chain {
        let inner = &mut *self.inner.borrow_mut();
        inner.tasks.push(TaskDraft { operators: vec![head], factory: None });
        let number = inner.open(head);
        Chain { number, task: inner.tasks.len() - 1, head, last: head }
    }

    /// Adds an operator that is fused behind the last one of `chain`. Returns the longer chain, and
    /// the operator's place in its task.
    pub(crate) fn fuse(&self, chain: Chain, name: &str, kind: OperatorKind) -> (Chain, u32) {
        let last = self.add(name, kind, false);
        let own = self.parallelism_of(chain.head);
        self.edit(last, |s| s.parallelism = Some(own));
        let inner = &mut *self.inner.borrow_mut();
        inner.logical.connect(Edge::chained(chain.last.index, last.index));
        let operators = &mut inner.tasks[chain.task].operators;
        operators.push(last);
        let position = operators.len() as u32 - 1;
        inner.open.entry(chain.number).and_modify(|open| *open = last);
        (Chain { last, ..chain }, position)
    }

    /// Begins a branch: a chain that hangs on the last operator of `chain`, in the same task.
    pub(crate) fn branch(&self, chain: Chain, name: &str) -> Chain {
        let number = self.inner.borrow_mut().open(chain.last);
        self.fuse(Chain { number, ..chain }, name, OperatorKind::Union).0
    }

    /// An edge with channels; returns its number.
    pub(crate) fn connect(
        &self,
        from: Operator,
        to: Operator,
        partitioning: Partitioning,
        input: usize,
    ) -> usize {
        let inner = &mut *self.inner.borrow_mut();
        let edge = Edge::new(from.index, to.index, partitioning).input(input as u32);
        inner.logical.connect(edge);
        let draft = EdgeDraft { from: from.number, to: to.number, input, partitioning };
        inner.edges.push(draft);
        inner.edges.len() - 1
    }

    /// Closes a chain (G4); a task's own one, not a branch, says how the task is built.
    pub(crate) fn close(&self, chain: Chain, factory: Option<Box<dyn Fn() -> Build>>) {
        let inner = &mut *self.inner.borrow_mut();
        inner.open.remove(&chain.number);
        if factory.is_some() {
            inner.tasks[chain.task].factory = factory;
        }
    }

    /// The parallelism of an operator.
    pub(crate) fn parallelism_of(&self, operator: Operator) -> u32 {
        let inner = self.inner.borrow();
        let own = inner.logical.operator(operator.index).and_then(|s| s.parallelism);
        own.unwrap_or_else(|| inner.default_parallelism())
    }

    /// Checks the graph and makes it ready to run.
    pub(crate) fn finish(&self) -> Result<(tidemill_plan::PhysicalPlan, JobPlan)> {
        let inner = &mut *self.inner.borrow_mut();
        if let Some(mistake) = &inner.mistake {
            return Err(mistake.clone());
        }
        let wrong = |e: tidemill_plan::PlanError| Error::job(e.to_string());
        let physical = inner.logical.plan().map_err(wrong)?;
        let ids: Vec<u64> =
            inner.logical.operator_ids().map_err(wrong)?.iter().map(|id| id.get()).collect();
        let names: Vec<String> =
            inner.logical.operators().iter().map(|spec| spec.name.clone()).collect();
        let mut task_of = vec![None; names.len()];
        for (number, task) in inner.tasks.iter().enumerate() {
            for operator in &task.operators {
                task_of[operator.number] = Some(number);
            }
        }
        let leads_nowhere = |operator: usize| {
            let name = &names[operator];
            Error::job(format!(
                "the stream behind '{name}' leads nowhere: give it a sink, or remove it"
            ))
        };
        // The plan does not miss a reader of an open chain whose last operator has a side output.
        if let Some(open) = inner.open.values().next() {
            return Err(leads_nowhere(open.number));
        }
        let mut edges = Vec::new();
        for draft in &inner.edges {
            let (Some(from), Some(to)) = (task_of[draft.from], task_of[draft.to]) else {
                let loose = if task_of[draft.from].is_none() { draft.from } else { draft.to };
                return Err(leads_nowhere(loose));
            };
            let wiring = match draft.partitioning {
                Partitioning::Forward => Wiring::OneToOne,
                _ => Wiring::AllToAll,
            };
            let (operator, input) = (draft.from, draft.input);
            edges.push(EdgePlan { from, operator, to, input, wiring });
        }
        let default = inner.default_parallelism();
        let tasks = std::mem::take(&mut inner.tasks);
        let mut plans = Vec::new();
        for task in tasks {
            let head = task.operators[0];
            let Some(factory) = task.factory else {
                return Err(leads_nowhere(head.number));
            };
            let own = inner.logical.operator(head.index).and_then(|s| s.parallelism);
            let planned = physical.tasks().iter().find(|t| t.head().id.get() == ids[head.number]);
            plans.push(TaskPlan {
                name: planned.map_or(names[head.number].as_str(), |t| t.name.as_str()).into(),
                parallelism: own.unwrap_or(default),
                operators: task.operators.iter().map(|o| o.number).collect(),
                factory,
            });
        }
        let max_parallelism = physical.max_parallelism();
        let plan = JobPlan {
            tasks: plans,
            edges,
            operator_names: names,
            operator_ids: ids.into(),
            max_parallelism,
            max_skew: inner.max_skew,
        };
        Ok((physical, plan))
    }
}

impl Inner {
    /// Begins a chain whose last operator is `last`; returns its number.
    fn open(&mut self, last: Operator) -> usize {
        self.open.insert(self.chains, last);
        self.chains += 1;
        self.chains - 1
    }

    fn default_parallelism(&self) -> u32 {
        self.logical.parallelism()
    }
}

#[cfg(test)]
mod tests;
