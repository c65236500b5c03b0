//! Which cached entries belong together: lists through the cache, by group.
//!
//! Invariants
//!   G1  Each cached entry is in the list of its key's group, and in no other.
//!   G2  A group that is whole has no entry in the database that is not in the cache.
//!   G3  A group that is not stored has no entry in the database.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use tidemill_base::hash::hash_u64;

/// No entry.
pub(super) const NONE: u32 = u32::MAX;

/// What is known of a group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group {
    /// The first cached entry.
    pub(super) first: u32,
    /// Number of cached entries.
    pub(super) cached: usize,
    /// See G2.
    pub(super) whole: bool,
    /// See G3.
    pub(super) stored: bool,
    /// It is on its way out (retire.rs).
    pub(super) retired: bool,
}

/// Neighbours in a list.
#[derive(Clone, Copy)]
struct Link {
    previous: u32,
    next: u32,
}

/// Hashes numbers that are no hashes.
#[derive(Default)]
pub(super) struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&b| self.0 = hash_u64(self.0 ^ u64::from(b)));
    }
    fn write_u64(&mut self, x: u64) {
        self.0 = hash_u64(x);
    }
}

/// The groups of a table.
pub(super) struct Groups {
    groups: HashMap<u64, Group, BuildHasherDefault<Mix>>,
    /// By id in the cache.
    links: Vec<Link>,
    /// What is known of a group that is not in `groups`.
    unknown: Group,
}

impl Groups {
    /// No groups; those that come are whole if `seen`, and may have anything stored otherwise.
    pub(super) fn new(seen: bool) -> Self {
        let unknown = Group { first: NONE, cached: 0, whole: seen, stored: !seen, retired: false };
        Groups { groups: HashMap::default(), links: Vec::new(), unknown }
    }

    /// What is known of a group.
    #[inline]
    pub(super) fn get(&self, group: u64) -> Group {
        self.groups.get(&group).copied().unwrap_or(self.unknown)
    }

    /// What is known of a group, to be changed; without effect on one without cached entries that
    /// says what an unknown one does.
    pub(super) fn change(&mut self, group: u64, f: impl FnOnce(&mut Group)) {
        f(self.groups.entry(group).or_insert(self.unknown));
    }

    /// The entry after `id` in its list.
    #[inline]
    pub(super) fn next(&self, id: u32) -> u32 {
        self.links[id as usize].next
    }

    /// An entry has come into the cache.
    pub(super) fn link(&mut self, group: u64, id: u32) {
        let group = self.groups.entry(group).or_insert(self.unknown);
        let next = std::mem::replace(&mut group.first, id);
        group.cached += 1;
        if self.links.len() <= id as usize {
            self.links.resize(id as usize + 1, Link { previous: NONE, next: NONE });
        }
        self.links[id as usize] = Link { previous: NONE, next };
        if next != NONE {
            self.links[next as usize].previous = id;
        }
    }

    /// An entry leaves the cache.
    pub(super) fn unlink(&mut self, group: u64, id: u32) {
        let Link { previous, next } = self.links[id as usize];
        if next != NONE {
            self.links[next as usize].previous = previous;
        }
        if previous != NONE {
            self.links[previous as usize].next = next;
        }
        if let Some(known) = self.groups.get_mut(&group) {
            if previous == NONE {
                known.first = next;
            }
            known.cached -= 1;
            if known.cached == 0 && !self.unknown.whole {
                self.groups.remove(&group);
            }
        }
    }

    /// Forgets a group without cached entries.
    pub(super) fn forget(&mut self, group: u64) {
        self.groups.remove(&group);
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        self.links.capacity() * size_of::<Link>()
            + self.groups.capacity() * size_of::<(u64, Group)>()
    }
}
