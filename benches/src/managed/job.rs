//! The job that is measured: w7, a running sum per key, with a checkpoint every second.

use super::beacon::BeaconSink;
use crate::definitions::keyed_value;
use std::time::Duration;
use tidemill::RestartStrategy;
use tidemill::connectors::GeneratorSource;
use tidemill::job::Args;
use tidemill::prelude::*;

/// Composes it from the arguments with which it was submitted.
///
/// # Errors
/// Arguments that cannot be read.
pub fn compose(args: &mut Args) -> Result<Env> {
    let beacon = args.required("beacon", "socket that sinks report to")?;
    let run = args.parsed("run", "number of the run that reports name")?.unwrap_or(0);
    let keys = args.parsed("keys", "number of keys")?.unwrap_or(1_000_000);
    let rate: Option<f64> = args.parsed("rate", "records a second, of all subtasks together")?;
    let delay_ms: Option<u64> = args.parsed("restart-delay-ms", "pause before each restart")?;
    let events: Option<u64> =
        args.parsed("events", "records in all; endlessly many if not given")?;
    let source =
        GeneratorSource::with_timestamps(events, move |i| (keyed_value(i, keys), (i / 10) as i64));
    let source = match rate {
        Some(rate) => source.rate(rate),
        None => source,
    };
    let mut env = Env::new("w7").parallelism(2).checkpoint_every(Duration::from_secs(1));
    if let Some(ms) = delay_ms {
        let delay_us = ms * 1_000;
        env = env.restart(RestartStrategy::FixedDelay { attempts: u32::MAX, delay_us });
    }
    env.add_source(source.bounded_lateness(0))
        .key_by::<u64, _>(|event| event.0)
        .sum(|event| event.1)
        .add_sink(BeaconSink::new(beacon, run));
    Ok(env)
}
