//! Whether reading ahead pays: user code may or may not look at a state.

use std::cell::Cell;

/// One of so many records has to use a state for it to be read for all.
const WORTH: usize = 4;

/// Counts the uses of a state in RocksDB.
#[derive(Default)]
pub(super) struct Uses {
    uses: Cell<usize>,
    /// Records since the uses are counted.
    records: usize,
}

impl Uses {
    /// The state is used.
    #[inline]
    pub(super) fn count(&self) {
        self.uses.set(self.uses.get() + 1);
    }

    /// Records are to come; whether it pays to read the state for all of them.
    pub(super) fn worth(&mut self, records: usize) -> bool {
        let worth = self.uses.take() * WORTH >= self.records;
        self.records = records;
        worth
    }
}
