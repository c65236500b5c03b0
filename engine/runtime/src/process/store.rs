//! What a process function keeps for its keys, as its operator sees it.

use super::part::PartRef;
use crate::context::Context;
use tidemill_base::hash::hash_bytes;
use tidemill_base::{Key, Record, Result, Timestamp};
use tidemill_keyed::{States, Table};

/// States of one operator, whatever they are to its function.
pub trait Store<K: Key>: 'static {
    /// The states, always the same in the same order.
    fn parts(&mut self) -> Vec<PartRef<'_>>;
    /// Sets key and event time for the call of user code that follows.
    fn set_key(&self, hash: u64, key: K::View<'_>, timestamp: Timestamp);
    /// Sets watermark and processing time.
    fn set_times(&self, watermark: Timestamp, processing_ms: i64);
    /// Looks for expired entries.
    fn expire(&mut self, _budget: usize) {}
    /// Asks the CPU for the index slots of a key.
    fn prefetch_index(&self, _hash: u64) {}
    /// Asks the CPU for the entries of a key.
    fn prefetch_entry(&self, _hash: u64) {}
}

/// The address of a named state: by its name, so that declaring states in another order, or one
/// more, changes nothing for the others.
fn number(name: &str) -> u16 {
    let hash = hash_bytes(name.as_bytes());
    (hash ^ (hash >> 16) ^ (hash >> 32) ^ (hash >> 48)) as u16
}

impl<K: Key> Store<K> for States<K> {
    fn parts(&mut self) -> Vec<PartRef<'_>> {
        let tables = self.tables_mut().iter_mut();
        tables
            .map(|t| {
                let name = t.name().to_owned();
                PartRef::keyed(number(&name), name, t)
            })
            .collect()
    }
    #[inline]
    fn set_key(&self, hash: u64, key: K::View<'_>, timestamp: Timestamp) {
        self.key().set(hash, key);
        self.time().set_timestamp(timestamp);
    }
    fn set_times(&self, watermark: Timestamp, processing_ms: i64) {
        self.time().set_watermark(watermark);
        self.time().set_processing_ms(processing_ms);
    }
    fn expire(&mut self, budget: usize) {
        for table in self.tables_mut() {
            table.expire_step(budget);
        }
    }
    fn prefetch_index(&self, hash: u64) {
        for table in self.tables() {
            table.prefetch_index(hash);
        }
    }
    fn prefetch_entry(&self, hash: u64) {
        for table in self.tables() {
            table.prefetch_entry(hash);
        }
    }
}

/// At most one value a key, in a table of its own.
pub struct OneValue<K: Key, V: Record> {
    /// Entries are `Some` except during the call of user code.
    pub(crate) table: Table<K, Option<V>>,
}

impl<K: Key, V: Record> std::fmt::Debug for OneValue<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OneValue({} bytes)", self.table.bytes())
    }
}

impl<K: Key, V: Record> OneValue<K, V> {
    /// No values yet, in the operator's backend.
    ///
    /// # Errors
    /// If the backend cannot be opened.
    pub fn open(context: &Context, operator: u64) -> Result<Self> {
        Ok(OneValue { table: context.backend(operator)?.table("value")? })
    }
}

impl<K: Key, V: Record> Store<K> for OneValue<K, V> {
    fn parts(&mut self) -> Vec<PartRef<'_>> {
        vec![PartRef::keyed(0, "value", &mut self.table)]
    }
    #[inline(always)]
    fn set_key(&self, _: u64, _: K::View<'_>, _: Timestamp) {}
    fn set_times(&self, _: Timestamp, _: i64) {}
    #[inline(always)]
    fn prefetch_index(&self, hash: u64) {
        self.table.prefetch_index(hash);
    }
    #[inline(always)]
    fn prefetch_entry(&self, hash: u64) {
        self.table.prefetch_entry(hash);
    }
}

/// Nothing.
impl<K: Key> Store<K> for () {
    fn parts(&mut self) -> Vec<PartRef<'_>> {
        Vec::new()
    }
    fn set_key(&self, _: u64, _: K::View<'_>, _: Timestamp) {}
    fn set_times(&self, _: Timestamp, _: i64) {}
}
