//! A map for each key. On the heap: one table of `(key, map key)`, whose entries are linked by key.
//!
//! Entries are saved one by one, so a key's map may be as large as memory. Links are not saved:
//! restoring makes them anew.
//!
//! Invariants
//!   M1  `heads` has exactly the keys that have entries, with the ids of the first and last one.
//!   M2  A key's entries form a doubly linked list in the order of their adding.

#[cfg(feature = "rocksdb")]
mod disk;
mod linked;

#[cfg(feature = "rocksdb")]
pub(super) use disk::DiskMap;

use super::ttl::Stored;
use super::{StateKind, StateTable};
use crate::current::CurrentKey;
use crate::heap::{Cursor, Hashes, HeapTable, for_each_saved};
#[cfg(feature = "rocksdb")]
use crate::rocks::{DiskTable, layout::ByMap};
use crate::snapshot::SnapshotSink;
use linked::{Linked, NONE};
use std::cell::{Ref, RefCell, RefMut};
use std::marker::PhantomData;
use std::rc::Rc;
use tidemill_base::hash::combine;
use tidemill_base::record::shape_of;
use tidemill_base::{Batch, Key, Record, Result};

/// A map for the current key.
pub struct MapState<MK: Key, V: Record>(Rc<dyn MapAccess<MK, V>>);

impl<MK: Key, V: Record> Clone for MapState<MK, V> {
    fn clone(&self) -> Self {
        MapState(self.0.clone())
    }
}

impl<MK: Key, V: Record> std::fmt::Debug for MapState<MK, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MapState")
    }
}

/// What a handle needs of a table, without its key type.
trait MapAccess<MK: Key, V> {
    fn get(&self, key: MK::View<'_>) -> Option<Ref<'_, V>>;
    fn get_mut(&self, key: MK::View<'_>) -> Option<RefMut<'_, V>>;
    fn put(&self, key: MK::View<'_>, value: V);
    fn remove(&self, key: MK::View<'_>) -> Option<V>;
    fn for_each(&self, f: &mut dyn FnMut(MK::View<'_>, &V));
    fn is_empty(&self) -> bool;
    fn clear(&self);
}

impl<MK: Key, V: Record> MapState<MK, V> {
    /// A copy of the value under `key`.
    #[inline]
    pub fn get(&self, key: MK::View<'_>) -> Option<V> {
        self.0.get(key).map(|v| V::from_view(v.view()))
    }

    /// Calls `f` with the value under `key` in place.
    #[inline]
    pub fn read<R>(&self, key: MK::View<'_>, f: impl FnOnce(Option<&V>) -> R) -> R {
        f(self.0.get(key).as_deref())
    }

    /// Whether there is a value under `key`.
    pub fn contains(&self, key: MK::View<'_>) -> bool {
        self.0.get(key).is_some()
    }

    /// Sets the value under `key`.
    #[inline]
    pub fn put(&self, key: MK::View<'_>, value: V) {
        self.0.put(key, value);
    }

    /// Changes the value under `key` in place, beginning with the default one if there is none.
    pub fn update<R>(&self, key: MK::View<'_>, f: impl FnOnce(&mut V) -> R) -> R
    where
        V: Default,
    {
        if let Some(mut value) = self.0.get_mut(MK::shorten(key)) {
            return f(&mut value);
        }
        let mut value = V::default();
        let result = f(&mut value);
        self.0.put(key, value);
        result
    }

    /// Removes the value under `key` and returns it.
    pub fn remove(&self, key: MK::View<'_>) -> Option<V> {
        self.0.remove(key)
    }

    /// Copies of all entries, in the order of [`MapState::for_each`], which copies nothing.
    pub fn iter(&self) -> std::vec::IntoIter<(MK, V)> {
        let mut all = Vec::new();
        self.for_each(|k, v| all.push((MK::from_view(k), V::from_view(v.view()))));
        all.into_iter()
    }

    /// Calls `f` with each entry in place: on the heap in the order of adding (after a restore in
    /// any order), in RocksDB in that of the stored bytes of the map keys. `f` must not use this state.
    pub fn for_each(&self, mut f: impl FnMut(MK::View<'_>, &V)) {
        self.0.for_each(&mut f);
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Removes all entries.
    pub fn clear(&self) {
        self.0.clear();
    }
}

/// The maps of all keys.
pub(super) struct MapTable<K: Key, MK: Key, V: Record, S: Stored<V>> {
    name: String,
    key: CurrentKey<K>,
    life: S::Life,
    maps: RefCell<Maps<K, MK, S>>,
    value: PhantomData<V>,
}

struct Maps<K: Key, MK: Key, S: Record> {
    entries: HeapTable<(K, MK), Linked<S>>,
    heads: HeapTable<K, (u32, u32)>,
    expiring: Cursor,
    /// Ids found expired by one step.
    expired: Vec<u32>,
}

/// The table hash of an entry: the key's group, and bits of both keys for the index.
#[inline(always)]
fn entry_hash<MK: Key>(hash: u64, key: MK::View<'_>) -> u64 {
    hash & !0xFFFF_FFFF | combine(hash, MK::hash(key)) & 0xFFFF_FFFF
}

impl<K: Key, MK: Key, S: Record> Maps<K, MK, S> {
    #[inline]
    fn find(&self, hash: u64, key: K::View<'_>, map_key: MK::View<'_>) -> Option<u32> {
        let at = entry_hash::<MK>(hash, MK::shorten(map_key));
        self.entries.find(at, (K::shorten(key), MK::shorten(map_key)))
    }

    fn put(&mut self, hash: u64, key: K::View<'_>, map_key: MK::View<'_>, value: S) {
        let at = entry_hash::<MK>(hash, MK::shorten(map_key));
        let found = self.entries.find(at, (K::shorten(key), MK::shorten(map_key)));
        if let Some(id) = found {
            self.entries.change(id).value = value;
            return;
        }
        let last = self.heads.get(hash, K::shorten(key)).map_or(NONE, |head| head.1);
        let linked = Linked { value, previous: last, next: NONE };
        let id = self.entries.add(at, (K::shorten(key), MK::shorten(map_key)), linked);
        self.heads.upsert(hash, key, || (id, id)).1 = id;
        if last != NONE {
            self.entries.unsaved_mut(last).next = id;
        }
    }

    fn remove(&mut self, id: u32) -> S {
        let ((key, _), &Linked { previous, next, .. }) = self.entries.entry(id);
        if previous == NONE || next == NONE {
            let hash = K::hash(K::shorten(key));
            if previous == next {
                self.heads.remove(hash, key);
            } else if let Some(head) = self.heads.get_mut(hash, key) {
                if previous == NONE {
                    head.0 = next;
                } else {
                    head.1 = previous;
                }
            }
        }
        if previous != NONE {
            self.entries.unsaved_mut(previous).next = next;
        }
        if next != NONE {
            self.entries.unsaved_mut(next).previous = previous;
        }
        self.entries.remove_id(id).value
    }

    fn restore(&mut self, batch: &Batch, keep: &dyn Fn(u64) -> bool) -> Result<()> {
        for_each_saved::<(K, MK), S>(batch, keep, |(key, map_key), value, _| {
            self.put(K::hash(K::shorten(key)), key, map_key, S::from_view(value));
            Ok(())
        })
    }

    fn first(&self, hash: u64, key: K::View<'_>) -> u32 {
        self.heads.get(hash, key).map_or(NONE, |head| head.0)
    }
}

impl<K: Key, MK: Key, V: Record, S: Stored<V>> MapTable<K, MK, V, S> {
    pub(super) fn make(
        name: &str,
        key: &CurrentKey<K>,
        life: S::Life,
    ) -> (MapState<MK, V>, Box<dyn StateTable>) {
        let table = Rc::new(MapTable::<K, MK, V, S> {
            name: name.to_owned(),
            key: key.clone(),
            life,
            maps: RefCell::new(Maps {
                entries: HeapTable::with_hashes(Hashes {
                    table: |key| entry_hash::<MK>(K::hash(key.0), key.1),
                    route: |key| K::hash(key.0),
                }),
                heads: HeapTable::new(),
                expiring: Cursor::default(),
                expired: Vec::new(),
            }),
            value: PhantomData,
        });
        (MapState(table.clone()), Box::new(table))
    }

    /// The id of an entry that has not expired; one that has is removed.
    fn find(&self, map_key: MK::View<'_>) -> Option<u32> {
        let id = self.key.with(|hash, key| self.maps.borrow().find(hash, key, map_key))?;
        if S::EXPIRES {
            let mut maps = self.maps.borrow_mut();
            if maps.entries.entry(id).1.value.expired(&self.life) {
                maps.remove(id);
                return None;
            }
        }
        Some(id)
    }
}

impl<K: Key, MK: Key, V: Record, S: Stored<V>> MapAccess<MK, V> for MapTable<K, MK, V, S> {
    fn get(&self, key: MK::View<'_>) -> Option<Ref<'_, V>> {
        let id = self.find(key)?;
        if S::EXPIRES && S::marks_reads(&self.life) {
            self.maps.borrow_mut().entries.change(id).value.used(&self.life);
        }
        Some(Ref::map(self.maps.borrow(), |m| m.entries.entry(id).1.value.value()))
    }

    fn get_mut(&self, key: MK::View<'_>) -> Option<RefMut<'_, V>> {
        let id = self.find(key)?;
        Some(RefMut::map(self.maps.borrow_mut(), |m| {
            let stored = &mut m.entries.change(id).value;
            stored.used(&self.life);
            stored.value_mut()
        }))
    }

    fn put(&self, map_key: MK::View<'_>, value: V) {
        if S::EXPIRES
            && let Some(mut old) = self.get_mut(MK::shorten(map_key))
        {
            *old = value;
            return;
        }
        let value = S::wrap(value, &self.life);
        self.key.with(|hash, key| self.maps.borrow_mut().put(hash, key, map_key, value));
    }

    fn remove(&self, key: MK::View<'_>) -> Option<V> {
        let id = self.find(key)?;
        Some(self.maps.borrow_mut().remove(id).into_value())
    }

    fn for_each(&self, f: &mut dyn FnMut(MK::View<'_>, &V)) {
        let mut id = self.key.with(|hash, key| self.maps.borrow().first(hash, key));
        if S::EXPIRES {
            let mut maps = self.maps.borrow_mut();
            let mut at = id;
            while at != NONE {
                let stored = maps.entries.entry(at).1;
                let (next, expired) = (stored.next, stored.value.expired(&self.life));
                if expired {
                    maps.remove(at);
                } else if S::marks_reads(&self.life) {
                    maps.entries.change(at).value.used(&self.life);
                }
                at = next;
            }
            id = self.key.with(|hash, key| maps.first(hash, key));
        }
        let maps = self.maps.borrow();
        while id != NONE {
            let ((_, map_key), linked) = maps.entries.entry(id);
            f(map_key, linked.value.value());
            id = linked.next;
        }
    }

    fn is_empty(&self) -> bool {
        let maps = self.maps.borrow();
        let mut id = self.key.with(|hash, key| maps.first(hash, key));
        while id != NONE {
            let linked = maps.entries.entry(id).1;
            if !linked.value.expired(&self.life) {
                return false;
            }
            id = linked.next;
        }
        true
    }

    fn clear(&self) {
        let mut maps = self.maps.borrow_mut();
        let mut id = self.key.with(|hash, key| maps.first(hash, key));
        while id != NONE {
            let next = maps.entries.entry(id).1.next;
            maps.remove(id);
            id = next;
        }
    }
}

impl<K: Key, MK: Key, V: Record, S: Stored<V>> StateTable for Rc<MapTable<K, MK, V, S>> {
    #[cfg(feature = "rocksdb")]
    fn restore_from(
        &mut self,
        database: &crate::rocks::Database,
        keep: &dyn Fn(u64) -> bool,
    ) -> Result<()> {
        type Rows<K, MK, S> = DiskTable<ByMap<K, MK>, S>;
        Rows::<K, MK, S>::read(database, &self.name, |b| self.maps.borrow_mut().restore(b, keep))
    }
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
        self.maps.borrow_mut().entries.begin_snapshot(epoch, 0);
    }
    fn snapshot_step(&mut self, budget: usize, out: &mut dyn SnapshotSink) -> Result<bool> {
        self.maps.borrow_mut().entries.snapshot_step(budget, out)
    }
    fn abort_snapshot(&mut self) {
        self.maps.borrow_mut().entries.abort_snapshot();
    }
    fn restore_batch(&mut self, batch: &Batch, keep: &dyn Fn(u64) -> bool) -> Result<()> {
        self.maps.borrow_mut().restore(batch, keep)
    }
    fn len(&self) -> usize {
        self.maps.borrow().entries.len()
    }
    fn bytes(&self) -> usize {
        let maps = self.maps.borrow();
        maps.entries.bytes() + maps.heads.bytes()
    }
    fn expire_step(&mut self, budget: usize) {
        if !S::EXPIRES {
            return;
        }
        let mut maps = self.maps.borrow_mut();
        let maps = &mut *maps;
        let done = maps.entries.scan_ids(&mut maps.expiring, budget, |id, _, linked| {
            if linked.value.expired(&self.life) {
                maps.expired.push(id);
            }
        });
        while let Some(id) = maps.expired.pop() {
            maps.remove(id);
        }
        if done {
            maps.expiring = Cursor::default();
        }
    }
    fn prefetch_index(&self, hash: u64) {
        self.maps.borrow().heads.prefetch_index(hash);
    }
    fn prefetch_entry(&self, hash: u64) {
        self.maps.borrow().heads.prefetch_entry(hash);
    }
}
