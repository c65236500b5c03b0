//! Joins of two keyed streams.
//!
//! - [`matching`]: which timestamps meet: in windows, or within an interval
//! - [`sliced`]: joins of bounded time; state in slices that are dropped whole
//! - [`history`]: every record meets every other of its key, for ever or until it expires
//! - [`pair`]: what is emitted for two records that meet
//!
//! All joins emit a pair when its second record arrives, not when a window closes: which pairs
//! there are is the same, and nothing has to be walked through at the end of a window.

pub mod history;
pub mod matching;
pub mod pair;
mod rows;
pub mod sliced;
#[cfg(test)]
mod tests;
