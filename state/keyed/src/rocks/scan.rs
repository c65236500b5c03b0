//! Reading a group: what is cached of it, then what the database has beside that.

use super::codec::{KEY_HEAD, behind, hash_of, head};
use super::groups::NONE;
use super::layout::{Layout, View};
use super::table::{DiskTable, shorten};
use super::view::Frozen;
use std::ops::RangeInclusive;
use tidemill_base::{Record, Result};

/// Cached entries outside of the hashes asked for that cost as much as one entry read.
const SKIPPED: usize = 16;

/// Where a walk over a group stands. Valid while nothing changes the group, or what is cached of
/// it: no access to its keys, no retirement.
#[derive(Default)]
pub struct GroupWalk(At);

#[derive(Default)]
enum At {
    #[default]
    Start,
    /// The next cached entry.
    Cached(u32),
    /// The next entry in the database, and what is behind the last one.
    Stored(Box<Frozen>, Vec<u8>),
    End,
}

impl std::fmt::Debug for GroupWalk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            At::Start => "GroupWalk(start)",
            At::Cached(_) => "GroupWalk(cache)",
            At::Stored(..) => "GroupWalk(database)",
            At::End => "GroupWalk(end)",
        })
    }
}

impl<L: Layout, V: Record> DiskTable<L, V> {
    /// Shows about `budget` further entries of the group that a namespace is, of those whose routes
    /// are in `hashes`, to `f`, in no particular order; true at the end.
    pub(super) fn walk_namespace(
        &mut self,
        namespace: i64,
        hashes: &RangeInclusive<u64>,
        walk: &mut GroupWalk,
        budget: usize,
        mut f: impl FnMut(u64, View<'_, L>, &V),
    ) -> Result<bool> {
        let mut budget = budget.max(1) * SKIPPED;
        if let At::Start = walk.0 {
            walk.0 = At::Cached(self.groups.get(namespace as u64).first);
        }
        if let At::Cached(next) = &mut walk.0 {
            while *next != NONE {
                if budget == 0 {
                    return Ok(false);
                }
                let (key, cached) = self.cache.entry(*next);
                let route = L::route(L::hash(shorten::<L>(key)), shorten::<L>(key));
                let shown = hashes.contains(&route);
                if let (true, Some(value)) = (shown, &cached.value) {
                    f(route, key, value);
                }
                budget = budget.saturating_sub(if shown { SKIPPED } else { 1 });
                *next = self.groups.next(*next);
            }
            let known = self.groups.get(namespace as u64);
            walk.0 = if known.whole || !known.stored {
                At::End
            } else {
                self.hand_over()?;
                let mut view = Box::new(Frozen::new(self.db.db()));
                view.iter.seek(head(self.prefix, namespace, *hashes.start()));
                At::Stored(view, behind(self.prefix, namespace, *hashes.end()))
            };
        }
        let At::Stored(view, end) = &mut walk.0 else { return Ok(true) };
        while budget > 0 {
            let Some((bytes, value)) = view.iter.item().filter(|i| i.0 < end.as_slice()) else {
                view.iter.status().map_err(|e| self.db.failed("reading", e))?;
                walk.0 = At::End;
                return Ok(true);
            };
            let route = hash_of(bytes)?;
            let (keys, values, cache) =
                (&mut self.key_scratch, &mut self.value_scratch, &self.cache);
            keys.decode::<L::Key, _>(&bytes[KEY_HEAD..], |key| {
                if cache.find(L::hash(shorten::<L>(key)), shorten::<L>(key)).is_some() {
                    return Ok(());
                }
                values.decode::<V, _>(value, |value| {
                    f(route, shorten::<L>(key), &V::from_view(value));
                })
            })??;
            view.iter.next();
            budget = budget.saturating_sub(SKIPPED);
        }
        Ok(false)
    }

    /// Shows all entries of a group that is a namespace and a route to `f`, in the order of their
    /// keys' bytes, until it says false.
    pub(crate) fn each_of_route(
        &mut self,
        route: u64,
        mut f: impl FnMut(View<'_, L>, &V) -> bool,
    ) -> Result<()> {
        self.hand_over()?;
        let mut cached = Vec::new();
        let mut next = self.groups.get(route).first;
        while next != NONE {
            let key = self.cache.entry(next).0;
            cached.push((self.key_scratch.encode::<L::Key>(key)?.to_vec(), next));
            next = self.groups.next(next);
        }
        cached.sort_unstable();
        let mut cached = cached.into_iter().peekable();
        let db = self.db.db().clone();
        let mut iter = db.raw_iterator();
        let first = head(self.prefix, 0, route);
        iter.seek(first);
        loop {
            let stored = iter.item().filter(|i| i.0.starts_with(&first));
            let stored = stored.map(|(bytes, value)| (&bytes[KEY_HEAD..], value));
            let from_cache = match (cached.peek(), stored) {
                (None, None) => break,
                (Some((key, _)), Some((bytes, _))) => key.as_slice() <= bytes,
                (cached, _) => cached.is_some(),
            };
            let go_on = if from_cache {
                let Some((key, id)) = cached.next() else { break };
                if stored.is_some_and(|(bytes, _)| *bytes == key) {
                    iter.next();
                }
                let (key, cached) = self.cache.entry(id);
                cached.value.as_ref().is_none_or(|value| f(key, value))
            } else {
                let Some((bytes, value)) = stored else { break };
                let (keys, values) = (&mut self.key_scratch, &mut self.value_scratch);
                let go_on = keys.decode::<L::Key, _>(bytes, |key| {
                    values.decode::<V, _>(value, |value| f(shorten::<L>(key), &V::from_view(value)))
                })??;
                iter.next();
                go_on
            };
            if !go_on {
                return Ok(());
            }
        }
        iter.status().map_err(|e| self.db.failed("reading", e))
    }

    /// The namespaces that the database has.
    pub(super) fn namespaces(&self) -> Result<Vec<i64>> {
        let mut all = Vec::new();
        let mut iter = self.db.db().raw_iterator();
        iter.seek(self.prefix);
        while let Some(key) = iter.key().filter(|k| k.starts_with(&self.prefix)) {
            let namespace = super::codec::namespace_of(key)?;
            all.push(namespace);
            iter.seek(behind(self.prefix, namespace, u64::MAX));
        }
        iter.status().map_err(|e| self.db.failed("reading", e))?;
        Ok(all)
    }
}
