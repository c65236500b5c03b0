//! Turns sensor readings above 100 into alerts, as JSON.
//!
//!     cargo run -p tidemill-examples --example anomaly_detector
//!     cargo run -p tidemill-examples --example anomaly_detector -- --input readings.jsonl
//!
//! Lines that are no readings do not stop the job: they are counted and skipped.

use std::process::ExitCode;
use tidemill::prelude::*;

const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data/readings.jsonl");

#[derive(Record, serde::Deserialize)]
struct Reading {
    sensor: String,
    /// Milliseconds.
    time: i64,
    value: f64,
}

#[derive(Record, serde::Serialize)]
struct Alert {
    sensor: String,
    time: i64,
    value: f64,
    message: String,
}

fn main() -> ExitCode {
    job::main(|args| {
        let input = args.optional("input", "readings, as JSON lines", SAMPLE);

        let env = Env::new("AnomalyDetector");
        env.add_source(FileSource::json::<Reading>(input).on_error(OnError::Skip))
            .filter(|reading| reading.value > 100.0)
            .map(|reading| Alert {
                sensor: reading.sensor.to_owned(),
                time: reading.time,
                value: reading.value,
                message: format!("{:.1} above the limit", reading.value - 100.0),
            })
            .add_sink(StdoutSink::json());
        Ok(env)
    })
}
