//! W2: words counted in 10-second windows of event time.

use super::{HalfTime, Run, Spec, digest, execute};
use crate::definitions::{Vocabulary, fnv, line_time, row};
use crate::tally::Tally;
use std::sync::Arc;
use std::time::Duration;
use tidemill::connectors::GeneratorSource;
use tidemill::prelude::*;
use tidemill::text::words;

pub(super) fn w2(spec: &Spec) -> Result<Run> {
    let (tally, half) = (Tally::default(), HalfTime::default());
    execute(&compose(spec, &tally, &half), spec, tally, &half, None)
}

pub(super) fn compose(spec: &Spec, tally: &Tally, half: &HalfTime) -> Env {
    let vocabulary = Arc::new(Vocabulary::new());
    let (events, counted) = (spec.events, half.clone());
    let lines =
        GeneratorSource::in_place(Some(events), String::new(), move |i, line: &mut String| {
            counted.event(i, events / 2);
            vocabulary.line(i, line);
            line_time(i)
        });
    let env = Env::new("w2").parallelism(spec.cores);
    env.add_source(lines.bounded_lateness(5_000))
        .flat_map::<String, _>(|line, emit| words(line).for_each(emit))
        .key_by::<String, _>(|word| *word)
        .window(Tumbling::of(Duration::from_secs(10)))
        .with_window()
        .count()
        .add_sink(digest::<(String, i64, i64, u64)>(tally, |(word, _, end, count)| {
            row(&[end as u64, fnv(word.as_bytes()), count])
        }));
    env
}
