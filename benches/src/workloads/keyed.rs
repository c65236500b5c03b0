//! W7: a running sum per key.

use super::{HalfTime, Run, Spec, digest, execute};
use crate::definitions::keyed_value;
use crate::tally::Tally;
use tidemill::connectors::{GeneratorSource, LatencySink};
use tidemill::prelude::*;

pub(super) fn w7(spec: &Spec) -> Result<Run> {
    if let Some(rate) = spec.rate {
        return at_rate(spec, rate);
    }
    let (tally, half) = (Tally::default(), HalfTime::default());
    execute(&compose(spec, &tally, &half), spec, tally, &half, None)
}

pub(super) fn compose(spec: &Spec, tally: &Tally, half: &HalfTime) -> Env {
    let (events, keys, counted) = (spec.events, spec.keys, half.clone());
    let source = GeneratorSource::with_timestamps(Some(events), move |i| {
        counted.event(i, events / 2);
        (keyed_value(i, keys), (i / 10) as i64)
    });
    let env = Env::new("w7").parallelism(spec.cores);
    env.add_source(source.bounded_lateness(0))
        .key_by::<u64, _>(|event| event.0)
        .sum(|event| event.1)
        .add_sink(digest::<(u64, u64)>(tally, |(_, sum)| sum));
    env
}

/// Open loop: each event carries the time at which it was due, whatever held it up.
fn at_rate(spec: &Spec, rate: f64) -> Result<Run> {
    let (tally, half) = (Tally::default(), HalfTime::default());
    let keys = spec.keys;
    let sink = LatencySink::<(u64, (u64, u64)), _>::new(|(_, (_, due_us)), _| due_us)?;
    let latencies = sink.handle();
    let (first, warming) = ((rate * spec.warm_up_s as f64) as u64, sink.handle());
    let source = GeneratorSource::scheduled(Some(spec.events), rate, move |i, due_us| {
        if i == first {
            warming.reset();
        }
        let (key, value) = keyed_value(i, keys);
        ((key, value, due_us), (i / 10) as i64)
    });
    let env = Env::new("w7").parallelism(spec.cores);
    env.add_source(source.bounded_lateness(0))
        .key_by::<u64, _>(|event| event.0)
        .aggregate(
            || (0u64, 0u64),
            |acc: &mut (u64, u64), (_, value, due_us)| *acc = (acc.0 + value, due_us),
            |acc| *acc,
        )
        .add_sink(sink);
    execute(&env, spec, tally, &half, Some(latencies))
}
