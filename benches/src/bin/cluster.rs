//! Measures jobs split over worker processes that are connected over loopback TCP. One JSON line.
//!
//! `cargo run --release -p tidemill-benches --bin cluster -- shuffle --layout processes`

use clap::{Parser, ValueEnum};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use tidemill::{Error, Result};
use tidemill_base::clock::SystemClock;
use tidemill_benches::cluster::{Half, Place, shuffle};
use tidemill_benches::tally::Tally;
use tidemill_benches::workloads::{self, Spec};
use tidemill_net::handshake::AttemptKey;
use tidemill_net::{Identity, Listener};
use tidemill_runtime::deploy::JobPlan;

/// How the slots are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Layout {
    /// All slots in one process, connected by rings.
    Rings,
    /// One process a slot, connected over TCP.
    Processes,
}

/// Measures a job over several worker processes.
#[derive(Clone, Parser)]
struct Cli {
    /// shuffle (records go where their keys belong), remote (all go elsewhere), w2 or w7
    what: String,
    /// rings or processes
    #[arg(long, value_enum, default_value_t = Layout::Processes)]
    layout: Layout,
    /// Slots
    #[arg(long, default_value_t = 2)]
    slots: u32,
    /// Records; a size of its own for each job if not given
    #[arg(long)]
    events: Option<u64>,
    /// Keys of w7
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,
    /// Of a child: its only slot, or all with rings
    #[arg(long, hide = true)]
    worker: Option<u32>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.worker {
        Some(worker) => work(&cli, worker).map(|()| None),
        None => lead(&cli).map(Some),
    };
    match result {
        Ok(line) => {
            line.iter().for_each(|line| println!("{line}"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn events(cli: &Cli) -> u64 {
    cli.events.unwrap_or(match cli.what.as_str() {
        "w2" => 2_000_000,
        "w7" => 20_000_000,
        _ => 100_000_000,
    })
}

fn plan(cli: &Cli, tally: &Tally) -> Result<JobPlan> {
    let n = events(cli);
    match cli.what.as_str() {
        "shuffle" => Ok(shuffle(n, cli.slots, false, tally)),
        "remote" => Ok(shuffle(n, cli.slots, true, tally)),
        name => {
            let spec = Spec {
                cores: cli.slots,
                events: n,
                keys: cli.keys,
                rate: None,
                checkpoint_interval: None,
                state: "heap".into(),
                state_memory_mib: 256,
                state_dir: None,
            };
            Ok(workloads::compose(name, &spec, tally)?.plans()?.1)
        }
    }
}

fn broken(e: impl std::fmt::Display) -> Error {
    Error::attempt(format!("parent and child do not understand each other: {e}"))
}

/// A child: says where it listens, hears where the others do, runs, says what it measured, and waits
/// for the end of its input.
fn work(cli: &Cli, worker: u32) -> Result<()> {
    let listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    println!("{}", listener.local_addr());
    let mut line = String::new();
    let mut input = std::io::stdin().lock();
    input.read_line(&mut line).map_err(broken)?;
    let (key, addresses): ([u8; 32], Vec<SocketAddr>) =
        serde_json::from_str(&line).map_err(broken)?;
    let peers: BTreeMap<u32, SocketAddr> = (0..).zip(addresses).collect();
    let local = match cli.layout {
        Layout::Rings => 0..cli.slots,
        Layout::Processes => worker..worker + 1,
    };
    let key = AttemptKey::new(key);
    let identity = Identity { job: [1; 16], attempt: 0, build: [0; 32], key };
    let tally = Tally::default();
    let plan = plan(cli, &tally)?;
    let clock = SystemClock::new();
    let place = Place { listener: &listener, identity: &identity, local, peers: &peers };
    let half = Half::start(&plan, &place, &clock)?;
    let seconds = half.finish()?;
    let (rows, checksum) = tally.get();
    println!("{}", json!([seconds, rows, checksum]));
    line.clear();
    input.read_line(&mut line).map_err(broken)?;
    half.stop();
    Ok(())
}

struct Worker {
    child: Child,
    says: BufReader<ChildStdout>,
    hears: Option<ChildStdin>,
}

impl Worker {
    fn start(number: u32) -> Result<Worker> {
        let program = std::env::current_exe().map_err(broken)?;
        let mut child = Command::new(program)
            .args(std::env::args_os().skip(1))
            .args(["--worker", &number.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(broken)?;
        let says = child.stdout.take().ok_or_else(|| broken("no output"))?;
        let hears = child.stdin.take();
        Ok(Worker { child, says: BufReader::new(says), hears })
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        match self.says.read_line(&mut line).map_err(broken)? {
            0 => Err(Error::attempt("a worker has ended; what it said stands above")),
            _ => Ok(line.trim().to_owned()),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // The end of its input is its end, unless it has failed already.
        self.hears = None;
        let _ = self.child.wait();
    }
}

fn lead(cli: &Cli) -> Result<Value> {
    let count = if cli.layout == Layout::Rings { 1 } else { cli.slots };
    let mut workers: Vec<Worker> = (0..count).map(Worker::start).collect::<Result<_>>()?;
    let addresses: Vec<String> = workers.iter_mut().map(Worker::line).collect::<Result<_>>()?;
    let key = AttemptKey::draw()?;
    for worker in &mut workers {
        let hears = worker.hears.as_mut().ok_or_else(|| broken("no input"))?;
        writeln!(hears, "{}", json!([key.bytes(), addresses])).map_err(broken)?;
    }
    let (mut seconds, mut rows, mut checksum) = (0.0f64, 0u64, 0u64);
    for worker in &mut workers {
        let said: (f64, u64, u64) = serde_json::from_str(&worker.line()?).map_err(broken)?;
        seconds = seconds.max(said.0);
        rows += said.1;
        checksum = checksum.wrapping_add(said.2);
    }
    let events = events(cli);
    Ok(json!({
        "benchmark": cli.what,
        "layout": if cli.layout == Layout::Rings { "rings" } else { "processes" },
        "slots": cli.slots,
        "events": events,
        "seconds": seconds,
        "events_per_s": (events as f64 / seconds).round(),
        "rows": rows,
        "checksum": format!("{checksum:016x}"),
    }))
}
