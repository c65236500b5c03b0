//! The producer's side of an edge: routes records into the buffers of its channels.
//!
//! Invariants
//!   O1  Elements of one lane leave in the order in which they were pushed: a control element
//!       leaves after the records before it.
//!   O2  A record is in exactly one lane, except on broadcast edges, where it is in all.
//!   O3  Nothing follows the end: a finished task that acknowledges a checkpoint sends no barrier,
//!       its consumers count it as arrived.

use crate::blame::Blame;
use crate::channel::ChannelSender;
use crate::context::{Context, owner};
use crate::stage::{Control, Stage};
use std::marker::PhantomData;
use tidemill_base::hash::key_group;
use tidemill_base::metrics::Counter;
use tidemill_base::{BatchBuilder, Buffer, Element, Error, Key, Micros, Record, Result, Timestamp};

/// The largest record, in bytes; a larger one fails the job.
pub const RECORD_BYTES_MAX: usize = 16 << 20;

/// Records wait at most this long in a partly filled buffer.
pub const BUFFER_TIMEOUT_US: Micros = 1_000;

/// Which lanes a record takes.
#[derive(Clone, Copy, Debug)]
pub enum Route {
    /// One lane; the hash travels with the record.
    One(usize, u64),
    /// Every lane.
    All,
}

/// Chooses the lane of each record.
pub trait Router<T: Record>: 'static {
    /// The lane of a record.
    fn route(&mut self, view: T::View<'_>) -> Route;
}

/// By key: the lane of the key group's owner.
pub struct HashRouter<K, F> {
    /// Empty where there is one lane.
    lane_of_group: Box<[u16]>,
    selector: F,
    key: PhantomData<fn() -> K>,
}

impl<K: Key, F> HashRouter<K, F> {
    /// Routes by the key that `selector` takes from a record, to `lanes` subtasks.
    pub fn new(selector: F, lanes: u32, max_parallelism: u32) -> Self {
        let groups = if lanes > 1 { max_parallelism } else { 0 };
        let lane_of_group = (0..groups).map(|g| (g * lanes / max_parallelism) as u16).collect();
        HashRouter { lane_of_group, selector, key: PhantomData }
    }
}

impl<T, K, F> Router<T> for HashRouter<K, F>
where
    T: Record,
    K: Key,
    F: for<'a> FnMut(&'a T::View<'a>) -> K::View<'a> + 'static,
{
    #[inline(always)]
    fn route(&mut self, view: T::View<'_>) -> Route {
        let view = T::shorten(view);
        // The selector belongs to no operator of the chain: it stands behind the last one.
        let blame = Blame::new(u32::MAX, view);
        let hash = K::hash((self.selector)(&view));
        blame.clear();
        if self.lane_of_group.is_empty() {
            return Route::One(0, hash);
        }
        let group = key_group(hash, self.lane_of_group.len() as u32);
        Route::One(usize::from(self.lane_of_group[group as usize]), hash)
    }
}

/// To the one lane there is: subtask i to subtask i.
pub struct ForwardRouter;

impl<T: Record> Router<T> for ForwardRouter {
    #[inline(always)]
    fn route(&mut self, _: T::View<'_>) -> Route {
        Route::One(0, 0)
    }
}

/// To each lane in turn.
pub struct RebalanceRouter {
    next: usize,
    lanes: usize,
}

impl RebalanceRouter {
    /// Starts at `first`, so that producers do not all begin with the same consumer.
    pub fn new(lanes: u32, first: u32) -> Self {
        RebalanceRouter { next: (first % lanes.max(1)) as usize, lanes: lanes.max(1) as usize }
    }
}

impl<T: Record> Router<T> for RebalanceRouter {
    #[inline(always)]
    fn route(&mut self, _: T::View<'_>) -> Route {
        let lane = self.next;
        self.next = if lane + 1 == self.lanes { 0 } else { lane + 1 };
        Route::One(lane, 0)
    }
}

/// To every lane.
pub struct BroadcastRouter;

impl<T: Record> Router<T> for BroadcastRouter {
    fn route(&mut self, _: T::View<'_>) -> Route {
        Route::All
    }
}

struct Lane {
    sender: ChannelSender,
    builder: Option<BatchBuilder>,
}

/// The end of a chain at an exchange.
pub struct EdgeWriter<T, R> {
    lanes: Vec<Lane>,
    router: R,
    context: Context,
    flushed_at: Micros,
    ended: bool,
    record: PhantomData<fn(T)>,
}

impl<T: Record, R: Router<T>> EdgeWriter<T, R> {
    /// Writes to `senders`, one a consumer subtask.
    pub fn new(senders: Vec<ChannelSender>, router: R, context: Context) -> Self {
        let lanes = senders.into_iter().map(|sender| Lane { sender, builder: None }).collect();
        EdgeWriter { lanes, router, context, flushed_at: 0, ended: false, record: PhantomData }
    }

    #[inline(always)]
    fn push_lane(&mut self, lane: usize, view: T::View<'_>, timestamp: Timestamp, hash: u64) {
        if let Some(builder) = &mut self.lanes[lane].builder
            && builder.push::<T>(view, timestamp, hash).is_ok()
        {
            return;
        }
        self.push_fresh(lane, view, timestamp, hash);
    }

    /// The current buffer is full or missing.
    #[inline(never)]
    fn push_fresh(&mut self, lane: usize, view: T::View<'_>, timestamp: Timestamp, hash: u64) {
        self.seal(lane);
        let now = self.context.time.now();
        let Some(buffer) = self.lanes[lane].sender.take_buffer() else {
            let limit = self.lanes[lane].sender.overdraft();
            return self.context.failure.set(Error::job(format!(
                "task '{}': one record expanded to more than {limit} buffers of output; \
                 emit less per input record, or split the work over several operators",
                self.context.info.task_name
            )));
        };
        let mut builder = BatchBuilder::born_at(buffer, now);
        if builder.push::<T>(view, timestamp, hash).is_ok() {
            self.lanes[lane].builder = Some(builder);
            return;
        }
        // A record larger than a buffer travels alone in a dedicated one.
        self.lanes[lane].sender.give_back(builder.seal().into_buffer());
        let mut bytes = tidemill_base::BUFFER_BYTES;
        while bytes <= RECORD_BYTES_MAX {
            bytes *= 2;
            let mut builder = BatchBuilder::born_at(Buffer::with_bytes(bytes), now);
            if builder.push::<T>(view, timestamp, hash).is_ok() {
                self.lanes[lane].builder = Some(builder);
                return self.seal(lane);
            }
        }
        self.context.failure.set(Error::job(format!(
            "task '{}': a record is larger than {RECORD_BYTES_MAX} bytes (max_record_bytes)",
            self.context.info.task_name
        )));
    }

    fn seal(&mut self, lane: usize) {
        let lane = &mut self.lanes[lane];
        if let Some(builder) = lane.builder.take() {
            if builder.is_empty() {
                lane.builder = Some(builder);
                return;
            }
            let metrics = &self.context.metrics;
            add(&metrics.records_out, builder.len());
            add(&metrics.bytes_out, builder.bytes_used());
            lane.sender.send(Element::Batch(builder.seal()));
        }
    }

    fn seal_all(&mut self) {
        for lane in 0..self.lanes.len() {
            self.seal(lane);
        }
        self.flushed_at = self.context.time.now();
    }

    fn send_all(&mut self, element: impl Fn() -> Element) {
        self.seal_all();
        for lane in &mut self.lanes {
            lane.sender.send(element());
        }
    }
}

fn add(counter: &Counter, n: usize) {
    counter.add(n as u64);
}

impl<T: Record, R: Router<T>> Stage<T> for EdgeWriter<T, R> {
    #[inline(always)]
    fn push(&mut self, view: T::View<'_>, timestamp: Timestamp) {
        match self.router.route(view) {
            Route::One(lane, hash) => self.push_lane(lane, view, timestamp, hash),
            Route::All => {
                for lane in 0..self.lanes.len() {
                    self.push_lane(lane, view, timestamp, 0);
                }
            }
        }
    }

    fn control(&mut self, control: Control) -> Result<()> {
        match control {
            _ if self.ended => {}
            Control::Watermark(w) => self.send_all(|| Element::Watermark(w)),
            Control::Status(s) => self.send_all(|| Element::Status(s)),
            Control::Barrier(b) => self.send_all(|| Element::Barrier(b)),
            Control::End => {
                self.send_all(|| Element::End);
                self.ended = true;
            }
            Control::Flush => self.seal_all(),
            Control::Commit(_) | Control::Abort(_) => {}
        }
        Ok(())
    }

    fn writable(&mut self) -> bool {
        if self.context.time.now() >= self.flushed_at + BUFFER_TIMEOUT_US {
            self.seal_all();
        }
        self.lanes.iter_mut().all(|lane| lane.sender.has_credit())
    }
}

/// The subtask of `parallelism` that takes over what subtask `old` had read from an unkeyed
/// channel.
pub fn heir(old: u32, parallelism: u32) -> u32 {
    old % parallelism
}

/// Whether a restored in-flight record with this hash belongs to `subtask` on a keyed edge.
pub fn keyed_heir(hash: u64, parallelism: u32, max_parallelism: u32) -> u32 {
    owner(hash, parallelism, max_parallelism)
}
