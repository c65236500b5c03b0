//! Runs one workload and prints one JSON line.
//!
//! `cargo run --release -p tidemill-benches --bin workloads -- --workload w2 --cores 1 --json`

use clap::Parser;
use std::process::ExitCode;
use std::time::Duration;
use tidemill_benches::allocations::Counting;
use tidemill_benches::report;
use tidemill_benches::workloads::{self, Spec};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Measures a workload through the public API.
#[derive(Parser)]
struct Cli {
    /// w1, w2, w7, q0, q1, q2, q3, q4, q5, q7 or q8
    #[arg(long)]
    workload: String,
    /// Slots, one core each
    #[arg(long, default_value_t = 1)]
    cores: u32,
    /// Events of the source; a size of its own for each workload if not given
    #[arg(long)]
    events: Option<u64>,
    /// Keys of w7
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,
    /// Events a second: w7 then measures latencies
    #[arg(long)]
    rate: Option<f64>,
    /// Seconds at the beginning of a run at a rate whose latencies do not count
    #[arg(long, default_value_t = 0)]
    warm_up_s: u64,
    /// heap or rocksdb
    #[arg(long, default_value = "heap")]
    state: String,
    /// Memory of rocksdb for each slot, in MiB
    #[arg(long, default_value_t = 256)]
    state_memory_mib: usize,
    /// Where rocksdb keeps its files; a temporary directory if not given
    #[arg(long)]
    state_dir: Option<String>,
    /// Takes a checkpoint as often as this, into a temporary directory
    #[arg(long)]
    checkpoint_interval_ms: Option<u64>,
    /// Prints JSON (it always does)
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let events = cli.events.unwrap_or(match cli.workload.as_str() {
        "w1" => 50_000_000,
        "w7" => 20_000_000,
        _ => 2_000_000,
    });
    let spec = Spec {
        cores: cli.cores,
        events,
        keys: cli.keys,
        rate: cli.rate,
        warm_up_s: cli.warm_up_s,
        checkpoint_interval: cli.checkpoint_interval_ms.map(Duration::from_millis),
        state: cli.state,
        state_memory_mib: cli.state_memory_mib,
        state_dir: cli.state_dir,
    };
    match workloads::run(&cli.workload, &spec) {
        Ok(run) => {
            println!("{}", report::line(&cli.workload, cli.cores, events, &run));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
