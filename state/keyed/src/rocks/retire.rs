//! The end of groups: their entries leave the cache in bounded steps, then the database at once.

use super::codec::{behind, head};
use super::layout::Layout;
use super::table::{DiskTable, take_bit};
use std::collections::VecDeque;
use tidemill_base::{Record, Result};

/// Groups on their way out (R4). A group is a namespace here.
#[derive(Default)]
pub(super) struct Retired {
    /// Those that have cached entries.
    cached: VecDeque<i64>,
    /// Those whose range is to be deleted from the database.
    stored: Vec<i64>,
}

impl<L: Layout, V: Record> DiskTable<L, V> {
    /// The group of a namespace is not needed any more, and will not be used again.
    pub(super) fn retire(&mut self, namespace: i64) {
        self.groups.change(namespace as u64, |group| group.retired = true);
        self.retired.cached.push_back(namespace);
    }

    /// Drops about `budget` further entries of retired groups.
    pub(super) fn retire_step(&mut self, budget: usize) -> Result<()> {
        let mut budget = budget.max(1);
        while let Some(&namespace) = self.retired.cached.front() {
            let group = self.groups.get(namespace as u64);
            let mut id = group.first;
            while id != super::groups::NONE {
                if budget == 0 {
                    return self.hand_over();
                }
                budget -= 1;
                let next = self.groups.next(id);
                if self.takes_pending(id) {
                    self.write(id)?;
                }
                take_bit(&mut self.dirty, id);
                self.discard(id);
                id = next;
            }
            // `write` may have stored entries of it just now.
            if self.groups.get(namespace as u64).stored {
                self.retired.stored.push(namespace);
            }
            self.groups.forget(namespace as u64);
            self.retired.cached.pop_front();
        }
        self.delete_retired()
    }

    /// Deletes what is stored of retired groups, if no flush needs it.
    pub(super) fn delete_retired(&mut self) -> Result<()> {
        if !self.retired.stored.is_empty() && !self.is_held() {
            for namespace in std::mem::take(&mut self.retired.stored) {
                let (from, to) =
                    (head(self.prefix, namespace, 0), behind(self.prefix, namespace, u64::MAX));
                self.writes.delete_range(&from[..], &to[..]);
            }
        }
        self.hand_over()
    }
}
