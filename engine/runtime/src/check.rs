//! Checkers of what the rest of the engine relies on: in debug builds and, by the feature `check`,
//! in the simulation. A violation is a defect of the engine and panics; the slot turns that into
//! the failure of the attempt.
//!
//! Invariants checked
//!   K1  A channel carries `(Batch | Watermark | Barrier | Status)* End`.
//!   K2  Its watermarks never decrease, its epochs increase.
//!   K3  The watermarks of an operator never decrease.

use tidemill_base::{Element, Timestamp, WATERMARK_MIN};

/// Watches one channel (K1, K2).
#[derive(Debug, Default)]
pub struct ChannelChecker {
    watermark: WatermarkChecker,
    epoch: u64,
    ended: bool,
}

impl ChannelChecker {
    /// The channel's next element.
    pub fn element(&mut self, element: &Element) {
        assert!(!self.ended, "K1: {element:?} follows the end of its channel");
        match element {
            Element::Batch(batch) => assert!(!batch.is_empty(), "K1: an empty batch is sent"),
            Element::Watermark(w) => self.watermark.advance(*w),
            Element::Barrier(barrier) => {
                let (last, epoch) = (self.epoch, barrier.epoch);
                assert!(epoch > last, "K2: barrier {epoch} follows barrier {last}");
                self.epoch = epoch;
            }
            Element::Status(_) => {}
            Element::End => self.ended = true,
        }
    }
}

/// Watches a series of watermarks (K2, K3).
#[derive(Debug)]
pub struct WatermarkChecker {
    last: Timestamp,
}

impl Default for WatermarkChecker {
    fn default() -> Self {
        WatermarkChecker { last: WATERMARK_MIN }
    }
}

impl WatermarkChecker {
    /// The next watermark.
    pub fn advance(&mut self, watermark: Timestamp) {
        let last = self.last;
        assert!(watermark >= last, "K2, K3: watermark {watermark} follows {last}");
        self.last = watermark;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_base::{Barrier, BarrierKind};

    fn barrier(epoch: u64) -> Element {
        Element::Barrier(Barrier { epoch, triggered_at: 0, kind: BarrierKind::Unaligned })
    }

    fn watched(elements: &[Element]) {
        let mut checker = ChannelChecker::default();
        elements.iter().for_each(|e| checker.element(e));
    }

    #[test]
    fn a_channel_by_the_grammar_passes() {
        watched(&[
            Element::Watermark(5),
            barrier(1),
            Element::Watermark(5),
            barrier(4),
            Element::End,
        ]);
    }

    #[test]
    #[should_panic(expected = "K1")]
    fn nothing_follows_the_end() {
        watched(&[Element::End, barrier(1)]);
    }

    #[test]
    #[should_panic(expected = "K2: barrier 1 follows barrier 1")]
    fn epochs_increase() {
        watched(&[barrier(1), barrier(1)]);
    }

    #[test]
    #[should_panic(expected = "watermark 4 follows 5")]
    fn watermarks_never_decrease() {
        watched(&[Element::Watermark(5), Element::Watermark(4)]);
    }
}
