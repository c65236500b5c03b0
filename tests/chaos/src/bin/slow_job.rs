//! A consumer at far less than 1% of what its producer could do: numbers as fast as they go, counted by key, and so
//! many microseconds of user code behind the exchange for each.
//!
//!     slow_job --slow-us US [--aligned-ms MS|never] [--interval-ms MS] [--readers N]
//!
//! With `--readers` the stream is shared by so many, each with a slow operator of its own.

use std::process::ExitCode;
use std::time::Duration;
use tidemill::connectors::{DiscardSink, GeneratorSource};
use tidemill::{Env, Error, Result, Stream, job, pipe::Pipe};

#[expect(clippy::disallowed_methods, reason = "an operator that is slow on purpose")]
fn wait(time: Duration) {
    std::thread::sleep(time);
}

fn number(text: &str, what: &str) -> Result<u64> {
    text.parse().map_err(|_| Error::job(format!("--{what} {text}: a number is wanted")))
}

fn main() -> ExitCode {
    job::main(|args| {
        let slow = args.required("slow-us", "microseconds of user code for each record")?;
        let slow = Duration::from_micros(number(&slow, "slow-us")?);
        let aligned = match args.optional("aligned-ms", "alignment's timeout", "100") {
            never if never == "never" => None,
            ms => Some(Duration::from_millis(number(&ms, "aligned-ms")?)),
        };
        let interval = args.optional("interval-ms", "between two checkpoints", "1000");
        let env = Env::new("slow")
            .parallelism(4)
            .checkpoint_every(Duration::from_millis(number(&interval, "interval-ms")?))
            .aligned_timeout(aligned);
        let readers = args.optional("readers", "how many share the stream", "1");
        let readers = number(&readers, "readers")?;
        let numbers = env.add_source(GeneratorSource::new(None, |i| i));
        if readers > 1 {
            let numbers = numbers.shared();
            (0..readers).for_each(|_| slowly(numbers.stream(), slow));
        } else {
            slowly(numbers, slow);
        }
        Ok(env)
    })
}

fn slowly(numbers: Stream<u64, impl Pipe<Out = u64>>, slow: Duration) {
    numbers
        .key_by::<u64, _>(|n| n % 1_000)
        .count()
        .map(move |(key, n)| {
            wait(slow);
            (key, n)
        })
        .add_sink(DiscardSink);
}
