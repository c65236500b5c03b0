//! Sends what comes too late for its window to a stream of its own.
//!
//!     cargo run -p tidemill-examples --example late_data
//!     cargo run -p tidemill-examples --example late_data -- --input clicks.jsonl
//!
//! Clicks may be one second out of order; a window of ten seconds waits for that long. Watermarks
//! are sent about every thousand records; `watermark_every(1)` makes lateness exact to the click.

use std::fmt::Write;
use std::process::ExitCode;
use std::time::Duration;
use tidemill::prelude::*;

const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data/clicks.jsonl");

#[derive(Record, serde::Deserialize)]
struct Click {
    user: String,
    /// Milliseconds.
    time: i64,
    page: String,
}

fn main() -> ExitCode {
    job::main(|args| {
        let input = args.optional("input", "clicks, as JSON lines", SAMPLE);

        let time = event_time(|click: ClickView<'_>| click.time);
        let env = Env::new("LateData");
        let late = env.output_tag::<Click>("late clicks");
        env.add_source_with(
            FileSource::json::<Click>(input),
            time.out_of_order(Duration::from_secs(1)).watermark_every(1),
        )
        .key_by::<String, _>(|click| click.user)
        .window(Tumbling::of(Duration::from_secs(10)))
        .late_output(&late)
        .with_window()
        .count()
        .add_sink(StdoutSink::new(|(user, start, _, clicks), line| {
            write!(line, "{user}: {clicks} clicks from {start} ms")
        }));

        late.stream(&env).add_sink(StdoutSink::new(|click: ClickView<'_>, line| {
            write!(line, "{}: too late, {} at {} ms", click.user, click.page, click.time)
        }));
        Ok(env)
    })
}
