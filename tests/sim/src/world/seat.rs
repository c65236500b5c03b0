//! A slot as the scheduler sees it: awake or asleep, with the commands on their way to it.
//!
//! In strict runs a slot steps its tasks in rounds and sleeps when a round did nothing, by the
//! protocol of the doorbell, exactly as the shell does it: only a doorbell, a command or a timer
//! wakes it. In the others any task may be stepped at any time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};
use tidemill_base::clock::ManualClock;
use tidemill_base::{Clock, Micros, Result};
use tidemill_net::transport::memory::MemoryTransport;
use tidemill_ring::Doorbell;
use tidemill_runtime::remote::Pump;
use tidemill_runtime::slot::{Command, Round, Slot};
use tidemill_runtime::task::Progress;

/// An idle slot whose events could not all be carried looks again after this.
const RETRY_US: Micros = 1_000;

#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In a round, before task `at`.
    Round {
        at: usize,
        worked: bool,
        until: Option<Micros>,
        parking: bool,
    },
    Asleep {
        until: Option<Micros>,
    },
}

const FRESH: State = State::Round { at: 0, worked: false, until: None, parking: false };

/// What a step of a slot was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stepped {
    /// In the middle of a round.
    Task(Progress),
    /// The last task of a round: the shell now carries events.
    RoundOver(Progress),
}

/// A slot and its surroundings.
pub(crate) struct Seat {
    pub(crate) slot: Slot,
    pub(crate) commands: VecDeque<Command>,
    pub(crate) last: Vec<Progress>,
    /// Steps that found no free output buffer.
    pub(crate) blocked: u64,
    /// Its connections to slots of the other process.
    pub(crate) pump: Option<Pump<MemoryTransport>>,
    doorbell: Arc<Doorbell>,
    flag: Arc<Flag>,
    state: State,
}

impl Seat {
    pub(crate) fn new(
        slot: Slot,
        pump: Option<Pump<MemoryTransport>>,
        doorbell: Arc<Doorbell>,
    ) -> Self {
        let last = vec![Progress::Worked; slot.len()];
        let (commands, flag) = (VecDeque::new(), Arc::default());
        Seat { slot, commands, last, blocked: 0, pump, doorbell, flag, state: FRESH }
    }

    /// Whether a strict slot would do anything.
    pub(crate) fn awake(&mut self, now: Micros) -> Result<bool> {
        if let State::Asleep { until } = self.state {
            let rung = self.flag.0.swap(false, Ordering::Relaxed);
            // What the kernel does meanwhile: it wakes the slot where it brings something.
            let brought = matches!(self.pump(now)?, Round::Worked);
            if !rung && !brought && until.is_none_or(|at| at > now) {
                return Ok(false);
            }
            self.doorbell.cancel_park();
            self.state = FRESH;
        }
        Ok(true)
    }

    /// A turn of the connections.
    pub(crate) fn pump(&mut self, now: Micros) -> Result<Round> {
        self.pump.as_mut().map_or(Ok(Round::Idle { until: None }), |pump| pump.round(now, false))
    }

    /// Whether bytes are under way that no slot has to do anything for.
    pub(crate) fn is_moving(&mut self) -> bool {
        self.pump.as_mut().is_some_and(|pump| pump.transport().is_moving())
    }

    /// When an idle slot looks again by itself.
    pub(crate) fn until(&self) -> Option<Micros> {
        match self.state {
            State::Asleep { until } => until,
            State::Round { .. } => None,
        }
    }

    /// A step of a strict slot that is awake.
    pub(crate) fn step(&mut self, clock: &ManualClock) -> Result<Stepped> {
        let State::Round { at, mut worked, mut until, parking } = self.state else {
            return Ok(Stepped::Task(Progress::Worked));
        };
        let progress = self.step_task(at, clock)?;
        match progress {
            Progress::Worked => worked = true,
            Progress::Idle { until: u } | Progress::Blocked { until: u } => {
                until = [until, u].into_iter().flatten().min();
            }
            Progress::Finished => {}
        }
        let at = at + 1;
        if at == self.slot.len() {
            match self.pump(clock.now())? {
                Round::Worked => worked = true,
                Round::Idle { until: u } => until = [until, u].into_iter().flatten().min(),
            }
        }
        self.state = State::Round { at, worked, until, parking };
        Ok(if at < self.slot.len() {
            Stepped::Task(progress)
        } else {
            Stepped::RoundOver(progress)
        })
    }

    /// After the events of a round: begin another, or sleep.
    pub(crate) fn round_over(&mut self, left: bool, now: Micros) {
        let State::Round { worked, mut until, parking, .. } = self.state else { return };
        if worked {
            self.doorbell.cancel_park();
            self.state = FRESH;
            return;
        }
        if left {
            let soon = now + RETRY_US;
            until = Some(until.map_or(soon, |u| u.min(soon)));
        }
        self.state = if parking {
            State::Asleep { until }
        } else {
            self.flag.0.store(false, Ordering::Relaxed);
            self.doorbell.register(&Waker::from(self.flag.clone()));
            self.doorbell.prepare_park();
            State::Round { at: 0, worked: false, until: None, parking: true }
        };
    }

    /// Steps one task, whatever the slot does.
    pub(crate) fn step_task(&mut self, i: usize, clock: &ManualClock) -> Result<Progress> {
        let progress = self.slot.step(i, clock)?;
        self.last[i] = progress;
        self.blocked += u64::from(matches!(progress, Progress::Blocked { .. }));
        Ok(progress)
    }

    /// Delivers the oldest command; false if there is none.
    pub(crate) fn command(&mut self, clock: &ManualClock) -> Result<bool> {
        let Some(command) = self.commands.pop_front() else { return Ok(false) };
        self.slot.command(command, clock)?;
        self.doorbell.ring();
        match &mut self.state {
            State::Round { worked, .. } => *worked = true,
            State::Asleep { .. } => {
                self.doorbell.cancel_park();
                self.state = FRESH;
            }
        }
        Ok(true)
    }

    pub(crate) fn picture(&self, now: Micros) -> String {
        let mut text = format!("  {:?}, {} commands\n", self.state, self.commands.len());
        for (i, last) in self.last.iter().enumerate() {
            let context = self.slot.context(i);
            let (name, waiting) = (&context.info.task_name, context.outbox.len());
            text += &format!("    {name}: {last:?} at {now}, {waiting} events\n");
        }
        text
    }
}

/// Now, for pictures.
pub(crate) fn now(clock: &ManualClock) -> Micros {
    clock.now()
}
