//! Jobs with states, timers and a side output of their own: tumbling windows written by hand, and
//! counts that processing time emits.

use super::Parts;
use crate::source::{Event, EventView, Input};
use std::collections::BTreeMap;
use tidemill::{
    Env, KeyedProcess, MapState, OutputTag, ProcessContext, Result, States, Timer, TimerKind,
};

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

/// Counts the records of a key until a timer of processing time emits the count; the end of the
/// input, which is the only thing that such far event time waits for, emits the rest.
#[derive(Clone)]
struct Ticks;

const TICK_MS: i64 = 3;
const FAR: i64 = 1 << 50;

impl KeyedProcess<u64, Event> for Ticks {
    type Out = String;
    /// The count, and when it is due.
    type State = MapState<u64, (u64, i64)>;

    fn open(&self, states: &mut States<u64>) -> Result<Self::State> {
        states.map("count", None)
    }

    fn process(
        &mut self,
        count: &mut Self::State,
        _: EventView<'_>,
        cx: &mut ProcessContext<'_, u64, String>,
    ) {
        let due = cx.processing_time() + TICK_MS;
        let mut first = false;
        count.update(0, |(n, at)| {
            first = *n == 0;
            if first {
                *at = due;
            }
            *n += 1;
        });
        if first {
            cx.register_processing_timer(due);
            cx.register_event_timer(FAR);
        }
    }

    fn on_timer(
        &mut self,
        count: &mut Self::State,
        timer: Timer,
        cx: &mut ProcessContext<'_, u64, String>,
    ) {
        let (n, due) = count.remove(0).unwrap_or_default();
        let ticks = timer.kind == TimerKind::Processing;
        // The end of the input may have been faster (n = 0); no other timer is registered.
        if ticks && (timer.time > cx.processing_time() || (n > 0 && timer.time != due)) {
            let (key, time, now) = (cx.key(), timer.time, cx.processing_time());
            cx.emit(&format!("{key}: timer {time}, due {due}, at {now}"));
        }
        if n > 0 {
            cx.emit(&format!("{} {n}", cx.key()));
        }
    }
}

/// source -> key_by -> process with processing-time timers -> sink
pub(super) fn ticks(parts: &Parts<'_>, env: &Env) {
    parts
        .source(env, 0)
        .key_by::<u64, _>(|e| e.key)
        .process(Ticks)
        .uid("ticks")
        .rebalance()
        .uid("rebalance")
        .add_sink(parts.ledger.sink(0))
        .uid("sink 0");
}

/// The sum of each key's counts; whatever else there is shows as it is.
pub(super) fn ticks_settled(committed: &[String]) -> Vec<String> {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    let mut rows = Vec::new();
    for row in committed {
        match row.split_once(' ').and_then(|(key, n)| Some((key, n.parse::<u64>().ok()?))) {
            Some((key, n)) => *counts.entry(key.to_owned()).or_default() += n,
            None => rows.push(row.clone()),
        }
    }
    rows.extend(counts.into_iter().map(|(key, n)| format!("{key} {n}")));
    rows
}

pub(super) fn ticks_oracle(input: &Input) -> Vec<String> {
    let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
    input.events().for_each(|e| *counts.entry(e.key).or_default() += 1);
    counts.into_iter().map(|(key, n)| format!("{key} {n}")).collect()
}
