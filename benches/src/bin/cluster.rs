//! Measures jobs split over worker processes that are connected over loopback TCP, without a control plane
//! or under the command `tidemill`. One JSON line. Told to `plan` or to `worker`, it is itself the job.
//!
//! `cargo run --release -p tidemill-benches --bin cluster -- shuffle --layout processes`

use clap::{Parser, ValueEnum};
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use tidemill::connectors::Latencies;
use tidemill::{Error, Result};
use tidemill_base::clock::SystemClock;
use tidemill_benches::cluster::{self, Half, Load, Place, latency, shuffle};
use tidemill_benches::managed;
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
    /// shuffle (records go where their keys belong), remote (all go elsewhere), w2, w7, latency
    /// (floor: of the machine itself); under a JobManager: recovery, jobmanager-restart, submit
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
    /// Records a second: 10,000 of latency if not given; others go as fast as they can
    #[arg(long)]
    rate: Option<f64>,
    /// How often recovery kills, jobmanager-restart restarts and submit submits
    #[arg(long, default_value_t = 10)]
    times: usize,
    /// Pause before each restart of recovery's job; the engine's own if not given
    #[arg(long)]
    restart_delay_ms: Option<u64>,
    /// The command tidemill; the one beside this program if not given
    #[arg(long)]
    tidemill: Option<PathBuf>,
    /// Where a cluster keeps its data while it is measured
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Of a child: its only slot, or all with rings
    #[arg(long, hide = true)]
    worker: Option<u32>,
}

fn main() -> ExitCode {
    if std::env::args().nth(1).is_some_and(|a| ["plan", "worker"].contains(&a.as_str())) {
        return tidemill::job::main(managed::job::compose);
    }
    let cli = Cli::parse();
    let result = match (cli.worker, cli.what.as_str()) {
        (Some(worker), _) => work(&cli, worker).map(|()| None),
        (None, "recovery") => told(managed::recovery(&cli.managed(), cli.times)),
        (None, "jobmanager-restart") => {
            told(managed::jobmanager_restart(&cli.managed(), cli.times))
        }
        (None, "submit") => told(managed::submit(&cli.managed(), cli.times)),
        (None, "floor") => floor(&cli).map(Some),
        (None, _) => lead(&cli).map(Some),
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

impl Cli {
    fn managed(&self) -> managed::Settings {
        managed::Settings {
            keys: self.keys,
            rate: self.rate,
            restart_delay_ms: self.restart_delay_ms,
            dir: self.dir.clone(),
            tidemill: self.tidemill.clone(),
        }
    }

    fn load(&self) -> Load {
        let rate = self.latency_rate();
        let warm_up = (WARM_UP_S * rate) as u64;
        Load { slots: self.slots, rate, events: events(self), warm_up }
    }

    fn latency_rate(&self) -> f64 {
        self.rate.unwrap_or(10_000.0)
    }
}

/// The table goes to people, the line is what is printed.
fn told(measured: Result<(Value, String)>) -> Result<Option<Value>> {
    let (line, table) = measured?;
    eprint!("{table}");
    Ok(Some(line))
}

fn events(cli: &Cli) -> u64 {
    cli.events.unwrap_or(match cli.what.as_str() {
        "w2" => 2_000_000,
        "w7" => 20_000_000,
        "latency" | "floor" => (LATENCY_S * cli.latency_rate()) as u64,
        _ => 100_000_000,
    })
}

/// How long `latency` lasts if not told, and how much of it does not count.
const LATENCY_S: f64 = 20.0;
const WARM_UP_S: f64 = 2.0;

fn plan(cli: &Cli, tally: &Tally, clock: &SystemClock) -> Result<(JobPlan, Option<Latencies>)> {
    let n = events(cli);
    match cli.what.as_str() {
        "shuffle" => Ok((shuffle(n, cli.slots, false, tally), None)),
        "remote" => Ok((shuffle(n, cli.slots, true, tally), None)),
        "latency" => latency(&cli.load(), clock).map(|(plan, latencies)| (plan, Some(latencies))),
        name => {
            let spec = Spec {
                cores: cli.slots,
                events: n,
                keys: cli.keys,
                rate: None,
                warm_up_s: 0,
                checkpoint_interval: None,
                state: "heap".into(),
                state_memory_mib: 256,
                state_dir: None,
            };
            Ok((workloads::compose(name, &spec, tally)?.plans()?.1, None))
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
    let clock = SystemClock::new();
    let (plan, latencies) = plan(cli, &tally, &clock)?;
    let place = Place { listener: &listener, identity: &identity, local, peers: &peers };
    let half = Half::start(&plan, &place, &clock)?;
    let seconds = half.finish()?;
    let (rows, checksum) = tally.get();
    let latencies = latencies.map(|l| l.recorded());
    println!("{}", json!([seconds, rows, checksum, latencies]));
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
    let mut latencies: Option<Histogram<u64>> = None;
    for worker in &mut workers {
        let said: Said = serde_json::from_str(&worker.line()?).map_err(broken)?;
        seconds = seconds.max(said.0);
        rows += said.1;
        checksum = checksum.wrapping_add(said.2);
        for (us, count) in said.3.into_iter().flatten() {
            let sum = latencies.get_or_insert(Histogram::new(3).map_err(broken)?);
            sum.record_n(us, count).map_err(broken)?;
        }
    }
    let events = events(cli);
    let mut line = json!({
        "benchmark": cli.what,
        "layout": if cli.layout == Layout::Rings { "rings" } else { "processes" },
        "slots": cli.slots,
        "events": events,
        "seconds": seconds,
        "events_per_s": (events as f64 / seconds).round(),
        "rows": rows,
        "checksum": format!("{checksum:016x}"),
    });
    if let Some(latencies) = latencies {
        percentiles(&mut line, cli, &latencies);
    }
    Ok(line)
}

fn percentiles(line: &mut Value, cli: &Cli, latencies: &Histogram<u64>) {
    line["rate"] = json!(cli.latency_rate());
    line["measured"] = json!(latencies.len());
    for (name, percent) in [("p50", 50.0), ("p99", 99.0), ("p99.9", 99.9), ("p99.99", 99.99)] {
        let ms = latencies.value_at_percentile(percent) as f64 / 1e3;
        line[format!("latency_{name}_ms")] = json!(ms);
    }
    line["latency_max_ms"] = json!(latencies.max() as f64 / 1e3);
}

/// The machine's own part in latencies.
fn floor(cli: &Cli) -> Result<Value> {
    let mut sum = Histogram::new(3).map_err(broken)?;
    for one in cluster::floor(&cli.load())? {
        sum.add(&one).map_err(broken)?;
    }
    let mut line = json!({"benchmark": "floor", "slots": cli.slots});
    percentiles(&mut line, cli, &sum);
    Ok(line)
}

/// What a child has measured: seconds, rows, checksum, and latencies with their numbers.
type Said = (f64, u64, u64, Option<Vec<(u64, u64)>>);
