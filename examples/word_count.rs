//! Counts words in windows of event time: the classic first job, with checkpoints.
//!
//!     cargo run -p tidemill-examples --example word_count
//!     cargo run -p tidemill-examples --example word_count -- --input book.txt --output counts \
//!         --checkpoint-dir checkpoints
//!
//! Text has no times of its own, so a line's event time is its place in the file: byte 12,345 is
//! 12.345 s, and a window of 10 s holds 10 kB of text, in every run. Kill the second command, add
//! `--restore latest` and run it again: the counts are the same as if nothing had happened.

use std::fmt::Write;
use std::process::ExitCode;
use std::time::Duration;
use tidemill::{Source, prelude::*};

/// Counted where no input is named; part of the program, so that it runs on any machine.
const SAMPLE: &str = include_str!("data/address.txt");

fn main() -> ExitCode {
    job::main(|args| {
        let input = args.parsed::<String>("input", "text: a file, or a directory of files")?;
        let output = args.parsed::<String>("output", "a directory for the counts, not stdout")?;
        let rate = args.parsed::<f64>("rate", "the most lines of the input to read in a second")?;
        let env = Env::new("WordCount").parallelism(4).checkpoint_every(Duration::from_secs(1));
        if let Some(path) = input {
            // Small splits: the subtasks read side by side, so that windows close early.
            let mut lines = FileSource::lines(path).split_bytes(256 << 10);
            if let Some(rate) = rate {
                lines = lines.rate(rate);
            }
            count(&env, lines, output);
        } else {
            let place = |line: &str| line.as_ptr() as i64 - SAMPLE.as_ptr() as i64;
            let lines = SAMPLE.lines().map(|line| (line.to_owned(), place(line))).collect();
            count(&env, CollectionSource::with_timestamps(lines), output);
        }
        Ok(env)
    })
}

fn count(env: &Env, lines: impl Source<Item = String>, output: Option<String>) {
    let counts = env
        .add_source_with(lines, source_time())
        .flat_map::<(String, u64), _>(|line, emit| {
            line.split_whitespace().for_each(|word| emit((word, 1)));
        })
        .key_by::<String, _>(|(word, _)| word)
        .window(Tumbling::of(Duration::from_secs(10)))
        .with_window()
        .sum(|(_, n)| n)
        .filter(|(_, _, _, count)| count > 5);
    let format = |(word, start, _, count): (&str, i64, i64, u64), line: &mut String| {
        write!(line, "{start} {word} {count}")
    };
    match output {
        Some(directory) => counts.add_sink(FileSink::new(directory, format)),
        None => counts.add_sink(StdoutSink::new(format)),
    };
}
