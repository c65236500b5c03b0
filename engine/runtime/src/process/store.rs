//! What a process function keeps for its keys, as its operator sees it.

use super::part::PartRef;
use crate::context::Context;
use tidemill_base::hash::hash_bytes;
use tidemill_base::{Key, Record, Result, Timestamp};
use tidemill_keyed::{Backend, States, Table};

/// States of one operator, whatever they are to its function.
pub trait Store<K: Key>: 'static {
    /// The states, always the same in the same order.
    fn parts(&mut self) -> Vec<PartRef<'_>>;
    /// Sets key and event time for the call of user code that follows.
    fn set_key(&self, hash: u64, key: K::View<'_>, timestamp: Timestamp);
    /// Sets watermark and processing time.
    fn set_times(&self, watermark: Timestamp, processing_ms: i64);
    /// Where the states are; the timers are there, too.
    fn backend(&self) -> Backend;
    /// Records are to come, this many; whether their keys should be announced by [`Store::want`].
    fn looks_ahead(&mut self, _records: usize) -> bool {
        false
    }
    /// Takes note of a key whose states are needed soon.
    fn want(&mut self, _hash: u64, _key: K::View<'_>) -> Result<()> {
        Ok(())
    }
    /// Reads what the keys noted lack, at once.
    fn fetch(&mut self) -> Result<()> {
        Ok(())
    }
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
    fn backend(&self) -> Backend {
        States::backend(self).clone()
    }
    fn looks_ahead(&mut self, records: usize) -> bool {
        // All are asked: each counts its uses for itself.
        self.is_on_disk() && self.look_ahead(records)
    }
    fn want(&mut self, hash: u64, key: K::View<'_>) -> Result<()> {
        self.key().set(hash, key);
        self.want_current()
    }
    fn fetch(&mut self) -> Result<()> {
        self.tables_mut().iter_mut().try_for_each(|t| t.fetch())
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
    backend: Backend,
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
        let backend = context.backend(operator)?;
        Ok(OneValue { table: backend.table("value")?, backend })
    }
}

impl<K: Key, V: Record> Store<K> for OneValue<K, V> {
    fn parts(&mut self) -> Vec<PartRef<'_>> {
        vec![PartRef::keyed(0, "value", &mut self.table)]
    }
    fn backend(&self) -> Backend {
        self.backend.clone()
    }
    fn looks_ahead(&mut self, _: usize) -> bool {
        self.table.is_on_disk()
    }
    fn want(&mut self, hash: u64, key: K::View<'_>) -> Result<()> {
        self.table.want(hash, key)
    }
    fn fetch(&mut self) -> Result<()> {
        self.table.fetch()
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
    fn backend(&self) -> Backend {
        Backend::Heap
    }
    fn set_key(&self, _: u64, _: K::View<'_>, _: Timestamp) {}
    fn set_times(&self, _: Timestamp, _: i64) {}
}
