//! A database as it was at a moment.

#![expect(unsafe_code, reason = "an iterator that owns its database")]

use rocksdb::{DB, DBRawIterator};
use std::sync::Arc;

/// An iterator over a database as it was when the iterator was made.
pub(crate) struct Frozen {
    /// Before `_db`, so that it is dropped first.
    pub(crate) iter: DBRawIterator<'static>,
    _db: Arc<DB>,
}

impl Frozen {
    pub(crate) fn new(db: &Arc<DB>) -> Self {
        let db = db.clone();
        let iter = db.raw_iterator();
        // SAFETY: the iterator borrows the database behind the `Arc`, which does not move and
        // lives at least as long as this struct; the iterator is dropped before.
        let iter =
            unsafe { std::mem::transmute::<DBRawIterator<'_>, DBRawIterator<'static>>(iter) };
        Frozen { iter, _db: db }
    }
}
