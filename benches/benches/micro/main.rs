//! Micro-benchmarks of the engine's parts, each on its own and on one thread unless it says so.
//!
//! ```text
//! cargo bench -p tidemill-benches              measures all
//! cargo bench -p tidemill-benches -- keyed     those with `keyed` in their name
//! cargo bench -p tidemill-benches -- --test    runs each once, measures nothing
//! ```
//!
//! Sizes are fixed and inputs are functions of an index, so two runs measure the same work. Whole
//! jobs are measured by the program `workloads`.

mod batch;
mod chain;
mod input;
mod keyed;
mod ring;
mod snapshot;
mod window;

use criterion::Criterion;
use std::time::Duration;

fn main() {
    let criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3))
        .sample_size(30);
    let mut criterion = criterion.configure_from_args();
    batch::all(&mut criterion);
    ring::all(&mut criterion);
    chain::all(&mut criterion);
    keyed::all(&mut criterion);
    window::all(&mut criterion);
    snapshot::all(&mut criterion);
    criterion.final_summary();
}
