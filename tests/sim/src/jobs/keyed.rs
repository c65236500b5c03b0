//! Jobs with state by key. Each checks the order of records within a key where it aggregates:
//! every record carries its place, and the aggregate expects the next one.

use super::Parts;
use crate::ledger::Ledger;
use crate::source::{Event, Input};
use std::collections::BTreeMap;
use tidemill::pipe::Pipe;
use tidemill::{Env, Record, Stream};

/// A record behind `flat_map`: copy `copy` of `copies`.
#[derive(Record, Clone, Debug)]
pub(super) struct Copied {
    source: u64,
    key: u64,
    seq: u64,
    copy: u64,
    copies: u64,
    value: u64,
    padding: String,
}

/// What is kept for a key.
#[derive(Record, Clone, Debug, Default)]
pub(super) struct Running {
    seq: u64,
    copy: u64,
    sum: u64,
    padding: String,
}

pub(super) type Sums = ((u64, u64), Running);

/// `value % most + 1` copies of each record.
fn copies(value: u64, most: u64) -> u64 {
    value % most + 1
}

pub(super) fn copied(
    stream: Stream<Event, impl Pipe<Out = Event>>,
    source: u64,
    most: u64,
) -> Stream<Copied, impl Pipe<Out = Copied>> {
    stream.flat_map::<Copied, _>(move |e, emit| {
        let copies = copies(e.value, most);
        for copy in 0..copies {
            emit(CopiedView {
                source,
                key: e.key,
                seq: e.seq,
                copy,
                copies,
                value: e.value,
                padding: e.padding,
            });
        }
    })
}

/// The running sum of each key, which notes records that come out of turn. As large as its input.
pub(super) fn summed(
    stream: Stream<Copied, impl Pipe<Out = Copied>>,
    ledger: &Ledger,
) -> Stream<Sums, impl Pipe<Out = Sums>> {
    let ledger = ledger.clone();
    stream
        .key_by::<(u64, u64), _>(|c| (c.source, c.key))
        .aggregate(
            Running::default,
            move |running, c| {
                if (running.seq, running.copy) != (c.seq, c.copy) {
                    ledger.violation(format!(
                        "order: key {}.{} expects #{}.{} and gets #{}.{}",
                        c.source, c.key, running.seq, running.copy, c.seq, c.copy
                    ));
                }
                running.sum += c.value;
                c.padding.clone_into(&mut running.padding);
                running.copy = c.copy + 1;
                running.seq = c.seq;
                if running.copy == c.copies {
                    (running.seq, running.copy) = (c.seq + 1, 0);
                }
            },
            |running| running.clone(),
        )
        .uid("running")
}

pub(super) fn rows(
    sums: Stream<Sums, impl Pipe<Out = Sums>>,
) -> Stream<String, impl Pipe<Out = String>> {
    sums.map(|((source, key), running)| {
        format!("{source}.{key} {}.{}: {}", running.seq, running.copy, running.sum)
    })
}

/// source -> flat_map -> key_by -> rolling aggregate -> sink
pub(super) fn rolling(parts: &Parts<'_>, env: &Env) {
    let stream = copied(parts.source(env, 0), 0, 3);
    rows(summed(stream, &parts.ledger)).add_sink(parts.ledger.sink(0)).uid("sink 0");
}

/// source -> forward -> key_by -> rolling -> rebalance -> filter -> sink
pub(super) fn chain(parts: &Parts<'_>, env: &Env) {
    let stream = copied(parts.source(env, 0), 0, 2).forward().uid("forward");
    rows(summed(stream, &parts.ledger).rebalance().uid("rebalance"))
        .filter(|row| row.len() % 2 == 0)
        .add_sink(parts.ledger.sink(0))
        .uid("sink 0");
}

/// two sources -> union -> key_by -> rolling -> rebalance -> sink
pub(super) fn union(parts: &Parts<'_>, env: &Env) {
    let one = copied(parts.source(env, 0), 0, 1);
    let two = copied(parts.source(env, 1), 1, 1);
    let both = one.union(two).uid("union");
    let sums = summed(both, &parts.ledger).rebalance().uid("rebalance");
    rows(sums).add_sink(parts.ledger.sink(0)).uid("sink 0");
}

/// source -> shared: rolling -> sink, broadcast -> sink
pub(super) fn shared(parts: &Parts<'_>, env: &Env) {
    let shared = parts.source(env, 0).shared();
    let one = copied(shared.stream().uid("read 0"), 0, 1);
    rows(summed(one, &parts.ledger)).add_sink(parts.ledger.sink(0)).uid("sink 0");
    shared
        .stream()
        .uid("read 1")
        .broadcast()
        .uid("broadcast")
        .map(|e| format!("{}/{}/{}", e.split, e.key, e.seq))
        .add_sink(parts.ledger.sink(1))
        .uid("sink 1");
}

/// The rows of [`summed`] over all inputs.
pub(super) fn rolling_oracle(inputs: &[&Input], most: u64) -> Vec<String> {
    let mut rows = Vec::new();
    for (source, input) in (0..).zip(inputs) {
        let mut sums: BTreeMap<u64, u64> = BTreeMap::new();
        for e in input.events() {
            let sum = sums.entry(e.key).or_default();
            let copies = copies(e.value, most);
            for copy in 1..=copies {
                *sum += e.value;
                let (seq, copy) = if copy == copies { (e.seq + 1, 0) } else { (e.seq, copy) };
                rows.push(format!("{source}.{} {seq}.{copy}: {sum}", e.key));
            }
        }
    }
    rows
}

pub(super) fn chain_oracle(input: &Input) -> Vec<String> {
    let mut rows = rolling_oracle(&[input], 2);
    rows.retain(|row| row.len() % 2 == 0);
    rows
}

/// Every record once a subtask.
pub(super) fn broadcast_oracle(input: &Input, parallelism: u32) -> Vec<String> {
    let row = |e: &Event| format!("{}/{}/{}", e.split, e.key, e.seq);
    (0..parallelism).flat_map(|_| input.events().map(row)).collect()
}
