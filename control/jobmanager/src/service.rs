//! The one task that owns all jobs: it hears everything, lets each job's master decide, and carries out
//! what it asks for. Nothing in it waits: what takes time is set going and reports back.
//!
//! ```text
//!   Following --elected--> Loading --loaded--> Leading --fenced, another elected--> Following
//! ```
//! Invariants
//!   J1  Only while Leading are there jobs and peers; what a former leadership set going changes nothing.
//!   J2  A deployment goes out only after the row that names its attempt is written, and the trigger of an
//!       epoch after the row that names the epoch, so that no later JobManager uses the number again, and
//!       one that does not lead any more triggers nothing.
//!   J3  An epoch is complete for a master only after its row is written; while that is in doubt and the
//!       attempt has failed, the master hears nothing else, so that it cannot restore an older one.
//!   J4  A job that was accepted has a row; one that was refused has none.
//!   J5  A program file is kept while a job that is not over, or an upload, refers to it, and no longer.
//!   J6  What is deleted is deleted only while the metadata store says that this JobManager leads (fence.rs).
//!
//! Not here: the decisions (`tidemill_coordination`), connections (control.rs), HTTP (rest.rs).

mod agents;
mod asks;
mod checkpoints;
mod effects;
mod event;
mod fence;
mod files;
mod history;
mod jobs;
mod lead;
mod recorder;
mod view;

pub(crate) use checkpoints::{Failed, with_store};
pub(crate) use event::{Ask, Leadership, NewJob, PeerEvent};
pub(crate) use files::Files;
pub(crate) use jobs::Job;
pub(crate) use view::{SavepointView, trigger_of, trigger_text};

use event::Done;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tidemill_base::Clock;
use tidemill_base::clock::SystemClock;
use tidemill_coordination::{Detector, Micros, Pool};
use tidemill_protocol::{AgentId, JobId, WorkerId};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tracing::{info, warn};

use crate::config::JobManagerConfig;
use crate::metadata::{Change, Lead, Term};
use crate::refusal::Refusal;
use crate::stores::Stores;
use agents::{Agent, Request};
use fence::Fence;
use recorder::Recorder;

/// The longest time between two looks at the clock.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Somebody who says that it lives.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Peer {
    Agent(AgentId),
    Worker(WorkerId),
}

/// What the service is made from.
pub(crate) struct Parts {
    pub(crate) config: Arc<JobManagerConfig>,
    pub(crate) stores: Stores,
    pub(crate) clock: SystemClock,
    /// `host:port` that this JobManager is known by when it leads.
    pub(crate) address: String,
    pub(crate) leadership: watch::Sender<Leadership>,
    pub(crate) files: Files,
}

/// See the module.
pub(crate) struct Service {
    pub(crate) config: Arc<JobManagerConfig>,
    stores: Stores,
    pub(crate) clock: SystemClock,
    leadership: watch::Sender<Leadership>,
    /// While loading and leading.
    term: Option<Term>,
    files: Files,
    recorder: Recorder,
    done: mpsc::UnboundedSender<Done>,
    agents: BTreeMap<AgentId, Agent>,
    pool: Pool,
    detector: Detector<Peer>,
    /// Whose connection broke, and since when.
    absent: BTreeMap<Peer, Micros>,
    jobs: BTreeMap<JobId, Job>,
    requests: BTreeMap<u64, Request>,
    next_request: u64,
}

impl Service {
    /// Serves until `shutdown` resolves.
    pub(crate) async fn run(
        parts: Parts,
        mut peers: mpsc::Receiver<PeerEvent>,
        mut asks: mpsc::Receiver<Ask>,
        shutdown: impl Future<Output = ()>,
    ) {
        let (done, mut heard) = mpsc::unbounded_channel();
        let Parts { config, stores, clock, address, leadership, files } = parts;
        let recorder = Recorder::start(stores.metadata.clone(), clock.clone(), done.clone());
        let election = tokio::spawn(lead::campaign(stores.metadata.clone(), address, done.clone()));
        let metadata = stores.metadata.clone();
        let timeout = config.limits.heartbeat_timeout.as_micros() as Micros;
        let mut service = Service {
            config,
            stores,
            clock,
            leadership,
            term: None,
            files,
            recorder,
            done,
            agents: BTreeMap::new(),
            pool: Pool::default(),
            detector: Detector::new(timeout),
            absent: BTreeMap::new(),
            jobs: BTreeMap::new(),
            requests: BTreeMap::new(),
            next_request: 1,
        };
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            tokio::select! {
                Some(event) = peers.recv() => service.on_peer(event),
                Some(done) = heard.recv() => service.on_done(done),
                Some(ask) = asks.recv() => service.on_ask(ask),
                () = sleep(service.pause()) => {}
                () = &mut shutdown => break,
            }
            service.look();
        }
        election.abort();
        // Jobs go on: the next JobManager finds them.
        if service.term.is_some() {
            let _ = tokio::time::timeout(LOOK_EVERY * 10, metadata.resign()).await;
        }
    }

    pub(crate) fn now(&self) -> Micros {
        self.clock.now()
    }

    fn wall_ms(&self) -> i64 {
        self.clock.wall_ms()
    }

    /// Until something may be due.
    fn pause(&self) -> Duration {
        let now = self.now();
        let due = self.jobs.values().filter_map(Job::wake_at).min();
        let pause = due.map_or(LOOK_EVERY, |at| Duration::from_micros(at.saturating_sub(now)));
        pause.clamp(Duration::from_micros(100), LOOK_EVERY)
    }

    /// What the clock says.
    fn look(&mut self) {
        if !self.leads() {
            return;
        }
        let now = self.now();
        self.look_for_silence(now);
        self.look_at_requests(now);
        let due = |job: &Job| job.wake_at().is_some_and(|at| now >= at);
        let jobs: Vec<JobId> =
            self.jobs.iter().filter(|(_, job)| due(job)).map(|(id, _)| id.clone()).collect();
        for id in jobs {
            self.drive(&id, tidemill_coordination::MasterEvent::Tick);
        }
    }

    fn leads(&self) -> bool {
        self.term.is_some() && *self.leadership.borrow() == Leadership::Leading
    }

    fn on_done(&mut self, done: Done) {
        match done {
            Done::Elected(Lead::Mine { term }) if self.term != Some(term) => self.elected(term),
            Done::Elected(Lead::Mine { .. }) => {}
            Done::Elected(Lead::Other { address }) => self.follow(address),
            // J1.
            Done::Loaded { term, .. }
            | Done::Written { term, .. }
            | Done::Unwritten { term, .. }
            | Done::Fenced { term }
            | Done::Manifest { term, .. }
            | Done::Retained { term, .. }
            | Done::NotCleared { term, .. }
                if self.term != Some(term) => {}
            Done::Loaded { result: Ok(records), .. } => self.loaded(records),
            Done::Loaded { result: Err(e), .. } => {
                warn!("what an earlier JobManager left cannot be loaded: {e}");
                self.follow(None);
            }
            Done::Written { then, .. } => self.on_written(then),
            Done::Unwritten { then, reason, .. } => self.on_unwritten(then, &reason),
            Done::Fenced { .. } => self.follow(None),
            Done::Manifest { job, epoch, result, .. } => self.on_manifest(&job, epoch, result),
            Done::Retained { job, result, .. } => self.on_retained(&job, result),
            Done::NotCleared { job, .. } => self.clear_checkpoints(&job),
        }
    }

    fn elected(&mut self, term: Term) {
        self.forget_all();
        self.term = Some(term);
        self.leadership.send_replace(Leadership::Following { leader: None });
        info!("elected, term {term}: looking for what runs");
        let (store, done) = (self.stores.metadata.clone(), self.done.clone());
        tokio::spawn(async move {
            let result = lead::load(&*store, term).await;
            let _ = done.send(Done::Loaded { term, result });
        });
    }

    fn loaded(&mut self, records: Vec<crate::metadata::JobRecord>) {
        let live = records.iter().filter(|r| !r.job.status.is_over()).count();
        info!("leading; {live} jobs run, {} are over", records.len() - live);
        let running = records.iter().filter(|r| !r.job.status.is_over());
        let used: BTreeSet<_> = running.map(|r| r.job.artifact.clone()).collect();
        self.files.lead(used, self.fence());
        for record in records {
            self.restore_job(record);
        }
        self.leadership.send_replace(Leadership::Leading);
    }

    /// J1.
    fn follow(&mut self, leader: Option<String>) {
        let following = Leadership::Following { leader };
        if self.term.take().is_some() {
            warn!("this JobManager does not lead any more: jobs go on without it");
            self.forget_all();
        }
        self.leadership.send_if_modified(|known| {
            let changed = *known != following;
            *known = following;
            changed
        });
    }

    /// Connections end with their outboxes; requests are answered by their senders' end.
    fn forget_all(&mut self) {
        let timeout = self.config.limits.heartbeat_timeout.as_micros() as Micros;
        self.agents.clear();
        self.pool = Pool::default();
        self.detector = Detector::new(timeout);
        self.absent.clear();
        self.jobs.clear();
        self.requests.clear();
        self.files.follow();
    }

    /// J6.
    fn fence(&self) -> Option<Fence> {
        let (metadata, clock) = (self.stores.metadata.clone(), self.clock.clone());
        self.term.map(|term| Fence { metadata, term, clock })
    }

    fn note(&self, changes: Vec<Change>) {
        if let Some(term) = self.term {
            self.recorder.note(term, changes);
        }
    }

    /// # Errors
    /// Where this JobManager does not lead.
    fn check_leads(&self) -> Result<(), Refusal> {
        if self.leads() {
            return Ok(());
        }
        match &*self.leadership.borrow() {
            Leadership::Following { leader } => Err(Refusal::not_leader(leader.as_deref())),
            Leadership::Leading => Ok(()),
        }
    }
}
