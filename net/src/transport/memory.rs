//! Two ends of connections in memory, for simulations and tests: seeded cuts, partial deliveries,
//! delays and damage.
//!
//! Invariants
//!   M1  With the same options the same calls have the same effects.

use super::{Read, Transport};
use crate::packet::Packet;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};
use std::time::Duration;
use tidemill_base::hash::hash_u64;
use tidemill_base::{Micros, Result};

/// What goes wrong in one direction of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    /// Seed of all chances.
    pub seed: u64,
    /// Bytes that the connection holds; more wait at the sender.
    pub capacity: usize,
    /// A turn moves at most this many bytes, a random number of them; 0: all that there is room for.
    pub chunk: usize,
    /// Turns out of a hundred that move nothing.
    pub stall_percent: u64,
    /// The connection ends, without a word, before byte number such and such.
    pub cut_at: Option<u64>,
    /// Byte number such and such has one bit flipped.
    pub flip_at: Option<u64>,
}

impl Default for Faults {
    fn default() -> Self {
        Faults {
            seed: 0,
            capacity: 1 << 20,
            chunk: 0,
            stall_percent: 0,
            cut_at: None,
            flip_at: None,
        }
    }
}

#[derive(Default)]
struct Pipe {
    bytes: VecDeque<u8>,
    /// Bytes ever written.
    total: u64,
    closed: bool,
    cut: bool,
}

#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    condition: Condvar,
}

impl Bell {
    fn ring(&self) {
        *lock(&self.rung) = true;
        self.condition.notify_all();
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.ring();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Connection {
    outgoing: Arc<Mutex<Pipe>>,
    incoming: Arc<Mutex<Pipe>>,
    peer: Arc<Bell>,
    faults: Faults,
    random: u64,
    sending: Option<(Packet, usize)>,
    sent: VecDeque<Packet>,
    ended: Option<Read>,
}

/// The connections of one slot, in memory.
pub struct MemoryTransport {
    connections: Vec<Connection>,
    bell: Arc<Bell>,
}

impl MemoryTransport {
    /// A slot without connections.
    pub fn new() -> Self {
        MemoryTransport { connections: Vec::new(), bell: Arc::default() }
    }

    /// Whether bytes wait for further turns to be delivered.
    pub fn is_moving(&self) -> bool {
        self.connections.iter().any(|connection| connection.sending.is_some())
    }

    /// Connects two slots, with faults from `a` to `b` and from `b` to `a`; the new connection is the
    /// last of each.
    pub fn connect(a: &mut MemoryTransport, b: &mut MemoryTransport, faults: [Faults; 2]) {
        let pipes: [Arc<Mutex<Pipe>>; 2] = [Arc::default(), Arc::default()];
        let end = |out: usize, peer: &Arc<Bell>| Connection {
            outgoing: pipes[out].clone(),
            incoming: pipes[1 - out].clone(),
            peer: peer.clone(),
            faults: faults[out],
            random: faults[out].seed,
            sending: None,
            sent: VecDeque::new(),
            ended: None,
        };
        let (bell_a, bell_b) = (a.bell.clone(), b.bell.clone());
        a.connections.push(end(0, &bell_b));
        b.connections.push(end(1, &bell_a));
    }
}

impl Default for MemoryTransport {
    fn default() -> Self {
        Self::new()
    }
}

impl Connection {
    fn chance(&mut self) -> u64 {
        self.random = hash_u64(self.random.wrapping_add(1));
        self.random
    }

    /// Moves bytes of the packet under way; true if any moved.
    fn push(&mut self) -> bool {
        if self.sending.is_none() || self.chance() % 100 < self.faults.stall_percent {
            return false;
        }
        let faults = self.faults;
        let chance = self.chance();
        let gone = lock(&self.incoming).closed;
        let Some((packet, done)) = &mut self.sending else { return false };
        let mut pipe = lock(&self.outgoing);
        if pipe.cut || gone {
            // Nobody will read it: a broken connection takes and drops.
            *done = packet.len();
        }
        let room = faults.capacity.saturating_sub(pipe.bytes.len());
        let most =
            if faults.chunk == 0 { room } else { room.min(1 + chance as usize % faults.chunk) };
        let mut moved = 0;
        for slice in packet.io_slices(*done, usize::MAX) {
            for &byte in slice.iter().take(most - moved) {
                if faults.cut_at == Some(pipe.total) {
                    pipe.cut = true;
                }
                if pipe.cut {
                    break;
                }
                let flip = u8::from(faults.flip_at == Some(pipe.total)) << (chance % 8);
                pipe.bytes.push_back(byte ^ flip);
                pipe.total += 1;
                moved += 1;
            }
        }
        *done += moved;
        let (cut, whole) = (pipe.cut, *done == packet.len());
        drop(pipe);
        if (whole || cut)
            && let Some((packet, _)) = self.sending.take()
        {
            self.sent.push_back(packet);
        }
        self.peer.ring();
        moved > 0 || whole || cut
    }
}

impl Transport for MemoryTransport {
    fn connections(&self) -> usize {
        self.connections.len()
    }

    fn can_write(&self, at: usize) -> bool {
        self.connections[at].sending.is_none()
    }

    fn write(&mut self, at: usize, packet: Packet) {
        self.connections[at].sending = Some((packet, 0));
        self.connections[at].push();
    }

    fn written(&mut self, at: usize) -> Option<Packet> {
        self.connections[at].sent.pop_front()
    }

    fn read(&mut self, at: usize, take: &mut dyn FnMut(&[u8])) -> Read {
        let connection = &mut self.connections[at];
        if let Some(ended) = &connection.ended {
            return ended.clone();
        }
        let mut pipe = lock(&connection.incoming);
        if !pipe.bytes.is_empty() {
            let bytes = std::mem::take(&mut pipe.bytes);
            drop(pipe);
            connection.peer.ring();
            let (front, back) = bytes.as_slices();
            take(front);
            if !back.is_empty() {
                take(back);
            }
            return Read::Some;
        }
        let ended = if pipe.cut {
            Read::Failed("connection reset by peer".into())
        } else if pipe.closed {
            Read::Closed
        } else {
            return Read::Empty;
        };
        drop(pipe);
        connection.ended = Some(ended.clone());
        ended
    }

    fn turn(&mut self) -> Result<()> {
        for connection in &mut self.connections {
            connection.push();
        }
        Ok(())
    }

    fn waker(&self) -> Waker {
        Waker::from(self.bell.clone())
    }

    fn park(&mut self, most: Option<Micros>) -> Result<()> {
        let mut rung = lock(&self.bell.rung);
        if !*rung {
            // A stalled packet has nobody who rings for it.
            let stalled = self.connections.iter().any(|c| c.sending.is_some());
            let most = if stalled { Some(most.unwrap_or(100).min(100)) } else { most };
            rung = match most {
                Some(most) => {
                    let waited = Duration::from_micros(most);
                    let result = self.bell.condition.wait_timeout(rung, waited);
                    result.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.bell.condition.wait(rung).unwrap_or_else(PoisonError::into_inner),
            };
        }
        *rung = false;
        drop(rung);
        self.turn()
    }
}

impl Drop for MemoryTransport {
    fn drop(&mut self) {
        for connection in &mut self.connections {
            lock(&connection.outgoing).closed = true;
            connection.peer.ring();
        }
    }
}
