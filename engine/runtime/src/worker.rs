//! The shell: one thread pinned to one CPU with one glommio executor a slot. The only module that
//! knows glommio, threads and wake-ups.
//!
//! A slot steps its tasks while they make progress. When none does it spins for a moment, then
//! parks: rings of other slots, commands and timers wake it. The parking protocol is the
//! doorbell's: say that you sleep, look once more, sleep.
//!
//! A slot with connections to other processes sleeps in their ring instead of glommio's: one sleep
//! for doorbell, timer and sockets. Nothing else runs on its thread.

mod affinity;
mod links;
mod preflight;

use crate::blocking::{Blocking, Work};
use crate::context::{StateDeclaration, SubtaskInfo, TaskEvent};
use crate::deploy::{Blueprint, PeerChannels, SlotPart};
use crate::remote::Pump;
use crate::slot::{Command, Round, Slot};
use crossbeam_channel::{Receiver, Sender, unbounded};
use glommio::timer::Timer;
use glommio::{LocalExecutorBuilder, Placement};
use std::collections::BTreeSet;
use std::future::Future;
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;
use tidemill_base::clock::SystemClock;
use tidemill_base::{Clock, Error, Micros, Result};
use tidemill_keyed::Pager;
use tidemill_net::Connection;
use tidemill_net::link::LinkOptions;
use tidemill_net::transport::Transport;
use tidemill_net::transport::uring::UringTransport;
use tidemill_ring::Doorbell;

pub use affinity::allowed_cpus;
pub use preflight::check_io_uring;

/// The longest sleep in glommio's ring. The doorbell loses no wake-up, but the executor may: one whose
/// preemption timer (or eventfd) fires between the waking of our task and its turn takes the turn for
/// over, runs nothing and goes to sleep with the task runnable (`run_task_queues` of glommio 0.9). It
/// takes a thread that is kept from its CPU at that moment, as there are on a machine with more slots
/// than CPUs. A timer ends that sleep; without one, the slot and whoever waits for it would never go on.
const PARK_US_MAX: Micros = 100_000;

/// Threads of a worker that make its slots' blocking calls, one a slot within these bounds: one that
/// waits for a disk does not hold up the others' calls.
const BLOCKING_THREADS: RangeInclusive<usize> = 2..=8;

/// How long the end of an attempt waits for blocking calls under way. Less than the JobManager waits for
/// the end (`jobmanager.stop_timeout`, 5 s): what a disk holds for longer is harmless by the law of
/// callers (blocking.rs).
const BLOCKING_WAIT: Duration = Duration::from_secs(3);

/// Nothing shares the executor with our task, so it need not be asked to make room: the longer, the
/// rarer the above.
const PREEMPT: Duration = Duration::from_secs(60);

/// Carries the events of a slot's tasks to the rest of the process. One a slot.
pub trait EventSink: Send {
    /// Takes an event, or hands it back where it cannot be taken now: it is offered again, before
    /// any later event of the same subtask.
    fn deliver(&mut self, subtask: &SubtaskInfo, event: TaskEvent) -> Result<(), TaskEvent>;

    /// The slot's tasks are built; these are their states.
    fn ready(&mut self, subtasks: Vec<(SubtaskInfo, Vec<StateDeclaration>)>);

    /// A task failed; the slot has stopped.
    fn failed(&mut self, error: Error);
}

/// How slots run.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// An idle slot spins for as long as this before it parks, in microseconds. 0 where slots
    /// share CPUs.
    pub spin_us: Micros,
    /// Whether slots are pinned to CPUs.
    pub pin: bool,
    /// The CPU of each slot that runs here, in their order, where somebody who knows what else runs on
    /// this host has chosen. Without one, slot `i` of the job stands on the `i`th allowed CPU.
    pub cpus: Vec<usize>,
    /// How connections to slots of other processes are watched.
    pub link: LinkOptions,
}

impl WorkerOptions {
    /// Pinned; spinning only where every slot has a CPU of its own.
    pub fn for_slots(slots: usize) -> Self {
        let spin_us = if slots <= allowed_cpus().len() { 50 } else { 0 };
        WorkerOptions { spin_us, pin: true, cpus: Vec::new(), link: LinkOptions::default() }
    }

    /// As [`WorkerOptions::for_slots`], on chosen CPUs; slots that share one never spin.
    pub fn on_cpus(slots: usize, cpus: &[usize]) -> Self {
        let mut options = Self::for_slots(slots);
        options.cpus = cpus.iter().copied().take(slots).collect();
        let own: BTreeSet<usize> = options.cpus.iter().copied().collect();
        if own.len() < options.cpus.len() {
            options.spin_us = 0;
        }
        options
    }

    /// Where the slot that is the `n`th of this process stands; a chosen CPU that this process may not
    /// use is as none.
    fn placement(&self, n: usize, slot: u32, allowed: &[usize]) -> Placement {
        let chosen = self.cpus.get(n).filter(|cpu| allowed.contains(cpu));
        let cpu = chosen.or_else(|| allowed.get(slot as usize % allowed.len().max(1)));
        match cpu {
            Some(&cpu) if self.pin => Placement::Fixed(cpu),
            _ => Placement::Unbound,
        }
    }
}

enum Order {
    Command(Command),
    Stop,
}

struct SlotHandle {
    orders: Sender<Order>,
    doorbell: Arc<Doorbell>,
    thread: Option<glommio::ExecutorJoinHandle<()>>,
}

/// The running slots of one attempt of a job.
pub struct Worker {
    slots: Vec<SlotHandle>,
    /// Until it is stopped.
    blocking: Option<Blocking>,
}

impl Worker {
    /// Starts one thread a slot, for a job that runs wholly in this process. `sinks` has one entry a
    /// slot, `doorbells` are those with which the blueprints were deployed.
    ///
    /// # Errors
    /// When io_uring is refused or a thread cannot be started; the message says which setting
    /// cures it.
    pub fn start(
        slots: Vec<Vec<Blueprint>>,
        doorbells: &[Arc<Doorbell>],
        sinks: Vec<Box<dyn EventSink>>,
        clock: &SystemClock,
        options: WorkerOptions,
    ) -> Result<Worker> {
        let part = |(slot, blueprints)| SlotPart { slot, blueprints, remote: Default::default() };
        let parts = (0..).zip(slots).map(part).collect();
        Self::start_connected(parts, Vec::new(), doorbells, sinks, clock, options)
    }

    /// As [`Worker::start`], for the slots of a job that run in this process, with the connections to
    /// the others: one for each pair of slots that [`SlotPart::remote`] names.
    ///
    /// # Errors
    /// Also when a connection is missing.
    pub fn start_connected(
        parts: Vec<SlotPart>,
        connections: Vec<Connection>,
        doorbells: &[Arc<Doorbell>],
        sinks: Vec<Box<dyn EventSink>>,
        clock: &SystemClock,
        options: WorkerOptions,
    ) -> Result<Worker> {
        check_io_uring()?;
        start_pager();
        let blocking = start_blocking(parts.len());
        let cpus = allowed_cpus();
        let mut connections = links::by_pair(connections);
        let mut worker = Worker { slots: Vec::new(), blocking: Some(blocking.clone()) };
        for (n, ((part, sink), doorbell)) in parts.into_iter().zip(sinks).zip(doorbells).enumerate()
        {
            let SlotPart { slot, blueprints, remote } = part;
            let (orders, receiver) = unbounded();
            let placement = options.placement(n, slot, &cpus);
            let (bell, clock) = (doorbell.clone(), clock.clone());
            let (spin_us, link) = (options.spin_us, options.link);
            // Made on its own thread: a ring of connections stays where it was made.
            let shell = move || Shell {
                slot,
                orders: receiver,
                doorbell: bell,
                sink,
                clock,
                spin_us,
                link,
                pump: None,
            };
            let wires = links::of_slot(slot, remote, &mut connections)?;
            let blocking = blocking.of_slot(doorbell.clone());
            let blueprints = blueprints.into_iter();
            let blueprints = blueprints.map(|b| b.with_blocking(blocking.clone())).collect();
            let thread = LocalExecutorBuilder::new(placement)
                .name(&format!("slot-{slot}"))
                .io_memory(64 << 10)
                .ring_depth(128)
                .preempt_timer(PREEMPT)
                .spawn(move || shell().run(blueprints, wires))
                .map_err(|e| {
                    Error::job(format!(
                        "cannot start the thread of slot {slot}: {e}; \
                         look at the limits on threads (ulimit -u) and locked memory (ulimit -l)"
                    ))
                })?;
            let (doorbell, thread) = (doorbell.clone(), Some(thread));
            worker.slots.push(SlotHandle { orders, doorbell, thread });
        }
        Ok(worker)
    }

    /// Carries a command to every slot.
    pub fn command(&self, command: Command) {
        for slot in &self.slots {
            // A slot that has stopped has nobody to command.
            let _ = slot.orders.send(Order::Command(command));
            slot.doorbell.ring();
        }
    }

    /// Stops all slots where they stand and waits for their threads, then for the blocking calls that
    /// they have under way, for a few seconds at most. No other begins.
    pub fn stop(mut self) {
        self.stop_slots();
    }

    fn stop_slots(&mut self) {
        for slot in &self.slots {
            let _ = slot.orders.send(Order::Stop);
            slot.doorbell.ring();
        }
        for slot in &mut self.slots {
            if let Some(thread) = slot.thread.take()
                && thread.join().is_err()
            {
                tracing::error!("the thread of a slot ended by a panic outside of its tasks");
            }
        }
        // Behind the slots: none of them takes a call that was given up for a failure.
        if let Some(blocking) = self.blocking.take() {
            let left = blocking.stop(BLOCKING_WAIT);
            if left > 0 {
                tracing::warn!(
                    "{left} blocking calls of a stopped attempt (such as a sink's fdatasync) have not \
                     returned within {BLOCKING_WAIT:?} and are left alone: look at the disk that they \
                     wait for"
                );
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop_slots();
    }
}

/// Starts the thread that touches memory before growing tables need it, once a process. It inherits
/// the CPUs of the caller, who is not pinned.
fn start_pager() {
    let Some(pager) = Pager::take() else { return };
    if let Err(e) = std::thread::Builder::new().name("pager".into()).spawn(|| pager.run()) {
        tracing::warn!(
            "cannot start the thread 'pager', growing tables will pause for longer: {e}"
        );
    }
}

/// Starts the threads that make blocking calls. They inherit the CPUs of the caller, who is not
/// pinned, and end when the worker has stopped, or when the call that they are in returns.
fn start_blocking(slots: usize) -> Blocking {
    let (blocking, work) = Blocking::queue();
    for _ in 0..slots.clamp(*BLOCKING_THREADS.start(), *BLOCKING_THREADS.end()) {
        let work = work.clone();
        let run = move || work.into_iter().for_each(Work::run);
        if let Err(e) = std::thread::Builder::new().name("blocking".into()).spawn(run) {
            tracing::warn!(
                "cannot start a thread 'blocking' ({e}): without any, slots wait for the disk \
                 themselves; look at the limits on threads (ulimit -u)"
            );
        }
    }
    blocking
}

/// What one slot's thread owns.
struct Shell {
    slot: u32,
    orders: Receiver<Order>,
    doorbell: Arc<Doorbell>,
    sink: Box<dyn EventSink>,
    clock: SystemClock,
    spin_us: Micros,
    link: LinkOptions,
    /// The connections to slots of other processes, if there are any.
    pump: Option<Pump<UringTransport>>,
}

impl Shell {
    async fn run(mut self, blueprints: Vec<Blueprint>, wires: Vec<(Connection, PeerChannels)>) {
        let result = match self.plug_in(wires) {
            Ok(()) => self.build_and_serve(blueprints).await,
            Err(e) => Err(e),
        };
        if let Some(pump) = &mut self.pump {
            let reason = match &result {
                Ok(()) => String::from("its worker was stopped"),
                Err(e) => format!("it has failed: {e}"),
            };
            pump.goodbye(&reason, self.clock.now());
        }
        if let Err(error) = result {
            self.sink.failed(error);
        }
    }

    fn plug_in(&mut self, wires: Vec<(Connection, PeerChannels)>) -> Result<()> {
        if !wires.is_empty() {
            let now = self.clock.now();
            self.pump = Some(links::pump(self.slot, wires, self.link, now)?);
        }
        Ok(())
    }

    async fn build_and_serve(&mut self, blueprints: Vec<Blueprint>) -> Result<()> {
        let built: Result<Vec<_>> = blueprints.into_iter().map(Blueprint::build).collect();
        let tasks = built?;
        let declared = tasks
            .iter()
            .map(|t| (t.context.info.clone(), t.context.states.borrow().clone()))
            .collect();
        self.sink.ready(declared);
        self.serve(Slot::new(tasks)).await
    }

    async fn serve(&mut self, mut slot: Slot) -> Result<()> {
        loop {
            let (round, stop) = self.round(&mut slot)?;
            if stop {
                return Ok(());
            }
            let Round::Idle { until } = round else { continue };
            if self.spin_us > 0 && self.spin(&mut slot)? {
                continue;
            }
            let stop = match self.pump {
                Some(_) => self.park_in_ring(&mut slot)?,
                None => self.park(&mut slot, until).await?,
            };
            if stop {
                return Ok(());
            }
        }
    }

    /// Orders, a round over the tasks, events. True if told to stop.
    fn round(&mut self, slot: &mut Slot) -> Result<(Round, bool)> {
        let mut ordered = false;
        while let Ok(order) = self.orders.try_recv() {
            match order {
                Order::Stop => return Ok((Round::Worked, true)),
                Order::Command(command) => slot.command(command, &self.clock)?,
            }
            ordered = true;
        }
        let mut round = self.work(slot)?;
        if self.carry_events(slot) {
            // The writer is behind: it wakes nobody, so look again soon.
            let soon = self.clock.now() + 1_000;
            if let Round::Idle { until } = round {
                round = Round::Idle { until: Some(until.map_or(soon, |u| u.min(soon))) };
            }
        }
        Ok((if ordered { Round::Worked } else { round }, false))
    }

    /// A round over the tasks, and over the connections if there are any.
    fn work(&mut self, slot: &mut Slot) -> Result<Round> {
        let round = slot.round(&self.clock)?;
        let Some(pump) = &mut self.pump else { return Ok(round) };
        let busy = round == Round::Worked;
        Ok(round.and(pump.round(self.clock.now(), busy)?))
    }

    /// True if events were left.
    fn carry_events(&mut self, slot: &mut Slot) -> bool {
        let mut left = false;
        for i in 0..slot.len() {
            while let Some(event) = slot.pop_event(i) {
                let context = slot.context(i);
                if let Err(event) = self.sink.deliver(&context.info, event) {
                    context.outbox.put_back(event);
                    left = true;
                    break;
                }
            }
        }
        left
    }

    /// Looks again and again for a moment; true if there was something.
    fn spin(&mut self, slot: &mut Slot) -> Result<bool> {
        let end = self.clock.now() + self.spin_us;
        while self.clock.now() < end {
            std::hint::spin_loop();
            if !self.orders.is_empty() || self.work(slot)? == Round::Worked {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Sleeps until the doorbell rings or `until`, for [`PARK_US_MAX`] at most. True if told to stop.
    async fn park(&mut self, slot: &mut Slot, until: Option<Micros>) -> Result<bool> {
        let now = self.clock.now();
        let latest = now + PARK_US_MAX;
        let until = Some(until.map_or(latest, |at| at.min(latest)));
        let mut timer = until
            .map(|at| Box::pin(Timer::new(Duration::from_micros(at.saturating_sub(now).max(1)))));
        let mut asleep = false;
        std::future::poll_fn(|cx: &mut TaskContext<'_>| {
            if asleep {
                self.doorbell.cancel_park();
                return Poll::Ready(Ok(false));
            }
            self.doorbell.register(cx.waker());
            self.doorbell.prepare_park();
            match self.round(slot) {
                // Something is due earlier than the timer that was set.
                Ok((Round::Idle { until: Some(u) }, false)) if until.is_none_or(|t| u < t) => {
                    self.doorbell.cancel_park();
                    return Poll::Ready(Ok(false));
                }
                Ok((Round::Idle { .. }, false)) => {}
                other => {
                    self.doorbell.cancel_park();
                    return Poll::Ready(other.map(|(_, stop)| stop));
                }
            }
            if let Some(timer) = &mut timer
                && Pin::new(timer).poll(cx).is_ready()
            {
                self.doorbell.cancel_park();
                return Poll::Ready(Ok(false));
            }
            asleep = true;
            Poll::Pending
        })
        .await
    }

    /// As [`Shell::park`], in the ring of the connections. True if told to stop.
    fn park_in_ring(&mut self, slot: &mut Slot) -> Result<bool> {
        let Some(waker) = self.pump.as_mut().map(|pump| pump.transport().waker()) else {
            return Ok(false);
        };
        self.doorbell.register(&waker);
        self.doorbell.prepare_park();
        let looked = self.round(slot);
        let parked = match (looked, &mut self.pump) {
            (Ok((Round::Idle { until }, false)), Some(pump)) => {
                let now = self.clock.now();
                let most = until.map(|at| at.saturating_sub(now).max(1));
                pump.transport().park(most).map(|()| false)
            }
            (looked, _) => looked.map(|(_, stop)| stop),
        };
        self.doorbell.cancel_park();
        parked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu(placement: Placement) -> Option<usize> {
        match placement {
            Placement::Fixed(cpu) => Some(cpu),
            _ => None,
        }
    }

    #[test]
    fn slots_stand_where_the_agent_says_and_otherwise_by_their_number() {
        let allowed = [2, 3, 5];
        let chosen = WorkerOptions::on_cpus(3, &[5, 9, 2]);
        let place = |n: usize, slot| cpu(chosen.placement(n, slot, &allowed));
        // Slots 4 to 6 of the job; CPU 9 is not allowed here.
        assert_eq!([place(0, 4), place(1, 5), place(2, 6)], [Some(5), Some(5), Some(2)]);
        let free = WorkerOptions { pin: false, ..WorkerOptions::for_slots(1) };
        assert_eq!(cpu(free.placement(0, 0, &allowed)), None);
        assert_eq!(cpu(WorkerOptions::for_slots(1).placement(0, 1, &[])), None);
    }

    #[test]
    fn slots_that_share_a_cpu_do_not_spin() {
        assert_eq!(WorkerOptions::on_cpus(2, &[1, 1]).spin_us, 0);
        assert_eq!(WorkerOptions::on_cpus(1, &[1, 1]).spin_us, WorkerOptions::for_slots(1).spin_us);
    }

    struct Quiet;

    impl EventSink for Quiet {
        fn deliver(&mut self, _: &SubtaskInfo, _: TaskEvent) -> Result<(), TaskEvent> {
            Ok(())
        }
        fn ready(&mut self, _: Vec<(SubtaskInfo, Vec<StateDeclaration>)>) {}
        fn failed(&mut self, error: Error) {
            panic!("{error}");
        }
    }

    /// [`PARK_US_MAX`]: an order without a ring of the doorbell stands for a wake-up that the executor
    /// has lost.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "a join has no time limit of its own")]
    fn a_slot_whose_wake_up_was_lost_wakes_up_all_the_same() {
        let (doorbell, clock) = (Doorbell::new(), SystemClock::new());
        let (sink, options): (Box<dyn EventSink>, _) =
            (Box::new(Quiet), WorkerOptions::for_slots(1));
        let mut worker =
            Worker::start(vec![Vec::new()], &[doorbell], vec![sink], &clock, options).unwrap();
        // It finds nothing to do, and sleeps.
        std::thread::park_timeout(Duration::from_millis(300));
        let slot = &mut worker.slots[0];
        assert!(slot.orders.send(Order::Stop).is_ok());
        let thread = slot.thread.take().unwrap();
        let (done, ended) = std::sync::mpsc::channel();
        std::thread::spawn(move || done.send(thread.join().is_ok()));
        assert_eq!(ended.recv_timeout(Duration::from_secs(10)), Ok(true), "it sleeps for ever");
    }
    /// K3 of blocking.rs.
    #[test]
    fn what_a_slot_has_left_to_a_thread_does_not_begin_behind_the_workers_end() {
        let (doorbell, clock) = (Doorbell::new(), SystemClock::new());
        let (sink, options): (Box<dyn EventSink>, _) =
            (Box::new(Quiet), WorkerOptions::for_slots(1));
        let worker =
            Worker::start(vec![Vec::new()], &[doorbell], vec![sink], &clock, options).unwrap();
        let blocking = worker.blocking.clone().unwrap();
        let (begun, has_begun) = unbounded();
        let (go_on, may_end) = unbounded::<()>();
        // Every thread is busy.
        let busy: Vec<_> = (0..*BLOCKING_THREADS.start())
            .map(|_| {
                let (begun, may_end) = (begun.clone(), may_end.clone());
                blocking.call(move || {
                    let _ = begun.send(());
                    may_end.recv().map_err(|e| Error::attempt(e.to_string()))
                })
            })
            .collect();
        busy.iter().for_each(|_| has_begun.recv().unwrap());
        let queued = blocking.call(|| panic!("it must not begin"));
        let started = clock.now();
        worker.stop();
        let waited = Duration::from_micros(clock.now() - started);
        assert!(waited >= BLOCKING_WAIT, "those under way are waited for: {waited:?}");
        assert!(queued.poll().is_none(), "every thread hangs");
        busy.iter().for_each(|_| go_on.send(()).unwrap());
        let outcome = |call: &crate::blocking::Call| loop {
            match call.poll() {
                Some(outcome) => return outcome,
                None => std::thread::yield_now(),
            }
        };
        assert!(busy.iter().all(|call| outcome(call).is_ok()));
        let error = outcome(&queued).unwrap_err().to_string();
        assert!(error.contains("its attempt has ended"), "{error}");
    }
}
