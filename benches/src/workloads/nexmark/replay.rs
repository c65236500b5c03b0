//! Nexmark's events from memory, read in place.

use crate::workloads::HalfTime;
use std::sync::Arc;
use tidemill::connectors::Generate;
use tidemill::prelude::*;

/// Events made before the clock starts; subtask s of p has i = s, s + p, ...
#[derive(Clone)]
pub(super) struct Replay {
    parts: Arc<Vec<Vec<Event>>>,
    half: HalfTime,
    total: u64,
}

impl Replay {
    pub(super) fn new(total: u64, parts: u32, half: HalfTime) -> Self {
        let parts = u64::from(parts);
        let part = |w: u64| -> Vec<Event> {
            let config = ::nexmark::config::NexmarkConfig { base_time: 0, ..Default::default() };
            let count = (total + parts - 1 - w) / parts;
            ::nexmark::EventGenerator::new(config)
                .with_offset(w)
                .with_step(parts)
                .take(count as usize)
                .map(Event::from)
                .collect()
        };
        Replay { parts: Arc::new((0..parts).map(part).collect()), half, total }
    }
}

impl Generate for Replay {
    type Item = Event;
    const NAME: &'static str = "nexmark replay";

    #[inline(always)]
    fn generate<O: tidemill::Emit<Event>>(
        &mut self,
        i: u64,
        _: u64,
        out: &mut O,
    ) -> tidemill::Timestamp {
        self.half.event(i, self.total / 2);
        let parts = self.parts.len() as u64;
        let event = &self.parts[(i % parts) as usize][(i / parts) as usize];
        let timestamp = event.timestamp();
        out.emit(event.view(), timestamp);
        timestamp
    }
}
