//! The jobs under test, each with an oracle that computes its output naively.
//!
//! Law: the oracle does not depend on schedules, faults, or parallelism.

mod branches;
mod joined;
mod keyed;
mod plain;
mod processed;
mod windowed;

use crate::Scenario;
use crate::ledger::Ledger;
use crate::rng::Rng;
use crate::source::{Event, EventView, Input, SplitSource};
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
    /// two sources -> union -> key_by -> rolling -> rebalance -> sink
    Union,
    /// source -> shared: rolling -> sink, broadcast -> sink
    Shared,
    /// source -> shared: rolling -> sink; map -> shared: filter and filter -> union -> sink, process with
    /// a side output -> rebalance -> sink, side output -> sink
    Branches,
    /// source -> key_by -> tumbling window -> reduce -> rebalance -> sink
    Tumbling,
    /// source -> rebalance -> key_by -> sliding window -> reduce -> rebalance -> sink
    Sliding,
    /// source -> key_by -> session window -> sum -> rebalance -> sink
    Session,
    /// source -> key_by -> count window -> sink
    Counted,
    /// source -> key_by -> process with timers -> sink, side output -> sink
    Timers,
    /// two sources -> interval join -> sink
    Interval,
    /// two sources -> window join -> sink
    WindowJoin,
    /// two sources -> connect -> co-process -> sink
    Connect,
    /// source -> key_by, source -> broadcast: process -> sink
    Rules,
    /// source with late records -> key_by -> tumbling window -> sink, late records -> sink
    Late,
    /// source -> key_by -> process with processing-time timers -> sink
    Ticks,
}

impl Kind {
    /// All jobs but [`Kind::Branches`].
    const OTHERS: [Kind; 16] = [
        Kind::Rebalance,
        Kind::Rolling,
        Kind::Chain,
        Kind::Union,
        Kind::Shared,
        Kind::Tumbling,
        Kind::Sliding,
        Kind::Session,
        Kind::Counted,
        Kind::Timers,
        Kind::Interval,
        Kind::WindowJoin,
        Kind::Connect,
        Kind::Rules,
        Kind::Late,
        Kind::Ticks,
    ];

    /// A random job. Branches take the place of others by a chance of their own: the seeds of all
    /// other jobs are what they were before there were any.
    pub fn draw(rng: &mut Rng, seed: u64) -> Kind {
        let kind = rng.pick(&Self::OTHERS);
        let branches = Rng::new(seed ^ 0x6272_616e).percent(50);
        let replaced = matches!(kind, Kind::Shared | Kind::Rebalance);
        if replaced && branches { Kind::Branches } else { kind }
    }

    /// Number of sources.
    pub fn sources(self) -> usize {
        use Kind::*;
        match self {
            Union | Interval | WindowJoin | Connect | Rules => 2,
            _ => 1,
        }
    }

    /// Number of sinks.
    pub fn sinks(self) -> usize {
        match self {
            Kind::Branches => 4,
            Kind::Shared | Kind::Timers | Kind::Late => 2,
            _ => 1,
        }
    }

    /// The fewest keys: the output of a join is small only with many.
    pub fn keys_min(self) -> u64 {
        match self {
            Kind::Interval | Kind::WindowJoin => 20,
            _ => 1,
        }
    }

    /// Whether its output is the same at every parallelism.
    pub fn rescales(self) -> bool {
        self != Kind::Shared
    }

    /// Whether it has keyed state that may be on disk.
    pub fn keeps_tables(self) -> bool {
        use Kind::*;
        matches!(self, Rolling | Chain | Union | Shared | Branches | Timers | Connect | Rules)
    }

    /// The key of a record: where order within a key is checked, a key is in one split.
    pub fn key(self, split: u64, random: u64) -> u64 {
        match self {
            Kind::Rebalance | Kind::Tumbling | Kind::Sliding | Kind::Session => random,
            Kind::Timers | Kind::Interval | Kind::WindowJoin | Kind::Late | Kind::Ticks => random,
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
            .idle_after(self.scenario.idle_after_ms.map(Duration::from_millis));
        env.add_source_with(source, time).uid(&format!("source {i}"))
    }
}

/// Composes the job of a scenario.
pub fn compose(parts: &Parts<'_>) -> Env {
    let max_skew = parts.scenario.max_skew_ms.map(Duration::from_millis);
    let env = Env::new("sim").parallelism(parts.parallelism).max_skew(max_skew);
    match parts.scenario.kind {
        Kind::Rebalance => plain::rebalance(parts, &env),
        Kind::Rolling => keyed::rolling(parts, &env),
        Kind::Chain => keyed::chain(parts, &env),
        Kind::Union => keyed::union(parts, &env),
        Kind::Shared => keyed::shared(parts, &env),
        Kind::Branches => branches::branches(parts, &env),
        Kind::Tumbling => windowed::tumbling(parts, &env),
        Kind::Sliding => windowed::sliding(parts, &env),
        Kind::Session => windowed::session(parts, &env),
        Kind::Counted => windowed::counted(parts, &env),
        Kind::Timers => processed::timers(parts, &env),
        Kind::Interval => joined::interval(parts, &env),
        Kind::WindowJoin => joined::window(parts, &env),
        Kind::Connect => joined::connect(parts, &env),
        Kind::Rules => joined::rules(parts, &env),
        Kind::Late => windowed::late(parts, &env),
        Kind::Ticks => processed::ticks(parts, &env),
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
        (Kind::Branches, 0) => keyed::rolling_oracle(&inputs, 2),
        (Kind::Branches, sink) => branches::branches_oracle(inputs[0], sink),
        (Kind::Tumbling, _) => windowed::sliding_oracle(inputs[0], None),
        (Kind::Sliding, _) => windowed::sliding_rows(inputs[0]),
        (Kind::Session, _) => windowed::session_oracle(inputs[0]),
        (Kind::Counted, _) => windowed::counted_oracle(inputs[0]),
        (Kind::Timers, 0) => processed::timers_oracle(inputs[0]),
        (Kind::Timers, _) => processed::odd_oracle(inputs[0]),
        (Kind::Interval, _) => joined::interval_oracle(&inputs),
        (Kind::WindowJoin, _) => joined::window_oracle(&inputs),
        (Kind::Connect, _) => joined::connect_oracle(&inputs),
        (Kind::Rules, _) => joined::rules_oracle(inputs[0]),
        (Kind::Late, 0) => windowed::late_oracle(inputs[0]),
        (Kind::Late, _) => Vec::new(),
        (Kind::Ticks, _) => processed::ticks_oracle(inputs[0]),
        (Kind::Shared, _) => keyed::broadcast_oracle(inputs[0], scenario.lives[0].parallelism),
    };
    rows.sort();
    rows
}

/// What the sinks have committed, without what a schedule may decide: whether a record is late, and
/// between which two others a timer fires.
pub fn settled(kind: Kind, committed: Vec<Vec<String>>) -> Vec<Vec<String>> {
    let mut rows = match kind {
        Kind::Late => vec![windowed::late_settled(&committed), Vec::new()],
        Kind::Ticks => vec![processed::ticks_settled(&committed[0])],
        _ => committed,
    };
    rows.iter_mut().for_each(|rows| rows.sort());
    rows
}
