//! Rolling aggregation: every record in gives (key, running value) out.
//!
//! One table of accumulators. A run of records is walked three times: for the index slots, for
//! the entries, and for the work, so that the memory of later records arrives while earlier ones
//! are worked on. In RocksDB the first walk reads at once what the cache lacks.

mod folds;
#[cfg(test)]
mod tests;

pub use folds::{AggregateFn, Best, Count, Reduce, Sum};

use super::part::{PartRef, Snapshots};
use crate::blame::Blame;
use crate::context::Context;
use crate::operator::{Flow, Operator};
use crate::stage::Stage;
use std::marker::PhantomData;
use std::ops::Range;
use tidemill_base::{Batch, Key, Micros, Record, Result, Timestamp};
use tidemill_keyed::{Found, Table};

/// An aggregation over the records of a key.
///
/// Law: deterministic; `first` and `add` see the records of a key in their order.
pub trait Fold<I: Record>: 'static {
    /// What is kept for a key.
    type Acc: Record;
    /// What is emitted with the key.
    type Out: Record;
    /// The accumulator after the first record of a key.
    fn first(&mut self, record: I::View<'_>) -> Self::Acc;
    /// Adds a further record.
    fn add(&mut self, acc: &mut Self::Acc, record: I::View<'_>);
    /// Shows what is emitted for an accumulator.
    fn emit<R>(
        &mut self,
        acc: &Self::Acc,
        f: impl FnOnce(<Self::Out as Record>::View<'_>) -> R,
    ) -> R;
}

/// The operator: input `I`, key `K` taken by `F`.
pub struct Rolling<K: Key, I: Record, A: Fold<I>, F> {
    table: Table<K, A::Acc>,
    fold: A,
    selector: F,
    watermark: Timestamp,
    snapshots: Snapshots,
    input: PhantomData<fn(I)>,
}

impl<K: Key, I: Record, A: Fold<I>, F> Rolling<K, I, A, F> {
    /// Opens the operator with its state restored.
    pub fn open(context: &Context, operator: u64, selector: F, fold: A) -> Result<Self> {
        let mut table = context.backend(operator)?.table("rolling")?;
        let (snapshots, watermark) =
            Snapshots::open(context, operator, &mut parts::<K, A::Acc>(&mut table))?;
        Ok(Rolling { table, fold, selector, watermark, snapshots, input: PhantomData })
    }
}

impl<K, I, A, F> Rolling<K, I, A, F>
where
    K: Key,
    I: Record,
    A: Fold<I>,
    F: for<'a> FnMut(&'a I::View<'a>) -> K::View<'a> + 'static,
{
    /// Like [`Operator::records`], for a table whose entries may have to be read first.
    fn records_on_disk<S: Stage<(K, A::Out)>>(
        &mut self,
        batch: &Batch,
        range: Range<usize>,
        out: &mut S,
    ) -> Result<usize> {
        let end = range.end;
        let Rolling { table, fold, selector, .. } = self;
        for i in range.clone() {
            let (view, _, hash) = batch.get::<I>(i);
            let view = I::shorten(view);
            let blame = Blame::new(0, view);
            table.want(hash, selector(&view))?;
            blame.clear();
        }
        table.fetch()?;
        for i in range {
            let (view, timestamp, hash) = batch.get::<I>(i);
            let view = I::shorten(view);
            let blame = Blame::new(0, view);
            let key = selector(&view);
            let mut first = None;
            let acc = table.upsert(hash, K::shorten(key), || {
                first = Some(());
                fold.first(view)
            });
            if first.is_none() {
                fold.add(acc, view);
            }
            fold.emit(acc, |value| {
                out.push((K::shorten(key), A::Out::shorten(value)), timestamp);
            });
            blame.clear();
            if !out.room() {
                return Ok(i + 1);
            }
        }
        Ok(end)
    }
}

fn parts<K: Key, Acc: Record>(table: &mut Table<K, Acc>) -> [PartRef<'_>; 1] {
    [PartRef::keyed(0, "rolling", table)]
}

impl<K, I, A, F> Operator for Rolling<K, I, A, F>
where
    K: Key,
    I: Record,
    A: Fold<I>,
    F: for<'a> FnMut(&'a I::View<'a>) -> K::View<'a> + 'static,
{
    type Out = (K, A::Out);

    #[inline]
    fn records<S: Stage<(K, A::Out)>>(
        &mut self,
        _: usize,
        batch: &Batch,
        range: Range<usize>,
        out: &mut S,
    ) -> Result<usize> {
        let Rolling { table, fold, selector, .. } = self;
        let Some(table) = table.heap_mut() else {
            return self.records_on_disk(batch, range, out);
        };
        let hash = |i| batch.hash(i);
        Ok(table.each(range, hash, |i, aim| {
            let (view, timestamp, _) = batch.get::<I>(i);
            let view = I::shorten(view);
            let blame = Blame::new(0, view);
            let key = selector(&view);
            let acc = match aim.find(K::shorten(key)) {
                Found::Value(acc) => {
                    fold.add(acc, view);
                    acc
                }
                Found::Vacant(place) => place.insert(K::shorten(key), fold.first(view)),
            };
            fold.emit(acc, |value| {
                out.push((K::shorten(key), A::Out::shorten(value)), timestamp);
            });
            blame.clear();
            out.room()
        }))
    }

    fn watermark<S: Stage<(K, A::Out)>>(&mut self, w: Timestamp, _: &mut S) -> Result<Flow> {
        self.watermark = self.watermark.max(w);
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
