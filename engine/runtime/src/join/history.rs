//! Every record meets every record of the other side with its key, whenever that comes. State
//! is kept for ever, or until it expires.
//!
//! Invariants
//!   A1  Each pair is emitted once, when its second record arrives, with that one's timestamp.
//!   A2  A record that has expired meets nothing, whether it has been removed yet or not.

use super::pair::Pairing;
use crate::blame::Blame;
use crate::context::Context;
use crate::operator::{Flow, Operator};
use crate::process::part::{PartRef, Snapshots};
use crate::stage::Stage;
use std::marker::PhantomData;
use std::ops::Range;
use tidemill_base::{Batch, Key, Micros, Record, Result, Timestamp, WATERMARK_MAX, WATERMARK_MIN};
use tidemill_keyed::{Cursor, StateTtl, Table, TtlTime};

/// Keys looked at for expiry, each run of records.
const EXPIRE_KEYS: usize = 64;

/// Records of one side with their expiry. Both lists of a key fit one cache line.
type Rows<T> = Vec<(i64, T)>;

/// The operator: input 0 of `A`, input 1 of `B`.
pub struct HistoryJoin<K: Key, A: Record, B: Record, J, FA, FB> {
    table: Table<K, (Rows<A>, Rows<B>)>,
    pairing: J,
    first: FA,
    second: FB,
    ttl: Option<StateTtl>,
    expiring: Cursor,
    /// Frozen at the end of the input, so that nothing expires then.
    watermark: Timestamp,
    context: Context,
    snapshots: Snapshots,
    inputs: PhantomData<fn(A, B)>,
}

const NAME: &str = "records";

fn parts<K: Key, V: Record>(table: &mut Table<K, V>) -> [PartRef<'_>; 1] {
    [PartRef::keyed(0, NAME, table)]
}

impl<K: Key, A: Record, B: Record, J, FA, FB> HistoryJoin<K, A, B, J, FA, FB> {
    /// Opens the join with its state restored; `first` and `second` take the keys.
    pub fn open(
        context: &Context,
        operator: u64,
        (first, second): (FA, FB),
        ttl: Option<StateTtl>,
        pairing: J,
    ) -> Result<Self> {
        let mut table = context.backend(operator)?.table(NAME)?;
        let (snapshots, watermark) =
            Snapshots::open(context, operator, &mut parts::<K, (Rows<A>, Rows<B>)>(&mut table))?;
        Ok(HistoryJoin {
            table,
            pairing,
            first,
            second,
            ttl,
            expiring: Cursor::default(),
            watermark,
            context: context.clone(),
            snapshots,
            inputs: PhantomData,
        })
    }

    /// What is not after this has expired.
    fn now(&self) -> i64 {
        match self.ttl.map(|ttl| ttl.time) {
            None => WATERMARK_MIN,
            Some(TtlTime::Event) => self.watermark,
            Some(TtlTime::Processing) => self.context.time.wall_ms(),
        }
    }

    /// When a record that arrives now expires.
    #[inline(always)]
    fn expiry(ttl: Option<StateTtl>, now: i64, at: Timestamp) -> i64 {
        match ttl {
            None => i64::MAX,
            Some(StateTtl { time: TtlTime::Event, duration_ms, .. }) => {
                at.max(now).saturating_add(duration_ms)
            }
            Some(StateTtl { duration_ms, .. }) => now.saturating_add(duration_ms),
        }
    }

    fn expire(&mut self, now: i64) -> Result<()> {
        let alive = |expiry: i64| expiry > now;
        let expired = |_: K::View<'_>, (left, right): &(Rows<A>, Rows<B>)| {
            !(left.iter().any(|r| alive(r.0)) || right.iter().any(|r| alive(r.0)))
        };
        self.table.edit_step(&mut self.expiring, EXPIRE_KEYS, expired, |_| false)?;
        Ok(())
    }
}

impl<K, A, B, J, FA, FB> HistoryJoin<K, A, B, J, FA, FB>
where
    K: Key,
    A: Record,
    B: Record,
    FA: for<'a> FnMut(&'a A::View<'a>) -> K::View<'a> + 'static,
    FB: for<'a> FnMut(&'a B::View<'a>) -> K::View<'a> + 'static,
{
    /// Reads the keys of a run of records at once.
    fn read_ahead(&mut self, input: usize, batch: &Batch, range: Range<usize>) -> Result<()> {
        for i in range {
            if input == 0 {
                let (view, _, hash) = batch.get::<A>(i);
                let view = A::shorten(view);
                let blame = Blame::new(0, view);
                self.table.want(hash, (self.first)(&view))?;
                blame.clear();
            } else {
                let (view, _, hash) = batch.get::<B>(i);
                let view = B::shorten(view);
                let blame = Blame::new(0, view);
                self.table.want(hash, (self.second)(&view))?;
                blame.clear();
            }
        }
        self.table.fetch()
    }
}

/// Shows what is alive of the other side to `f` and keeps the record.
#[inline(always)]
fn arrive<X, Y>(
    (mine, theirs): (&mut Rows<X>, &Rows<Y>),
    now: i64,
    (expiry, record): (i64, X),
    mut f: impl FnMut(&Y),
) {
    for (_, row) in theirs.iter().filter(|(expiry, _)| *expiry > now) {
        f(row);
    }
    if mine.first().is_some_and(|(expiry, _)| *expiry <= now) {
        mine.retain(|(expiry, _)| *expiry > now);
    }
    if expiry > now {
        mine.push((expiry, record));
    }
}

impl<K, A, B, J, FA, FB> Operator for HistoryJoin<K, A, B, J, FA, FB>
where
    K: Key,
    A: Record,
    B: Record,
    J: Pairing<K, (), A, B>,
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
        let (now, end) = (self.now(), range.end);
        if self.ttl.is_some() {
            self.expire(now)?;
        }
        if self.table.is_on_disk() {
            self.read_ahead(input, batch, range.clone())?;
        }
        for i in range.clone() {
            self.table.prefetch_index(batch.hash(i));
        }
        for i in range.clone() {
            self.table.prefetch_entry(batch.hash(i));
        }
        let (table, pairing, ttl) = (&mut self.table, &mut self.pairing, self.ttl);
        for i in range {
            if input == 0 {
                let (view, at, hash) = batch.get::<A>(i);
                let view = A::shorten(view);
                let blame = Blame::new(0, view);
                let key = (self.first)(&view);
                let (left, right) = table.upsert(hash, K::shorten(key), Default::default);
                let row = (Self::expiry(ttl, now, at), A::from_view(view));
                arrive((left, right), now, row, |b| {
                    let (key, view) = (K::shorten(key), A::shorten(view));
                    pairing.pair(key, (), view, b.view(), |o| out.push(o, at));
                });
                blame.clear();
            } else {
                let (view, at, hash) = batch.get::<B>(i);
                let view = B::shorten(view);
                let blame = Blame::new(0, view);
                let key = (self.second)(&view);
                let (left, right) = table.upsert(hash, K::shorten(key), Default::default);
                let row = (Self::expiry(ttl, now, at), B::from_view(view));
                arrive((right, left), now, row, |a| {
                    let (key, view) = (K::shorten(key), B::shorten(view));
                    pairing.pair(key, (), a.view(), view, |o| out.push(o, at));
                });
                blame.clear();
            }
            if !out.room() {
                return Ok(i + 1);
            }
        }
        Ok(end)
    }

    fn watermark<S: Stage<J::Out>>(&mut self, w: Timestamp, _: &mut S) -> Result<Flow> {
        if w != WATERMARK_MAX {
            self.watermark = self.watermark.max(w);
        }
        Ok(Flow::Done)
    }

    fn snapshot(&mut self, epoch: u64) -> Result<()> {
        self.snapshots.begin(epoch, self.watermark, &mut parts(&mut self.table))
    }

    fn snapshot_step(&mut self, epoch: u64, _: Micros) -> Result<bool> {
        self.snapshots.step(epoch, &mut parts(&mut self.table))
    }

    fn abort_snapshot(&mut self, _: u64) {
        self.snapshots.abort(&mut parts(&mut self.table));
    }
}
