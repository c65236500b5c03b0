//! Prints the lines that contain "error", in whatever case.
//!
//!     cargo run -p tidemill-examples --example error_filter
//!     cargo run -p tidemill-examples --example error_filter -- --input /var/log --suffix .log
//!
//! Whatever the parallelism, source, filter and sink are one chain: a line is looked at where it
//! lies in the reader's buffer, and copied only if it is printed.

use std::process::ExitCode;
use tidemill::prelude::*;

const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data/service.log");

fn main() -> ExitCode {
    job::main(|args| {
        let input = args.optional("input", "text to read: a file, or a directory of files", SAMPLE);
        let suffix = args.optional("suffix", "of a directory, only files that end so", "");

        let env = Env::new("ErrorFilter");
        env.add_source(FileSource::lines(input).suffix(suffix))
            .filter(contains_error)
            .add_sink(StdoutSink::display());
        Ok(env)
    })
}

fn contains_error(line: &str) -> bool {
    line.as_bytes().windows(5).any(|five| five.eq_ignore_ascii_case(b"error"))
}
