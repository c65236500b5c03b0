//! From a job's tasks and edges to the subtasks of each slot, with the channels between them.
//!
//! Subtask i of every task sits in slot i. What is deployed can be sent to its slot's thread and
//! is built there: a task itself never crosses threads.

use crate::backend::{StateBackend, StatePlace};
use crate::blocking::Blocking;
use crate::channel::{ChannelOptions, ChannelReceiver, ChannelSender, channel};
use crate::context::{Context, Failure, Outbox, Restored, SubtaskInfo};
use crate::skew::{self, SkewGroup, SkewSeat};
use crate::slot::Hosted;
use crate::task::Task;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use tidemill_base::clock::StepTime;
use tidemill_base::metrics::TaskMetrics;
use tidemill_base::{Error, Result};
use tidemill_ring::Doorbell;

/// What a task is built from, on its slot's thread.
pub struct Io {
    /// The subtask's context.
    pub context: Context,
    /// Channels to read, each with the operator's input.
    pub inputs: Vec<(usize, ChannelReceiver)>,
    /// Channels to write, by edge.
    pub outputs: BTreeMap<usize, Outlet>,
    /// Stable ids of the job's operators, by number.
    pub operator_ids: Arc<[u64]>,
}

/// The channels of one edge that a subtask writes to.
pub struct Outlet {
    /// The operator whose records they carry, for messages.
    pub operator: Arc<str>,
    /// One a consumer subtask.
    pub channels: Vec<ChannelSender>,
}

impl Io {
    /// The stable id of an operator.
    pub fn operator_id(&self, operator: usize) -> Result<u64> {
        self.operator_ids.get(operator).copied().ok_or_else(|| {
            let n = self.operator_ids.len();
            Error::job(format!("operator {operator} is not among the job's {n}"))
        })
    }
    /// The channels of an edge.
    pub fn take_output(&mut self, edge: usize) -> Result<Outlet> {
        let name = &self.context.info.task_name;
        self.outputs
            .remove(&edge)
            .ok_or_else(|| Error::job(format!("task '{name}' has no output for edge {edge}")))
    }
    /// That the task has taken all its channels: the consumer of one that it has not would wait for
    /// ever.
    ///
    /// # Errors
    /// If there is an output left.
    pub fn all_taken(&self) -> Result<()> {
        self.outputs.first_key_value().map_or(Ok(()), |(edge, outlet)| {
            let (name, operator) = (&self.context.info.task_name, &outlet.operator);
            Err(Error::job(format!(
                "task '{name}' was built without what writes to edge {edge}, behind '{operator}'"
            )))
        })
    }
}

/// Builds one subtask.
pub type Build = Box<dyn FnOnce(Io) -> Result<Box<dyn Task>> + Send>;

/// A task of the job.
pub struct TaskPlan {
    /// For messages and metrics.
    pub name: Arc<str>,
    /// Number of subtasks.
    pub parallelism: u32,
    /// Numbers of its operators, head first.
    pub operators: Vec<usize>,
    /// Makes the builder of one subtask.
    pub factory: Box<dyn Fn() -> Build>,
}

/// How the subtasks of an edge's ends are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wiring {
    /// Subtask i to subtask i.
    OneToOne,
    /// Every subtask to every subtask.
    AllToAll,
}

/// An edge between tasks; its number is its index.
#[derive(Clone, Copy, Debug)]
pub struct EdgePlan {
    /// Producing task.
    pub from: usize,
    /// Number of the operator whose records it carries.
    pub operator: usize,
    /// Consuming task.
    pub to: usize,
    /// Input of the consuming operator.
    pub input: usize,
    /// Which channels there are.
    pub wiring: Wiring,
}

/// A whole job, ready to be deployed any number of times.
pub struct JobPlan {
    /// Tasks, upstream before downstream.
    pub tasks: Vec<TaskPlan>,
    /// Edges.
    pub edges: Vec<EdgePlan>,
    /// Names of all operators, by number.
    pub operator_names: Vec<String>,
    /// Stable ids of all operators, by number.
    pub operator_ids: Arc<[u64]>,
    /// Number of key groups.
    pub max_parallelism: u32,
    /// How far a source may be ahead of the slowest it meets, in milliseconds of event time, unless
    /// it says otherwise.
    pub max_skew: Option<i64>,
}

impl JobPlan {
    /// Slots that the job needs.
    pub fn slots(&self) -> usize {
        self.tasks.iter().map(|t| t.parallelism as usize).max().unwrap_or(0)
    }
}

/// One subtask, ready to be built on its slot's thread.
pub struct Blueprint {
    /// Which subtask.
    pub info: SubtaskInfo,
    /// Its counters, shared with whoever scrapes them.
    pub metrics: Arc<TaskMetrics>,
    /// Names of its operators, head first.
    pub operators: Vec<String>,
    inputs: Vec<(usize, ChannelReceiver)>,
    outputs: BTreeMap<usize, Outlet>,
    operator_ids: Arc<[u64]>,
    restored: Option<Arc<Restored>>,
    place: StatePlace,
    skew: Option<SkewSeat>,
    blocking: Blocking,
    build: Build,
}

impl Blueprint {
    /// Whether the task reads no channel.
    pub fn is_source(&self) -> bool {
        self.inputs.is_empty()
    }

    /// Who makes the subtask's blocking calls; itself where nothing is said.
    #[must_use]
    pub fn with_blocking(mut self, blocking: Blocking) -> Self {
        self.blocking = blocking;
        self
    }

    /// Builds the task, on the thread that will run it.
    pub fn build(self) -> Result<Hosted> {
        let place = format!("task '{}' (subtask {})", self.info.task_name, self.info.subtask);
        let context = Context {
            info: self.info,
            time: StepTime::default(),
            outbox: Outbox::default(),
            metrics: self.metrics,
            restored: self.restored,
            place: self.place,
            whole: Rc::default(),
            natives: Rc::default(),
            states: Rc::default(),
            failure: Failure::default(),
            skew: self.skew,
            blocking: self.blocking,
        };
        let io = Io {
            context: context.clone(),
            inputs: self.inputs,
            outputs: self.outputs,
            operator_ids: self.operator_ids,
        };
        let built = (self.build)(io).map_err(|e| e.context(&place));
        // A state of another type comes before whatever its bytes made of the builder.
        context.failure.check().map_err(|e| e.context(&place))?;
        let task = built?;
        Ok(Hosted { task, context, operators: self.operators })
    }
}

/// How a job is deployed.
#[derive(Clone, Debug, Default)]
pub struct DeployOptions {
    /// Attempt of the job, from 0.
    pub attempt: u32,
    /// Buffers of each channel.
    pub channel: ChannelOptions,
    /// The checkpoint to start from.
    pub restored: Option<Arc<Restored>>,
    /// Where keyed state is kept.
    pub state: StateBackend,
}

/// The channels between one slot of this process and one slot of another.
#[derive(Default)]
pub struct PeerChannels {
    /// Channels whose consumer is there, by their number in the job: what is read here goes there.
    pub sends: Vec<(u32, ChannelReceiver)>,
    /// Channels whose producer is there: what comes from there is written here. The `usize` are the
    /// credits to grant.
    pub receives: Vec<(u32, usize, ChannelSender)>,
}

/// What one slot of a process runs.
pub struct SlotPart {
    /// Its number in the job.
    pub slot: u32,
    /// Its subtasks, upstream first.
    pub blueprints: Vec<Blueprint>,
    /// Its channels to slots of other processes, by those slots. Each needs a connection.
    pub remote: BTreeMap<u32, PeerChannels>,
}

/// The pairs of a slot of this process and a slot of another that need a connection.
pub fn pairs(parts: &[SlotPart]) -> BTreeSet<(u32, u32)> {
    parts.iter().flat_map(|part| part.remote.keys().map(|&peer| (part.slot, peer))).collect()
}

/// Makes channels and blueprints; `doorbells` has one entry a slot. The result has the subtasks of
/// each slot, upstream first. To be called on a thread that is not pinned.
///
/// # Errors
/// If the state backend cannot be started.
pub fn deploy(
    plan: &JobPlan,
    doorbells: &[Arc<Doorbell>],
    options: &DeployOptions,
) -> Result<Vec<Vec<Blueprint>>> {
    let all = 0..plan.slots() as u32;
    let parts = deploy_part(plan, doorbells, options, all)?;
    Ok(parts.into_iter().map(|part| part.blueprints).collect())
}

/// Makes the channels and blueprints of the slots `local`, which this process runs; `doorbells` has
/// one entry for each of them. A channel whose other end is in another process gets a number, its
/// index among all channels of the job, which is the same in every process. To be called on a
/// thread that is not pinned.
///
/// # Errors
/// If the state backend cannot be started.
pub fn deploy_part(
    plan: &JobPlan,
    doorbells: &[Arc<Doorbell>],
    options: &DeployOptions,
    local: Range<u32>,
) -> Result<Vec<SlotPart>> {
    let mut wires =
        Wires { inputs: BTreeMap::new(), outputs: BTreeMap::new(), remote: BTreeMap::new() };
    let mut index = 0;
    for (number, edge) in plan.edges.iter().enumerate() {
        let consumers = plan.tasks[edge.to].parallelism;
        let operator: Arc<str> = plan.operator_names[edge.operator].as_str().into();
        for producer in 0..plan.tasks[edge.from].parallelism {
            let mine = match edge.wiring {
                Wiring::OneToOne => producer..producer + 1,
                Wiring::AllToAll => 0..consumers,
            };
            for consumer in mine {
                let channel = Wire { index, number, edge, operator: &operator, producer, consumer };
                wires.connect(&channel, doorbells, options.channel, &local);
                index += 1;
            }
        }
    }
    let mut seats = skew_seats(plan, &local);
    let mut parts: Vec<SlotPart> = local
        .clone()
        .map(|slot| {
            let remote = wires.remote.remove(&slot).unwrap_or_default();
            SlotPart { slot, blueprints: Vec::new(), remote }
        })
        .collect();
    let places: Vec<_> = parts.iter().map(|_| options.state.slot()).collect::<Result<_>>()?;
    for (number, task) in plan.tasks.iter().enumerate() {
        for subtask in local.start..local.end.min(task.parallelism) {
            let name = |&op: &usize| plan.operator_names[op].clone();
            let index = (subtask - local.start) as usize;
            parts[index].blueprints.push(Blueprint {
                info: SubtaskInfo {
                    task: number as u64,
                    task_name: task.name.clone(),
                    subtask,
                    parallelism: task.parallelism,
                    max_parallelism: plan.max_parallelism,
                    attempt: options.attempt,
                },
                metrics: Arc::default(),
                operators: task.operators.iter().map(name).collect(),
                inputs: wires.inputs.remove(&(number, subtask)).unwrap_or_default(),
                outputs: wires.outputs.remove(&(number, subtask)).unwrap_or_default(),
                operator_ids: plan.operator_ids.clone(),
                restored: options.restored.clone(),
                place: places[index].clone(),
                skew: seats.remove(&(number, subtask)),
                blocking: Blocking::default(),
                build: (task.factory)(),
            });
        }
    }
    Ok(parts)
}

/// The most buffers of a channel within a slot. Its ends take turns: more of them would only be more memory
/// that passes through the CPU's caches. One is written, one is full, one is on its way back.
const SAME_SLOT_CREDITS: usize = 3;

/// A channel of the job.
struct Wire<'a> {
    index: u32,
    /// Its edge's number.
    number: usize,
    edge: &'a EdgePlan,
    /// The operator whose records it carries.
    operator: &'a Arc<str>,
    producer: u32,
    consumer: u32,
}

/// The ends of channels that are here, by who uses them.
struct Wires {
    inputs: BTreeMap<(usize, u32), Vec<(usize, ChannelReceiver)>>,
    outputs: BTreeMap<(usize, u32), BTreeMap<usize, Outlet>>,
    remote: BTreeMap<u32, BTreeMap<u32, PeerChannels>>,
}

impl Wires {
    fn connect(
        &mut self,
        wire: &Wire<'_>,
        doorbells: &[Arc<Doorbell>],
        options: ChannelOptions,
        local: &Range<u32>,
    ) {
        let &Wire { index, edge, producer, consumer, .. } = wire;
        match (local.contains(&producer), local.contains(&consumer)) {
            (false, false) => {}
            (true, true) => {
                let bell = |slot: u32| {
                    let crosses = producer != consumer;
                    crosses.then(|| doorbells[(slot - local.start) as usize].clone())
                };
                let credits = match producer == consumer {
                    true => options.credits.min(SAME_SLOT_CREDITS),
                    false => options.credits,
                };
                // What one record may expand to stays the same.
                let overdraft = options.overdraft + options.credits - credits;
                let options = ChannelOptions { credits, overdraft };
                let (tx, mut rx) = channel(options, bell(consumer), bell(producer));
                if edge.wiring == Wiring::OneToOne {
                    rx.keep_order();
                }
                self.output(wire, tx);
                self.input(wire, rx);
            }
            // The pump runs on the same thread as the task: nobody is to be woken.
            (true, false) => {
                let (tx, rx) = channel(options, None, None);
                self.output(wire, tx);
                self.peer(producer, consumer).sends.push((index, rx));
            }
            (false, true) => {
                // What a barrier pushes through comes on top of the credits: as much as the sender
                // can have in use.
                let overdraft = options.credits + 2 * options.overdraft;
                let (tx, rx) = channel(ChannelOptions { overdraft, ..options }, None, None);
                self.input(wire, rx);
                self.peer(consumer, producer).receives.push((index, options.credits, tx));
            }
        }
    }

    fn output(&mut self, wire: &Wire<'_>, tx: ChannelSender) {
        let ends = self.outputs.entry((wire.edge.from, wire.producer)).or_default();
        let fresh = || Outlet { operator: wire.operator.clone(), channels: Vec::new() };
        ends.entry(wire.number).or_insert_with(fresh).channels.push(tx);
    }

    fn input(&mut self, wire: &Wire<'_>, rx: ChannelReceiver) {
        let ends = self.inputs.entry((wire.edge.to, wire.consumer)).or_default();
        ends.push((wire.edge.input, rx));
    }

    fn peer(&mut self, own: u32, peer: u32) -> &mut PeerChannels {
        self.remote.entry(own).or_default().entry(peer).or_default()
    }
}

/// The places of the subtasks of sources in `local`, in one group for those whose streams meet.
fn skew_seats(plan: &JobPlan, local: &Range<u32>) -> BTreeMap<(usize, u32), SkewSeat> {
    let group_of = skew::groups(plan.tasks.len(), plan.edges.iter().map(|e| (e.from, e.to)));
    let fed: BTreeSet<usize> = plan.edges.iter().map(|e| e.to).collect();
    let mut members: BTreeMap<usize, Vec<(usize, u32)>> = BTreeMap::new();
    for (number, task) in plan.tasks.iter().enumerate().filter(|(n, _)| !fed.contains(n)) {
        let here = local.start..local.end.min(task.parallelism);
        let subtasks = here.map(|subtask| (number, subtask));
        members.entry(group_of[number]).or_default().extend(subtasks);
    }
    let mut seats = BTreeMap::new();
    for subtasks in members.into_values() {
        let group = SkewGroup::new(subtasks.len());
        for (seat, subtask) in subtasks.into_iter().enumerate() {
            seats.insert(subtask, SkewSeat::new(group.clone(), seat, plan.max_skew));
        }
    }
    seats
}
