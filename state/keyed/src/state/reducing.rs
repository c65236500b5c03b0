//! One value for each key that new values are merged into.

use super::ValueState;
use std::rc::Rc;
use tidemill_base::Record;

/// Merges the second value into the first.
pub(super) type Reduce<V> = Rc<dyn Fn(&mut V, V)>;

/// A value for the current key that merges what is added to it.
pub struct ReducingState<V: Record> {
    value: ValueState<V>,
    reduce: Reduce<V>,
}

impl<V: Record> Clone for ReducingState<V> {
    fn clone(&self) -> Self {
        ReducingState { value: self.value.clone(), reduce: self.reduce.clone() }
    }
}

impl<V: Record> std::fmt::Debug for ReducingState<V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ReducingState")
    }
}

impl<V: Record> ReducingState<V> {
    pub(super) fn new(value: ValueState<V>, reduce: Reduce<V>) -> Self {
        ReducingState { value, reduce }
    }

    /// Merges `value` in; the first one is kept as it is.
    pub fn add(&self, value: V) {
        self.value.merge(value, &*self.reduce);
    }

    /// A copy of the merged value.
    pub fn get(&self) -> Option<V> {
        self.value.get()
    }

    /// Calls `f` with the merged value in place.
    pub fn read<R>(&self, f: impl FnOnce(Option<&V>) -> R) -> R {
        self.value.read(f)
    }

    /// Removes the value.
    pub fn clear(&self) {
        self.value.clear();
    }
}
