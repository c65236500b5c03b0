//! Two halves of a job, as two worker processes would run them, connected over loopback.

use crossbeam_channel::{Receiver, Sender, unbounded};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;
use tidemill::Env;
use tidemill_base::clock::SystemClock;
use tidemill_base::{Barrier, BarrierKind, Clock, Error};
use tidemill_net::handshake::AttemptKey;
use tidemill_net::mesh::MeshPlan;
use tidemill_net::{Connection, Identity, Listener};
use tidemill_ring::Doorbell;
use tidemill_runtime::context::{StateDeclaration, SubtaskInfo, TaskEvent};
use tidemill_runtime::deploy::{DeployOptions, deploy_part, pairs};
use tidemill_runtime::slot::Command;
use tidemill_runtime::worker::{EventSink, Worker, WorkerOptions};

/// What a slot said.
pub(crate) enum Said {
    Task(TaskEvent),
    Failed(Error),
}

struct Carrier(Sender<Said>);

impl EventSink for Carrier {
    fn deliver(&mut self, _: &SubtaskInfo, event: TaskEvent) -> Result<(), TaskEvent> {
        let _ = self.0.send(Said::Task(event));
        Ok(())
    }
    fn ready(&mut self, _: Vec<(SubtaskInfo, Vec<StateDeclaration>)>) {}
    fn failed(&mut self, error: Error) {
        let _ = self.0.send(Said::Failed(error));
    }
}

/// A checkpoint, as its acknowledgements came in.
#[derive(Debug, Default)]
pub(crate) struct Checkpoint {
    pub(crate) took: Duration,
    /// Batches of channel state.
    pub(crate) channel_state: usize,
}

/// A running job in two halves.
pub(crate) struct Cluster {
    pub(crate) halves: Vec<Worker>,
    pub(crate) said: Receiver<Said>,
    clocks: Vec<SystemClock>,
    subtasks: usize,
    finished: usize,
    epoch: u64,
}

/// A socket between the halves, so that a test may do something to it.
pub(crate) type Wires = Vec<std::net::TcpStream>;

impl Cluster {
    /// Starts the job that `compose` describes, slots below `split` in one half, the others in the
    /// other.
    pub(crate) fn start(compose: impl Fn() -> Env, split: u32) -> (Cluster, Wires) {
        let (tx, said) = unbounded();
        let listeners = [listener(), listener()];
        let addresses = &[listeners[0].local_addr(), listeners[1].local_addr()];
        let slots = compose().plans().unwrap().1.slots() as u32;
        let ranges = [0..split, split..slots];
        // The clocks of two processes do not agree.
        let clocks = vec![SystemClock::new(), SystemClock::new()];
        let mut cluster = Cluster {
            halves: Vec::new(),
            said,
            clocks: clocks.clone(),
            subtasks: 0,
            finished: 0,
            epoch: 0,
        };
        let mut prepared = Vec::new();
        for range in &ranges {
            let (_, plan) = compose().plans().unwrap();
            let doorbells: Vec<_> = range.clone().map(|_| Doorbell::new()).collect();
            let options = DeployOptions::default();
            let parts = deploy_part(&plan, &doorbells, &options, range.clone()).unwrap();
            cluster.subtasks += parts.iter().map(|p| p.blueprints.len()).sum::<usize>();
            prepared.push((pairs(&parts), parts, doorbells));
        }
        let connections: Vec<_> = std::thread::scope(|scope| {
            let halves = prepared.iter().zip(&ranges).zip(&listeners).zip(&clocks);
            let threads: Vec<_> = halves
                .map(|((((pairs, ..), range), listener), clock)| {
                    let range = range.clone();
                    scope.spawn(move || connect(pairs, range, listener, addresses, split, clock))
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        let mut wires = Vec::new();
        for (((_, parts, doorbells), connections), clock) in
            prepared.into_iter().zip(connections).zip(&clocks)
        {
            wires.extend(connections.iter().map(|c| c.stream.try_clone().unwrap()));
            let sinks = parts.iter().map(|_| Box::new(Carrier(tx.clone())) as _).collect();
            let options = WorkerOptions::for_slots(slots as usize);
            let worker =
                Worker::start_connected(parts, connections, &doorbells, sinks, clock, options);
            cluster.halves.push(worker.unwrap());
        }
        (cluster, wires)
    }

    /// Waits until every subtask has finished.
    pub(crate) fn finish(&mut self) {
        while self.finished < self.subtasks {
            match self.said.recv_timeout(Duration::from_secs(60)).unwrap() {
                Said::Task(TaskEvent::Finished) => self.finished += 1,
                Said::Task(..) => {}
                Said::Failed(e) => panic!("{e}, {:?}", self.failures(1)),
            }
        }
    }

    /// Takes a checkpoint; `None` if it is not complete after `patience`.
    pub(crate) fn checkpoint(
        &mut self,
        timeout_us: Option<u64>,
        patience: Duration,
    ) -> Option<Checkpoint> {
        self.epoch += 1;
        let clock = SystemClock::new();
        for (half, clock) in self.halves.iter().zip(&self.clocks) {
            half.command(Command::Trigger(Barrier {
                epoch: self.epoch,
                triggered_at: clock.now(),
                kind: match timeout_us {
                    Some(0) => BarrierKind::Unaligned,
                    timeout => BarrierKind::Aligned { timeout },
                },
            }));
        }
        let (mut acked, mut checkpoint) = (0, Checkpoint::default());
        while acked < self.subtasks {
            let left = patience.saturating_sub(Duration::from_micros(clock.now()));
            match self.said.recv_timeout(left).ok()? {
                Said::Task(TaskEvent::Acknowledged { epoch }) => {
                    acked += usize::from(epoch == self.epoch);
                }
                Said::Task(TaskEvent::Entry { epoch, section, .. }) => {
                    use tidemill_runtime::context::SectionKind::ChannelState;
                    let counts = section.kind == ChannelState && epoch == self.epoch;
                    checkpoint.channel_state += usize::from(counts);
                }
                Said::Task(TaskEvent::Finished) => self.finished += 1,
                Said::Task(..) => {}
                Said::Failed(e) => panic!("{e}"),
            }
        }
        for half in &self.halves {
            half.command(Command::Commit(self.epoch));
        }
        checkpoint.took = Duration::from_micros(clock.now());
        Some(checkpoint)
    }

    /// The failures of both halves.
    pub(crate) fn failures(&self, wanted: usize) -> Vec<String> {
        let mut failures = Vec::new();
        while failures.len() < wanted {
            match self.said.recv_timeout(Duration::from_secs(10)) {
                Ok(Said::Failed(e)) => failures.push(e.to_string()),
                Ok(Said::Task(..)) => {}
                Err(_) => break,
            }
        }
        failures
    }
}

fn listener() -> Listener {
    Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap()
}

fn connect(
    pairs: &BTreeSet<(u32, u32)>,
    local: Range<u32>,
    listener: &Listener,
    addresses: &[SocketAddr; 2],
    split: u32,
    clock: &SystemClock,
) -> Vec<Connection> {
    let peers: BTreeMap<_, _> =
        pairs.iter().map(|&(_, peer)| (peer, addresses[usize::from(peer >= split)])).collect();
    let identity =
        Identity { job: [7; 16], attempt: 1, build: [3; 32], key: AttemptKey::new([9; 32]) };
    let plan =
        MeshPlan { identity: &identity, local, pairs, peers: &peers, timeout_us: 10_000_000 };
    listener.connect(&plan, clock, &|| false).unwrap()
}
