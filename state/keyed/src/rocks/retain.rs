//! A walk over cache and database that removes or changes entries, in bounded steps: expiry.

use super::codec::KEY_HEAD;
use super::layout::{Layout, View};
use super::table::{DiskTable, shorten};
use crate::heap::Cursor;
use tidemill_base::{Record, Result};

/// Where a walk stands: first the cache, then the database (what is cached is skipped there).
#[derive(Default)]
pub(super) struct Walk {
    cache: Cursor,
    /// The next key of the database, when the cache is done.
    disk: Option<Vec<u8>>,
}

impl<L: Layout, V: Record> DiskTable<L, V> {
    /// Looks at about `budget` further entries, going round for ever. Those that `concerns` picks
    /// are changed by `edit`, and removed where that returns false; true at the end of a round.
    pub fn edit_step(
        &mut self,
        budget: usize,
        mut concerns: impl FnMut(View<'_, L>, &V) -> bool,
        mut edit: impl FnMut(&mut V) -> bool,
    ) -> Result<bool> {
        let mut apply = |slot: &mut Option<V>| {
            slot.take_if(|value| !edit(value));
        };
        let Some(from) = self.walk.disk.take() else {
            let mut found = Vec::new();
            let done = self.cache.scan_ids(&mut self.walk.cache, budget, |id, key, cached| {
                if cached.value.as_ref().is_some_and(|value| concerns(key, value)) {
                    found.push(id);
                }
            });
            found.into_iter().for_each(|id| apply(self.change(id)));
            if done {
                self.walk = Walk { disk: Some(self.prefix.to_vec()), ..Walk::default() };
            }
            return Ok(false);
        };
        let mut found = Vec::new();
        let db = self.db.db().clone();
        let mut iter = db.raw_iterator();
        iter.seek(from);
        for _ in 0..budget.max(1) {
            let Some((bytes, value)) = iter.item().filter(|i| i.0.starts_with(&self.prefix)) else {
                break;
            };
            let (keys, values, cache) =
                (&mut self.key_scratch, &mut self.value_scratch, &self.cache);
            let picked = keys.decode::<L::Key, _>(&bytes[KEY_HEAD..], |key| {
                let hash = L::hash(shorten::<L>(key));
                if cache.find(hash, shorten::<L>(key)).is_some() {
                    return Ok(None);
                }
                let picked = values.decode::<V, _>(value, |value| {
                    // Values are judged as owned ones: the same closure serves cache and disk.
                    concerns(shorten::<L>(key), &V::from_view(value))
                })?;
                Ok(picked.then(|| (hash, L::Key::from_view(key))))
            })??;
            found.extend(picked);
            iter.next();
        }
        iter.status().map_err(|e| self.db.failed("reading", e))?;
        let next = iter.key().filter(|k| k.starts_with(&self.prefix)).map(<[u8]>::to_vec);
        drop(iter);
        for (hash, key) in found {
            let id = self.touch(hash, key.view());
            apply(self.change(id));
        }
        let done = next.is_none();
        self.walk.disk = next;
        Ok(done)
    }
}
