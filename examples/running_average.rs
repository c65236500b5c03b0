//! The average of each sensor's readings so far: state for each key.
//!
//!     cargo run -p tidemill-examples --example running_average
//!     cargo run -p tidemill-examples --example running_average -- --input readings.jsonl
//!
//! What the closure leaves in its `Option` is kept for the key, written to checkpoints, and back
//! after a restore, be it with another `--parallelism`.

use std::fmt::Write;
use std::process::ExitCode;
use tidemill::prelude::*;

const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data/readings.jsonl");

#[derive(Record, serde::Deserialize)]
struct Reading {
    sensor: String,
    value: f64,
}

#[derive(Record)]
struct Sum {
    sum: f64,
    count: u64,
}

fn main() -> ExitCode {
    job::main(|args| {
        let input = args.optional("input", "readings, as JSON lines", SAMPLE);

        let env = Env::new("RunningAverage").parallelism(2);
        env.add_source(FileSource::json::<Reading>(input).on_error(OnError::Skip))
            .key_by::<String, _>(|reading| reading.sensor)
            .process_value::<Sum, (String, f64), _>(|reading, state, cx| {
                let so_far = state.get_or_insert(Sum { sum: 0.0, count: 0 });
                so_far.sum += reading.value;
                so_far.count += 1;
                cx.emit((cx.key(), so_far.sum / so_far.count as f64));
            })
            .uid("average")
            .add_sink(StdoutSink::new(|(sensor, average), line| {
                write!(line, "{sensor} {average:.3}")
            }));
        Ok(env)
    })
}
