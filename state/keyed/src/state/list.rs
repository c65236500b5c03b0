//! A list of values for each key. With a TTL each element lives on its own.

use super::ahead::Uses;
use super::ttl::Stored;
use super::{StateKind, StateTable};
use crate::current::CurrentKey;
use crate::heap::Cursor;
use crate::snapshot::SnapshotSink;
use crate::table::Table;
use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::rc::Rc;
use tidemill_base::record::shape_of;
use tidemill_base::{Batch, Error, Key, Record, Result};

/// A list for the current key, in the order of adding.
pub struct ListState<V: Record>(Rc<dyn ListAccess<V>>);

impl<V: Record> Clone for ListState<V> {
    fn clone(&self) -> Self {
        ListState(self.0.clone())
    }
}

impl<V: Record> std::fmt::Debug for ListState<V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ListState")
    }
}

/// What a handle needs of a table, without its key type.
trait ListAccess<V> {
    fn add(&self, value: V);
    fn set(&self, values: Vec<V>);
    fn for_each(&self, f: &mut dyn FnMut(&V));
    fn len(&self) -> usize;
    fn clear(&self);
}

impl<V: Record> ListState<V> {
    /// Appends a value.
    #[inline]
    pub fn add(&self, value: V) {
        self.0.add(value);
    }

    /// Replaces the list.
    pub fn set(&self, values: Vec<V>) {
        self.0.set(values);
    }

    /// Copies of the values, in order. [`ListState::for_each`] copies nothing.
    pub fn iter(&self) -> std::vec::IntoIter<V> {
        let mut all = Vec::with_capacity(self.len());
        self.for_each(|v| all.push(V::from_view(v.view())));
        all.into_iter()
    }

    /// Calls `f` with each value in place, in order.
    pub fn for_each(&self, mut f: impl FnMut(&V)) {
        self.0.for_each(&mut f);
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Removes all values.
    pub fn clear(&self) {
        self.0.clear();
    }
}

/// The lists of all keys.
pub(super) struct ListTable<K: Key, V: Record, S: Stored<V>> {
    name: String,
    key: CurrentKey<K>,
    /// Whether lists may have to be loaded.
    disk: bool,
    life: S::Life,
    table: RefCell<Table<K, Vec<S>>>,
    expiring: Cell<Cursor>,
    uses: RefCell<Uses>,
    /// What went wrong in `expire_step`.
    failed: RefCell<Option<Error>>,
    value: PhantomData<V>,
}

impl<K: Key, V: Record, S: Stored<V>> ListTable<K, V, S> {
    pub(super) fn make(
        name: &str,
        key: &CurrentKey<K>,
        life: S::Life,
        table: Table<K, Vec<S>>,
    ) -> (ListState<V>, Box<dyn StateTable>) {
        let table = Rc::new(ListTable::<K, V, S> {
            name: name.to_owned(),
            key: key.clone(),
            disk: table.is_on_disk(),
            life,
            table: RefCell::new(table),
            expiring: Cell::default(),
            uses: RefCell::default(),
            failed: RefCell::default(),
            value: PhantomData,
        });
        (ListState(table.clone()), Box::new(table))
    }

    #[inline]
    fn count(&self) {
        if self.disk {
            self.uses.borrow().count();
        }
    }

    /// Loads the current key's list, drops what has expired, marks the rest as used if reading is.
    fn before_read(&self) {
        if !S::EXPIRES && !self.disk {
            return;
        }
        self.count();
        let mut table = self.table.borrow_mut();
        self.key.with(|hash, key| {
            let Some(list) = table.get(hash, K::shorten(key)) else { return };
            let marks = S::marks_reads(&self.life);
            if !marks && !list.iter().any(|s| s.expired(&self.life)) {
                return;
            }
            let Some(list) = table.get_mut(hash, K::shorten(key)) else { return };
            list.retain(|s| !s.expired(&self.life));
            if list.is_empty() {
                table.remove(hash, key);
            } else if marks {
                list.iter_mut().for_each(|s| s.used(&self.life));
            }
        });
    }
}

impl<K: Key, V: Record, S: Stored<V>> ListAccess<V> for ListTable<K, V, S> {
    fn add(&self, value: V) {
        self.count();
        let value = S::wrap(value, &self.life);
        self.key.with(|hash, key| self.table.borrow_mut().upsert(hash, key, Vec::new).push(value));
    }

    fn set(&self, values: Vec<V>) {
        if values.is_empty() {
            return self.clear();
        }
        let values = values.into_iter().map(|v| S::wrap(v, &self.life)).collect();
        self.key.with(|hash, key| self.table.borrow_mut().put(hash, key, values));
    }

    fn for_each(&self, f: &mut dyn FnMut(&V)) {
        self.before_read();
        let table = self.table.borrow();
        self.key.with(|hash, key| {
            if let Some(list) = table.peek(hash, key) {
                list.iter().for_each(|s| f(s.value()));
            }
        });
    }

    fn len(&self) -> usize {
        self.before_read();
        let table = self.table.borrow();
        self.key.with(|hash, key| table.peek(hash, key).map_or(0, Vec::len))
    }

    fn clear(&self) {
        self.key.with(|hash, key| self.table.borrow_mut().remove(hash, key));
    }
}

impl<K: Key, V: Record, S: Stored<V>> StateTable for Rc<ListTable<K, V, S>> {
    fn name(&self) -> &str {
        &self.name
    }
    fn kind(&self) -> StateKind {
        StateKind::List
    }
    fn key_shape(&self) -> String {
        shape_of::<K>()
    }
    fn value_shape(&self) -> String {
        shape_of::<Vec<S>>()
    }
    fn begin_snapshot(&mut self, epoch: u64) {
        self.table.borrow_mut().begin_snapshot(epoch, 0);
    }
    fn snapshot_step(&mut self, budget: usize, out: &mut dyn SnapshotSink) -> Result<bool> {
        match self.failed.take() {
            Some(error) => Err(error),
            None => self.table.borrow_mut().snapshot_step(budget, out),
        }
    }
    fn abort_snapshot(&mut self) {
        self.table.borrow_mut().abort_snapshot();
    }
    fn restore_batch(&mut self, batch: &Batch, keep: &dyn Fn(u64) -> bool) -> Result<()> {
        self.table.borrow_mut().restore_batch(batch, keep)
    }
    fn is_on_disk(&self) -> bool {
        self.disk
    }
    fn looks_ahead(&mut self, records: usize) -> bool {
        self.disk && self.uses.borrow_mut().worth(records)
    }
    fn want(&mut self) -> Result<()> {
        self.key.with(|hash, key| self.table.borrow_mut().want(hash, key))
    }
    fn fetch(&mut self) -> Result<()> {
        self.table.borrow_mut().fetch()
    }
    fn flush_step(&mut self, budget: usize) -> Result<bool> {
        match self.failed.take() {
            Some(error) => Err(error),
            None => self.table.borrow_mut().flush_step(budget),
        }
    }
    fn end_flush(&mut self) {
        self.table.borrow_mut().end_flush();
    }
    #[cfg(feature = "rocksdb")]
    fn restore_from(
        &mut self,
        database: &crate::rocks::Database,
        keep: &dyn Fn(u64) -> bool,
    ) -> Result<()> {
        self.table.borrow_mut().restore_from(database, &self.name, keep)
    }
    fn len(&self) -> usize {
        self.table.borrow().len()
    }
    fn bytes(&self) -> usize {
        self.table.borrow().bytes()
    }
    fn expire_step(&mut self, budget: usize) {
        if S::EXPIRES {
            let mut cursor = self.expiring.get();
            let looked = self.table.borrow_mut().edit_step(
                &mut cursor,
                budget,
                |_, list| list.iter().any(|s| s.expired(&self.life)),
                |list| {
                    list.retain(|s| !s.expired(&self.life));
                    !list.is_empty()
                },
            );
            if let Err(error) = looked {
                self.failed.replace(Some(error));
            }
            self.expiring.set(cursor);
        }
    }
    fn prefetch_index(&self, hash: u64) {
        self.table.borrow().prefetch_index(hash);
    }
    fn prefetch_entry(&self, hash: u64) {
        self.table.borrow().prefetch_entry(hash);
    }
}
