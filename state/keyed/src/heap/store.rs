//! Where a table keeps its entries: in a slab or, small ones of compact tables, inside the index.
//!
//! Invariant
//!   E1  A store is flat only if its entries fit (`Flat::FITS`): for others the choice costs nothing.

#![expect(unsafe_code, reason = "a choice that cannot be is not compiled")]

use super::flat::{Flat, Spot};
use super::index::Index;
use super::slab::{Entry, Slab};
use std::ptr::NonNull;
use tidemill_base::key::KeyHeap;
use tidemill_base::{Key, Record};

/// Entries by hash and by id.
pub(super) enum Store<K: Key, V: Record> {
    /// An index of ids into a slab: entries keep their id for life.
    Linked(Index, Slab<K::Slot, V>),
    /// Entries inside the index: ids change when others are added or removed.
    Flat(Flat<K, V>),
}

/// Calls the layout at hand.
macro_rules! layout {
    ($store:expr, ($index:pat, $slab:pat) => $linked:expr, $flat:ident => $inside:expr) => {
        match $store {
            Store::Linked($index, $slab) => $linked,
            Store::Flat($flat) if Flat::<K, V>::FITS => $inside,
            // SAFETY: E1.
            Store::Flat(_) => unsafe { std::hint::unreachable_unchecked() },
        }
    };
}
pub(super) use layout;

impl<K: Key, V: Record> Store<K, V> {
    /// Entries inside the index if they are small, else as `linked`.
    pub(super) fn compact() -> Self {
        if Flat::<K, V>::FITS { Store::Flat(Flat::new()) } else { Self::linked() }
    }

    /// The layout in which entries keep their ids.
    pub(super) fn linked() -> Self {
        Store::Linked(Index::new(), Slab::new())
    }

    #[inline(always)]
    pub(super) fn is_flat(&self) -> bool {
        Flat::<K, V>::FITS && matches!(self, Store::Flat(_))
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        layout!(self, (_, slab) => slab.len(), flat => flat.len())
    }

    pub(super) fn bytes(&self) -> usize {
        layout!(self, (index, slab) => index.bytes() + slab.bytes(), flat => flat.bytes())
    }

    /// One bit for each id: whether it is initialised.
    #[inline(always)]
    pub(super) fn live(&self) -> &[u64] {
        layout!(self, (_, slab) => slab.live(), flat => flat.live())
    }

    #[inline(always)]
    pub(super) fn is_live(&self, id: u32) -> bool {
        layout!(self, (_, slab) => slab.is_live(id), flat => flat.is_live(id))
    }

    /// The entry `id`.
    ///
    /// # Safety
    /// `id` is live.
    #[inline(always)]
    pub(super) unsafe fn get(&self, id: u32) -> &Entry<K::Slot, V> {
        // SAFETY: as the caller promises.
        layout!(self, (_, slab) => unsafe { slab.get(id) }, flat => unsafe { flat.get(id) })
    }

    /// The entry `id`, writable. Its key must stay.
    ///
    /// # Safety
    /// `id` is live.
    #[inline(always)]
    pub(super) unsafe fn get_mut(&mut self, id: u32) -> &mut Entry<K::Slot, V> {
        layout!(self, (_, slab) => {
            // SAFETY: as the caller promises.
            unsafe { slab.get_mut(id) }
        }, flat => {
            // SAFETY: as the caller promises; the store is borrowed exclusively.
            unsafe { flat.at(id).as_mut() }
        })
    }

    /// The entry of a key.
    #[inline(always)]
    pub(super) fn find(
        &self,
        hash: u64,
        key: K::View<'_>,
        keys: &KeyHeap,
    ) -> Option<Spot<K::Slot, V>> {
        layout!(self, (index, slab) => {
            let id = index.find(hash, |id| {
                // SAFETY: H1.
                K::matches(unsafe { &slab.get(id).key }, K::shorten(key), keys)
            })?;
            Some(Self::spot(slab, id))
        }, flat => flat.find(hash, key, keys))
    }

    #[inline(always)]
    pub(super) fn spot(slab: &Slab<K::Slot, V>, id: u32) -> Spot<K::Slot, V> {
        // SAFETY: an entry's address is not null.
        Spot { id, entry: unsafe { NonNull::new_unchecked(slab.at(id)) } }
    }

    /// Takes the entry `id` out for good: until the store has been cleared, nothing may be looked
    /// up, added or removed. Panics if it is not live.
    pub(super) fn drain(&mut self, id: u32) -> Entry<K::Slot, V> {
        layout!(self, (_, slab) => slab.drain(id), flat => flat.drain(id))
    }

    /// Drops all values, keeps the memory. What leads to them is forgotten by `clear_step`.
    pub(super) fn clear(&mut self) {
        layout!(self, (_, slab) => slab.clear(), flat => flat.clear());
    }

    /// Empties up to `parts` partitions; true when all are empty.
    pub(super) fn clear_step(&mut self, parts: usize) -> bool {
        layout!(self, (index, _) => index.clear_step(parts), flat => flat.clear_step(parts))
    }
}
