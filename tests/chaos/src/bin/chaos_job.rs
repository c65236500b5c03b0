//! The job under test: numbers by key, checked for their order, counted in windows; two exactly-once
//! file sinks. What it must write is a matter of counting: `tidemill_chaos::oracle`.
//!
//!     chaos_job --out DIR --records N --rate R [--slow-us US] [--aligned-ms MS|never] [--interval-ms MS]
//!
//! It reads slowly until the file `DIR/fast` is there. With `--slow-us` each record takes that long in the
//! operator behind the exchange.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tidemill::prelude::*;
use tidemill::{
    Backoff, Emit, Error, Polled, RestartStrategy, Source, SourceContext, SourceReader,
};
use tidemill_chaos::oracle::{self, SPLITS};

/// One number of a key.
#[derive(Record, Clone, Debug)]
struct Number {
    key: u64,
    seq: u64,
    at: i64,
}

/// `records` numbers in [`SPLITS`] splits, `rate` a second in all.
#[derive(Clone)]
struct Numbers {
    records: u64,
    rate: u64,
    fast: PathBuf,
}

struct Reader {
    source: Numbers,
    /// Splits and the next record of each.
    splits: Vec<(u64, u64)>,
    began: Option<u64>,
    read: u64,
    fast: bool,
}

impl Source for Numbers {
    type Item = Number;
    type Reader = Reader;

    fn open(&self, cx: &SourceContext) -> Result<Reader> {
        let fresh = || {
            let mine = |s: &u64| s % u64::from(cx.parallelism) == u64::from(cx.subtask);
            (0..SPLITS).filter(mine).map(|split| (split, 0)).collect()
        };
        let splits = match &cx.restored {
            Some(entries) => entries.iter().map(|e| position(e)).collect::<Result<_>>()?,
            None => fresh(),
        };
        Ok(Reader { source: self.clone(), splits, began: None, read: 0, fast: false })
    }

    fn name(&self) -> String {
        "numbers".into()
    }
}

fn position(entry: &[u8]) -> Result<(u64, u64)> {
    let word = |at: usize| entry.get(at..at + 8).and_then(|b| b.try_into().ok());
    match (word(0), word(8)) {
        (Some(split), Some(next)) => Ok((u64::from_le_bytes(split), u64::from_le_bytes(next))),
        _ => Err(Error::job(format!("a position has {} bytes, not 16", entry.len()))),
    }
}

impl SourceReader for Reader {
    type Item = Number;

    fn poll<O: Emit<Number>>(&mut self, out: &mut O) -> Result<Polled> {
        let now = out.now();
        let all = oracle::records_of_split(self.source.records);
        let began = *self.began.get_or_insert(now);
        for i in 0..self.splits.len() {
            out.split(i);
        }
        let open: Vec<usize> = (0..self.splits.len()).filter(|&i| self.splits[i].1 < all).collect();
        if open.is_empty() {
            return Ok(Polled::End);
        }
        self.fast = self.fast || self.source.fast.exists();
        // This subtask's share of the rate.
        let share = self.source.rate * self.splits.len() as u64 / SPLITS;
        let due = (now.saturating_sub(began) + 5_000) * share / 1_000_000;
        let mut left = if self.fast { 1_000 } else { due.saturating_sub(self.read).min(1_000) };
        while left > 0 && out.remaining() > 0 {
            let mut any = false;
            for &i in &open {
                let (split, next) = self.splits[i];
                if next >= all || left == 0 || out.remaining() == 0 {
                    continue;
                }
                let (key, seq, at) = oracle::record(split, next);
                out.split(i);
                out.emit(NumberView { key, seq, at }, at);
                self.splits[i].1 += 1;
                self.read += 1;
                (left, any) = (left - 1, true);
                if next + 1 == all {
                    out.split_ended(i);
                }
            }
            if !any {
                break;
            }
        }
        Ok(if self.fast { Polled::More } else { Polled::Idle { until: Some(now + 5_000) } })
    }

    fn snapshot(&mut self) -> Result<Vec<Vec<u8>>> {
        let entry = |p: &(u64, u64)| [p.0.to_le_bytes(), p.1.to_le_bytes()].concat();
        Ok(self.splits.iter().map(entry).collect())
    }
}

#[expect(clippy::disallowed_methods, reason = "an operator that is slow on purpose")]
fn wait(time: Duration) {
    std::thread::sleep(time);
}

fn main() -> ExitCode {
    job::main(|args| {
        let out = PathBuf::from(args.required("out", "directory for the output")?);
        let number = |text: String, what: &str| {
            text.parse::<u64>()
                .map_err(|_| Error::job(format!("--{what} {text}: a number is wanted")))
        };
        let slow =
            Duration::from_micros(number(args.optional("slow-us", "per record", "0"), "slow-us")?);
        let interval =
            number(args.optional("interval-ms", "between checkpoints", "400"), "interval-ms")?;
        let aligned = match args.optional("aligned-ms", "alignment's timeout", "100") {
            never if never == "never" => None,
            ms => Some(Duration::from_millis(number(ms, "aligned-ms")?)),
        };
        let backoff = Backoff {
            initial_us: 100_000,
            max_us: 1_000_000,
            reset_after_us: 5_000_000,
            ..Backoff::default()
        };
        let env = Env::new("chaos")
            .parallelism(2)
            .checkpoint_every(Duration::from_millis(interval))
            .aligned_timeout(aligned)
            .restart(RestartStrategy::ExponentialBackoff(backoff));
        let records = number(args.optional("records", "how many", "100000"), "records")?;
        let rate = number(args.optional("rate", "records a second", "2000"), "rate")?;
        let source = Numbers { records, rate, fast: out.join("fast") };
        let time = event_time(|n: NumberView| n.at);
        let numbers = env.add_source_with(source, time).uid("numbers").shared();
        numbers
            .stream()
            .key_by::<u64, _>(|n| n.key)
            .process_value::<u64, String, _>(move |n, next, cx| {
                if !slow.is_zero() {
                    wait(slow);
                }
                let expected = next.get_or_insert(0);
                if *expected == n.seq {
                    cx.emit(&format!("{} {}", n.key, n.seq));
                } else {
                    cx.emit(&format!("{} {} where {expected} should be", n.key, n.seq));
                }
                *expected = n.seq + 1;
            })
            .uid("sequence")
            .add_sink(FileSink::new(out.join("rows"), |row: &str, line| line.write_str(row)))
            .uid("rows");
        numbers
            .stream()
            .key_by::<u64, _>(|n| n.key)
            .window(Tumbling::of(Duration::from_millis(oracle::WINDOW_MS as u64)))
            .with_window()
            .count()
            .uid("windows")
            .add_sink(FileSink::new(out.join("windows"), |(key, start, _, count), line| {
                write!(line, "{key} {start} {count}")
            }))
            .uid("counts");
        Ok(env)
    })
}
