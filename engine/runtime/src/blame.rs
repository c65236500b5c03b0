//! Who panicked, on which record. Costs nothing while nobody does: the guard's destructor runs
//! only while unwinding, and notes operator and record for the task's message.

use std::cell::RefCell;
use std::fmt::Debug;

thread_local! {
    static CULPRIT: RefCell<Option<(u32, String)>> = const { RefCell::new(None) };
}

/// The longest record text that a message carries.
const RECORD_TEXT_MAX: usize = 512;

/// Stands while user code runs.
pub struct Blame<V: Copy + Debug> {
    operator: u32,
    view: V,
}

impl<V: Copy + Debug> Blame<V> {
    /// User code of `operator` is about to see `view`.
    #[inline(always)]
    pub fn new(operator: u32, view: V) -> Self {
        Blame { operator, view }
    }
    /// It has returned.
    #[inline(always)]
    pub fn clear(self) {
        std::mem::forget(self);
    }
}

impl<V: Copy + Debug> Drop for Blame<V> {
    #[cold]
    fn drop(&mut self) {
        let mut text = format!("{:?}", self.view);
        if text.len() > RECORD_TEXT_MAX {
            let end = (0..=RECORD_TEXT_MAX).rev().find(|&i| text.is_char_boundary(i));
            text.truncate(end.unwrap_or(0));
            text.push_str("...");
        }
        // The innermost operator is unwound first and keeps the blame.
        CULPRIT.with(|c| {
            c.borrow_mut().get_or_insert((self.operator, text));
        });
    }
}

/// Takes the operator (its index in the chain) and the record of the last panic on this thread.
pub fn take_culprit() -> Option<(u32, String)> {
    CULPRIT.with(|c| c.borrow_mut().take())
}
