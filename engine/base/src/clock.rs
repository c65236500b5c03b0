//! Time as an input. Production passes [`SystemClock`], the simulation a virtual clock.

use crate::time::Micros;
use std::cell::{Cell, OnceCell};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A source of time.
///
/// Law: `now` never decreases.
pub trait Clock {
    /// Microseconds since the clock's start.
    fn now(&self) -> Micros;
    /// Milliseconds since the Unix epoch, for processing-time windows and timers.
    fn wall_ms(&self) -> i64;
    /// The same clock, to keep.
    fn handle(&self) -> Rc<dyn Clock>;
}

/// The machine's clock.
#[derive(Clone, Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// A clock that starts at zero now.
    #[expect(clippy::disallowed_methods, reason = "this is the clock that others take")]
    pub fn new() -> Self {
        SystemClock { start: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[inline]
    fn now(&self) -> Micros {
        self.start.elapsed().as_micros() as u64
    }
    #[expect(clippy::disallowed_methods, reason = "this is the clock that others take")]
    fn wall_ms(&self) -> i64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
    }
    fn handle(&self) -> Rc<dyn Clock> {
        Rc::new(self.clone())
    }
}

/// A clock that moves only when told to; its clones share the time.
#[derive(Clone, Debug, Default)]
pub struct ManualClock {
    now: Arc<AtomicU64>,
}

impl ManualClock {
    /// A clock at zero.
    pub fn new() -> Self {
        Self::default()
    }
    /// Moves the time forward by `micros`.
    pub fn advance(&self, micros: Micros) {
        self.now.fetch_add(micros, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Micros {
        self.now.load(Ordering::Relaxed)
    }
    fn wall_ms(&self) -> i64 {
        (self.now.load(Ordering::Relaxed) / 1000) as i64
    }
    fn handle(&self) -> Rc<dyn Clock> {
        Rc::new(self.clone())
    }
}

/// The time of the current step, taken once a step so that records need not ask the clock.
#[derive(Clone, Default)]
pub struct StepTime {
    now: Rc<Cell<Micros>>,
    wall_ms: Rc<Cell<i64>>,
    /// Of the first refresh.
    clock: Rc<OnceCell<Rc<dyn Clock>>>,
}

impl StepTime {
    /// Reads the clock, which must be the same each time.
    #[inline]
    pub fn refresh(&self, clock: &dyn Clock) {
        self.now.set(clock.now());
        self.wall_ms.set(clock.wall_ms());
        self.clock.get_or_init(|| clock.handle());
    }
    /// Microseconds since the clock's start, as of the last refresh.
    pub fn now(&self) -> Micros {
        self.now.get()
    }
    /// Milliseconds since the Unix epoch, as of the last refresh.
    pub fn wall_ms(&self) -> i64 {
        self.wall_ms.get()
    }
    /// Microseconds since the clock's start, at this very moment: for what measures, at the price
    /// of a look at the clock.
    pub fn read(&self) -> Micros {
        self.clock.get().map_or(0, |clock| clock.now())
    }
}

impl fmt::Debug for StepTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StepTime({} us)", self.now())
    }
}
