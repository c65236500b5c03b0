//! The items of a `Vec`. Bounded.
//!
//! Invariants
//!   C1  Item i belongs to split i mod S, with S fixed by the number of items alone: a snapshot can
//!       be restored at any parallelism.
//!   C2  A subtask emits its items in the order of the `Vec`, whatever splits they belong to.

use crate::codec::{Decode, Encode};
use crate::rate::Limiter;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use tidemill_base::{Error, Record, Result, Timestamp};
use tidemill_runtime::source::{Emit, Polled, Source, SourceContext, SourceReader};

const SPLITS: u64 = 64;
const KIND: u8 = 1;

/// A source of the items of a `Vec`.
pub struct CollectionSource<T> {
    items: Arc<[T]>,
    /// As many as items, or none: all zero.
    timestamps: Arc<[Timestamp]>,
    rate: Option<f64>,
}

impl<T> Clone for CollectionSource<T> {
    fn clone(&self) -> Self {
        let (items, timestamps) = (self.items.clone(), self.timestamps.clone());
        CollectionSource { items, timestamps, rate: self.rate }
    }
}

impl<T: Record + Send + Sync> CollectionSource<T> {
    /// Items with timestamp 0: assign others behind the source where event time matters.
    pub fn new(items: Vec<T>) -> Self {
        CollectionSource { items: items.into(), timestamps: Arc::default(), rate: None }
    }

    /// Items with their event times, in milliseconds.
    pub fn with_timestamps(items: Vec<(T, Timestamp)>) -> Self {
        let (items, timestamps): (Vec<T>, Vec<Timestamp>) = items.into_iter().unzip();
        CollectionSource { items: items.into(), timestamps: timestamps.into(), rate: None }
    }

    /// At most so many records per second, all subtasks together; the job fails unless it is positive.
    #[must_use]
    pub fn rate(mut self, records_per_s: f64) -> Self {
        self.rate = Some(records_per_s);
        self
    }
}

impl<T: Record + Send + Sync> Source for CollectionSource<T> {
    type Item = T;
    type Reader = CollectionReader<T>;

    fn open(&self, cx: &SourceContext) -> Result<CollectionReader<T>> {
        let len = self.items.len() as u64;
        let splits = len.clamp(1, SPLITS);
        let next = match &cx.restored {
            None => {
                let mine = |v: &u64| v % u64::from(cx.parallelism) == u64::from(cx.subtask);
                (0..splits).filter(mine).map(Reverse).collect()
            }
            Some(entries) => {
                let mut next = BinaryHeap::new();
                for entry in entries {
                    next.push(Reverse(self.position(entry, splits)?));
                }
                next
            }
        };
        let limiter = self.rate.map(|r| Limiter::new(r, cx.parallelism)).transpose()?;
        Ok(CollectionReader { source: self.clone(), splits, next, limiter })
    }

    fn name(&self) -> String {
        format!("collection({} items)", self.items.len())
    }
}

impl<T: Record + Send + Sync> CollectionSource<T> {
    fn position(&self, entry: &[u8], splits: u64) -> Result<u64> {
        let (kind, mut decode) = Decode::new("collection source", entry)?;
        let (stored, position) = (decode.u64()?, decode.u64()?);
        if kind != KIND {
            return Err(decode.damaged("it has another kind"));
        }
        decode.finish()?;
        if stored != self.items.len() as u64 || position >= stored + splits {
            return Err(Error::job(format!(
                "the checkpoint is of a collection of {stored} items, this one has {}: restore \
                 with the same items, or start afresh",
                self.items.len()
            )));
        }
        Ok(position)
    }
}

/// Reads a [`CollectionSource`].
pub struct CollectionReader<T> {
    source: CollectionSource<T>,
    splits: u64,
    /// Index of the next item of each split of this subtask; at or beyond the end when it is done.
    next: BinaryHeap<Reverse<u64>>,
    limiter: Option<Limiter>,
}

impl<T: Record + Send + Sync> SourceReader for CollectionReader<T> {
    type Item = T;

    fn poll<O: Emit<T>>(&mut self, out: &mut O) -> Result<Polled> {
        // One lane for the watermark: the items of this subtask come in the order of the `Vec`.
        out.split(0);
        let allowance = self.limiter.as_mut().map_or(usize::MAX, |l| l.allowance(out.now()));
        let mut taken = 0;
        while taken < allowance && out.remaining() > 0 {
            let Some(mut next) = self.next.peek_mut() else { return Ok(Polled::End) };
            let at = next.0 as usize;
            let Some(item) = self.source.items.get(at) else {
                drop(next);
                self.took(taken);
                out.split_ended(0);
                return Ok(Polled::End);
            };
            next.0 += self.splits;
            drop(next);
            out.emit(item.view(), self.source.timestamps.get(at).copied().unwrap_or(0));
            taken += 1;
        }
        self.took(taken);
        match &self.limiter {
            Some(limiter) if taken == allowance => {
                out.active(0);
                Ok(Polled::Idle { until: Some(limiter.due(0)) })
            }
            _ => Ok(Polled::More),
        }
    }

    fn snapshot(&mut self) -> Result<Vec<Vec<u8>>> {
        let len = self.source.items.len() as u64;
        Ok(self.next.iter().map(|n| Encode::new(KIND).u64(len).u64(n.0).finish()).collect())
    }
}

impl<T> CollectionReader<T> {
    fn took(&mut self, n: usize) {
        if let Some(limiter) = &mut self.limiter {
            limiter.took(n);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_item_once_and_in_order(
            len in 0usize..400, parallelism in 1u32..99,
            stops in vec((1u32..9, 0usize..6, 1usize..60), 0..4), rate in prop::option::of(1e3..1e6f64),
        ) {
            let items: Vec<u64> = (0..len as u64).collect();
            let mut source = CollectionSource::new(items.clone());
            if let Some(rate) = rate {
                source = source.rate(rate);
            }
            let mut got = read_with_restores(&source, parallelism, &stops).unwrap();
            got.sort_unstable();
            prop_assert_eq!(got, items.clone());
            // One subtask, restored as one: the order of the items.
            let alone: Vec<_> = stops.iter().map(|s| (1, s.1, s.2)).collect();
            prop_assert_eq!(read_with_restores(&source, 1, &alone).unwrap(), items);
            for mut reader in open_all(&source, parallelism, None).unwrap() {
                let mut out = Out::new();
                while out.poll(&mut reader, 7).unwrap() != Polled::End {
                    out.now += 1_000_000;
                }
                prop_assert!(out.records.is_sorted() && out.ended.len() <= 1);
            }
        }
    }

    #[test]
    fn items_carry_their_timestamps() {
        let source = CollectionSource::with_timestamps(vec![("a".to_owned(), 5), ("b".into(), -1)]);
        let mut out = Out::new();
        out.drain(&mut open_all(&source, 1, None).unwrap()[0]).unwrap();
        assert_eq!(out.records, [("a".to_owned(), 5), ("b".to_owned(), -1)]);
    }

    #[test]
    fn another_collection_is_refused() {
        let mut readers = open_all(&CollectionSource::new(vec![1u64, 2, 3]), 2, None).unwrap();
        let entries = snapshot_all(&mut readers);
        let error = open_all(&CollectionSource::new(vec![1u64]), 2, Some(&entries)).err().unwrap();
        assert!(error.to_string().contains("3 items, this one has 1"), "{error}");
    }
}
