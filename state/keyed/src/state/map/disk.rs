//! A map for each key in RocksDB: a row for each entry. A key's rows are next to each other, in the
//! order of the bytes of their map keys' archives.

use super::{MapAccess, MapState};
use crate::current::CurrentKey;
use crate::rocks::layout::ByMap;
use crate::rocks::table::fail;
use crate::rocks::{Database, DiskTable};
use crate::snapshot::SnapshotSink;
use crate::state::ttl::Stored;
use crate::state::{StateKind, StateTable};
use std::cell::{Ref, RefCell, RefMut};
use std::marker::PhantomData;
use std::rc::Rc;
use tidemill_base::record::shape_of;
use tidemill_base::{Batch, Error, Key, Record, Result};

type Rows<K, MK, S> = DiskTable<ByMap<K, MK>, S>;

/// The maps of all keys.
pub(in crate::state) struct DiskMap<K: Key, MK: Key, V: Record, S: Stored<V>> {
    name: String,
    key: CurrentKey<K>,
    life: S::Life,
    rows: RefCell<Rows<K, MK, S>>,
    /// What went wrong in `expire_step`.
    failed: RefCell<Option<Error>>,
    value: PhantomData<V>,
}

impl<K: Key, MK: Key, V: Record, S: Stored<V>> DiskMap<K, MK, V, S> {
    /// The maps that the database has under `table`.
    pub(in crate::state) fn make(
        name: &str,
        key: &CurrentKey<K>,
        life: S::Life,
        (database, table): (&Database, &str),
    ) -> Result<(MapState<MK, V>, Box<dyn StateTable>)> {
        let map = Rc::new(DiskMap::<K, MK, V, S> {
            name: name.to_owned(),
            key: key.clone(),
            life,
            rows: RefCell::new(DiskTable::open(database, table)?),
            failed: RefCell::default(),
            value: PhantomData,
        });
        Ok((MapState(map.clone()), Box::new(map)))
    }

    /// Calls `f` with hash and row key of a map key of the current key.
    fn at<R>(
        &self,
        map_key: MK::View<'_>,
        f: impl for<'a> FnOnce(u64, (K::View<'a>, MK::View<'a>)) -> R,
    ) -> R {
        self.key.with(|hash, key| {
            let hash = ByMap::<K, MK>::entry(hash, MK::shorten(map_key));
            f(hash, (K::shorten(key), MK::shorten(map_key)))
        })
    }

    /// Brings an entry into memory; whether there is one that has not expired. One that has is
    /// removed.
    fn load(&self, map_key: MK::View<'_>) -> bool {
        let mut rows = self.rows.borrow_mut();
        self.at(map_key, |hash, (key, map_key)| {
            let Some(stored) = rows.get(hash, (K::shorten(key), MK::shorten(map_key))) else {
                return false;
            };
            let expired = S::EXPIRES && stored.expired(&self.life);
            if expired {
                rows.remove(hash, (key, map_key));
            }
            !expired
        })
    }

    /// Calls `f` with the current key's entries until it says false.
    fn each(&self, mut f: impl FnMut(MK::View<'_>, &S) -> bool) {
        let mut rows = self.rows.borrow_mut();
        let read = self.key.with(|hash, key| {
            // Keys of one hash are told apart as tables do it.
            let mut heap = tidemill_base::key::KeyHeap::default();
            let slot = K::store(K::shorten(key), &mut heap);
            rows.each_of_route(hash, |(of, map_key), stored| {
                !K::matches(&slot, of, &heap) || f(map_key, stored)
            })
        });
        read.unwrap_or_else(|e| fail(e));
    }

    /// The map keys of the current key's entries that `picked` picks.
    fn keys(&self, mut picked: impl FnMut(&S) -> bool) -> Vec<MK> {
        let mut keys = Vec::new();
        self.each(|map_key, stored| {
            if picked(stored) {
                keys.push(MK::from_view(map_key));
            }
            true
        });
        keys
    }

    fn erase(&self, keys: Vec<MK>) {
        for map_key in keys {
            self.at(map_key.view(), |hash, key| self.rows.borrow_mut().put(hash, key, None));
        }
    }

    /// Removes what has expired of the current key's map; marks the rest as used if reading is.
    fn before_read(&self) {
        if !S::EXPIRES {
            return;
        }
        self.erase(self.keys(|stored| stored.expired(&self.life)));
        if S::marks_reads(&self.life) {
            for map_key in self.keys(|_| true) {
                self.at(map_key.view(), |hash, key| {
                    if let Some(stored) = self.rows.borrow_mut().get_mut(hash, key) {
                        stored.used(&self.life);
                    }
                });
            }
        }
    }
}

impl<K: Key, MK: Key, V: Record, S: Stored<V>> MapAccess<MK, V> for DiskMap<K, MK, V, S> {
    fn get(&self, map_key: MK::View<'_>) -> Option<Ref<'_, V>> {
        if !self.load(MK::shorten(map_key)) {
            return None;
        }
        self.at(map_key, |hash, (key, map_key)| {
            if S::EXPIRES && S::marks_reads(&self.life) {
                let mut rows = self.rows.borrow_mut();
                rows.get_mut(hash, (K::shorten(key), MK::shorten(map_key)))?.used(&self.life);
            }
            let rows = self.rows.borrow();
            Ref::filter_map(rows, |rows| rows.peek(hash, (key, map_key)).map(S::value)).ok()
        })
    }

    fn get_mut(&self, map_key: MK::View<'_>) -> Option<RefMut<'_, V>> {
        if !self.load(MK::shorten(map_key)) {
            return None;
        }
        self.at(map_key, |hash, key| {
            let value = RefMut::filter_map(self.rows.borrow_mut(), |rows| {
                let stored = rows.get_mut(hash, key)?;
                stored.used(&self.life);
                Some(stored.value_mut())
            });
            value.ok()
        })
    }

    fn put(&self, map_key: MK::View<'_>, value: V) {
        if S::EXPIRES
            && let Some(mut old) = self.get_mut(MK::shorten(map_key))
        {
            *old = value;
            return;
        }
        let value = S::wrap(value, &self.life);
        self.at(map_key, |hash, key| self.rows.borrow_mut().put(hash, key, Some(value)));
    }

    fn remove(&self, map_key: MK::View<'_>) -> Option<V> {
        let stored = self.at(map_key, |hash, key| self.rows.borrow_mut().remove(hash, key))?;
        (!stored.expired(&self.life)).then(|| stored.into_value())
    }

    fn for_each(&self, f: &mut dyn FnMut(MK::View<'_>, &V)) {
        self.before_read();
        self.each(|map_key, stored| {
            f(map_key, stored.value());
            true
        });
    }

    fn is_empty(&self) -> bool {
        let mut empty = true;
        self.each(|_, stored| {
            empty = stored.expired(&self.life);
            empty
        });
        empty
    }

    fn clear(&self) {
        self.erase(self.keys(|_| true));
    }
}

impl<K: Key, MK: Key, V: Record, S: Stored<V>> StateTable for Rc<DiskMap<K, MK, V, S>> {
    fn name(&self) -> &str {
        &self.name
    }
    fn kind(&self) -> StateKind {
        StateKind::Map
    }
    fn key_shape(&self) -> String {
        shape_of::<(K, MK)>()
    }
    fn value_shape(&self) -> String {
        shape_of::<S>()
    }
    fn begin_snapshot(&mut self, epoch: u64) {
        self.rows.borrow_mut().begin_snapshot(epoch, 0);
    }
    fn snapshot_step(&mut self, budget: usize, out: &mut dyn SnapshotSink) -> Result<bool> {
        match self.failed.take() {
            Some(error) => Err(error),
            None => self.rows.borrow_mut().snapshot_step(budget, out),
        }
    }
    fn abort_snapshot(&mut self) {
        self.rows.borrow_mut().abort_snapshot();
    }
    fn restore_batch(&mut self, batch: &Batch, keep: &dyn Fn(u64) -> bool) -> Result<()> {
        self.rows.borrow_mut().restore_batch(batch, keep)
    }
    fn is_on_disk(&self) -> bool {
        true
    }
    fn flush_step(&mut self, budget: usize) -> Result<bool> {
        match self.failed.take() {
            Some(error) => Err(error),
            None => self.rows.borrow_mut().flush_step(budget),
        }
    }
    fn end_flush(&mut self) {
        self.rows.borrow_mut().end_flush();
    }
    fn len(&self) -> usize {
        self.rows.borrow().len_estimate()
    }
    fn bytes(&self) -> usize {
        self.rows.borrow().bytes()
    }
    fn expire_step(&mut self, budget: usize) {
        if S::EXPIRES {
            let expired = |_: (K::View<'_>, MK::View<'_>), stored: &S| stored.expired(&self.life);
            let looked = self.rows.borrow_mut().edit_step(budget, expired, |_| false);
            if let Err(error) = looked {
                self.failed.replace(Some(error));
            }
        }
    }
}
