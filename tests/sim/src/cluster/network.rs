//! Connections, and who says what over them: in order within a connection, and in no order between two.
//!
//! Invariants
//!   Q1  What is delivered over a connection is what was sent over it, in order, up to some point.
//!   Q2  Each end of a connection hears once that it has ended, after all that it is to hear of it.
//!   Q3  Who stands still hears and says nothing; what is for it waits.

use super::wire::{ConnectionId, ManagerKey, Message, WorkerKey};
use super::{Happening, World};
use tidemill_base::{Clock, Micros};

/// The end of a connection that is not the JobManager's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Far {
    Worker(WorkerKey),
    /// A host, and which life of its agent.
    Agent(usize, u32),
}

/// A connection to a JobManager.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    pub(super) manager: ManagerKey,
    pub(super) far: Far,
    /// When the last one arrives: at the manager, at the other end.
    last: [Micros; 2],
    /// Whether the end takes what arrives.
    open: [bool; 2],
    /// Nothing more can be sent.
    over: bool,
    /// What is under way is lost.
    lost: [bool; 2],
}

/// Which end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Manager = 0,
    Far = 1,
}

impl World<'_> {
    pub(super) fn connect(&mut self, manager: ManagerKey, far: Far) -> ConnectionId {
        let id = self.next_connection;
        self.next_connection += 1;
        let now = self.clock.now();
        let (last, open, lost) = ([now; 2], [true; 2], [false; 2]);
        self.connections.insert(id, Connection { manager, far, last, open, over: false, lost });
        let beat = 300_000;
        self.later(beat, Happening::Beat { connection: id });
        id
    }

    fn delay(&mut self) -> Micros {
        let slow = self.rng.percent(self.scenario.slow);
        if slow { self.rng.below(300_000) } else { 50 + self.rng.below(2_000) }
    }

    /// Says something to one end.
    pub(super) fn say(&mut self, id: ConnectionId, to: End, message: Message) {
        let again = self.rng.percent(self.scenario.twice) && may_come_twice(&message);
        for message in std::iter::once(message.clone()).chain(again.then_some(message)) {
            self.arrive(id, to, Some(message));
        }
    }

    fn arrive(&mut self, id: ConnectionId, to: End, message: Option<Message>) {
        let delay = self.delay();
        let now = self.clock.now();
        let Some(c) = self.connections.get_mut(&id) else { return };
        if c.over && message.is_some() {
            return;
        }
        let at = (now + delay).max(c.last[to as usize]);
        c.last[to as usize] = at;
        let what = match message {
            Some(message) => Happening::Deliver { connection: id, to, message },
            None => Happening::Down { connection: id, to },
        };
        self.at(at, what);
    }

    /// One end closes it: what that end said still arrives.
    pub(super) fn close(&mut self, id: ConnectionId, from: End) {
        let Some(c) = self.connections.get_mut(&id) else { return };
        c.open[from as usize] = false;
        if !std::mem::replace(&mut c.over, true) {
            let to = if from == End::Manager { End::Far } else { End::Manager };
            self.arrive(id, to, None);
        }
    }

    /// It breaks: both ends hear of it, and maybe not of what was under way.
    pub(super) fn cut(&mut self, id: ConnectionId) {
        let lost = [self.rng.percent(60), self.rng.percent(60)];
        let Some(c) = self.connections.get_mut(&id) else { return };
        c.lost = lost;
        if !std::mem::replace(&mut c.over, true) {
            self.arrive(id, End::Manager, None);
            self.arrive(id, End::Far, None);
        }
    }

    /// Connections of somebody whose process is gone: their other ends hear of it.
    pub(super) fn close_all(&mut self, mine: impl Fn(&Connection) -> Option<End>) {
        let ends: Vec<(ConnectionId, End)> =
            self.connections.iter().filter_map(|(&id, c)| Some((id, mine(c)?))).collect();
        for (id, end) in ends {
            self.close(id, end);
        }
    }

    /// Until when what is for this end waits (Q3).
    fn waits_until(&self, c: &Connection, to: End) -> Option<Micros> {
        let now = self.clock.now();
        let stopped = match to {
            End::Manager => self.managers[c.manager.0].stopped_until,
            End::Far => self.far_stopped_until(c.far),
        };
        let host = self.host_of(c.far);
        let parted = host.and_then(|host| self.parted.get(&(host, c.manager.0)).copied());
        stopped.max(parted.unwrap_or(0)).checked_sub(now).filter(|&us| us > 0).map(|us| now + us)
    }

    /// A message, or the end, arrives. `None`: it waits, or is lost.
    pub(super) fn arrived(&mut self, id: ConnectionId, to: End, what: &Happening) -> bool {
        let Some(c) = self.connections.get(&id) else { return false };
        if let Some(until) = self.waits_until(c, to) {
            if let Some(c) = self.connections.get_mut(&id) {
                c.last[to as usize] = c.last[to as usize].max(until);
            }
            self.at(until, what.clone());
            return false;
        }
        let c = &self.connections[&id];
        let ended = matches!(what, Happening::Down { .. });
        let lost = c.lost[to as usize] && !ended;
        let open = c.open[to as usize];
        if ended && let Some(c) = self.connections.get_mut(&id) {
            c.open[to as usize] = false;
            if c.open == [false; 2] {
                self.connections.remove(&id);
            }
        }
        open && !lost
    }

    /// Whether this end takes part in the connection.
    pub(super) fn is_open(&self, id: ConnectionId, end: End) -> bool {
        self.connections.get(&id).is_some_and(|c| c.open[end as usize] && !c.over)
    }
}

/// What a peer may be told again, after a reconnect or by a JobManager that was in doubt.
fn may_come_twice(message: &Message) -> bool {
    use tidemill_protocol::{ToWorker as T, WorkerSays as S};
    match message {
        Message::WorkerSays(says) => !matches!(**says, S::Attach { .. }),
        Message::ToWorker(order) => {
            matches!(**order, T::Commit { .. } | T::Abort { .. } | T::Stop { .. } | T::Shutdown)
        }
        Message::AgentSays(says) => !matches!(says, super::wire::AgentSays::Register { .. }),
        Message::ToAgent(_) => true,
    }
}
