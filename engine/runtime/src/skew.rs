//! How far a source may run ahead of the slowest in event time. Backpressure does not bound that: a
//! fast source that meets a slow one in a window or a join fills the state in between.
//!
//! ```text
//!   source subtask --watermark--> seat      least of all seats and of elsewhere
//!   source subtask --watermark--> seat  -->  = slowest
//!   source subtask --watermark--> seat      a subtask pauses while ahead of slowest + max_skew
//! ```
//! A subtask's watermark is the least of its splits', and each of those is held to the same limit: a
//! reader passes over splits that are further ahead ([`Emit::is_ahead`](crate::source::Emit::is_ahead)),
//! and where it cannot, or all of them are, the subtask pauses as a whole.
//!
//! The sources whose streams meet share a group; those that never meet do not wait for each other.
//! A group is of one attempt and one worker; `elsewhere` stands for the seats of other workers.
//!
//! Invariants
//!   E1  A split is passed over, and a subtask pauses, only while its own watermark is more than
//!       `max_skew` ahead of another's: the slowest one never is, so a group always moves.
//!   E2  Who has no watermark to give (idle, ended, or a source without a strategy that has sent
//!       none) holds nobody back; a source with a strategy does from the deployment on.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use tidemill_base::{Timestamp, WATERMARK_MAX, WATERMARK_MIN};

/// Watermarks of the source subtasks whose streams meet. Nothing is ordered by them but pauses:
/// an old value makes a pause a moment longer.
#[derive(Debug)]
pub struct SkewGroup {
    seats: Box<[AtomicI64]>,
    elsewhere: AtomicI64,
}

impl SkewGroup {
    /// A group of so many subtasks, none of which has begun.
    pub fn new(seats: usize) -> Arc<Self> {
        let seats = (0..seats).map(|_| AtomicI64::new(WATERMARK_MIN)).collect();
        Arc::new(SkewGroup { seats, elsewhere: AtomicI64::new(WATERMARK_MAX) })
    }

    /// The least watermark of this worker's subtasks; `WATERMARK_MAX` where none has one. What a
    /// worker tells the others.
    pub fn here(&self) -> Timestamp {
        let seats = self.seats.iter().map(|s| s.load(Ordering::Relaxed));
        seats.min().unwrap_or(WATERMARK_MAX)
    }

    /// The least watermark of other workers' subtasks, as far as is known.
    pub fn set_elsewhere(&self, watermark: Timestamp) {
        self.elsewhere.store(watermark, Ordering::Relaxed);
    }

    fn slowest(&self) -> Timestamp {
        self.here().min(self.elsewhere.load(Ordering::Relaxed))
    }
}

/// One subtask's place in its group.
#[derive(Clone, Debug)]
pub struct SkewSeat {
    group: Arc<SkewGroup>,
    seat: usize,
    max_skew: Option<i64>,
}

impl SkewSeat {
    /// Place `seat`, in milliseconds `max_skew` unless the source says otherwise.
    pub fn new(group: Arc<SkewGroup>, seat: usize, max_skew: Option<i64>) -> Self {
        SkewSeat { group, seat, max_skew }
    }

    /// The source's own limit goes before the job's.
    #[must_use]
    pub fn with_limit(mut self, max_skew: Option<i64>) -> Self {
        self.max_skew = max_skew.or(self.max_skew);
        self
    }

    /// Where the subtask is; `None`: it holds nobody back (E2).
    pub fn report(&self, watermark: Option<Timestamp>) {
        let watermark = watermark.unwrap_or(WATERMARK_MAX);
        self.group.seats[self.seat].store(watermark, Ordering::Relaxed);
    }

    /// Who is beyond has to wait (E1).
    pub fn limit(&self) -> Timestamp {
        let Some(max_skew) = self.max_skew else { return WATERMARK_MAX };
        self.group.slowest().saturating_add(max_skew)
    }

    /// Whether one who is at `watermark` has to wait (E1).
    pub fn is_ahead(&self, watermark: Timestamp) -> bool {
        watermark > self.limit()
    }
}

/// For each task, the group it is in: those that a path of edges connects share one.
pub fn groups(tasks: usize, edges: impl Iterator<Item = (usize, usize)>) -> Vec<usize> {
    let mut group: Vec<usize> = (0..tasks).collect();
    for (from, to) in edges {
        let (a, b) = (group[from], group[to]);
        group.iter_mut().filter(|g| **g == b).for_each(|g| *g = a);
    }
    group
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seats(n: usize, max_skew: Option<i64>) -> (Arc<SkewGroup>, Vec<SkewSeat>) {
        let group = SkewGroup::new(n);
        let seats = (0..n).map(|i| SkewSeat::new(group.clone(), i, max_skew)).collect();
        (group, seats)
    }

    #[test]
    fn who_is_ahead_waits_for_the_slowest() {
        let (_, seats) = seats(3, Some(100));
        assert!(!seats[0].is_ahead(WATERMARK_MIN), "nobody has begun");
        seats[0].report(Some(5_000));
        assert!(seats[0].is_ahead(5_000), "E2: the others have not begun");
        seats[1].report(Some(4_899));
        seats[2].report(Some(4_950));
        assert!(seats[0].is_ahead(5_000));
        assert!(!seats[1].is_ahead(4_899), "E1");
        seats[1].report(Some(4_900));
        assert!(!seats[0].is_ahead(5_000), "exactly as far ahead as allowed");
        seats[1].report(None);
        seats[2].report(None);
        seats[0].report(Some(1_000_000));
        assert!(!seats[0].is_ahead(1_000_000), "the only one left");
    }

    #[test]
    fn other_workers_count_and_without_a_limit_nobody_waits() {
        let (group, seats) = seats(2, None);
        seats[0].report(Some(7));
        seats[1].report(Some(9));
        assert_eq!(group.here(), 7);
        assert!(!seats[1].is_ahead(9));
        let limited = seats[1].clone().with_limit(Some(3));
        assert!(!limited.is_ahead(9));
        group.set_elsewhere(5);
        assert!(limited.is_ahead(9));
        assert_eq!(group.here(), 7);
    }

    #[test]
    fn streams_that_meet_share_a_group() {
        let g = groups(7, [(0, 2), (1, 2), (3, 4), (5, 4), (4, 6)].into_iter());
        assert!(g[0] == g[1] && g[1] == g[2]);
        assert!(g[3] == g[4] && g[4] == g[5] && g[5] == g[6]);
        assert_ne!(g[0], g[3]);
    }
}
