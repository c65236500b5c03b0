//! Agents and workers: who is there, who is lost.

use super::{Agent, Manager, Out, Peer, RECONNECT_TIMEOUT_US};
use crate::cluster::wire::{
    AgentSays, ConnectionId, Message, StartWorker, ToAgent, WorkerKey, worker_id, worker_key,
};
use std::collections::BTreeMap;
use tidemill_base::Micros;
use tidemill_coordination::MasterEvent;
use tidemill_protocol::{AgentId, ToWorker, WorkerSays};

impl Manager {
    /// Hears of somebody.
    fn heard(&mut self, now: Micros, peer: Peer) {
        self.absent.remove(&peer);
        self.detector.heard(now, &peer);
    }

    /// An agent says something, or registers.
    pub(in crate::cluster) fn agent_said(
        &mut self,
        now: Micros,
        id: &AgentId,
        connection: ConnectionId,
        says: AgentSays,
        out: &mut Vec<Out>,
    ) {
        if !self.leading {
            out.push(Out::Close { connection });
            return;
        }
        if let AgentSays::Register { agent, slots, workers } = says {
            return self.agent_up(now, agent, slots, &workers, connection, out);
        }
        let Some(agent) = self.agents.get_mut(id) else { return };
        if agent.connection != Some(connection) {
            return;
        }
        let worker = match says {
            AgentSays::Started(worker) => agent.starting.remove(&worker).and(None),
            AgentSays::Exited(worker) => {
                agent.starting.remove(&worker);
                Some(worker)
            }
            AgentSays::Heartbeat | AgentSays::Register { .. } => None,
        };
        self.heard(now, Peer::Agent(id.clone()));
        if let Some(worker) = worker {
            self.worker_lost(now, worker, "its process ended", out);
        }
    }

    fn agent_up(
        &mut self,
        now: Micros,
        agent: AgentId,
        slots: u32,
        workers: &BTreeMap<WorkerKey, u32>,
        connection: ConnectionId,
        out: &mut Vec<Out>,
    ) {
        let known = self.agents.remove(&agent);
        if let Some(connection) = known.as_ref().and_then(|a| a.connection) {
            out.push(Out::Close { connection });
        }
        let starting = known.map(|a| a.starting).unwrap_or_default();
        let live = self.jobs.iter().filter(|(_, job)| job.master.is_some());
        let held: Vec<(WorkerKey, u32)> = live
            .flat_map(|(&id, job)| job.placed.iter().map(move |(&n, placed)| ((id, n), placed)))
            .filter(|(_, placed)| placed.0 == agent)
            .map(|(worker, placed)| (worker, placed.1))
            .collect();
        let mine = |worker: &&WorkerKey| held.iter().any(|(held, _)| held == *worker);
        let keep: Vec<WorkerKey> =
            workers.keys().filter(mine).chain(starting.keys()).copied().collect();
        self.pool.register(agent.clone(), slots, held.iter().map(|&(w, n)| (worker_id(w), n)));
        let mut say = |message| {
            out.push(Out::Send { connection, message: Message::ToAgent(message) });
        };
        say(ToAgent::Registered { keep });
        starting.values().for_each(|start| say(ToAgent::Start(start.clone())));
        self.agents.insert(agent.clone(), Agent { connection: Some(connection), starting });
        self.heard(now, Peer::Agent(agent));
    }

    /// A worker attaches.
    pub(in crate::cluster) fn worker_up(
        &mut self,
        now: Micros,
        worker: WorkerKey,
        connection: ConnectionId,
        says: WorkerSays,
        out: &mut Vec<Out>,
    ) {
        let WorkerSays::Attach { data_address, running, .. } = says else { return };
        if !self.leading {
            out.push(Out::Close { connection });
            return;
        }
        let Some(job) = self.jobs.get_mut(&worker.0).filter(|job| job.master.is_some()) else {
            let message = Message::ToWorker(Box::new(ToWorker::Shutdown));
            out.push(Out::Send { connection, message });
            out.push(Out::Close { connection });
            return;
        };
        if let Some(connection) = job.connections.insert(worker.1, connection) {
            out.push(Out::Close { connection });
        }
        self.heard(now, Peer::Worker(worker));
        let event =
            MasterEvent::WorkerAttached { worker: worker.1, address: data_address, running };
        self.drive(now, worker.0, event, out);
    }

    /// A worker says something.
    pub(in crate::cluster) fn worker_said(
        &mut self,
        now: Micros,
        worker: WorkerKey,
        connection: ConnectionId,
        says: WorkerSays,
        out: &mut Vec<Out>,
    ) {
        let current = |m: &Self| {
            m.jobs.get(&worker.0).and_then(|job| job.connections.get(&worker.1)).copied()
        };
        if current(self) != Some(connection) {
            return;
        }
        if !matches!(says, WorkerSays::Heartbeat) {
            self.drive(now, worker.0, MasterEvent::Said { worker: worker.1, says }, out);
        }
        // It may have been given up by what it said.
        if current(self).is_some() {
            self.heard(now, Peer::Worker(worker));
        }
    }

    /// A connection has ended.
    pub(in crate::cluster) fn down(&mut self, now: Micros, connection: ConnectionId) {
        for (id, agent) in &mut self.agents {
            if agent.connection == Some(connection) {
                agent.connection = None;
                self.absent.insert(Peer::Agent(id.clone()), now);
            }
        }
        for (&id, job) in &mut self.jobs {
            let mine = job.connections.iter().find(|(_, c)| **c == connection).map(|(&n, _)| n);
            if let Some(number) = mine {
                job.connections.remove(&number);
                self.absent.insert(Peer::Worker((id, number)), now);
            }
        }
    }

    pub(super) fn look_for_silence(&mut self, now: Micros, out: &mut Vec<Out>) {
        for peer in self.detector.silent(now) {
            self.lose(now, peer, "nothing was heard of it", out);
        }
        let late = |since: &Micros| now.saturating_sub(*since) >= RECONNECT_TIMEOUT_US;
        let late: Vec<Peer> =
            self.absent.iter().filter(|(_, at)| late(at)).map(|(peer, _)| peer.clone()).collect();
        for peer in late {
            self.lose(now, peer, "its connection did not come back", out);
        }
    }

    fn lose(&mut self, now: Micros, peer: Peer, how: &str, out: &mut Vec<Out>) {
        match peer {
            Peer::Agent(id) => self.agent_lost(now, &id, out),
            Peer::Worker(worker) => self.worker_lost(now, worker, how, out),
        }
    }

    fn agent_lost(&mut self, now: Micros, id: &AgentId, out: &mut Vec<Out>) {
        let peer = Peer::Agent(id.clone());
        self.absent.remove(&peer);
        self.detector.forget(&peer);
        let Some(agent) = self.agents.remove(id) else { return };
        if let Some(connection) = agent.connection {
            out.push(Out::Close { connection });
        }
        for worker in self.pool.lose(id) {
            self.worker_lost(now, worker_key(&worker), "its TaskManager is lost", out);
        }
    }

    fn worker_lost(&mut self, now: Micros, worker: WorkerKey, how: &str, out: &mut Vec<Out>) {
        let peer = Peer::Worker(worker);
        self.absent.remove(&peer);
        self.detector.forget(&peer);
        let event = MasterEvent::WorkerLost { worker: worker.1, reason: how.to_owned() };
        self.drive(now, worker.0, event, out);
    }

    pub(super) fn start_worker(&mut self, id: &AgentId, start: StartWorker, out: &mut Vec<Out>) {
        let taken = self.pool.take(id, worker_id(start.worker), start.slots);
        if let Some(agent) = self.agents.get_mut(id).filter(|_| taken) {
            agent.starting.insert(start.worker, start.clone());
            if let Some(connection) = agent.connection {
                let message = Message::ToAgent(ToAgent::Start(start));
                out.push(Out::Send { connection, message });
            }
        }
    }

    pub(super) fn stop_worker(&mut self, worker: WorkerKey, out: &mut Vec<Out>) {
        self.pool.release(&worker_id(worker));
        let peer = Peer::Worker(worker);
        self.absent.remove(&peer);
        self.detector.forget(&peer);
        let Some(job) = self.jobs.get_mut(&worker.0) else { return };
        if let Some((id, _)) = job.placed.remove(&worker.1)
            && let Some(agent) = self.agents.get_mut(&id)
        {
            agent.starting.remove(&worker);
            if let Some(connection) = agent.connection {
                let message = Message::ToAgent(ToAgent::Stop(worker));
                out.push(Out::Send { connection, message });
            }
        }
        if let Some(connection) = job.connections.remove(&worker.1) {
            let message = Message::ToWorker(Box::new(ToWorker::Shutdown));
            out.push(Out::Send { connection, message });
            out.push(Out::Close { connection });
        }
    }
}
