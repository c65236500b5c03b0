//! Jobs with windows of event time. No record is late, so what windows emit depends on the records
//! alone.

use super::Parts;
use crate::source::{Event, Input};
use std::collections::BTreeMap;
use std::time::Duration;
use tidemill::pipe::Pipe;
use tidemill::{Count, Env, Session, Sliding, Stream, Tumbling};

const SIZE_MS: i64 = 100;
const SLIDE_MS: i64 = 25;
const GAP_MS: i64 = 45;

/// Records of a count window.
const COUNT: usize = 4;

fn ms(ms: i64) -> Duration {
    Duration::from_millis(ms as u64)
}

fn row(key: u64, start: i64, end: i64, sum: u64) -> String {
    format!("{key} [{start}, {end}): {sum}")
}

fn finish(
    parts: &Parts<'_>,
    sums: Stream<(u64, i64, i64, u64), impl Pipe<Out = (u64, i64, i64, u64)>>,
) {
    sums.map(|(key, start, end, sum)| row(key, start, end, sum))
        .add_sink(parts.ledger.sink(0))
        .uid("sink 0");
}

/// source -> key_by -> tumbling window -> reduce -> rebalance -> sink: what a window emits may be
/// large, so that a firing takes many steps and meets backpressure.
pub(super) fn tumbling(parts: &Parts<'_>, env: &Env) {
    let keyed = parts.source(env, 0).key_by::<u64, _>(|e| e.key);
    let sums = keyed
        .window(Tumbling::of(ms(SIZE_MS)))
        .with_window()
        .reduce(|sum, e| sum.value += e.value)
        .uid("reduce")
        .rebalance()
        .map(|(key, start, end, sum)| (key, start, end, sum.value));
    finish(parts, sums);
}

/// source -> rebalance -> key_by -> sliding window -> reduce -> rebalance -> sink
pub(super) fn sliding(parts: &Parts<'_>, env: &Env) {
    let keyed = parts.source(env, 0).rebalance().uid("rebalance").key_by::<u64, _>(|e| e.key);
    let windows = Sliding::of(ms(SIZE_MS), ms(SLIDE_MS));
    let sums = keyed
        .window(windows)
        .with_window()
        .reduce(|sum, e| sum.value += e.value)
        .uid("reduce")
        .rebalance()
        .uid("rebalance 2")
        .map(|(key, start, end, sum)| (key, start, end, sum.value));
    finish(parts, sums);
}

/// source -> key_by -> session window -> sum -> sink
pub(super) fn session(parts: &Parts<'_>, env: &Env) {
    let keyed = parts.source(env, 0).key_by::<u64, _>(|e| e.key);
    let sums = keyed.window(Session::gap(ms(GAP_MS))).with_window().sum(|e| e.value);
    finish(parts, sums.uid("window").rebalance().uid("rebalance"));
}

/// source -> key_by -> windows of some records each -> list them -> sink
pub(super) fn counted(parts: &Parts<'_>, env: &Env) {
    parts
        .source(env, 0)
        .key_by::<u64, _>(|e| e.key)
        .window(Count::of(COUNT as u64))
        .process::<String, _>(|key, _, records, out| {
            let seqs: Vec<u64> = records.iter().map(|e| e.seq).collect();
            out(&format!("{key}: {seqs:?}"));
        })
        .uid("window")
        .add_sink(parts.ledger.sink(0))
        .uid("sink 0");
}

/// Windows of `SIZE_MS`, one every `slide`.
pub(super) fn sliding_oracle(input: &Input, slide: Option<i64>) -> Vec<String> {
    let slide = slide.unwrap_or(SIZE_MS);
    let mut sums: BTreeMap<(u64, i64), u64> = BTreeMap::new();
    for e in input.events() {
        let mut start = e.at.div_euclid(slide) * slide;
        while start + SIZE_MS > e.at {
            *sums.entry((e.key, start)).or_default() += e.value;
            start -= slide;
        }
    }
    sums.into_iter().map(|((key, start), sum)| row(key, start, start + SIZE_MS, sum)).collect()
}

/// As [`sliding_oracle`], with the slide of [`sliding`].
pub(super) fn sliding_rows(input: &Input) -> Vec<String> {
    sliding_oracle(input, Some(SLIDE_MS))
}

pub(super) fn session_oracle(input: &Input) -> Vec<String> {
    let mut by_key: BTreeMap<u64, Vec<&Event>> = BTreeMap::new();
    input.events().for_each(|e| by_key.entry(e.key).or_default().push(e));
    let mut rows = Vec::new();
    for (key, mut events) in by_key {
        events.sort_by_key(|e| e.at);
        let mut open: Option<(i64, i64, u64)> = None;
        for e in events {
            open = match open {
                Some((start, end, sum)) if e.at <= end => {
                    Some((start, e.at + GAP_MS, sum + e.value))
                }
                closed => {
                    rows.extend(closed.map(|(start, end, sum)| row(key, start, end, sum)));
                    Some((e.at, e.at + GAP_MS, e.value))
                }
            };
        }
        rows.extend(open.map(|(start, end, sum)| row(key, start, end, sum)));
    }
    rows
}

/// What does not fill a window is never emitted.
pub(super) fn counted_oracle(input: &Input) -> Vec<String> {
    let mut by_key: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    input.events().for_each(|e| by_key.entry(e.key).or_default().push(e.seq));
    let row = |key: u64, seqs: &[u64]| format!("{key}: {seqs:?}");
    let full = |(key, seqs): (&u64, &Vec<u64>)| {
        seqs.chunks_exact(COUNT).map(|c| row(*key, c)).collect::<Vec<_>>()
    };
    by_key.iter().flat_map(full).collect()
}

/// source -> key_by -> tumbling window -> count -> sink, late records -> sink
pub(super) fn late(parts: &Parts<'_>, env: &Env) {
    let late = env.output_tag::<Event>("late");
    parts
        .source(env, 0)
        .key_by::<u64, _>(|e| e.key)
        .window(Tumbling::of(ms(SIZE_MS)))
        .late_output(&late)
        .with_window()
        .count()
        .uid("count")
        .map(|(key, start, _, count)| format!("{key} {start} {count}"))
        .add_sink(parts.ledger.sink(0))
        .uid("sink 0");
    late.stream(env)
        .uid("late")
        .map(|e| format!("{} {} 1", e.key, e.at.div_euclid(SIZE_MS) * SIZE_MS))
        .add_sink(parts.ledger.sink(1))
        .uid("sink 1");
}

/// Every record of a window is in its one firing or was late; a window that fires twice shows.
pub(super) fn late_settled(committed: &[Vec<String>]) -> Vec<String> {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    let mut rows = Vec::new();
    for (sink, row) in committed.iter().enumerate().flat_map(|(i, r)| r.iter().map(move |r| (i, r)))
    {
        let (window, count) = row.rsplit_once(' ').unwrap_or((row, "0"));
        if sink == 0 && counts.contains_key(window) {
            rows.push(format!("{window}: fired twice"));
        }
        *counts.entry(window.to_owned()).or_default() += count.parse().unwrap_or(0);
    }
    rows.extend(counts.into_iter().map(|(window, count)| format!("{window} {count}")));
    rows
}

pub(super) fn late_oracle(input: &Input) -> Vec<String> {
    let mut counts: BTreeMap<(u64, i64), u64> = BTreeMap::new();
    for e in input.events() {
        *counts.entry((e.key, e.at.div_euclid(SIZE_MS) * SIZE_MS)).or_default() += 1;
    }
    counts.into_iter().map(|((key, start), n)| format!("{key} {start} {n}")).collect()
}
