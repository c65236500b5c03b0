//! A job with states, timers and a side output of its own: tumbling windows written by hand.

use super::Parts;
use crate::source::{Event, EventView, Input};
use std::collections::BTreeMap;
use tidemill::{Env, KeyedProcess, MapState, OutputTag, ProcessContext, Result, States, Timer};

const SIZE_MS: i64 = 80;

/// Sums each bucket of event time; a timer emits it. Odd values also go to the side output.
#[derive(Clone)]
struct Buckets {
    odd: OutputTag<String>,
}

fn bucket(at: i64) -> i64 {
    at.div_euclid(SIZE_MS) * SIZE_MS
}

fn odd(key: u64, split: u64, seq: u64) -> String {
    format!("odd {key} {split}.{seq}")
}

impl KeyedProcess<u64, Event> for Buckets {
    type Out = String;
    type State = MapState<i64, (u64, u64)>;

    fn open(&self, states: &mut States<u64>) -> Result<Self::State> {
        states.map("buckets", None)
    }

    fn process(
        &mut self,
        buckets: &mut Self::State,
        e: EventView<'_>,
        cx: &mut ProcessContext<'_, u64, String>,
    ) {
        buckets.update(bucket(e.at), |(count, sum)| {
            *count += 1;
            *sum += e.value;
        });
        cx.register_event_timer(bucket(e.at) + SIZE_MS);
        if e.value % 2 == 1 {
            cx.side(&self.odd, &odd(e.key, e.split, e.seq));
        }
    }

    fn on_timer(
        &mut self,
        buckets: &mut Self::State,
        timer: Timer,
        cx: &mut ProcessContext<'_, u64, String>,
    ) {
        let bucket = timer.time - SIZE_MS;
        let (count, sum) = buckets.remove(bucket).unwrap_or_default();
        cx.emit(&format!("{} at {bucket}: {count} with {sum}", cx.key()));
    }
}

/// source -> key_by -> process with timers -> rebalance -> sink, side output -> sink
pub(super) fn timers(parts: &Parts<'_>, env: &Env) {
    let odd = env.output_tag::<String>("odd");
    parts
        .source(env, 0)
        .key_by::<u64, _>(|e| e.key)
        .process(Buckets { odd: odd.clone() })
        .uid("buckets")
        .side_output(&odd)
        .rebalance()
        .uid("rebalance")
        .add_sink(parts.ledger.sink(0))
        .uid("sink 0");
    odd.stream(env).uid("odd").add_sink(parts.ledger.sink(1)).uid("sink 1");
}

pub(super) fn timers_oracle(input: &Input) -> Vec<String> {
    let mut buckets: BTreeMap<(u64, i64), (u64, u64)> = BTreeMap::new();
    for e in input.events() {
        let (count, sum) = buckets.entry((e.key, bucket(e.at))).or_default();
        *count += 1;
        *sum += e.value;
    }
    let row = |((key, bucket), (count, sum))| format!("{key} at {bucket}: {count} with {sum}");
    buckets.into_iter().map(row).collect()
}

pub(super) fn odd_oracle(input: &Input) -> Vec<String> {
    let odds = input.events().filter(|e| e.value % 2 == 1);
    odds.map(|e| odd(e.key, e.split, e.seq)).collect()
}
