//! Latency over the network: records at a fixed rate, each of which crosses to another slot, from the time
//! at which it was due to the sink. Open loop: the schedule does not wait for anybody.
//!
//! Workers have clocks of their own. A record carries the time of the kernel's monotonic clock, which all
//! processes of a machine share.

use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};
use std::sync::Arc;
use tidemill::connectors::{GeneratorSource, Latencies, LatencySink};
use tidemill::prelude::*;
use tidemill_base::clock::SystemClock;
use tidemill_base::{Clock, Micros};
use tidemill_runtime::context::owner;
use tidemill_runtime::deploy::JobPlan;

/// Keys of each slot.
const KEYS: usize = 1_000;

/// Key groups of a job that does not say otherwise.
const GROUPS: u32 = 128;

/// The kernel's monotonic clock, in microseconds.
pub fn monotonic() -> Micros {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1_000
}

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Slots.
    pub slots: u32,
    /// Records a second, of all slots together.
    pub rate: f64,
    /// Records in all.
    pub events: u64,
    /// The first records, which do not count.
    pub warm_up: u64,
}

/// What the machine itself adds: a thread for each slot looks at the clock without pause and notes how
/// late it sees that a record of the same schedule is due. Nothing that takes turns with other work on the
/// processor can be better.
pub fn floor(load: &Load) -> Result<Vec<Histogram<u64>>> {
    let share = load.rate / f64::from(load.slots);
    let (count, warm_up) =
        (load.events / u64::from(load.slots), load.warm_up / u64::from(load.slots));
    let watch = move || {
        let mut late = Histogram::new(3).map_err(broken)?;
        let started = monotonic();
        for k in 0..count {
            let due = started + (k as f64 * 1e6 / share) as Micros;
            let mut now = monotonic();
            while now < due {
                std::hint::spin_loop();
                now = monotonic();
            }
            if k >= warm_up {
                late.record((now - due).max(1)).map_err(broken)?;
            }
        }
        Ok(late)
    };
    let threads: Vec<_> = (0..load.slots)
        .map(|slot| std::thread::Builder::new().name(format!("floor-{slot}")).spawn(watch))
        .collect::<std::io::Result<_>>()
        .map_err(broken)?;
    let ended = threads.into_iter().map(|t| t.join().map_err(|_| broken("a thread panicked"))?);
    ended.collect()
}

fn broken(what: impl std::fmt::Display) -> Error {
    Error::attempt(what.to_string())
}

/// Keys that each slot owns.
fn keys_by_owner(slots: u32) -> Vec<Vec<u64>> {
    let mut keys = vec![Vec::with_capacity(KEYS); slots as usize];
    for key in 0u64.. {
        let list = &mut keys[owner(u64::hash(key), slots, GROUPS) as usize];
        if list.len() < KEYS {
            list.push(key);
        }
        if keys.iter().all(|list| list.len() == KEYS) {
            break;
        }
    }
    keys
}

/// The job, and where its latencies will be. `clock` is the one that the worker runs on.
///
/// # Errors
/// As composing.
pub fn latency(load: &Load, clock: &SystemClock) -> Result<(JobPlan, Latencies)> {
    let Load { slots, rate, events, warm_up } = *load;
    let own = monotonic() - clock.now();
    let keys = Arc::new(keys_by_owner(slots));
    let source = GeneratorSource::scheduled(Some(events), rate, move |i, due_us| {
        // Subtask `i % slots` makes it, the next one owns it.
        let list = &keys[((i + 1) % u64::from(slots)) as usize];
        let key = list[(i / u64::from(slots)) as usize % KEYS];
        ((key, i, due_us + own), (i / 10) as i64)
    });
    let env = Env::new("latency").parallelism(slots);
    type Row = (u64, (u64, u64));
    let sink = LatencySink::<Row, _>::new(move |(_, (_, due_us)), _| due_us.saturating_sub(own))?;
    let latencies = sink.handle();
    env.add_source(source)
        .key_by::<u64, _>(|record| record.0)
        .aggregate(
            || (0u64, 0u64),
            |last: &mut (u64, u64), (_, i, due_us)| *last = (i, due_us),
            |last| *last,
        )
        .filter(move |(_, (i, _))| i >= warm_up)
        .add_sink(sink);
    Ok((env.plans()?.1, latencies))
}
