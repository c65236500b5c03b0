//! Jobs split over worker processes that are connected over loopback TCP, run without a control plane:
//! what is measured is the way of the records.
//!
//! The parent starts one child for each worker and talks to it in lines: the child says where it
//! listens, is told where the others listen, says what it has measured, and ends when its input does.

mod latency;
mod shuffle;

pub use latency::{Load, floor, latency, monotonic};
pub use shuffle::{All, shuffle};

use crossbeam_channel::{Receiver, unbounded};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use tidemill_base::clock::SystemClock;
use tidemill_base::{Clock, Error, Result};
use tidemill_net::mesh::MeshPlan;
use tidemill_net::{Connection, Identity, Listener};
use tidemill_ring::Doorbell;
use tidemill_runtime::context::{StateDeclaration, SubtaskInfo, TaskEvent};
use tidemill_runtime::deploy::{DeployOptions, JobPlan, deploy_part, pairs};
use tidemill_runtime::worker::{EventSink, Worker, WorkerOptions};

/// Everybody must be there after this long.
const TOGETHER_US: u64 = 30_000_000;

struct Carrier(crossbeam_channel::Sender<Result<()>>);

impl EventSink for Carrier {
    fn deliver(&mut self, _: &SubtaskInfo, event: TaskEvent) -> Result<(), TaskEvent> {
        if matches!(event, TaskEvent::Finished) {
            // Nobody listens any more once the run has failed.
            let _ = self.0.send(Ok(()));
        }
        Ok(())
    }
    fn ready(&mut self, _: Vec<(SubtaskInfo, Vec<StateDeclaration>)>) {}
    fn failed(&mut self, error: Error) {
        let _ = self.0.send(Err(error));
    }
}

/// The slots of a job that run in this process.
pub struct Half {
    worker: Worker,
    finished: Receiver<Result<()>>,
    subtasks: usize,
    clock: SystemClock,
    started: u64,
}

/// Where and as whom a worker takes part.
pub struct Place<'a> {
    /// Where it is called.
    pub listener: &'a Listener,
    /// The run.
    pub identity: &'a Identity,
    /// Its slots.
    pub local: Range<u32>,
    /// Where the others are called, by slot.
    pub peers: &'a BTreeMap<u32, SocketAddr>,
}

impl Half {
    /// Deploys and starts the slots of `place`. Returns when all workers are connected.
    ///
    /// # Errors
    /// As deployment, connecting and starting.
    pub fn start(plan: &JobPlan, place: &Place<'_>, clock: &SystemClock) -> Result<Half> {
        let doorbells: Vec<_> = place.local.clone().map(|_| Doorbell::new()).collect();
        let parts = deploy_part(plan, &doorbells, &DeployOptions::default(), place.local.clone())?;
        let subtasks = parts.iter().map(|part| part.blueprints.len()).sum();
        let mesh = MeshPlan {
            identity: place.identity,
            local: place.local.clone(),
            pairs: &pairs(&parts),
            peers: place.peers,
            timeout_us: TOGETHER_US,
        };
        let connections: Vec<Connection> = place.listener.connect(&mesh, clock, &|| false)?;
        let (tx, finished) = unbounded();
        let sinks = parts.iter().map(|_| Box::new(Carrier(tx.clone())) as _).collect();
        let options = WorkerOptions::for_slots(plan.slots());
        let started = clock.now();
        let worker =
            Worker::start_connected(parts, connections, &doorbells, sinks, clock, options)?;
        Ok(Half { worker, finished, subtasks, clock: clock.clone(), started })
    }

    /// Waits until every subtask of this process has finished; the seconds that it took. The slots
    /// stay, for others that are not done.
    ///
    /// # Errors
    /// The failure of a slot.
    pub fn finish(&self) -> Result<f64> {
        for _ in 0..self.subtasks {
            self.finished.recv().map_err(|_| Error::attempt("the slots are gone"))??;
        }
        Ok((self.clock.now() - self.started) as f64 / 1e6)
    }

    /// Ends the slots.
    pub fn stop(self) {
        self.worker.stop();
    }
}
