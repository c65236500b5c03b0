//! What REST asks for.

use tidemill_coordination::{JobStatus, MasterEvent, SavepointId, Submission};
use tidemill_protocol::{JobId, PlanRequest, RestoreFrom, StoreSettings};

use super::Service;
use super::event::Ask;
use crate::metadata::{SavepointRow, SavepointState};
use crate::refusal::Refusal;

impl Service {
    pub(super) fn on_ask(&mut self, ask: Ask) {
        // A refused asker may be gone: then nobody hears of it.
        match ask {
            Ask::Look(look) => look(self),
            Ask::Plan { artifact, args, parallelism, reply } => match self.check_leads() {
                Ok(()) => {
                    let request =
                        PlanRequest { request: 0, artifact, args, parallelism, timeout_ms: 0 };
                    self.ask_plan(request, reply);
                }
                Err(e) => drop(reply.send(Err(e))),
            },
            Ask::Submit { new, reply } => match self.check_leads() {
                Ok(()) => self.submit(*new, reply),
                Err(e) => drop(reply.send(Err(e))),
            },
            Ask::Logs { job, bytes, reply } => match self.check_known(&job) {
                Ok(()) => self.ask_logs(&job, bytes, reply),
                Err(e) => drop(reply.send(Err(e))),
            },
            Ask::Cancel { job, reply } => drop(reply.send(self.cancel(&job))),
            Ask::Savepoint { job, stop, reply } => drop(reply.send(self.savepoint(&job, stop))),
            Ask::Rescale { job, submission, reply } => {
                drop(reply.send(self.rescale(&job, submission)));
            }
        }
    }

    /// # Errors
    /// Where this JobManager does not lead, or there is no such job.
    pub(crate) fn check_known(&self, id: &JobId) -> Result<(), Refusal> {
        self.check_leads()?;
        match self.job(id) {
            Some(_) => Ok(()),
            None => Err(Refusal::not_found(format!("no job {id}; GET /jobs lists all"))),
        }
    }

    /// # Errors
    /// As `check_known`, and for a job that is over.
    pub(crate) fn check_live(&self, id: &JobId) -> Result<(), Refusal> {
        self.check_known(id)?;
        match self.job(id) {
            Some(job) if !job.is_live() => {
                Err(Refusal::conflict(format!("job {id} is over: it is {}", job.row().status)))
            }
            _ => Ok(()),
        }
    }

    /// Where a complete savepoint lies.
    ///
    /// # Errors
    /// For one that is not known, or not complete.
    pub(crate) fn savepoint_of(&self, trigger: SavepointId) -> Result<RestoreFrom, Refusal> {
        self.check_leads()?;
        let text = super::trigger_text(trigger);
        let all = self.jobs.values().filter_map(|job| Some((job, job.history.savepoint(trigger)?)));
        let Some((job, row)) = all.into_iter().next() else {
            return Err(Refusal::unprocessable(format!("no savepoint {text} is known")));
        };
        match row.epoch.filter(|_| row.state == SavepointState::Completed) {
            Some(epoch) => Ok(RestoreFrom { store: job.row().store.clone(), epoch }),
            None => {
                let why = row.reason.as_deref().unwrap_or("it is in progress");
                Err(Refusal::unprocessable(format!("savepoint {text} is not complete: {why}")))
            }
        }
    }

    /// A checkpoint in the store of a job that is known, by epoch or the newest; `None` where the store is
    /// no known job's. Its rows are asked: a manifest without one is no checkpoint.
    ///
    /// # Errors
    /// For one that is not complete.
    pub(crate) fn checkpoint_at(
        &self,
        store: &StoreSettings,
        epoch: Option<u64>,
    ) -> Result<Option<RestoreFrom>, Refusal> {
        let Some(job) = self.jobs.values().find(|job| job.row().store == *store) else {
            return Ok(None);
        };
        let completed = job.history.completed();
        let id = &job.row().id;
        let found = match epoch {
            Some(epoch) => completed.contains(&epoch).then_some(epoch),
            None => completed.last().copied(),
        };
        match (found, epoch) {
            (Some(epoch), _) => Ok(Some(RestoreFrom { store: store.clone(), epoch })),
            (None, Some(epoch)) => Err(Refusal::unprocessable(format!(
                "checkpoint {epoch} of job {id} is not there, or not complete; see GET /jobs/{id}/checkpoints"
            ))),
            (None, None) => {
                Err(Refusal::unprocessable(format!("job {id} has no complete checkpoint")))
            }
        }
    }

    fn cancel(&mut self, id: &JobId) -> Result<(), Refusal> {
        self.check_live(id)?;
        self.drive(id, MasterEvent::Cancel);
        Ok(())
    }

    fn savepoint(&mut self, id: &JobId, stop: bool) -> Result<SavepointId, Refusal> {
        self.check_live(id)?;
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes)
            .map_err(|e| Refusal::unavailable(format!("no random numbers: {e}")))?;
        // The highest number is the master's own; 63 bits are what every database stores.
        let trigger = u64::from_le_bytes(bytes) >> 1;
        let requested_ms = self.wall_ms();
        let Some(job) = self.jobs.get_mut(id) else {
            return Err(Refusal::not_found(format!("no job {id}")));
        };
        if job.row().status == JobStatus::Cancelling {
            return Err(Refusal::conflict(format!("job {id} is being cancelled")));
        }
        if job.history.savepoints_full() {
            let why = format!("job {id} has had as many savepoints as are recorded of one job");
            return Err(Refusal::conflict(why));
        }
        job.history.put_savepoint(SavepointRow {
            trigger,
            stop,
            requested_ms,
            state: SavepointState::InProgress,
            epoch: None,
            location: None,
            reason: None,
        });
        let event = if stop {
            MasterEvent::StopWithSavepoint { id: trigger }
        } else {
            MasterEvent::Savepoint { id: trigger }
        };
        self.drive(id, event);
        Ok(trigger)
    }

    fn rescale(&mut self, id: &JobId, submission: Box<Submission>) -> Result<(), Refusal> {
        self.check_live(id)?;
        let wanted = submission.plan.slots();
        let free = self.free_slots();
        let Some(job) = self.job(id) else { return Ok(()) };
        if job.row().status == JobStatus::Cancelling {
            return Err(Refusal::conflict(format!("job {id} is being cancelled")));
        }
        let (old, new) = (&job.row().submission.plan, &submission.plan);
        if old.max_parallelism() != new.max_parallelism() {
            return Err(Refusal::unprocessable(format!(
                "job {id} has {} key groups for life, at this parallelism the program says {}",
                old.max_parallelism(),
                new.max_parallelism()
            )));
        }
        // Its own slots are free by then.
        let own: u32 = job.placed.values().map(|p| p.slots).sum::<u32>() + job.missing_slots();
        if wanted > free.saturating_add(own) {
            return Err(Refusal::no_slots(wanted, free + own));
        }
        self.drive(id, MasterEvent::Rescale(submission));
        Ok(())
    }
}
