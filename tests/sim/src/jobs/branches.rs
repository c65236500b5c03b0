//! Streams with several readers, fused into one task: branches of branches, side outputs, sinks beside
//! edges.

use super::Parts;
use super::keyed::{copied, rows, summed};
use crate::source::Input;
use tidemill::Env;

/// source -> shared: rolling -> sink; map -> shared: filter and filter -> union -> sink, process with a
/// side output -> rebalance -> sink, side output -> sink
pub(super) fn branches(parts: &Parts<'_>, env: &Env) {
    let events = parts.source(env, 0).shared();
    let one = copied(events.stream(), 0, 2);
    rows(summed(one, &parts.ledger)).add_sink(parts.ledger.sink(0)).uid("sink 0");

    let plain = events.stream().map(|e| (e.split, e.key, e.seq, e.value)).shared();
    let row = |(split, key, seq, value): (u64, u64, u64, u64)| {
        format!("{split}/{key}/{seq}: {}", kind(value))
    };
    let even = plain.stream().filter(|e| e.3 % 2 == 0);
    let odd = plain.stream().filter(|e| e.3 % 2 == 1);
    even.union(odd).map(row).add_sink(parts.ledger.sink(1)).uid("sink 1");

    let third = env.output_tag::<String>("third");
    let tag = third.clone();
    plain
        .stream()
        .process::<String, _>(move |e, cx| {
            if e.3 % 3 == 0 {
                cx.side(&tag, &row(e));
            } else {
                cx.emit(&row(e));
            }
        })
        .side_output(&third)
        .rebalance()
        .add_sink(parts.ledger.sink(2))
        .uid("sink 2");
    third.stream(env).filter(|row| !row.is_empty()).add_sink(parts.ledger.sink(3)).uid("sink 3");
}

fn kind(value: u64) -> &'static str {
    if value.is_multiple_of(2) { "even" } else { "odd" }
}

pub(super) fn branches_oracle(input: &Input, sink: usize) -> Vec<String> {
    let wanted = |value: u64| match sink {
        1 => true,
        2 => !value.is_multiple_of(3),
        _ => value.is_multiple_of(3),
    };
    let events = input.events().filter(|e| wanted(e.value));
    events.map(|e| format!("{}/{}/{}: {}", e.split, e.key, e.seq, kind(e.value))).collect()
}
