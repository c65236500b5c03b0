//! Cuts each user's clicks into sessions: a session ends when five seconds pass without a click.
//!
//!     cargo run -p tidemill-examples --example sessions
//!     cargo run -p tidemill-examples --example sessions -- --input clicks.jsonl
//!
//! Clicks come up to two seconds out of order: a session ends when the watermark, two seconds behind
//! the newest click, has passed its end.

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
        let env = Env::new("Sessions").parallelism(2);
        env.add_source_with(
            FileSource::json::<Click>(input),
            time.out_of_order(Duration::from_secs(2)),
        )
        .key_by::<String, _>(|click| click.user)
        .window(Session::gap(Duration::from_secs(5)))
        .with_window()
        .count()
        .add_sink(StdoutSink::new(|(user, start, end, clicks), line| {
            write!(line, "{user}: {clicks} clicks from {start} to {} ms", end - 5000)
        }));
        Ok(env)
    })
}
