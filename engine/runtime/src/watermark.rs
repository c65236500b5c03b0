//! Watermarks of several channels (or splits), merged by minimum over the active ones.
//!
//! Invariants
//!   W1  The merged watermark never decreases, whatever a channel does.
//!   W2  While every channel is idle the watermark stands still.

use tidemill_base::{Timestamp, WATERMARK_MAX, WATERMARK_MIN};

#[derive(Clone, Copy, Debug)]
struct Input {
    watermark: Timestamp,
    idle: bool,
}

/// The merged watermark of a fixed set of inputs.
#[derive(Debug)]
pub struct WatermarkMerger {
    inputs: Vec<Input>,
    merged: Timestamp,
}

impl WatermarkMerger {
    /// For `n` inputs, all active and without watermark.
    pub fn new(n: usize) -> Self {
        WatermarkMerger {
            inputs: vec![Input { watermark: WATERMARK_MIN, idle: false }; n],
            merged: WATERMARK_MIN,
        }
    }

    /// Adds an input; returns its index.
    pub fn add(&mut self) -> usize {
        self.inputs.push(Input { watermark: WATERMARK_MIN, idle: false });
        self.inputs.len() - 1
    }

    /// The merged watermark.
    #[inline]
    pub fn get(&self) -> Timestamp {
        self.merged
    }

    /// An input's own watermark.
    #[inline]
    pub fn of(&self, input: usize) -> Timestamp {
        self.inputs[input].watermark
    }

    /// Whether all inputs are idle.
    pub fn all_idle(&self) -> bool {
        self.inputs.iter().all(|i| i.idle)
    }

    /// An input's watermark; returns the merged one if it advanced.
    #[inline]
    pub fn advance(&mut self, input: usize, watermark: Timestamp) -> Option<Timestamp> {
        let i = &mut self.inputs[input];
        if watermark <= i.watermark {
            return None;
        }
        i.watermark = watermark;
        self.merge()
    }

    /// An input goes idle or active; returns the merged watermark if it advanced.
    pub fn set_idle(&mut self, input: usize, idle: bool) -> Option<Timestamp> {
        self.inputs[input].idle = idle;
        self.merge()
    }

    /// An input has ended: it holds nothing back any more.
    pub fn end(&mut self, input: usize) -> Option<Timestamp> {
        self.inputs[input] = Input { watermark: WATERMARK_MAX, idle: false };
        self.merge()
    }

    fn merge(&mut self) -> Option<Timestamp> {
        let min = self.inputs.iter().filter(|i| !i.idle).map(|i| i.watermark).min()?;
        (min > self.merged).then(|| {
            self.merged = min;
            min
        })
    }
}
