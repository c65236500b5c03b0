//! A deterministic topological order of a graph whose edges are known to be sound.
//!
//! Invariants
//!   T1  Every edge goes from an earlier to a later operator.
//!   T2  Of the operators that may come next, the one added first does.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::logical::OperatorIndex;
use crate::{LogicalGraph, PlanError};

/// The operators in topological order (T1, T2), or the cycle that prevents one.
pub(crate) fn sort(graph: &LogicalGraph) -> Result<Vec<OperatorIndex>, PlanError> {
    let count = graph.operators.len();
    let mut waiting_for = vec![0_usize; count];
    let mut readers = vec![Vec::new(); count];
    for edge in &graph.edges {
        waiting_for[edge.to.0] += 1;
        readers[edge.from.0].push(edge.to.0);
    }
    let mut ready: BinaryHeap<_> =
        (0..count).filter(|&i| waiting_for[i] == 0).map(Reverse).collect();
    let mut order = Vec::with_capacity(count);
    while let Some(Reverse(index)) = ready.pop() {
        order.push(OperatorIndex(index));
        for &reader in &readers[index] {
            waiting_for[reader] -= 1;
            if waiting_for[reader] == 0 {
                ready.push(Reverse(reader));
            }
        }
    }
    if order.len() == count { Ok(order) } else { Err(cycle(graph, &waiting_for)) }
}

/// Walks upstream among the operators that never became ready until one repeats: each of them has an
/// unready operator upstream, so the walk cannot end otherwise.
fn cycle(graph: &LogicalGraph, waiting_for: &[usize]) -> PlanError {
    let unready = |index: usize| waiting_for[index] > 0;
    let mut walk: Vec<usize> = (0..waiting_for.len()).find(|&i| unready(i)).into_iter().collect();
    while let Some(&last) = walk.last() {
        let upstream = graph.edges.iter().find(|e| e.to.0 == last && unready(e.from.0));
        let Some(next) = upstream.map(|e| e.from.0) else {
            break;
        };
        walk.push(next);
        if let Some(start) = walk[..walk.len() - 1].iter().position(|&i| i == next) {
            walk.drain(..start);
            break;
        }
    }
    walk.reverse();
    let names: Vec<_> = walk.into_iter().map(|i| graph.describe(OperatorIndex(i))).collect();
    PlanError::Cycle { path: names.join(" -> ") }
}
