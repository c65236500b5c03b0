//! A walk over the records of a run that asks for the memory of later records while it handles
//! the current one: first for their index slots, then, when those have arrived, for their entries.

use std::ops::Range;

/// Records between two stages; about as many cache misses can be under way at once.
const DISTANCE: usize = 24;

/// What to do in one step: records of the three stages.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Ask for the index slots of this record.
    pub index: Option<usize>,
    /// Ask for the entry of this record.
    pub entry: Option<usize>,
    /// Handle this record.
    pub now: Option<usize>,
}

/// The steps over a range.
#[derive(Clone, Debug)]
pub struct Ahead {
    /// The next record to handle, minus the distance of both stages where there are any.
    next: usize,
    lead: usize,
    range: Range<usize>,
}

impl Ahead {
    /// Over `range`; with `far` false nothing is asked for ahead (the table is in the cache).
    #[inline(always)]
    pub fn over(range: Range<usize>, far: bool) -> Self {
        let lead = if far { DISTANCE } else { 0 };
        Ahead { next: range.start, lead, range }
    }
}

impl Iterator for Ahead {
    type Item = Step;

    #[inline(always)]
    fn next(&mut self) -> Option<Step> {
        let (at, lead) = (self.next, self.lead);
        let now = at.checked_sub(2 * lead).filter(|&i| i >= self.range.start);
        if now.is_some_and(|i| i >= self.range.end) || self.range.is_empty() {
            return None;
        }
        self.next += 1;
        if lead == 0 {
            return Some(Step { index: None, entry: None, now });
        }
        let within = |i: &usize| *i >= self.range.start && *i < self.range.end;
        Some(Step {
            index: Some(at).filter(within),
            entry: at.checked_sub(lead).filter(within),
            now,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_record_is_asked_for_twice_and_then_handled_in_order() {
        for (range, far) in [(0..0, true), (3..4, true), (0..256, true), (100..131, false)] {
            let (mut index, mut entry, mut now) = (vec![], vec![], vec![]);
            for step in Ahead::over(range.clone(), far) {
                index.extend(step.index);
                entry.extend(step.entry);
                if let Some(i) = step.now {
                    assert!(!far || index.contains(&i) && entry.contains(&i));
                    now.push(i);
                }
            }
            let all: Vec<usize> = range.collect();
            assert_eq!(now, all);
            if far {
                assert_eq!((index, entry), (all.clone(), all));
            }
        }
    }
}
