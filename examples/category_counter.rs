//! Counts JSON events by category, in windows of 30 seconds.
//!
//!     cargo run -p tidemill-examples --example category_counter
//!     cargo run -p tidemill-examples --example category_counter -- --input events.jsonl
//!
//! The events come up to five seconds out of order, so a window waits until an event five seconds
//! behind its end has been seen. `--output DIR` writes files, exactly once with checkpoints.

use std::process::ExitCode;
use std::time::Duration;
use tidemill::prelude::*;

const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data/events.jsonl");

#[derive(Record, serde::Deserialize)]
struct Event {
    /// Milliseconds.
    time: i64,
    category: String,
}

#[derive(Record, serde::Serialize)]
struct CategoryCount {
    category: String,
    window_start: i64,
    count: u64,
}

fn main() -> ExitCode {
    job::main(|args| {
        let input = args.optional("input", "events, as JSON lines", SAMPLE);
        let output = args.parsed::<String>("output", "a directory for the counts, not stdout")?;

        let event_time = event_time(|event: EventView<'_>| event.time);
        let env = Env::new("CategoryCounter").parallelism(2);
        let counts = env
            .add_source_with(
                FileSource::json::<Event>(input),
                event_time.out_of_order(Duration::from_secs(5)),
            )
            .key_by::<String, _>(|event| event.category)
            .window(Tumbling::of(Duration::from_secs(30)))
            .with_window()
            .count()
            .map(|(category, window_start, _, count)| CategoryCount {
                category: category.to_owned(),
                window_start,
                count,
            });
        match output {
            Some(directory) => counts.add_sink(FileSink::json(directory)),
            None => counts.add_sink(StdoutSink::json()),
        };
        Ok(env)
    })
}
