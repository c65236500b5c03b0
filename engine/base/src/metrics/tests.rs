//! Totals of activities against arithmetic, and under a reader on another thread.

use super::*;
use std::sync::atomic::AtomicBool;

fn times(busy_us: u64, idle_us: u64, backpressured_us: u64) -> ActivityTimes {
    ActivityTimes { busy_us, idle_us, backpressured_us, ready_us: 0 }
}

#[test]
fn the_open_interval_counts_without_a_step() {
    let m = TaskMetrics::default();
    assert_eq!(m.times(1_000), times(0, 0, 0), "nothing before the first step");
    m.enter(Activity::Busy, 1_000);
    assert_eq!(m.times(1_400), times(400, 0, 0));
    m.enter(Activity::Idle, 1_500);
    assert_eq!(m.times(9_500), times(500, 8_000, 0));
    m.enter(Activity::Backpressured, 10_000);
    m.enter(Activity::Backpressured, 10_100);
    assert_eq!(m.times(10_300), times(500, 8_500, 300));
    m.enter(Activity::Finished, 11_000);
    assert_eq!(m.times(u64::MAX), times(500, 8_500, 1_000), "a finished subtask does nothing");
    assert_eq!(m.busy_us.get() + m.idle_us.get() + m.backpressured_us.get(), 10_000);
}

#[test]
fn a_reader_with_an_older_time_sees_no_negative_interval() {
    let m = TaskMetrics::default();
    m.enter(Activity::Busy, 5_000);
    assert_eq!(m.times(4_000), times(0, 0, 0));
}

/// M1: whatever the interleaving, all time up to any later moment is counted exactly once.
#[test]
fn no_interval_is_lost_or_counted_twice_under_concurrent_reads() {
    const LATER: u64 = 1 << 40;
    let m = TaskMetrics::default();
    m.enter(Activity::Busy, 1);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut reads, mut busy) = (0u32, 0);
            while !done.load(Ordering::Relaxed) || reads == 0 {
                let t = m.times(LATER);
                assert_eq!(t.busy_us + t.idle_us + t.backpressured_us + t.ready_us, LATER - 1);
                busy = t.busy_us.max(busy);
                reads += 1;
            }
            busy
        });
        let activities = [Activity::Idle, Activity::Busy, Activity::Backpressured, Activity::Ready];
        for now in 2..400_000u64 {
            m.enter(activities[now as usize % 4], now * 7);
        }
        done.store(true, Ordering::Relaxed);
        assert!(reader.join().unwrap() > 0);
    });
}

#[test]
fn the_size_of_a_checkpoint_is_that_of_the_acknowledged_one() {
    let m = TaskMetrics::default();
    m.checkpoint_entry(1, 10);
    m.checkpoint_entry(1, 5);
    assert_eq!(m.checkpoint_bytes.get(), 0, "not before it is acknowledged");
    m.checkpoint_acknowledged(1, 250);
    assert_eq!((m.checkpoint_bytes.get(), m.checkpoint_us.get()), (15, 250));
    // Epoch 2 is given up half way, 3 takes its place.
    m.checkpoint_entry(2, 100);
    m.checkpoint_entry(3, 7);
    m.checkpoint_acknowledged(3, 90);
    assert_eq!((m.checkpoint_bytes.get(), m.checkpoints.get()), (7, 2));
    // A snapshot without entries is empty, not as large as the one before.
    m.checkpoint_acknowledged(4, 1);
    assert_eq!(m.checkpoint_bytes.get(), 0);
}

#[test]
fn a_bucket_holds_what_is_at_most_its_bound() {
    for (at, &bound) in LATENCY_BOUNDS_US.iter().enumerate() {
        let h = Histogram::default();
        h.observe(bound, 2);
        h.observe(bound + 1, 3);
        let mut expected = vec![0; LATENCY_BOUNDS_US.len() + 1];
        (expected[at], expected[at + 1]) = (2, 3);
        assert_eq!(h.buckets().collect::<Vec<_>>(), expected, "bound {bound} us");
        assert_eq!(h.sum_us(), 5 * bound + 3);
    }
}
