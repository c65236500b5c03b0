//! The events of the Nexmark benchmark: persons, auctions and bids of an auction house.
//!
//! Event i is the one that the crate `nexmark` generates as number i; a source of parallelism p
//! emits the same events as one of parallelism 1.

mod event;
#[cfg(test)]
mod tests;

pub use event::{Auction, AuctionView, Bid, BidView, Event, EventView, Person, PersonView};

use crate::generator::{Generate, GeneratorReader, GeneratorSource};
use nexmark::EventGenerator;
use nexmark::config::NexmarkConfig;
use tidemill_base::{Error, Micros, Record, Result, Timestamp};
use tidemill_runtime::source::{Emit, Source, SourceContext};

/// Events that a replay keeps in memory, at most.
const REPLAY_EVENTS_MAX: u64 = 200_000_000;

/// A source of Nexmark events: 46 bids, 3 auctions and a person in 50, with the date of each as
/// its event time, 10,000 a second of event time, in order. It emits watermarks.
#[derive(Clone, Debug)]
pub struct NexmarkSource {
    generator: GeneratorSource<Events>,
}

/// Reads a [`NexmarkSource`].
pub type NexmarkReader = GeneratorReader<Events>;

impl NexmarkSource {
    /// The first `total` events (`None`: endlessly many), with the defaults of the generator, from
    /// event time 0 on.
    pub fn new(total: Option<u64>) -> Self {
        let config = NexmarkConfig { base_time: 0, ..NexmarkConfig::default() };
        Self::with_config(total, config)
    }

    /// The first `total` events of another configuration. Beware that its default `base_time` is
    /// the current time: a job that is restarted needs a fixed one.
    pub fn with_config(total: Option<u64>, config: NexmarkConfig) -> Self {
        let events =
            Events { config, replay: false, generator: None, stored: Vec::new(), current: 0 };
        NexmarkSource { generator: GeneratorSource::with(total, events).bounded_lateness(0) }
    }

    /// The event time of the first event, in milliseconds.
    #[must_use]
    pub fn base_time(mut self, base_time_ms: u64) -> Self {
        self.generator = self.generator.map(|events| events.config.base_time = base_time_ms);
        self
    }

    /// Generates all events before the job begins and keeps them in memory (about 300 bytes each):
    /// generating costs more than most queries. Needs a total.
    #[must_use]
    pub fn replay(mut self) -> Self {
        self.generator = self.generator.map(|events| events.replay = true);
        self
    }

    /// At most so many events per second, all subtasks together; the job fails unless it is positive.
    #[must_use]
    pub fn rate(mut self, events_per_s: f64) -> Self {
        self.generator = self.generator.rate(events_per_s);
        self
    }
}

impl Source for NexmarkSource {
    type Item = Event;
    type Reader = NexmarkReader;

    fn open(&self, cx: &SourceContext) -> Result<NexmarkReader> {
        self.generator.open(cx)
    }
    fn name(&self) -> String {
        self.generator.name()
    }
}

/// Makes event i.
#[derive(Clone, Debug)]
pub struct Events {
    config: NexmarkConfig,
    replay: bool,
    /// Stands at the event that is asked for next, if that was foreseen.
    generator: Option<(EventGenerator, u64)>,
    /// For each class, its events from the first one that will be asked for on.
    stored: Vec<Stored>,
    current: usize,
}

#[derive(Clone, Debug)]
struct Stored {
    events: Vec<Event>,
    next: usize,
}

impl Events {
    fn generator(&self, next: u64, step: u64) -> EventGenerator {
        EventGenerator::new(self.config.clone()).with_offset(next).with_step(step)
    }
}

impl Generate for Events {
    type Item = Event;
    const NAME: &'static str = "nexmark";

    fn open(&mut self, _: usize, next: u64, step: u64, total: u64) -> Result<()> {
        if !self.replay {
            return Ok(());
        }
        let count = total.saturating_sub(next).div_ceil(step);
        if count > REPLAY_EVENTS_MAX {
            return Err(Error::job(format!(
                "a replay of {} events does not fit into memory: give it a total of at most \
                 {REPLAY_EVENTS_MAX}, or generate them as they are needed",
                if total == u64::MAX { String::from("endlessly many") } else { count.to_string() }
            )));
        }
        let events = self.generator(next, step).take(count as usize).map(Event::from).collect();
        self.stored.push(Stored { events, next: 0 });
        Ok(())
    }

    fn start(&mut self, class: usize, next: u64, step: u64) {
        self.current = class;
        let foreseen = |g: &(EventGenerator, u64)| g.0.offset() == next && g.1 == step;
        if !self.replay && !self.generator.as_ref().is_some_and(foreseen) {
            self.generator = Some((self.generator(next, step), step));
        }
    }

    #[inline]
    fn generate<O: Emit<Event>>(&mut self, i: u64, _: Micros, out: &mut O) -> Timestamp {
        if self.replay {
            let stored = &mut self.stored[self.current];
            let event = &stored.events[stored.next];
            stored.next += 1;
            let timestamp = event.timestamp();
            out.emit(event.view(), timestamp);
            return timestamp;
        }
        let generator = self.generator.as_mut().map(|g| &mut g.0);
        let event = match generator.and_then(Iterator::next) {
            Some(event) => Event::from(event),
            None => unreachable!("the generator of event {i} is set by `start` and endless"),
        };
        let timestamp = event.timestamp();
        out.emit(event.view(), timestamp);
        timestamp
    }
}
