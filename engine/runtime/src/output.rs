//! The producer's side of an edge: routes records into the buffers of its channels.
//!
//! Invariants
//!   O1  Elements of one lane leave in the order in which they were pushed: a control element
//!       leaves after the records before it.
//!   O2  A record is in exactly one lane, except on broadcast edges, where it is in all.
//!   O3  Nothing follows the end: a finished task that acknowledges a checkpoint sends no barrier,
//!       its consumers count it as arrived.
//!   O4  Once a lane is without room, `room` is false until the outputs are writable again. What is
//!       pushed all the same after `room` was asked belongs to the next record (channel.rs, H3).

use crate::blame::Blame;
use crate::channel::ChannelSender;
use crate::context::{Context, owner};
use crate::deploy::Outlet;
use crate::stage::{Control, Stage};
use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Arc;
use tidemill_base::batch::{Full, META};
use tidemill_base::buffer::ALIGN;
use tidemill_base::hash::key_group;
use tidemill_base::metrics::Counter;
use tidemill_base::{BatchBuilder, Buffer, Element, Error, Key, Micros, Record, Result, Timestamp};

/// The largest record, in bytes of its archive; a larger one fails the job.
pub const RECORD_BYTES_MAX: usize = 16 << 20;

/// A buffer that holds the largest record, and nothing else.
const LARGE_BYTES_MAX: usize = RECORD_BYTES_MAX + META.next_multiple_of(ALIGN);

/// How far a record that is too large is measured, for the message.
const MEASURE_BYTES_MAX: usize = 64 << 20;

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

/// The end of a chain at an exchange.
pub struct EdgeWriter<T, R> {
    /// What each lane is writing.
    builders: Box<[Option<BatchBuilder>]>,
    /// The channel of each lane. Apart, so that what every record touches lies close together.
    senders: Vec<ChannelSender>,
    router: R,
    context: Context,
    /// The operator whose records these are, for messages.
    operator: Arc<str>,
    /// O4.
    room: bool,
    /// Somebody has been told that there is no room.
    refused: Cell<bool>,
    flushed_at: Micros,
    ended: bool,
    record: PhantomData<fn(T)>,
}

impl<T: Record, R: Router<T>> EdgeWriter<T, R> {
    /// Writes to the channels of `outlet`, one a consumer subtask.
    pub fn new(outlet: Outlet, router: R, context: Context) -> Self {
        let Outlet { operator, channels } = outlet;
        EdgeWriter {
            builders: channels.iter().map(|_| None).collect(),
            senders: channels,
            router,
            context,
            operator,
            room: true,
            refused: Cell::new(false),
            flushed_at: 0,
            ended: false,
            record: PhantomData,
        }
    }

    #[inline(always)]
    fn push_lane(&mut self, lane: usize, view: T::View<'_>, timestamp: Timestamp, hash: u64) {
        if let Some(builder) = &mut self.builders[lane]
            && builder.push::<T>(view, timestamp, hash).is_ok()
        {
            return;
        }
        // A copy of its own: the address of `view` would have every record written to the stack.
        let spilled = view;
        self.push_fresh(lane, &spilled, timestamp, hash);
    }

    /// The current buffer is full or missing.
    #[cold]
    #[inline(never)]
    fn push_fresh(&mut self, lane: usize, view: &T::View<'_>, timestamp: Timestamp, hash: u64) {
        let view = *view;
        self.seal(lane);
        if self.refused.take() {
            self.senders.iter_mut().for_each(ChannelSender::begin_record);
        }
        let now = self.context.time.now();
        let sender = &mut self.senders[lane];
        let Some(buffer) = sender.take_buffer() else {
            return self.context.failure.set(self.expanded(lane));
        };
        let mut builder = BatchBuilder::born_at(buffer, now);
        if builder.push::<T>(view, timestamp, hash).is_ok() {
            self.builders[lane] = Some(builder);
        } else {
            sender.give_back(builder.seal().into_buffer());
            match self.dedicated(lane, view, timestamp, hash) {
                Ok(builder) => self.builders[lane] = Some(builder),
                Err(error) => return self.context.failure.set(error),
            }
            self.seal(lane);
        }
        self.room &= self.senders[lane].has_room();
    }

    /// A record larger than a buffer travels alone in a dedicated one.
    #[cold]
    fn dedicated(
        &mut self,
        lane: usize,
        view: T::View<'_>,
        timestamp: Timestamp,
        hash: u64,
    ) -> Result<BatchBuilder> {
        let now = self.context.time.now();
        let mut bytes = tidemill_base::BUFFER_BYTES;
        while bytes < LARGE_BYTES_MAX {
            bytes = LARGE_BYTES_MAX.min(2 * bytes);
            let mut builder = BatchBuilder::born_at(Buffer::with_bytes(bytes), now);
            if builder.push::<T>(view, timestamp, hash).is_ok() {
                let taken = self.senders[lane].take_credits(builder.bytes_used());
                return if taken { Ok(builder) } else { Err(self.expanded(lane)) };
            }
        }
        Err(self.too_large(view))
    }

    #[cold]
    fn expanded(&self, lane: usize) -> Error {
        Error::job(format!(
            "operator '{}' expanded one record to more than {} MiB of output; emit less for each \
             input record, or split the work over several operators",
            self.operator,
            self.senders[lane].bytes_max() >> 20
        ))
    }

    #[cold]
    fn too_large(&self, view: T::View<'_>) -> Error {
        let mut builder = BatchBuilder::new(Buffer::with_bytes(MEASURE_BYTES_MAX));
        let size = match builder.push::<T>(view, 0, 0) {
            Ok(()) => builder.seal().data().len().to_string(),
            Err(Full) => format!("more than {MEASURE_BYTES_MAX}"),
        };
        Error::job(format!(
            "operator '{}' emitted a record of {size} bytes, the largest that can be sent has \
             {RECORD_BYTES_MAX} (max_record_bytes): split it, or store it elsewhere and send where",
            self.operator
        ))
    }

    fn seal(&mut self, lane: usize) {
        if let Some(builder) = self.builders[lane].take() {
            if builder.is_empty() {
                self.builders[lane] = Some(builder);
                return;
            }
            let metrics = &self.context.metrics;
            add(&metrics.records_out, builder.len());
            add(&metrics.bytes_out, builder.bytes_used());
            self.senders[lane].send(Element::Batch(builder.seal()));
        }
    }

    fn seal_all(&mut self) {
        for lane in 0..self.senders.len() {
            self.seal(lane);
        }
        self.flushed_at = self.context.time.now();
    }

    fn send_all(&mut self, element: impl Fn() -> Element) {
        self.seal_all();
        for sender in &mut self.senders {
            sender.send(element());
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
                for lane in 0..self.senders.len() {
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
        let writable = self.senders.iter_mut().all(ChannelSender::has_credit);
        self.room |= writable;
        writable
    }

    #[inline(always)]
    fn room(&self) -> bool {
        if !self.room {
            self.refused.set(true);
        }
        self.room
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
