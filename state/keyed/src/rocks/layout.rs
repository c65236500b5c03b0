//! How a table's keys are laid out in the database, and found in the cache.

use std::marker::PhantomData;
use tidemill_base::hash::{combine, hash_u64};
use tidemill_base::{Key, Record};

/// The view of a layout's keys.
pub(crate) type View<'a, L> = <<L as Layout>::Key as Record>::View<'a>;

/// The view of a layout's keys in snapshots.
pub(crate) type SavedView<'a, L> = <<L as Layout>::Saved as Record>::View<'a>;

/// What the entries of a table are ordered and grouped by.
///
/// Laws: `route`, `namespace` and `group` depend on the key alone. The keys of a group are next to
/// each other in the database: their namespaces are the same, or their namespaces and routes.
/// `restored(namespace(k), saved(k)) == k`.
pub trait Layout: 'static {
    /// What entries are found by.
    type Key: Key;
    /// The key in snapshots.
    type Saved: Key;
    /// Whether hash and route are the key's own.
    const PLAIN: bool = false;
    /// Whether cached entries are linked with those of their group.
    const GROUPED: bool = false;
    /// Whether a group that the table has not seen has nothing in the database.
    const SEEN: bool = false;
    /// Whether snapshots have the namespace as the timestamp of their batches.
    const BY_NAMESPACE: bool = false;

    /// The hash that entries are found by.
    fn hash(key: View<'_, Self>) -> u64
    where
        Self: Sized;

    /// The hash that partitions the state, where `hash` is the one that entries are found by.
    fn route(hash: u64, key: View<'_, Self>) -> u64
    where
        Self: Sized;

    /// What keys are ordered by first.
    fn namespace(_key: View<'_, Self>) -> i64
    where
        Self: Sized,
    {
        0
    }

    /// The group of a key.
    fn group(_key: View<'_, Self>) -> u64
    where
        Self: Sized,
    {
        0
    }

    /// The key for a snapshot.
    fn saved(key: View<'_, Self>) -> SavedView<'_, Self>
    where
        Self: Sized;

    /// The key of a snapshot.
    fn restored(namespace: i64, saved: SavedView<'_, Self>) -> View<'_, Self>
    where
        Self: Sized;
}

/// One entry for each key.
pub struct Plain<K>(PhantomData<fn() -> K>);

impl<K: Key> Layout for Plain<K> {
    type Key = K;
    type Saved = K;
    const PLAIN: bool = true;

    #[inline(always)]
    fn hash(key: K::View<'_>) -> u64 {
        K::hash(key)
    }
    #[inline(always)]
    fn route(hash: u64, _: K::View<'_>) -> u64 {
        hash
    }
    fn saved(key: K::View<'_>) -> K::View<'_> {
        key
    }
    fn restored(_: i64, saved: K::View<'_>) -> K::View<'_> {
        saved
    }
}

/// One entry for each slice and key; a slice is a namespace and a group.
pub struct BySlice<K>(PhantomData<fn() -> K>);

impl<K: Key> BySlice<K> {
    /// The hash of an entry by that of its key.
    #[inline(always)]
    pub(super) fn entry(slice: i64, hash: u64) -> u64 {
        combine(hash, hash_u64(slice as u64))
    }
}

impl<K: Key> Layout for BySlice<K> {
    type Key = (i64, K);
    type Saved = K;
    const GROUPED: bool = true;
    const SEEN: bool = true;
    const BY_NAMESPACE: bool = true;

    #[inline(always)]
    fn hash((slice, key): (i64, K::View<'_>)) -> u64 {
        Self::entry(slice, K::hash(key))
    }
    #[inline(always)]
    fn route(_: u64, (_, key): (i64, K::View<'_>)) -> u64 {
        K::hash(key)
    }
    #[inline(always)]
    fn namespace((slice, _): (i64, K::View<'_>)) -> i64 {
        slice
    }
    #[inline(always)]
    fn group((slice, _): (i64, K::View<'_>)) -> u64 {
        slice as u64
    }
    fn saved((_, key): (i64, K::View<'_>)) -> K::View<'_> {
        key
    }
    fn restored(slice: i64, key: K::View<'_>) -> (i64, K::View<'_>) {
        (slice, key)
    }
}

/// One entry for each key and key of its map; a key's entries are a group.
pub struct ByMap<K, MK>(PhantomData<fn() -> (K, MK)>);

impl<K: Key, MK: Key> ByMap<K, MK> {
    /// The hash of an entry by that of its key.
    #[inline(always)]
    pub(crate) fn entry(hash: u64, map_key: MK::View<'_>) -> u64 {
        combine(hash, MK::hash(map_key))
    }
}

impl<K: Key, MK: Key> Layout for ByMap<K, MK> {
    type Key = (K, MK);
    type Saved = (K, MK);
    const GROUPED: bool = true;

    #[inline(always)]
    fn hash((key, map_key): (K::View<'_>, MK::View<'_>)) -> u64 {
        Self::entry(K::hash(key), map_key)
    }
    #[inline(always)]
    fn route(_: u64, (key, _): (K::View<'_>, MK::View<'_>)) -> u64 {
        K::hash(key)
    }
    #[inline(always)]
    fn group((key, _): (K::View<'_>, MK::View<'_>)) -> u64 {
        K::hash(key)
    }
    fn saved<'a>(key: (K::View<'a>, MK::View<'a>)) -> (K::View<'a>, MK::View<'a>) {
        key
    }
    fn restored<'a>(_: i64, key: (K::View<'a>, MK::View<'a>)) -> (K::View<'a>, MK::View<'a>) {
        key
    }
}
