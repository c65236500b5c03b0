//! One value for each key.

use super::ahead::Uses;
use super::ttl::Stored;
use super::{StateKind, StateTable};
use crate::current::CurrentKey;
use crate::heap::Cursor;
use crate::snapshot::SnapshotSink;
use crate::table::Table;
use std::cell::{Ref, RefCell, RefMut};
use std::marker::PhantomData;
use std::rc::Rc;
use tidemill_base::record::shape_of;
use tidemill_base::{Batch, Error, Key, Record, Result};

/// A value for the current key.
pub struct ValueState<V: Record>(Rc<dyn ValueAccess<V>>);

impl<V: Record> Clone for ValueState<V> {
    fn clone(&self) -> Self {
        ValueState(self.0.clone())
    }
}

impl<V: Record> std::fmt::Debug for ValueState<V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ValueState")
    }
}

/// What a handle needs of a table, without its key type.
trait ValueAccess<V> {
    fn get(&self) -> Option<Ref<'_, V>>;
    fn get_mut(&self) -> Option<RefMut<'_, V>>;
    fn upsert(&self, init: &mut dyn FnMut() -> V) -> RefMut<'_, V>;
    fn set(&self, value: V);
    fn take(&self) -> Option<V>;
}

impl<V: Record> ValueState<V> {
    /// A copy of the value.
    #[inline]
    pub fn get(&self) -> Option<V> {
        self.0.get().map(|v| V::from_view(v.view()))
    }

    /// Calls `f` with the value in place.
    #[inline]
    pub fn read<R>(&self, f: impl FnOnce(Option<&V>) -> R) -> R {
        f(self.0.get().as_deref())
    }

    /// Changes the value in place, beginning with the default one if there is none.
    #[inline]
    pub fn update<R>(&self, f: impl FnOnce(&mut V) -> R) -> R
    where
        V: Default,
    {
        f(&mut self.0.upsert(&mut V::default))
    }

    /// Changes the value in place, beginning with `init()` if there is none.
    #[inline]
    pub fn update_or<R>(&self, init: impl FnOnce() -> V, f: impl FnOnce(&mut V) -> R) -> R {
        if let Some(mut value) = self.0.get_mut() {
            return f(&mut value);
        }
        let mut first = Some(init());
        f(&mut self.0.upsert(&mut || match first.take() {
            Some(value) => value,
            None => unreachable!("a table makes a missing value once"),
        }))
    }

    /// Sets the value.
    #[inline]
    pub fn set(&self, value: V) {
        self.0.set(value);
    }

    /// Merges `value` into the one that is there, or sets it.
    pub(super) fn merge(&self, value: V, reduce: &dyn Fn(&mut V, V)) {
        if let Some(mut old) = self.0.get_mut() {
            return reduce(&mut old, value);
        }
        self.0.set(value);
    }

    /// Removes the value.
    pub fn clear(&self) {
        self.0.take();
    }

    /// Removes the value and returns it.
    pub fn take(&self) -> Option<V> {
        self.0.take()
    }
}

/// The values of all keys.
pub(super) struct ValueTable<K: Key, V: Record, S: Stored<V>> {
    name: String,
    kind: StateKind,
    key: CurrentKey<K>,
    /// Whether values may have to be loaded.
    disk: bool,
    life: S::Life,
    table: RefCell<Table<K, S>>,
    expiring: std::cell::Cell<Cursor>,
    uses: RefCell<Uses>,
    /// What went wrong in `expire_step`.
    failed: RefCell<Option<Error>>,
    value: PhantomData<V>,
}

impl<K: Key, V: Record, S: Stored<V>> ValueTable<K, V, S> {
    pub(super) fn make(
        name: &str,
        kind: StateKind,
        key: &CurrentKey<K>,
        life: S::Life,
        table: Table<K, S>,
    ) -> (ValueState<V>, Box<dyn StateTable>) {
        let table = Rc::new(ValueTable::<K, V, S> {
            name: name.to_owned(),
            kind,
            key: key.clone(),
            disk: table.is_on_disk(),
            life,
            table: RefCell::new(table),
            expiring: Default::default(),
            uses: RefCell::default(),
            failed: RefCell::default(),
            value: PhantomData,
        });
        (ValueState(table.clone()), Box::new(table))
    }

    #[inline]
    fn count(&self) {
        if self.disk {
            self.uses.borrow().count();
        }
    }
}

impl<K: Key, V: Record, S: Stored<V>> ValueAccess<V> for ValueTable<K, V, S> {
    fn get(&self) -> Option<Ref<'_, V>> {
        if S::EXPIRES {
            let mut table = self.table.borrow_mut();
            self.key.with(|hash, key| {
                let stored = table.get(hash, K::shorten(key))?;
                if stored.expired(&self.life) {
                    table.remove(hash, key);
                } else if S::marks_reads(&self.life) {
                    table.get_mut(hash, key)?.used(&self.life);
                }
                Some(())
            })?;
        }
        self.key.with(|hash, key| {
            if self.disk {
                self.uses.borrow().count();
                self.table.borrow_mut().load(hash, K::shorten(key));
            }
            Ref::filter_map(self.table.borrow(), |t| t.peek(hash, key).map(S::value)).ok()
        })
    }

    fn get_mut(&self) -> Option<RefMut<'_, V>> {
        self.count();
        self.key.with(|hash, key| {
            let mut table = self.table.borrow_mut();
            if S::EXPIRES && table.get(hash, K::shorten(key))?.expired(&self.life) {
                table.remove(hash, key);
                return None;
            }
            let value = RefMut::filter_map(table, |t| {
                let stored = t.get_mut(hash, key)?;
                stored.used(&self.life);
                Some(stored.value_mut())
            });
            value.ok()
        })
    }

    fn upsert(&self, init: &mut dyn FnMut() -> V) -> RefMut<'_, V> {
        self.count();
        self.key.with(|hash, key| {
            RefMut::map(self.table.borrow_mut(), |t| {
                if !S::EXPIRES {
                    return t.upsert(hash, key, || S::wrap(init(), &self.life)).value_mut();
                }
                let expired =
                    t.get(hash, K::shorten(key)).is_some_and(|stored| stored.expired(&self.life));
                let stored = t.upsert(hash, key, || S::wrap(init(), &self.life));
                if expired {
                    *stored = S::wrap(init(), &self.life);
                }
                stored.used(&self.life);
                stored.value_mut()
            })
        })
    }

    fn set(&self, value: V) {
        if S::EXPIRES
            && let Some(mut old) = self.get_mut()
        {
            *old = value;
            return;
        }
        self.key.with(|hash, key| {
            self.table.borrow_mut().put(hash, key, S::wrap(value, &self.life));
        });
    }

    fn take(&self) -> Option<V> {
        self.key.with(|hash, key| {
            let stored = self.table.borrow_mut().remove(hash, key)?;
            (!stored.expired(&self.life)).then(|| stored.into_value())
        })
    }
}

impl<K: Key, V: Record, S: Stored<V>> StateTable for Rc<ValueTable<K, V, S>> {
    fn name(&self) -> &str {
        &self.name
    }
    fn kind(&self) -> StateKind {
        self.kind
    }
    fn key_shape(&self) -> String {
        shape_of::<K>()
    }
    fn value_shape(&self) -> String {
        shape_of::<S>()
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
            let expired = |_: K::View<'_>, stored: &S| stored.expired(&self.life);
            let looked = self.table.borrow_mut().edit_step(&mut cursor, budget, expired, |_| false);
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
