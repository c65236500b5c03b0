//! What a program has composed so far: operators, tasks and edges. Streams share it.
//!
//! Invariants
//!   G1  Operators and edges are only added; a number stays valid.
//!   G2  A task is registered when its chain is closed, so upstream tasks come first.
//!   G3  The first mistake of the program is kept and reported when the job starts.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
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

struct TaskDraft {
    operators: Vec<Operator>,
    factory: Box<dyn Fn() -> Build>,
}

struct Inner {
    logical: LogicalGraph,
    indices: Vec<OperatorIndex>,
    edges: Vec<EdgeDraft>,
    tasks: Vec<TaskDraft>,
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

    /// A fused edge.
    pub(crate) fn chain(&self, from: Operator, to: Operator) {
        self.inner.borrow_mut().logical.connect(Edge::chained(from.index, to.index));
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

    /// Registers a closed chain (G2).
    pub(crate) fn close(&self, operators: Vec<Operator>, factory: Box<dyn Fn() -> Build>) {
        self.inner.borrow_mut().tasks.push(TaskDraft { operators, factory });
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
        let mut edges = Vec::new();
        for draft in &inner.edges {
            let (Some(from), Some(to)) = (task_of[draft.from], task_of[draft.to]) else {
                let loose = if task_of[draft.from].is_none() { draft.from } else { draft.to };
                return Err(Error::job(format!(
                    "the stream behind '{}' leads nowhere: give it a sink, or remove it",
                    names[loose]
                )));
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
            let own = inner.logical.operator(head.index).and_then(|s| s.parallelism);
            let label: Vec<&str> =
                task.operators.iter().map(|o| names[o.number].as_str()).collect();
            plans.push(TaskPlan {
                name: label.join(" -> ").into(),
                parallelism: own.unwrap_or(default),
                operators: task.operators.iter().map(|o| o.number).collect(),
                factory: task.factory,
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
    fn default_parallelism(&self) -> u32 {
        self.logical.parallelism()
    }
}

/// Edges that leave an operator beside its chain: consumers of a shared stream, or of a side
/// output. Filled while the program composes, read when tasks are built.
#[derive(Clone, Debug, Default)]
pub(crate) struct Taps {
    edges: Arc<Mutex<Vec<usize>>>,
}

impl Taps {
    pub(crate) fn add(&self, edge: usize) {
        if let Ok(mut edges) = self.edges.lock() {
            edges.push(edge);
        }
    }
    pub(crate) fn edges(&self) -> Vec<usize> {
        self.edges.lock().map(|e| e.clone()).unwrap_or_default()
    }
}
