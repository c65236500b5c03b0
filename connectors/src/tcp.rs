//! Lines from a TCP connection. **At most once**: what has been read from a connection cannot be
//! read again, so a restart loses what followed the last checkpoint.
//!
//! ```text
//!   Waiting --time--> Connecting --established--> Open --end--> Ended (or Waiting)
//!                          | refused, or timed out: Waiting
//! ```
//! Not here: listening. The source connects, to one server, from subtask 0.

mod link;
#[cfg(test)]
mod tests;

use crate::OnError;
use link::{Link, Received};
use memchr::memchr;
use std::net::{SocketAddr, ToSocketAddrs};
use tidemill_base::{Error, Micros, Result};
use tidemill_runtime::context::Context;
use tidemill_runtime::source::{Emit, Polled, Source, SourceContext, SourceReader};

/// Bytes of one read.
const READ_BYTES: usize = 64 << 10;

/// The longest line.
const LINE_BYTES_MAX: usize = 16 << 20;

/// What to do when the server closes the connection, or cannot be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDisconnect {
    /// The stream ends where the server ends it; a connection that breaks fails the attempt.
    #[default]
    End,
    /// Connect again, at first after `delay_ms`; the attempt fails after so many failures in a
    /// row. Lines that the server sends meanwhile are lost.
    Reconnect {
        /// Failures in a row.
        attempts: u32,
        /// Milliseconds between two of them.
        delay_ms: u64,
    },
}

/// Lines that a server sends, with the time of their arrival as event time. **At most once.**
#[derive(Clone, Debug)]
pub struct TcpLinesSource {
    address: String,
    on_disconnect: OnDisconnect,
    on_error: OnError,
}

impl TcpLinesSource {
    /// Connects to `address`, e.g. `localhost:9000`.
    pub fn connect(address: impl Into<String>) -> Self {
        let address = address.into();
        TcpLinesSource { address, on_disconnect: OnDisconnect::End, on_error: OnError::Fail }
    }
    /// What to do when the server closes the connection.
    #[must_use]
    pub fn on_disconnect(mut self, policy: OnDisconnect) -> Self {
        self.on_disconnect = policy;
        self
    }
    /// What to do with a line that is not valid UTF-8.
    #[must_use]
    pub fn on_error(mut self, policy: OnError) -> Self {
        self.on_error = policy;
        self
    }
}

impl Source for TcpLinesSource {
    type Item = String;
    type Reader = TcpLinesReader;

    fn open(&self, cx: &SourceContext) -> Result<TcpLinesReader> {
        let found = self.address.to_socket_addrs().map_err(|e| {
            Error::job(format!("'{}' is no address: {e}; write host:port", self.address))
        })?;
        let addresses: Vec<SocketAddr> = found.collect();
        if addresses.is_empty() {
            return Err(Error::job(format!("'{}' has no address: check the name", self.address)));
        }
        Ok(TcpLinesReader {
            source: self.clone(),
            addresses,
            state: if cx.subtask == 0 { State::Waiting { until: 0 } } else { State::Ended },
            failures: 0,
            buffer: Buffered { bytes: Vec::new(), at: 0 },
            lines: 0,
            context: cx.context.clone(),
        })
    }
    fn name(&self) -> String {
        format!("tcp({})", self.address)
    }
}

enum State {
    Waiting { until: Micros },
    Connecting { link: Link, deadline: Micros },
    Open(Link),
    Ended,
}

/// How long to wait for a connection to be established.
const CONNECT_TIMEOUT_US: Micros = 10_000_000;

/// Bytes that have arrived and are not emitted yet.
struct Buffered {
    bytes: Vec<u8>,
    at: usize,
}

/// Reads a [`TcpLinesSource`].
pub struct TcpLinesReader {
    source: TcpLinesSource,
    addresses: Vec<SocketAddr>,
    state: State,
    /// Failures in a row.
    failures: u32,
    buffer: Buffered,
    /// Lines read from this connection.
    lines: u64,
    context: Context,
}

impl TcpLinesReader {
    /// Emits buffered lines; `last` if the rest without line break is one too.
    fn emit<O: Emit<String>>(&mut self, out: &mut O, last: bool) -> Result<()> {
        let arrived = self.context.time.wall_ms();
        while out.remaining() > 0 {
            let rest = &self.buffer.bytes[self.buffer.at..];
            let (end, next) = match memchr(b'\n', rest) {
                Some(end) if end > 0 && rest[end - 1] == b'\r' => (end - 1, end + 1),
                Some(end) => (end, end + 1),
                None if last && !rest.is_empty() => (rest.len(), rest.len()),
                None if rest.len() > LINE_BYTES_MAX => return Err(self.too_long()),
                None => break,
            };
            self.lines += 1;
            match std::str::from_utf8(&rest[..end]) {
                Ok(line) => out.emit(line, arrived),
                Err(_) if self.source.on_error == OnError::Skip => {
                    self.context.metrics.malformed_skipped.add(1);
                }
                Err(error) => {
                    return Err(Error::job(format!(
                        "{}: line {}, column {}: invalid UTF-8; correct the sender, or choose \
                         .on_error(OnError::Skip)",
                        self.source.name(),
                        self.lines,
                        error.valid_up_to() + 1
                    )));
                }
            }
            self.buffer.at += next;
        }
        Ok(())
    }

    #[cold]
    fn too_long(&self) -> Error {
        Error::job(format!(
            "{}: line {} is longer than {} MiB: does the server send text?",
            self.source.name(),
            self.lines + 1,
            LINE_BYTES_MAX >> 20
        ))
    }

    /// Whether a whole line, or the last one, is buffered.
    fn has_line(&self, last: bool) -> bool {
        let rest = &self.buffer.bytes[self.buffer.at..];
        memchr(b'\n', rest).is_some() || (last && !rest.is_empty())
    }

    /// The connection could not be made, or broke.
    fn failed(&mut self, now: Micros, why: &str) -> Result<()> {
        self.failures += 1;
        // A line that was cut off is not one.
        self.buffer = Buffered { bytes: Vec::new(), at: 0 };
        let name = self.source.name();
        match self.source.on_disconnect {
            OnDisconnect::Reconnect { attempts, delay_ms } if self.failures <= attempts => {
                tracing::warn!("{name}: {why}; connecting again in {delay_ms} ms");
                self.state = State::Waiting { until: now + delay_ms * 1000 };
                Ok(())
            }
            _ => Err(Error::attempt(format!(
                "{name}: {why}; {} failures in a row: is the server running? \
                 .on_disconnect(OnDisconnect::Reconnect {{ .. }}) waits for it",
                self.failures
            ))),
        }
    }

    /// The server has closed the connection, and all its lines are emitted.
    fn closed(&mut self, now: Micros) {
        self.buffer = Buffered { bytes: Vec::new(), at: 0 };
        self.state = match self.source.on_disconnect {
            OnDisconnect::End => State::Ended,
            OnDisconnect::Reconnect { delay_ms, .. } => {
                State::Waiting { until: now + delay_ms * 1000 }
            }
        };
    }

    fn step_connecting(&mut self, now: Micros) -> Result<Polled> {
        match &mut self.state {
            State::Waiting { until } if now < *until => Ok(Polled::Idle { until: Some(*until) }),
            State::Waiting { .. } => {
                let address = self.addresses[self.failures as usize % self.addresses.len()];
                match Link::connect(address) {
                    Ok(link) => {
                        let deadline = now + CONNECT_TIMEOUT_US;
                        self.state = State::Connecting { link, deadline };
                    }
                    Err(e) => self.failed(now, &format!("cannot connect to {address}: {e}"))?,
                }
                Ok(Polled::More)
            }
            State::Connecting { link, deadline } => {
                let timed_out = now >= *deadline;
                match link.is_established() {
                    Ok(true) => {
                        if let State::Connecting { link, .. } =
                            std::mem::replace(&mut self.state, State::Ended)
                        {
                            self.state = State::Open(link);
                        }
                        (self.failures, self.lines) = (0, 0);
                        return Ok(Polled::More);
                    }
                    Ok(false) if !timed_out => {}
                    Ok(false) => self.failed(now, "no answer within 10 s")?,
                    Err(e) => self.failed(now, &format!("cannot connect: {e}"))?,
                }
                Ok(Polled::Idle { until: None })
            }
            State::Open(_) => Ok(Polled::More),
            State::Ended => Ok(Polled::End),
        }
    }
}

impl SourceReader for TcpLinesReader {
    type Item = String;

    fn poll<O: Emit<String>>(&mut self, out: &mut O) -> Result<Polled> {
        let State::Open(link) = &mut self.state else { return self.step_connecting(out.now()) };
        out.split(0);
        let received = if memchr(b'\n', &self.buffer.bytes[self.buffer.at..]).is_some() {
            Received::Bytes
        } else {
            self.buffer.bytes.drain(..self.buffer.at);
            self.buffer.at = 0;
            link.receive(&mut self.buffer.bytes, READ_BYTES)
        };
        let last = matches!(received, Received::Closed);
        self.emit(out, last)?;
        match received {
            Received::Bytes => Ok(Polled::More),
            Received::Nothing => Ok(Polled::Idle { until: None }),
            Received::Closed if self.has_line(true) => Ok(Polled::More),
            Received::Closed => {
                self.closed(out.now());
                if matches!(self.state, State::Ended) {
                    out.split_ended(0);
                }
                Ok(Polled::More)
            }
            Received::Broken(error) => {
                self.failed(out.now(), &format!("the connection broke: {error}"))?;
                Ok(Polled::More)
            }
        }
    }

    /// Nothing: the source cannot go back.
    fn snapshot(&mut self) -> Result<Vec<Vec<u8>>> {
        Ok(Vec::new())
    }
}
