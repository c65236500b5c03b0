//! From the slots of an attempt to the thread that acts for the coordinator, and to the snapshot writer.

use super::progress::Watched;
use crossbeam_channel::Sender;
use std::collections::BTreeMap;
use std::sync::Arc;
use tidemill_base::Error;
use tidemill_plan::SubtaskId;
use tidemill_runtime::context::{StateDeclaration, SubtaskInfo, TaskEvent};
use tidemill_runtime::deploy::JobPlan;
use tidemill_runtime::worker::EventSink;
use tidemill_snapshot as snapshot;
use tidemill_snapshot::{ChunkKey, JobSender, TrySendError};

/// What arrives at the coordinating thread.
pub(crate) enum Message {
    Ready(Vec<(SubtaskInfo, Vec<StateDeclaration>)>),
    Task(SubtaskId, TaskEvent),
    Failed(Error),
}

/// Carries a slot's events: entries to the writer, the rest to the coordinating thread.
pub(crate) struct Carrier {
    pub(crate) messages: Sender<Message>,
    pub(crate) writer: Option<JobSender>,
    /// Operator ids of each task, by task.
    pub(crate) operators: Arc<Vec<Vec<u64>>>,
    /// By task: of how many operators the writer knows that they are done.
    pub(crate) told: BTreeMap<u64, usize>,
}

impl Carrier {
    /// Tells the writer that the subtask's operators are done. Where the queue is full it goes on
    /// from there at the next call.
    fn subtask_done(&mut self, epoch: u64, info: &SubtaskInfo) -> Result<(), ()> {
        let Some(writer) = &self.writer else { return Ok(()) };
        let told = self.told.entry(info.task).or_insert(0);
        for &operator in &self.operators[info.task as usize][*told..] {
            let subtask = snapshot::SubtaskId { operator, subtask: info.subtask };
            let job = snapshot::Job::SubtaskDone { epoch, subtask };
            if let Err(TrySendError::Full(_)) = writer.try_send(job) {
                return Err(());
            }
            *told += 1;
        }
        *told = 0;
        Ok(())
    }
}

impl EventSink for Carrier {
    fn deliver(&mut self, info: &SubtaskInfo, event: TaskEvent) -> Result<(), TaskEvent> {
        match (event, &self.writer) {
            (TaskEvent::Entry { .. } | TaskEvent::File { .. }, None) => Ok(()),
            (TaskEvent::File { epoch, source }, Some(writer)) => {
                match writer.try_send(snapshot::Job::Share { epoch, source }) {
                    Err(TrySendError::Full(job)) => match *job {
                        snapshot::Job::Share { epoch, source } => {
                            Err(TaskEvent::File { epoch, source })
                        }
                        _ => Ok(()),
                    },
                    _ => Ok(()),
                }
            }
            (TaskEvent::Entry { epoch, section, payload, records }, Some(writer)) => {
                let key = ChunkKey {
                    operator: section.operator,
                    subtask: info.subtask,
                    kind: section.kind,
                    state: section.state,
                };
                match writer.try_send(snapshot::Job::Chunk { epoch, key, payload, records }) {
                    Err(TrySendError::Full(job)) => match *job {
                        snapshot::Job::Chunk { payload, .. } => {
                            Err(TaskEvent::Entry { epoch, section, payload, records })
                        }
                        _ => Ok(()),
                    },
                    // A writer that has been shut down: the attempt is ending.
                    _ => Ok(()),
                }
            }
            (event, _) => {
                if let TaskEvent::Acknowledged { epoch } = event
                    && self.subtask_done(epoch, info).is_err()
                {
                    return Err(event);
                }
                let subtask = SubtaskId::new(info.task as u32, info.subtask);
                // Nobody listens any more when the attempt is ending.
                let _ = self.messages.send(Message::Task(subtask, event));
                Ok(())
            }
        }
    }

    fn ready(&mut self, subtasks: Vec<(SubtaskInfo, Vec<StateDeclaration>)>) {
        let _ = self.messages.send(Message::Ready(subtasks));
    }

    fn failed(&mut self, error: Error) {
        let _ = self.messages.send(Message::Failed(error));
    }
}

/// The ids of each task's operators.
pub(crate) fn operators_of(plan: &JobPlan) -> Arc<Vec<Vec<u64>>> {
    let ids = |operators: &Vec<usize>| operators.iter().map(|&o| plan.operator_ids[o]).collect();
    Arc::new(plan.tasks.iter().map(|t| ids(&t.operators)).collect())
}

/// The counters of all subtasks.
pub(crate) fn watched<'a>(
    slots: impl IntoIterator<Item = &'a Vec<tidemill_runtime::deploy::Blueprint>>,
) -> Vec<Watched> {
    slots
        .into_iter()
        .flatten()
        .map(|b| Watched {
            task: b.info.task as usize,
            name: b.info.task_name.clone(),
            subtask: b.info.subtask,
            is_source: b.is_source(),
            metrics: b.metrics.clone(),
        })
        .collect()
}
