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
use tidemill::prelude::*;

const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data/address.txt");

fn main() -> ExitCode {
    job::main(|args| {
        let input = args.optional("input", "text to read: a file, or a directory of files", SAMPLE);
        let output = args.parsed::<String>("output", "a directory for the counts, not stdout")?;
        let rate = args.parsed::<f64>("rate", "the most lines to read in a second")?;

        // Small splits: the subtasks read side by side, so that windows close early.
        let mut lines = FileSource::lines(input).split_bytes(256 << 10);
        if let Some(rate) = rate {
            lines = lines.rate(rate);
        }
        let env = Env::new("WordCount").parallelism(4).checkpoint_every(Duration::from_secs(1));
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
        Ok(env)
    })
}
