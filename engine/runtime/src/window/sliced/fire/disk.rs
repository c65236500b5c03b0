//! Firing of slices in RocksDB.
//!
//! A window of one slice emits what it walks over. One of several merges them in memory, as many
//! keys at a time as memory is for: those whose hashes are in a range, of all its slices.
//! ```text
//!   Gather (a range of hashes, slice by slice) --> Part (emit) --> Gather (the next range) ...
//!      | more keys than there is room for                              --> the last one: done
//!      v
//!   Discard --> Gather (the first half of the range)
//! ```

use super::super::super::function::{WindowFunction, copy};
use super::super::super::spec::Window;
use super::super::Sliced;
use crate::stage::Stage;
use std::ops::RangeInclusive;
use tidemill_base::{Key, Record, Result};
use tidemill_keyed::{Cursor, SliceWalk};

/// Entries read in one step of the task: each takes about a microsecond.
pub(super) const STEP_ENTRIES: usize = if cfg!(feature = "check") { 20 } else { 128 };

/// Where the firing of a window stands.
pub(super) enum At {
    Walk { slice: i64, walk: SliceWalk },
    Gather { hashes: RangeInclusive<u64>, slice: i64, walk: SliceWalk },
    Discard { hashes: RangeInclusive<u64>, cursor: Cursor },
    Part { hashes: RangeInclusive<u64>, cursor: Cursor },
}

impl At {
    /// Entries of the next step, where `pace` are emitted.
    pub(super) fn entries(&self, pace: usize) -> usize {
        match self {
            At::Walk { .. } | At::Part { .. } => pace,
            At::Gather { .. } | At::Discard { .. } => STEP_ENTRIES,
        }
    }
}

/// The first half of a range; `None` of one hash.
fn half(hashes: &RangeInclusive<u64>) -> Option<RangeInclusive<u64>> {
    let (first, last) = (*hashes.start(), *hashes.end());
    (first < last).then(|| first..=first + (last - first) / 2)
}

/// What follows a range: as wide, or twice that.
fn after(hashes: &RangeInclusive<u64>, double: bool) -> Option<RangeInclusive<u64>> {
    let (first, last) = (*hashes.start(), *hashes.end());
    let next = last.checked_add(1)?;
    let width = (last - first).saturating_mul(if double { 2 } else { 1 });
    Some(next..=next.saturating_add(width))
}

impl<K, T, F, A> Sliced<K, T, F, A>
where
    K: Key,
    T: Record,
    F: for<'a> FnMut(&'a T::View<'a>) -> K::View<'a> + 'static,
    A: WindowFunction<K, T>,
{
    /// Begins the firing of a window, whose first slice this is.
    pub(super) fn begin_on_disk(&self, slice: i64, several: bool) -> At {
        let walk = SliceWalk::default();
        if several {
            At::Gather { hashes: 0..=u64::MAX, slice, walk }
        } else {
            At::Walk { slice, walk }
        }
    }

    /// A bounded step; `None` when the window has fired.
    pub(super) fn work_on_disk<S: Stage<A::Out>>(
        &mut self,
        window: Window,
        at: At,
        out: &mut S,
    ) -> Result<Option<At>> {
        Ok(match at {
            At::Walk { slice, mut walk } => {
                let (function, frontier) = (&mut self.function, &self.frontier);
                let all = 0..=u64::MAX;
                let done =
                    self.slices.walk(slice, &all, &mut walk, self.pace, |hash, key, acc| {
                        if frontier.of(hash) < window.end {
                            function.emit(key, window, acc, window.last_timestamp(), out);
                            out.room();
                        }
                    })?;
                (!done).then_some(At::Walk { slice, walk })
            }
            At::Gather { hashes, slice, walk } => Some(self.gather(window, hashes, slice, walk)?),
            At::Discard { hashes, mut cursor } => {
                if !self.scratch.drain_scan(&mut cursor, STEP_ENTRIES, |_, _| {}) {
                    return Ok(Some(At::Discard { hashes, cursor }));
                }
                self.gather_from_first(window, hashes)
            }
            At::Part { hashes, mut cursor } => {
                if !self.emit_scratch(window, &mut cursor, out) {
                    return Ok(Some(At::Part { hashes, cursor }));
                }
                self.gather_from_first(window, hashes)
            }
        })
    }

    fn gather_from_first(&self, window: Window, hashes: RangeInclusive<u64>) -> Option<At> {
        if hashes.is_empty() {
            return None;
        }
        let slice = self.slices.next_in(window.start, window.end)?;
        Some(At::Gather { hashes, slice, walk: SliceWalk::default() })
    }

    /// Merges entries of a slice with those of the slices before.
    fn gather(
        &mut self,
        window: Window,
        hashes: RangeInclusive<u64>,
        slice: i64,
        mut walk: SliceWalk,
    ) -> Result<At> {
        let room = self.slices.merge_entries();
        let (function, scratch) = (&mut self.function, &mut self.scratch);
        let done =
            self.slices.walk(slice, &hashes, &mut walk, STEP_ENTRIES, |hash, key, acc| {
                match scratch.get_mut(hash, K::shorten(key)) {
                    Some(into) => function.merge(into, acc),
                    None => {
                        scratch.insert(hash, key, copy(acc));
                    }
                }
            })?;
        if self.scratch.len() > room
            && let Some(hashes) = half(&hashes)
        {
            return Ok(At::Discard { hashes, cursor: Cursor::default() });
        }
        if !done {
            return Ok(At::Gather { hashes, slice, walk });
        }
        Ok(match self.slices.next_in(slice + 1, window.end) {
            Some(slice) => At::Gather { hashes, slice, walk: SliceWalk::default() },
            None => {
                // The next range, empty behind the last one.
                let next = after(&hashes, self.scratch.len() <= room / 4);
                #[expect(clippy::reversed_empty_ranges, reason = "none is left")]
                let hashes = next.unwrap_or(1..=0);
                At::Part { hashes, cursor: Cursor::default() }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_follow_each_other_to_the_last_hash() {
        let first = half(&(0..=u64::MAX)).and_then(|r| half(&r)).unwrap();
        assert_eq!(first, 0..=(1 << 62) - 1);
        let (mut at, mut ranges) = (first, 1);
        while let Some(next) = after(&at, false) {
            assert_eq!(*next.start(), at.end() + 1);
            (at, ranges) = (next, ranges + 1);
        }
        assert_eq!((*at.end(), ranges), (u64::MAX, 4));
        assert_eq!(after(&(0..=9), true), Some(10..=28));
        assert_eq!(half(&(5..=5)), None);
    }
}
