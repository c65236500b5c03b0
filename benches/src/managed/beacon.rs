//! When records arrive: sinks send a datagram for the first record that they see, and from then on at most
//! every millisecond, with what happened since the last one that went out.
//!
//! Invariants
//!   B1  A sink never waits: a datagram that is not taken is sent again later, with what came meanwhile.
//!   B2  Times are of the kernel's monotonic clock, in microseconds.

use super::broken;
use crate::cluster::monotonic;
use serde::{Deserialize, Serialize};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tidemill::{Record, Result, Sink, SinkContext, SinkWriter, Timestamp};
use tidemill_base::Micros;
use tidemill_runtime::context::Context;

/// Datagrams of one sink are at least this far apart.
const EVERY_US: Micros = 1_000;

/// What a sink's subtask has seen since its last beat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// The job, as it was told: beats of one that is being ended may still come.
    pub run: u32,
    /// Its process.
    pub pid: u32,
    /// The subtask.
    pub subtask: u32,
    /// The job's attempt.
    pub attempt: u32,
    /// When the first and the last of these records came.
    pub first_us: Micros,
    /// See `first_us`.
    pub last_us: Micros,
    /// Their number.
    pub records: u64,
    /// The longest time without a record, up to the last of these.
    pub gap_us: Micros,
}

/// Counts records and sends beats.
#[derive(Clone, Debug)]
pub struct BeaconSink {
    to: PathBuf,
    run: u32,
}

impl BeaconSink {
    /// Sends to the socket of [`Beats::listen`].
    pub fn new(to: impl Into<PathBuf>, run: u32) -> Self {
        BeaconSink { to: to.into(), run }
    }
}

impl<T: Record> Sink<T> for BeaconSink {
    type Writer = BeaconWriter;

    fn open(&self, cx: &SinkContext) -> Result<BeaconWriter> {
        let named = |e| broken(format!("beacon {}: {e}", self.to.display()));
        let socket = UnixDatagram::unbound().map_err(named)?;
        socket.connect(&self.to).map_err(named)?;
        socket.set_nonblocking(true).map_err(named)?;
        let beat = Beat {
            run: self.run,
            pid: std::process::id(),
            subtask: cx.subtask,
            attempt: cx.context.info.attempt,
            first_us: 0,
            last_us: 0,
            records: 0,
            gap_us: 0,
        };
        Ok(BeaconWriter { socket, beat, context: cx.context.clone(), last: 0, sent: 0, shift: 0 })
    }

    fn name(&self) -> String {
        String::from("beacon")
    }
}

/// Writer of a [`BeaconSink`].
pub struct BeaconWriter {
    socket: UnixDatagram,
    beat: Beat,
    context: Context,
    /// When the last record came and the last beat went out, on the engine's clock.
    last: Micros,
    sent: Micros,
    /// From the engine's clock to B2's.
    shift: Micros,
}

impl BeaconWriter {
    /// The first record of a step.
    #[cold]
    fn step(&mut self, now: Micros) {
        if self.last == 0 {
            self.shift = monotonic() - self.context.time.read();
        } else {
            self.beat.gap_us = self.beat.gap_us.max(now - self.last);
        }
        if self.beat.records == 0 {
            self.beat.first_us = now + self.shift;
        }
        self.last = now;
        if now >= self.sent + EVERY_US || self.sent == 0 {
            self.beat.last_us = now + self.shift;
            self.beat.records += 1;
            // B1.
            let told = serde_json::to_vec(&self.beat).is_ok_and(|b| self.socket.send(&b).is_ok());
            if told {
                self.sent = now;
                (self.beat.records, self.beat.gap_us) = (0, 0);
                // This step's records are told by the next beat, but for the first.
                self.beat.first_us = now + self.shift;
                return;
            }
            self.beat.records -= 1;
        }
    }
}

impl<T: Record> SinkWriter<T> for BeaconWriter {
    #[inline]
    fn write(&mut self, _: T::View<'_>, _: Timestamp) -> Result<()> {
        let now = self.context.time.now();
        if now != self.last {
            self.step(now);
        }
        self.beat.records += 1;
        Ok(())
    }
}

/// All beats that were heard.
#[derive(Clone, Default)]
pub struct Beats {
    shared: Arc<(Mutex<Vec<Beat>>, Condvar)>,
}

impl Beats {
    /// Listens at a new socket, for as long as the process lives.
    ///
    /// # Errors
    /// When there is no such socket, or no thread.
    pub fn listen(at: &Path) -> Result<Beats> {
        let beats = Beats::default();
        let socket =
            UnixDatagram::bind(at).map_err(|e| broken(format!("{}: {e}", at.display())))?;
        let heard = beats.clone();
        let hear = move || {
            let mut bytes = [0; 512];
            while let Ok(n) = socket.recv(&mut bytes) {
                if let Ok(beat) = serde_json::from_slice(&bytes[..n]) {
                    heard.lock().push(beat);
                    heard.shared.1.notify_all();
                }
            }
        };
        let thread = std::thread::Builder::new().name("beats".into());
        thread.spawn(hear).map_err(broken)?;
        Ok(beats)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Beat>> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those that were heard so far, in the order of arrival.
    pub fn heard(&self, of: impl Fn(&Beat) -> bool) -> Vec<Beat> {
        self.lock().iter().filter(|beat| of(beat)).copied().collect()
    }

    /// The first of these beats, which may be to come.
    ///
    /// # Errors
    /// When it does not come in time.
    pub fn first(&self, limit: Duration, what: &str, of: impl Fn(&Beat) -> bool) -> Result<Beat> {
        let end = monotonic() + limit.as_micros() as Micros;
        let mut beats = self.lock();
        loop {
            if let Some(beat) = beats.iter().find(|beat| of(beat)) {
                return Ok(*beat);
            }
            let left = end.saturating_sub(monotonic());
            if left == 0 {
                return Err(broken(format!("{what}: no record arrived within {limit:?}")));
            }
            let waited = self.shared.1.wait_timeout(beats, Duration::from_micros(left));
            beats = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The process that runs a job's subtask, as its last beat says.
    ///
    /// # Errors
    /// When it was never heard of.
    pub fn process_of(&self, run: u32, subtask: u32) -> Result<u32> {
        let beats = self.lock();
        let last = beats.iter().rev().find(|beat| beat.run == run && beat.subtask == subtask);
        last.map(|beat| beat.pid).ok_or_else(|| broken(format!("subtask {subtask} is silent")))
    }
}
