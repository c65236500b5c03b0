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
//!
//! In RocksDB a slice is a range of rows, one for each key; what a run of records needs of it is read
//! at once, first.

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
use tidemill_keyed::{Backend, Cursor, HeapTable, Slices};

/// Entries of dropped slices that are emptied each run of records.
const DRAIN_ENTRIES: usize = 512;

/// The records of one side.
struct Kept<K: Key, T: Record> {
    side: Side,
    slices: Slices<K, Rows<T>>,
    /// Dropped slices of the heap, being emptied.
    dropped: VecDeque<(Cursor, Slice<K, T>)>,
}

/// The table of a slice.
type Slice<K, T> = Box<HeapTable<K, Rows<T>>>;

impl<K: Key, T: Record> Kept<K, T> {
    fn open(side: Side, backend: &Backend) -> Result<Self> {
        let name = match side {
            Side::Left => LEFT,
            Side::Right => RIGHT,
        };
        Ok(Kept { side, slices: backend.slices(name)?, dropped: VecDeque::new() })
    }

    #[inline(always)]
    fn add(&mut self, slice: i64, hash: u64, key: K::View<'_>, at: Timestamp, record: T) {
        rows::push(self.slices.upsert(slice, hash, key, rows::none), at, record);
    }

    /// Drops the slices that the watermark has left behind (J1).
    fn advance<M: Matching>(&mut self, matching: &M, watermark: Timestamp) {
        let last_in = |slice: i64| slice.saturating_add(matching.slice_ms() - 1);
        while let Some(slice) = self.slices.first() {
            if matching.expiry(self.side, last_in(slice)) > watermark {
                break;
            }
            match self.slices.heap_mut() {
                Some(tables) => {
                    let Some(table) = tables.take(slice) else { break };
                    self.dropped.push_back((Cursor::default(), table));
                }
                None => self.slices.retire(slice),
            }
        }
    }

    /// A bounded step of emptying (J2).
    #[inline]
    fn drain(&mut self) -> Result<()> {
        let Some(tables) = self.slices.heap_mut() else { return self.slices.step() };
        if let Some((cursor, table)) = self.dropped.front_mut()
            && table.drain_scan(cursor, DRAIN_ENTRIES, |_, rows| drop(rows))
            && let Some((_, table)) = self.dropped.pop_front()
        {
            tables.recycle(table);
        }
        Ok(())
    }

    /// Takes note of the slices of a key that a record of the other side meets, or that one of this
    /// side joins.
    fn want(&mut self, (from, to): (i64, i64), hash: u64, key: K::View<'_>) -> Result<()> {
        let mut next = from;
        while let Some(slice) = self.slices.next_in(next, to) {
            self.slices.want(slice, hash, K::shorten(key))?;
            next = slice + 1;
        }
        Ok(())
    }
}

fn parts<'a, K: Key, A: Record, B: Record>(
    left: &'a mut Kept<K, A>,
    right: &'a mut Kept<K, B>,
) -> [PartRef<'a>; 2] {
    [PartRef::keyed(0, LEFT, &mut left.slices), PartRef::keyed(1, RIGHT, &mut right.slices)]
}

const LEFT: &str = "left records";
const RIGHT: &str = "right records";

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
        let backend = context.backend(operator)?;
        let mut left = Kept::open(Side::Left, &backend)?;
        let mut right = Kept::open(Side::Right, &backend)?;
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

    /// Keys kept in all slices (in RocksDB those in memory), for tests.
    pub fn keys_kept(&self) -> usize {
        self.left.slices.len() + self.right.slices.len()
    }
}

/// The slice of a timestamp.
#[inline(always)]
fn floor<M: Matching>(matching: &M, t: Timestamp) -> i64 {
    t.saturating_sub(t.rem_euclid(matching.slice_ms()))
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
    (mine, theirs): (&mut Kept<K, X>, &mut Kept<K, Y>),
    arrival: &Arrival<'_, K>,
    record: X::View<'_>,
    mut f: impl FnMut(Timestamp, &Y),
) -> bool {
    let Arrival { hash, key, at } = *arrival;
    if matching.late(mine.side, at, watermark) {
        return false;
    }
    let (from, to) = matching.partners(mine.side, at);
    let mut meet = |rows: Option<&Rows<Y>>| {
        for (t, row) in rows.into_iter().flat_map(rows::iter) {
            if (from..to).contains(t) {
                f(*t, row);
            }
        }
    };
    let first = floor(matching, from);
    if let Some(tables) = theirs.slices.heap_mut() {
        for (_, table) in tables.range(first, to) {
            meet(table.get(hash, K::shorten(key)));
        }
    } else {
        let mut next = first;
        while let Some(slice) = theirs.slices.next_in(next, to) {
            meet(theirs.slices.get(slice, hash, K::shorten(key)));
            next = slice + 1;
        }
    }
    if matching.expiry(mine.side, at) > watermark && from < to {
        mine.add(floor(matching, at), hash, key, at, X::from_view(record));
    }
    true
}

impl<K, A, B, M, J, FA, FB> SlicedJoin<K, A, B, M, J, FA, FB>
where
    K: Key,
    A: Record,
    B: Record,
    M: Matching,
    FA: for<'a> FnMut(&'a A::View<'a>) -> K::View<'a> + 'static,
    FB: for<'a> FnMut(&'a B::View<'a>) -> K::View<'a> + 'static,
{
    /// Reads at once what a run of records meets, and joins.
    fn read_ahead(&mut self, input: usize, batch: &Batch, range: Range<usize>) -> Result<()> {
        let side = if input == 0 { Side::Left } else { Side::Right };
        for i in range {
            let (at, hash) = (batch.timestamp(i), batch.hash(i));
            if self.matching.late(side, at, self.watermark) {
                continue;
            }
            let (from, to) = self.matching.partners(side, at);
            let theirs = (floor(&self.matching, from), to);
            let mine = floor(&self.matching, at);
            let mine = (mine, mine.saturating_add(1));
            if input == 0 {
                let view = A::shorten(batch.get::<A>(i).0);
                let blame = Blame::new(0, view);
                let key = (self.first)(&view);
                self.left.want(mine, hash, K::shorten(key))?;
                self.right.want(theirs, hash, key)?;
                blame.clear();
            } else {
                let view = B::shorten(batch.get::<B>(i).0);
                let blame = Blame::new(0, view);
                let key = (self.second)(&view);
                self.right.want(mine, hash, K::shorten(key))?;
                self.left.want(theirs, hash, key)?;
                blame.clear();
            }
        }
        self.left.slices.fetch()?;
        self.right.slices.fetch()
    }
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
        self.left.drain()?;
        self.right.drain()?;
        if self.left.slices.is_on_disk() {
            self.read_ahead(input, batch, range.clone())?;
        }
        let (matching, pairing, watermark) = (self.matching, &mut self.pairing, self.watermark);
        let (mut late, mut next) = (0, range.end);
        for i in range {
            let on_time = if input == 0 {
                let (view, at, hash) = batch.get::<A>(i);
                let view = A::shorten(view);
                let blame = Blame::new(0, view);
                let key = (self.first)(&view);
                let sides = (&mut self.left, &mut self.right);
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
                let sides = (&mut self.right, &mut self.left);
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
        self.left.drain()?;
        self.right.drain()?;
        self.snapshots.step(epoch, &mut parts(&mut self.left, &mut self.right))
    }

    fn abort_snapshot(&mut self, _: u64) {
        self.snapshots.abort(&mut parts(&mut self.left, &mut self.right));
    }
}
