//! The jobs under test, each with an oracle that computes its output naively.
//!
//! Law: the oracle does not depend on schedules, faults, or parallelism.

mod keyed;
mod plain;

use crate::ledger::Ledger;
use crate::source::{Event, EventView, Input, SplitSource};
use crate::Scenario;
use std::sync::Arc;
use std::time::Duration;
use tidemill::pipe::Pipe;
use tidemill::{Env, Stream, event_time};

/// Event times are behind the greatest one before by less than this.
pub const DISORDER_MS: i64 = 40;

/// Which job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// source -> map -> filter -> rebalance -> map -> sink
    Rebalance,
    /// source -> flat_map -> key_by -> rolling aggregate -> sink
    Rolling,
    /// source -> forward -> key_by -> rolling -> rebalance -> filter -> sink
    Chain,
    /// two sources -> union -> key_by -> rolling -> sink
    Union,
    /// source -> shared: rolling -> sink, broadcast -> sink
    Shared,
}

impl Kind {
    /// All jobs.
    pub const ALL: [Kind; 5] =
        [Kind::Rebalance, Kind::Rolling, Kind::Chain, Kind::Union, Kind::Shared];

    /// Number of sources.
    pub fn sources(self) -> usize {
        match self {
            Kind::Union => 2,
            _ => 1,
        }
    }

    /// Number of sinks.
    pub fn sinks(self) -> usize {
        match self {
            Kind::Shared => 2,
            _ => 1,
        }
    }

    /// Whether its output is the same at every parallelism.
    pub fn rescales(self) -> bool {
        self != Kind::Shared
    }

    /// The key of a record: where order within a key is checked, a key is in one split.
    pub fn key(self, split: u64, random: u64) -> u64 {
        match self {
            Kind::Rebalance => random,
            _ => random * 100 + split,
        }
    }
}

/// What a job is composed with.
#[derive(Clone)]
pub struct Parts<'a> {
    /// The run.
    pub scenario: &'a Scenario,
    /// Where its sinks write, and where violations are noted.
    pub ledger: Ledger,
    /// Number of subtasks.
    pub parallelism: u32,
    /// Number of the life, from 0.
    pub life: u64,
}

impl Parts<'_> {
    /// The stream of source `i`.
    fn source(&self, env: &Env, i: usize) -> Stream<Event, impl Pipe<Out = Event> + use<>> {
        let seed = self.scenario.seed ^ (self.life << 8) ^ i as u64;
        let input = Arc::clone(&self.scenario.inputs[i]);
        let source = SplitSource::new(input, self.scenario.pace, seed);
        let time = event_time(|event: EventView<'_>| event.at)
            .out_of_order(Duration::from_millis(DISORDER_MS as u64))
            .idle_after(None);
        env.add_source_with(source, time).uid(&format!("source {i}"))
    }
}

/// Composes the job of a scenario.
pub fn compose(parts: &Parts<'_>) -> Env {
    let env = Env::new("sim").parallelism(parts.parallelism);
    match parts.scenario.kind {
        Kind::Rebalance => plain::rebalance(parts, &env),
        Kind::Rolling => keyed::rolling(parts, &env),
        Kind::Chain => keyed::chain(parts, &env),
        Kind::Union => keyed::union(parts, &env),
        Kind::Shared => keyed::shared(parts, &env),
    }
    env
}

/// The rows that sink `sink` must have committed at the end, sorted.
pub fn oracle(scenario: &Scenario, sink: usize) -> Vec<String> {
    let inputs: Vec<&Input> = scenario.inputs.iter().map(AsRef::as_ref).collect();
    let mut rows = match (scenario.kind, sink) {
        (Kind::Rebalance, _) => plain::rebalance_oracle(inputs[0]),
        (Kind::Rolling, _) => keyed::rolling_oracle(&inputs, 3),
        (Kind::Chain, _) => keyed::chain_oracle(inputs[0]),
        (Kind::Union, _) => keyed::rolling_oracle(&inputs, 1),
        (Kind::Shared, 0) => keyed::rolling_oracle(&inputs, 1),
        (Kind::Shared, _) => keyed::broadcast_oracle(inputs[0], scenario.lives[0].parallelism),
    };
    rows.sort();
    rows
}
