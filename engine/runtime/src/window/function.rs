//! What a window computes.

use super::spec::Window;
use crate::stage::Stage;
use tidemill_base::{Key, Record, Timestamp};

/// Folds the records of a window into an accumulator, and emits.
///
/// Laws: `merge` is associative; folding records one by one equals merging the folds of two parts
/// of them, up to the order of records. An accumulator may be emitted any number of times.
pub trait WindowFunction<K: Key, T: Record>: 'static {
    /// What is kept for each key and window (or slice of a window).
    type Acc: Record;
    /// What is emitted.
    type Out: Record;

    /// The accumulator of one record.
    fn first(&mut self, record: T::View<'_>) -> Self::Acc;

    /// Adds a record.
    fn add(&mut self, acc: &mut Self::Acc, record: T::View<'_>);

    /// Adds what another accumulator holds.
    fn merge(&mut self, into: &mut Self::Acc, from: &Self::Acc);

    /// Emits the result of a key and window, with this timestamp.
    fn emit<S: Stage<Self::Out>>(
        &mut self,
        key: K::View<'_>,
        window: Window,
        acc: &Self::Acc,
        timestamp: Timestamp,
        out: &mut S,
    );
}

/// A copy of a record.
#[inline(always)]
pub(super) fn copy<T: Record>(record: &T) -> T {
    T::from_view(record.view())
}
