//! Jobs with two inputs.

use super::Parts;
use crate::ledger::Ledger;
use crate::source::{Event, EventView, Input};
use std::time::Duration;
use tidemill::{
    BroadcastMap, BroadcastProcess, CoProcess, Env, ProcessContext, Result, States, ValueState,
};

const INTERVAL_MS: i64 = 15;
const WINDOW_MS: i64 = 40;

fn row(a: (u64, u64, u64), b: (u64, u64)) -> String {
    format!("{}: {}.{} with {}.{}", a.0, a.1, a.2, b.0, b.1)
}

/// Rows of all pairs with the same key that `meet`.
fn pairs(inputs: &[&Input], meet: impl Fn(&Event, &Event) -> bool) -> Vec<String> {
    let mut rows = Vec::new();
    for a in inputs[0].events() {
        for b in inputs[1].events().filter(|b| a.key == b.key && meet(a, b)) {
            rows.push(row((a.key, a.split, a.seq), (b.split, b.seq)));
        }
    }
    rows
}

/// two sources -> interval join -> sink
pub(super) fn interval(parts: &Parts<'_>, env: &Env) {
    let left = parts.source(env, 0).key_by::<u64, _>(|e| e.key);
    let right = parts.source(env, 1).key_by::<u64, _>(|e| e.key);
    left.interval_join(right, -INTERVAL_MS, INTERVAL_MS)
        .apply(|key, a, b| row((key, a.split, a.seq), (b.split, b.seq)))
        .uid("join")
        .add_sink(parts.ledger.sink(0))
        .uid("sink 0");
}

pub(super) fn interval_oracle(inputs: &[&Input]) -> Vec<String> {
    pairs(inputs, |a, b| (a.at - b.at).abs() <= INTERVAL_MS)
}

/// two sources -> window join -> sink
pub(super) fn window(parts: &Parts<'_>, env: &Env) {
    let left = parts.source(env, 0).key_by::<u64, _>(|e| e.key);
    let right = parts.source(env, 1).key_by::<u64, _>(|e| e.key);
    left.window_join(right, Duration::from_millis(WINDOW_MS as u64))
        .apply(|key, _, a, b| row((key, a.split, a.seq), (b.split, b.seq)))
        .uid("join")
        .add_sink(parts.ledger.sink(0))
        .uid("sink 0");
}

pub(super) fn window_oracle(inputs: &[&Input]) -> Vec<String> {
    pairs(inputs, |a, b| a.at.div_euclid(WINDOW_MS) == b.at.div_euclid(WINDOW_MS))
}

/// Counts both inputs of a key; emits the place of each record, and notes one out of turn.
#[derive(Clone)]
struct Counts {
    ledger: Ledger,
}

impl Counts {
    fn take(
        &self,
        seen: &ValueState<u64>,
        input: u64,
        e: EventView<'_>,
        cx: &mut ProcessContext<'_, u64, String>,
    ) {
        let expected = seen.get().unwrap_or(0);
        if e.seq != expected {
            let (key, seq) = (e.key, e.seq);
            self.ledger.violation(format!(
                "order: input {input}, key {key}: #{seq} comes, #{expected} is expected"
            ));
        }
        seen.set(e.seq + 1);
        cx.emit(&format!("{input}.{} #{expected}", e.key));
    }
}

impl CoProcess<u64, Event, Event> for Counts {
    type Out = String;
    type State = (ValueState<u64>, ValueState<u64>);

    fn open(&self, states: &mut States<u64>) -> Result<Self::State> {
        Ok((states.value("first", None)?, states.value("second", None)?))
    }

    fn process1(
        &mut self,
        state: &mut Self::State,
        e: EventView<'_>,
        cx: &mut ProcessContext<'_, u64, String>,
    ) {
        self.take(&state.0, 0, e, cx);
    }

    fn process2(
        &mut self,
        state: &mut Self::State,
        e: EventView<'_>,
        cx: &mut ProcessContext<'_, u64, String>,
    ) {
        self.take(&state.1, 1, e, cx);
    }
}

/// two sources -> connect -> co-process -> sink
pub(super) fn connect(parts: &Parts<'_>, env: &Env) {
    let left = parts.source(env, 0).key_by::<u64, _>(|e| e.key);
    let right = parts.source(env, 1).key_by::<u64, _>(|e| e.key);
    left.connect(right)
        .process(Counts { ledger: parts.ledger.clone() })
        .uid("co-process")
        .add_sink(parts.ledger.sink(0))
        .uid("sink 0");
}

pub(super) fn connect_oracle(inputs: &[&Input]) -> Vec<String> {
    let rows = |(i, input): (usize, &&Input)| {
        input.events().map(|e| format!("{i}.{} #{}", e.key, e.seq)).collect::<Vec<_>>()
    };
    inputs.iter().enumerate().flat_map(rows).collect()
}

/// Passes records on, and notes broadcast records that come out of turn.
#[derive(Clone)]
struct Rules {
    ledger: Ledger,
}

impl BroadcastProcess<u64, Event, Event> for Rules {
    type Out = String;
    type State = ValueState<u64>;
    type MapKey = u64;
    type MapValue = u64;

    fn open(&self, states: &mut States<u64>) -> Result<Self::State> {
        states.value("seen", None)
    }

    fn process(
        &mut self,
        seen: &mut Self::State,
        e: EventView<'_>,
        _: &BroadcastMap<u64, u64>,
        cx: &mut ProcessContext<'_, u64, String>,
    ) {
        let n = seen.update(|n| {
            *n += 1;
            *n
        });
        cx.emit(&format!("{} #{n}", e.key));
    }

    fn process_broadcast(&mut self, rule: EventView<'_>, rules: &mut BroadcastMap<u64, u64>) {
        let expected = rules.get(rule.key).map_or(0, |seq| seq + 1);
        if rule.seq != expected {
            let (key, seq) = (rule.key, rule.seq);
            self.ledger
                .violation(format!("order: rule {key}: #{seq} comes, #{expected} is expected"));
        }
        rules.insert(rule.key, rule.seq);
    }
}

/// source -> key_by, source -> broadcast: process -> sink
pub(super) fn rules(parts: &Parts<'_>, env: &Env) {
    let rules = parts.source(env, 1);
    parts
        .source(env, 0)
        .key_by::<u64, _>(|e| e.key)
        .connect_broadcast(rules)
        .process(Rules { ledger: parts.ledger.clone() })
        .uid("rules")
        .add_sink(parts.ledger.sink(0))
        .uid("sink 0");
}

pub(super) fn rules_oracle(input: &Input) -> Vec<String> {
    input.events().map(|e| format!("{} #{}", e.key, e.seq + 1)).collect()
}
