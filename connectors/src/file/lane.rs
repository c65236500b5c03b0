//! Parts of files, and the lanes in which a subtask reads them.

use super::listing::Listing;
use std::collections::VecDeque;
use std::path::PathBuf;

/// Up to this size a file need not have a split for each subtask.
const SMALL_BYTES: u64 = 64 << 10;

/// A split: the lines that start in `start..end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) start: u64,
    /// `u64::MAX` while the file is followed.
    pub(crate) end: u64,
    /// Where the next line starts; `start > 0` and `position == start`: not looked for yet.
    pub(crate) position: u64,
}

impl Part {
    pub(crate) fn new(start: u64, end: u64) -> Self {
        Part { start, end, position: start }
    }
    pub(crate) fn is_done(&self) -> bool {
        self.position >= self.end
    }
    /// Whether its first line has yet to be found.
    pub(crate) fn is_untouched(&self) -> bool {
        self.start > 0 && self.position == self.start
    }
}

/// What one watermark covers: parts that are read in order.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    /// Index of the file, and its part; the first one is being read.
    pub(crate) parts: VecDeque<(usize, Part)>,
    pub(crate) ended: bool,
    /// At the end of a file that may grow.
    pub(crate) waiting: bool,
}

/// The parts of one subtask: all files are parted (`split_bytes`; `None`: not at all), and the parts
/// dealt out in turn.
pub(crate) fn share(
    listing: &Listing,
    split_bytes: Option<u64>,
    subtask: u32,
    parallelism: u32,
) -> Vec<(PathBuf, Part)> {
    let mut mine = Vec::new();
    let mut turn = 0;
    for file in &listing.files {
        let fair = file.bytes.div_ceil(u64::from(parallelism.max(1)));
        let fair = if file.bytes > SMALL_BYTES { fair } else { u64::MAX };
        let size = split_bytes.map_or(u64::MAX, |bytes| bytes.min(fair));
        let mut start = 0;
        while start < file.bytes {
            let end = start.saturating_add(size).min(file.bytes);
            if turn == subtask {
                mine.push((file.path.clone(), Part::new(start, end)));
            }
            turn = (turn + 1) % parallelism.max(1);
            start = end;
        }
    }
    mine
}
