//! How far windows have fired.
//!
//! After a restore from an unaligned checkpoint at another parallelism, the keys of one subtask
//! come from subtasks that had seen different watermarks. Each key group keeps the watermark that
//! its windows have fired up to, until the subtask's own has passed them all.
//!
//! Invariants
//!   F1  `now` never decreases.
//!   F2  `floors` is there only while the floor of an owned key group is greater than `now`.

use crate::context::SubtaskInfo;
use crate::keyed_snapshot::{decode_record, encode_record};
use tidemill_base::hash::key_group;
use tidemill_base::{Result, Timestamp, WATERMARK_MIN};

/// What a snapshot keeps: `(first key group, one behind the last, fired up to)`.
type Runs = Vec<(u32, u32, i64)>;

/// The shape of a snapshot's entry.
pub(super) fn shape() -> String {
    tidemill_base::record::shape_of::<Runs>()
}

/// The time up to which windows have fired, by key.
pub(super) struct Frontier {
    now: Timestamp,
    /// By key group.
    floors: Option<Box<[Timestamp]>>,
    owned: std::ops::Range<u32>,
    key_groups: u32,
}

impl Frontier {
    /// From the entries of a checkpoint, none on a fresh start.
    pub(super) fn restore(info: &SubtaskInfo, entries: &[(u32, Vec<u8>)]) -> Result<Self> {
        let groups = info.max_parallelism;
        let owner = |group: u32| group * info.parallelism / groups;
        let start = (0..groups).find(|&g| owner(g) == info.subtask).unwrap_or(groups);
        let end = (start..groups).find(|&g| owner(g) != info.subtask).unwrap_or(groups);
        let mut floors = vec![WATERMARK_MIN; groups as usize];
        for (_, payload) in entries {
            for (first, behind, time) in decode_record::<Runs>(payload)? {
                for group in first..behind.min(groups) {
                    floors[group as usize] = time;
                }
            }
        }
        let mine = &floors[start as usize..end as usize];
        let now = mine.iter().copied().min().unwrap_or(WATERMARK_MIN);
        let mut frontier =
            Frontier { now, floors: Some(floors.into()), owned: start..end, key_groups: groups };
        frontier.advance(now);
        Ok(frontier)
    }

    /// The greatest watermark (or clock) seen.
    #[inline(always)]
    pub(super) fn now(&self) -> Timestamp {
        self.now
    }

    /// Whether keys differ.
    #[inline(always)]
    pub(super) fn is_split(&self) -> bool {
        self.floors.is_some()
    }

    /// The time that the windows of a key have fired up to.
    #[inline(always)]
    pub(super) fn of(&self, hash: u64) -> Timestamp {
        match &self.floors {
            None => self.now,
            Some(floors) => self.now.max(floors[key_group(hash, self.key_groups) as usize]),
        }
    }

    /// Time has advanced.
    pub(super) fn advance(&mut self, now: Timestamp) {
        self.now = self.now.max(now);
        let now = self.now;
        let owned = self.owned.start as usize..self.owned.end as usize;
        self.floors.take_if(|floors| floors[owned].iter().all(|&f| f <= now));
    }

    /// The entry of a snapshot.
    pub(super) fn entry(&self) -> Result<Vec<u8>> {
        let mut runs = Runs::new();
        for group in self.owned.clone() {
            let floor = self.floors.as_ref().map_or(self.now, |f| f[group as usize].max(self.now));
            match runs.last_mut() {
                Some(run) if run.2 == floor => run.1 = group + 1,
                _ => runs.push((group, group + 1, floor)),
            }
        }
        encode_record(&runs)
    }
}
