//! Joins of bounded time: windows and intervals.
//!
//! Each side keeps its records in slices of time, `slice -> key -> [(timestamp, record)]`. A
//! record looks into the slices of the other side that can hold partners (one for tumbling
//! windows, at most three otherwise), then joins its own side's slice. The watermark drops whole
//! slices; there is no timer for a key.
//!
//! Invariants
//!   J1  A slice is kept while a record on time could meet one of its records.
//!   J2  A dropped slice is emptied in bounded steps.

use super::matching::{Matching, Side};
use super::pair::Pairing;
use super::rows::{self, Rows};
use crate::blame::Blame;
use crate::context::Context;
use crate::operator::{Flow, Operator};
use crate::process::part::{PartRef, Snapshots};
use crate::stage::Stage;
use std::collections::VecDeque;
use std::marker::PhantomData;
use std::ops::Range;
use tidemill_base::{Batch, Key, Micros, Record, Result, Timestamp};
use tidemill_keyed::{Cursor, HeapTable, SliceTables};

/// Entries of dropped slices that are emptied each run of records.
const DRAIN_ENTRIES: usize = 512;

/// The records of one side.
struct Kept<K: Key, T: Record> {
    side: Side,
    slices: SliceTables<K, Rows<T>>,
    /// Dropped slices, being emptied.
    dropped: VecDeque<(Cursor, Slice<K, T>)>,
}

/// The table of a slice.
type Slice<K, T> = Box<HeapTable<K, Rows<T>>>;

impl<K: Key, T: Record> Kept<K, T> {
    fn new(side: Side) -> Self {
        Kept { side, slices: SliceTables::new(), dropped: VecDeque::new() }
    }

    #[inline(always)]
    fn add(&mut self, slice: i64, hash: u64, key: K::View<'_>, at: Timestamp, record: T) {
        rows::push(self.slices.table_mut(slice).upsert(hash, key, rows::none), at, record);
    }

    /// Drops the slices that the watermark has left behind (J1).
    fn advance<M: Matching>(&mut self, matching: &M, watermark: Timestamp) {
        let last_in = |slice: i64| slice.saturating_add(matching.slice_ms() - 1);
        while let Some(slice) = self.slices.first() {
            if matching.expiry(self.side, last_in(slice)) > watermark {
                break;
            }
            let Some(table) = self.slices.take(slice) else { break };
            self.dropped.push_back((Cursor::default(), table));
        }
    }

    /// A bounded step of emptying (J2).
    #[inline]
    fn drain(&mut self) {
        if let Some((cursor, table)) = self.dropped.front_mut()
            && table.drain_scan(cursor, DRAIN_ENTRIES, |_, rows| drop(rows))
            && let Some((_, table)) = self.dropped.pop_front()
        {
            self.slices.recycle(table);
        }
    }
}

fn parts<'a, K: Key, A: Record, B: Record>(
    left: &'a mut Kept<K, A>,
    right: &'a mut Kept<K, B>,
) -> [PartRef<'a>; 2] {
    [
        PartRef::keyed(0, "left records", &mut left.slices),
        PartRef::keyed(1, "right records", &mut right.slices),
    ]
}

/// The operator: input 0 of `A`, input 1 of `B`.
pub struct SlicedJoin<K: Key, A: Record, B: Record, M, J, FA, FB> {
    left: Kept<K, A>,
    right: Kept<K, B>,
    matching: M,
    pairing: J,
    first: FA,
    second: FB,
    watermark: Timestamp,
    context: Context,
    snapshots: Snapshots,
    inputs: PhantomData<fn(A, B)>,
}

impl<K: Key, A: Record, B: Record, M: Matching, J, FA, FB> SlicedJoin<K, A, B, M, J, FA, FB> {
    /// Opens the join with its state restored; `first` and `second` take the keys.
    pub fn open(
        context: &Context,
        operator: u64,
        (first, second): (FA, FB),
        matching: M,
        pairing: J,
    ) -> Result<Self> {
        let (mut left, mut right) = (Kept::new(Side::Left), Kept::new(Side::Right));
        let (snapshots, watermark) =
            Snapshots::open(context, operator, &mut parts::<K, A, B>(&mut left, &mut right))?;
        Ok(SlicedJoin {
            left,
            right,
            matching,
            pairing,
            first,
            second,
            watermark,
            context: context.clone(),
            snapshots,
            inputs: PhantomData,
        })
    }

    /// Records kept, for tests and metrics.
    pub fn keys_kept(&self) -> usize {
        self.left.slices.len() + self.right.slices.len()
    }
}

/// A record on its way through the join.
struct Arrival<'a, K: Key> {
    hash: u64,
    key: K::View<'a>,
    at: Timestamp,
}

/// Shows the partners of a record of `mine` that `theirs` holds to `f`, then keeps the record;
/// false if it is late.
#[inline(always)]
fn arrive<K: Key, X: Record, Y: Record, M: Matching>(
    matching: &M,
    watermark: Timestamp,
    (mine, theirs): (&mut Kept<K, X>, &Kept<K, Y>),
    arrival: &Arrival<'_, K>,
    record: X::View<'_>,
    mut f: impl FnMut(Timestamp, &Y),
) -> bool {
    let Arrival { hash, key, at } = *arrival;
    if matching.late(mine.side, at, watermark) {
        return false;
    }
    let (from, to) = matching.partners(mine.side, at);
    let floor = |t: Timestamp| t.saturating_sub(t.rem_euclid(matching.slice_ms()));
    for (_, table) in theirs.slices.range(floor(from), to) {
        for (t, row) in table.get(hash, K::shorten(key)).into_iter().flat_map(rows::iter) {
            if (from..to).contains(t) {
                f(*t, row);
            }
        }
    }
    if matching.expiry(mine.side, at) > watermark && from < to {
        mine.add(floor(at), hash, key, at, X::from_view(record));
    }
    true
}

impl<K, A, B, M, J, FA, FB> Operator for SlicedJoin<K, A, B, M, J, FA, FB>
where
    K: Key,
    A: Record,
    B: Record,
    M: Matching,
    J: Pairing<K, M::Place, A, B>,
    FA: for<'a> FnMut(&'a A::View<'a>) -> K::View<'a> + 'static,
    FB: for<'a> FnMut(&'a B::View<'a>) -> K::View<'a> + 'static,
{
    type Out = J::Out;

    fn records<S: Stage<J::Out>>(
        &mut self,
        input: usize,
        batch: &Batch,
        range: Range<usize>,
        out: &mut S,
    ) -> Result<usize> {
        self.left.drain();
        self.right.drain();
        let (matching, pairing, watermark) = (self.matching, &mut self.pairing, self.watermark);
        let (mut late, mut next) = (0, range.end);
        for i in range {
            let on_time = if input == 0 {
                let (view, at, hash) = batch.get::<A>(i);
                let view = A::shorten(view);
                let blame = Blame::new(0, view);
                let key = (self.first)(&view);
                let sides = (&mut self.left, &self.right);
                let arrival = Arrival { hash, key, at };
                let on_time = arrive(&matching, watermark, sides, &arrival, view, |t, row: &B| {
                    matching.meet(at, t, watermark, |timestamp, place| {
                        let key = K::shorten(key);
                        pairing.pair(key, place, A::shorten(view), row.view(), |o| {
                            out.push(o, timestamp);
                        });
                    });
                });
                blame.clear();
                on_time
            } else {
                let (view, at, hash) = batch.get::<B>(i);
                let view = B::shorten(view);
                let blame = Blame::new(0, view);
                let key = (self.second)(&view);
                let sides = (&mut self.right, &self.left);
                let arrival = Arrival { hash, key, at };
                let on_time = arrive(&matching, watermark, sides, &arrival, view, |t, row: &A| {
                    matching.meet(t, at, watermark, |timestamp, place| {
                        let key = K::shorten(key);
                        pairing.pair(key, place, row.view(), B::shorten(view), |o| {
                            out.push(o, timestamp);
                        });
                    });
                });
                blame.clear();
                on_time
            };
            late += u64::from(!on_time);
            if !out.room() {
                next = i + 1;
                break;
            }
        }
        if late > 0 {
            self.context.metrics.late_dropped.add(late);
        }
        Ok(next)
    }

    fn watermark<S: Stage<J::Out>>(&mut self, w: Timestamp, _: &mut S) -> Result<Flow> {
        self.watermark = self.watermark.max(w);
        self.left.advance(&self.matching, self.watermark);
        self.right.advance(&self.matching, self.watermark);
        Ok(Flow::Done)
    }

    fn snapshot(&mut self, epoch: u64) -> Result<()> {
        self.snapshots.begin(epoch, self.watermark, &mut parts(&mut self.left, &mut self.right))
    }

    fn snapshot_step(&mut self, epoch: u64, _: Micros) -> Result<bool> {
        // A dropped slice that the snapshot still needs must be given back.
        self.left.drain();
        self.right.drain();
        self.snapshots.step(epoch, &mut parts(&mut self.left, &mut self.right))
    }

    fn abort_snapshot(&mut self, _: u64) {
        self.snapshots.abort(&mut parts(&mut self.left, &mut self.right));
    }
}
