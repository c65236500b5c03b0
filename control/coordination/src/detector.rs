//! Who has been silent for too long. Pure.
//!
//! Invariants
//!   D1  A peer is reported once: when at least `timeout` passed since it was last heard, and not before.
//!   D2  Time that the watcher itself did not look at (it was stopped, its host slept) is not held
//!       against anybody: after such a gap every peer gets a fresh timeout.

use std::collections::BTreeMap;

use crate::Micros;

/// Watches peers by their heartbeats.
#[derive(Clone, Debug)]
pub struct Detector<P> {
    timeout: Micros,
    heard: BTreeMap<P, Micros>,
    looked: Option<Micros>,
}

impl<P: Ord + Clone> Detector<P> {
    /// Nobody yet; `timeout` in microseconds.
    pub fn new(timeout: Micros) -> Self {
        Detector { timeout, heard: BTreeMap::new(), looked: None }
    }

    /// A peer said something.
    pub fn heard(&mut self, now: Micros, peer: &P) {
        match self.heard.get_mut(peer) {
            Some(last) => *last = now.max(*last),
            None => {
                self.heard.insert(peer.clone(), now);
            }
        }
    }

    /// A peer is of no more interest.
    pub fn forget(&mut self, peer: &P) {
        self.heard.remove(peer);
    }

    /// Who has fallen silent (D1). To be called several times within a timeout.
    pub fn silent(&mut self, now: Micros) -> Vec<P> {
        let gap = self.looked.map_or(0, |last| now.saturating_sub(last));
        self.looked = Some(now);
        if gap >= self.timeout {
            self.heard.values_mut().for_each(|last| *last = now);
        }
        let timeout = self.timeout;
        let silent: Vec<P> = self
            .heard
            .iter()
            .filter(|&(_, &last)| now.saturating_sub(last) >= timeout)
            .map(|(peer, _)| peer.clone())
            .collect();
        for peer in &silent {
            self.heard.remove(peer);
        }
        silent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_silent_are_reported_once_and_not_early() {
        let mut detector = Detector::new(100);
        detector.heard(0, &"a");
        detector.heard(0, &"b");
        assert!(detector.silent(50).is_empty());
        detector.heard(60, &"b");
        assert!(detector.silent(99).is_empty());
        assert_eq!(detector.silent(100), ["a"]);
        assert!(detector.silent(120).is_empty());
        assert_eq!(detector.silent(160), ["b"]);
    }

    #[test]
    fn the_watcher_s_own_sleep_is_forgiven() {
        let mut detector = Detector::new(100);
        detector.heard(0, &"a");
        assert!(detector.silent(10).is_empty());
        assert!(detector.silent(5_000).is_empty(), "nobody was listening");
        assert!(detector.silent(5_050).is_empty());
        assert_eq!(detector.silent(5_100), ["a"]);
    }
}
