//! What a job says to people: lines on standard error, results of commands on standard output. That
//! nobody reads them any more (`| head`, a terminal that was closed) ends no job.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write as _};
use tidemill_base::{Error, Result};

/// A line on standard error, if somebody listens.
pub(super) fn tell(line: Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// A result on standard output. A reader that has seen enough is no error, a full disk is one.
pub(super) fn print(text: &str) -> Result<()> {
    let mut out = io::stdout();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Error::job(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}
