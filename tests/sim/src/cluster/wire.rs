//! What is said over connections to JobManagers. Workers speak the production protocol; of what agents
//! say, only what decides anything.

use std::collections::BTreeMap;
use tidemill_protocol::{AgentId, JobId, ToWorker, WorkerId, WorkerSays};

/// A worker: the job's number and its own.
pub(super) type WorkerKey = (usize, u32);

/// A connection's number; never used again.
pub(super) type ConnectionId = u64;

/// A JobManager in one of its lives.
pub(super) type ManagerKey = (usize, u32);

/// The worker as pools name it.
pub(super) fn worker_id((job, number): WorkerKey) -> WorkerId {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&(job as u64).to_le_bytes());
    WorkerId { job: JobId::from_bytes(bytes), number }
}

/// And back.
pub(super) fn worker_key(id: &WorkerId) -> WorkerKey {
    let bytes = id.job.bytes();
    let job = bytes[..8].iter().rev().fold(0, |n, b| n << 8 | usize::from(*b));
    (job, id.number)
}

/// An order to start a worker.
#[derive(Clone, Debug)]
pub(super) struct StartWorker {
    pub(super) worker: WorkerKey,
    pub(super) slots: u32,
    pub(super) parallelism: u32,
}

/// From an agent.
#[derive(Clone, Debug)]
pub(super) enum AgentSays {
    Register { agent: AgentId, slots: u32, workers: BTreeMap<WorkerKey, u32> },
    Heartbeat,
    Started(WorkerKey),
    Exited(WorkerKey),
}

/// To an agent.
#[derive(Clone, Debug)]
pub(super) enum ToAgent {
    Registered { keep: Vec<WorkerKey> },
    Start(StartWorker),
    Stop(WorkerKey),
}

/// A message.
#[derive(Clone, Debug)]
pub(super) enum Message {
    WorkerSays(Box<WorkerSays>),
    ToWorker(Box<ToWorker>),
    AgentSays(AgentSays),
    ToAgent(ToAgent),
}
