//! Latencies, in histograms of high dynamic range.

use hdrhistogram::Histogram;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};
use tidemill_base::{Error, Micros, Record, Result, Timestamp};
use tidemill_runtime::context::Context;
use tidemill_runtime::sink::{Sink, SinkContext, SinkWriter};

/// The greatest latency that is told apart: one hour.
const LATENCY_US_MAX: u64 = 3_600_000_000;

/// Digits that are told apart.
const DIGITS: u8 = 3;

/// Records measured between two reports to the handle.
const REPORT_EVERY: u64 = 1 << 16;

/// Records that one look at the clock measures, at most.
const RUN: usize = 64;

/// Handle to what a [`LatencySink`] has measured; its clones share it.
#[derive(Clone, Debug)]
pub struct Latencies {
    shared: Arc<Mutex<Histogram<u64>>>,
}

impl Latencies {
    fn with<R>(&self, look: impl FnOnce(&mut Histogram<u64>) -> R) -> R {
        look(&mut self.shared.lock().unwrap_or_else(PoisonError::into_inner))
    }
    /// Number of records measured.
    pub fn len(&self) -> u64 {
        self.with(|h| h.len())
    }
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The latency, in microseconds, that so many percent of the records did not exceed.
    pub fn percentile_us(&self, percent: f64) -> Micros {
        self.with(|h| h.value_at_percentile(percent))
    }
    /// The greatest latency, in microseconds.
    pub fn max_us(&self) -> Micros {
        self.with(|h| h.max())
    }
    /// Each latency that was measured, as exactly as latencies are told apart, with the number of its
    /// records: for sums over several processes.
    pub fn recorded(&self) -> Vec<(Micros, u64)> {
        self.with(|h| {
            h.iter_recorded().map(|v| (v.value_iterated_to(), v.count_at_value())).collect()
        })
    }
    /// Forgets what was measured, after the warm-up for instance.
    pub fn reset(&self) {
        self.with(Histogram::reset);
    }
}

/// Records how long each record took from the time that a function reads from it, in microseconds
/// on the engine's clock. Without coordinated omission if that is the time at which it was due: see
/// [`GeneratorSource::scheduled`](crate::GeneratorSource::scheduled).
///
/// One look at the clock measures up to 64 records, and comes after the last of them: behind the
/// 64th, before a watermark or a barrier, and when nothing arrives at the moment. So no record seems
/// faster than it was; it may seem slower by the time in which the rest of its run arrived.
pub struct LatencySink<T, F> {
    due: F,
    latencies: Latencies,
    record: PhantomData<fn(T)>,
}

impl<T, F: Clone> Clone for LatencySink<T, F> {
    fn clone(&self) -> Self {
        let latencies = self.latencies.clone();
        LatencySink { due: self.due.clone(), latencies, record: PhantomData }
    }
}

fn histogram() -> Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, DIGITS)
        .map_err(|e| Error::job(format!("a histogram cannot be made: {e}")))
}

impl<T, F> LatencySink<T, F>
where
    T: Record,
    F: for<'a> FnMut(T::View<'a>, Timestamp) -> Micros + Clone + Send + 'static,
{
    /// `due` reads from a record (and its event time) when it was due.
    pub fn new(due: F) -> Result<Self> {
        let latencies = Latencies { shared: Arc::new(Mutex::new(histogram()?)) };
        Ok(LatencySink { due, latencies, record: PhantomData })
    }
    /// The handle to the result; what is still running reports at each checkpoint, when it is
    /// idle, and at its end.
    pub fn handle(&self) -> Latencies {
        self.latencies.clone()
    }
}

impl<T, F> Sink<T> for LatencySink<T, F>
where
    T: Record,
    F: for<'a> FnMut(T::View<'a>, Timestamp) -> Micros + Clone + Send + 'static,
{
    type Writer = LatencyWriter<F>;

    fn open(&self, cx: &SinkContext) -> Result<LatencyWriter<F>> {
        Ok(LatencyWriter {
            due: self.due.clone(),
            run: Vec::with_capacity(RUN),
            own: histogram()?,
            latencies: self.latencies.clone(),
            context: cx.context.clone(),
        })
    }
    fn name(&self) -> String {
        String::from("latency")
    }
}

/// Writer of a [`LatencySink`].
pub struct LatencyWriter<F> {
    due: F,
    /// When the records since the last look at the clock were due.
    run: Vec<Micros>,
    own: Histogram<u64>,
    latencies: Latencies,
    context: Context,
}

impl<F> LatencyWriter<F> {
    /// Measures the run: all its records have arrived by now.
    fn look(&mut self) -> Result<()> {
        if self.run.is_empty() {
            return Ok(());
        }
        let now = self.context.time.read();
        for due in self.run.drain(..) {
            self.own.saturating_record(now.saturating_sub(due).max(1));
        }
        if self.own.len() >= REPORT_EVERY { self.report() } else { Ok(()) }
    }

    fn report(&mut self) -> Result<()> {
        if !self.own.is_empty() {
            let added = self.latencies.with(|h| h.add(&self.own));
            added.map_err(|e| Error::job(format!("latencies cannot be added: {e}")))?;
            self.own.reset();
        }
        Ok(())
    }
}

impl<T, F> SinkWriter<T> for LatencyWriter<F>
where
    T: Record,
    F: for<'a> FnMut(T::View<'a>, Timestamp) -> Micros + 'static,
{
    #[inline]
    fn write(&mut self, view: T::View<'_>, timestamp: Timestamp) -> Result<()> {
        self.run.push((self.due)(view, timestamp));
        if self.run.len() == RUN { self.look() } else { Ok(()) }
    }
    fn watermark(&mut self, _: Timestamp) -> Result<()> {
        self.look()
    }
    fn flush(&mut self) -> Result<()> {
        self.look()?;
        if self.own.len() >= REPORT_EVERY / 64 { self.report() } else { Ok(()) }
    }
    fn prepare(&mut self, _: u64) -> Result<Vec<Vec<u8>>> {
        self.look()?;
        self.report()?;
        Ok(Vec::new())
    }
    fn end(&mut self) -> Result<()> {
        self.look()?;
        self.report()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::sink_context;
    use tidemill_base::clock::ManualClock;

    #[test]
    fn percentiles_of_all_subtasks() {
        let sink = LatencySink::<u64, _>::new(|due, _| due).unwrap();
        for subtask in 0..2 {
            let cx = sink_context(subtask, 2, None);
            let mut writer = sink.open(&cx).unwrap();
            // One step takes them all: what counts is when each arrives.
            let clock = ManualClock::new();
            clock.advance(10_000);
            cx.context.time.refresh(&clock);
            for n in 1..=500u64 {
                clock.advance(1);
                let late = if subtask == 0 { n } else { 2 * n };
                SinkWriter::<u64>::write(&mut writer, 10_000 + n - late, 0).unwrap();
                SinkWriter::<u64>::watermark(&mut writer, 0).unwrap();
            }
            SinkWriter::<u64>::end(&mut writer).unwrap();
        }
        let latencies = sink.handle();
        assert_eq!(latencies.len(), 1000);
        let close = |value: u64, want: u64| value.abs_diff(want) <= want / 500;
        assert!(close(latencies.max_us(), 1000), "{}", latencies.max_us());
        let median = latencies.percentile_us(50.0);
        assert!(close(median, 334), "{median}");
        let recorded = latencies.recorded();
        assert_eq!(recorded.iter().map(|r| r.1).sum::<u64>(), 1000);
        assert!(recorded.is_sorted() && close(recorded[recorded.len() - 1].0, 1000));
        latencies.reset();
        assert!(latencies.is_empty() && latencies.recorded().is_empty());
    }

    #[test]
    fn no_record_seems_faster_than_it_was() {
        let sink = LatencySink::<u64, _>::new(|due, _| due).unwrap();
        let latencies = sink.handle();
        let cx = sink_context(0, 1, None);
        let mut writer = sink.open(&cx).unwrap();
        let clock = ManualClock::new();
        cx.context.time.refresh(&clock);
        // Each record takes 100 us from when it was due, and comes 10 us after the one before.
        clock.advance(90);
        for n in 0..RUN as u64 + 3 {
            clock.advance(10);
            SinkWriter::<u64>::write(&mut writer, 10 * n, 0).unwrap();
        }
        // The whole run is measured behind its last record, the next one when nothing follows.
        clock.advance(1_000);
        SinkWriter::<u64>::flush(&mut writer).unwrap();
        SinkWriter::<u64>::end(&mut writer).unwrap();
        assert_eq!(latencies.len(), RUN as u64 + 3);
        assert_eq!(latencies.percentile_us(0.0), 100);
        assert_eq!(latencies.percentile_us(50.0), 100 + 10 * (RUN as u64 + 3).div_ceil(2) - 10);
        assert_eq!(latencies.max_us(), 100 + 1_000 + 20);
    }
}
