//! The key and the time that state handles are bound to. The operator sets them before it calls
//! user code.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use tidemill_base::key::KeyHeap;
use tidemill_base::{Key, Timestamp, WATERMARK_MAX, WATERMARK_MIN};

/// The key that state handles read and write; clones share it.
///
/// Kept in stored form: setting a key of fixed size is one store, a longer one is copied into
/// memory that is reused.
pub struct CurrentKey<K: Key>(Rc<Inner<K>>);

struct Inner<K: Key> {
    hash: Cell<u64>,
    slot: Cell<K::Slot>,
    heap: RefCell<KeyHeap>,
}

impl<K: Key> Clone for CurrentKey<K> {
    fn clone(&self) -> Self {
        CurrentKey(self.0.clone())
    }
}

impl<K: Key> Default for CurrentKey<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Key> std::fmt::Debug for CurrentKey<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CurrentKey(hash {:#x})", self.hash())
    }
}

impl<K: Key> CurrentKey<K> {
    /// No key yet: the zero value of the stored form.
    pub fn new() -> Self {
        CurrentKey(Rc::new(Inner {
            hash: Cell::new(0),
            slot: Cell::new(K::Slot::default()),
            heap: RefCell::default(),
        }))
    }

    /// Sets key and hash. Panics if called by code that runs inside [`CurrentKey::with`].
    #[inline(always)]
    pub fn set(&self, hash: u64, key: K::View<'_>) {
        let mut heap = self.0.heap.borrow_mut();
        heap.clear();
        self.0.hash.set(hash);
        self.0.slot.set(K::store(key, &mut heap));
    }

    /// The hash of the key.
    #[inline(always)]
    pub fn hash(&self) -> u64 {
        self.0.hash.get()
    }

    /// Calls `f` with hash and key.
    #[inline(always)]
    pub fn with<R>(&self, f: impl FnOnce(u64, K::View<'_>) -> R) -> R {
        let slot = self.0.slot.get();
        let heap = self.0.heap.borrow();
        f(self.0.hash.get(), K::load(&slot, &heap))
    }

    /// An owned copy of the key.
    pub fn owned(&self) -> K {
        self.with(|_, key| K::from_view(key))
    }
}

/// The times that TTL is measured by; clones share them.
#[derive(Clone, Debug)]
pub struct StateTime(Rc<Times>);

#[derive(Debug)]
struct Times {
    timestamp: Cell<Timestamp>,
    watermark: Cell<Timestamp>,
    processing_ms: Cell<i64>,
}

impl Default for StateTime {
    fn default() -> Self {
        Self::new()
    }
}

impl StateTime {
    /// No record, no watermark, processing time 0.
    pub fn new() -> Self {
        StateTime(Rc::new(Times {
            timestamp: Cell::new(WATERMARK_MIN),
            watermark: Cell::new(WATERMARK_MIN),
            processing_ms: Cell::new(0),
        }))
    }

    /// Sets the event time of the record (or timer) at hand.
    #[inline(always)]
    pub fn set_timestamp(&self, timestamp: Timestamp) {
        self.0.timestamp.set(timestamp);
    }

    /// Sets the watermark. The last one, [`WATERMARK_MAX`], is ignored: state does not expire
    /// because the input has ended.
    pub fn set_watermark(&self, watermark: Timestamp) {
        if watermark != WATERMARK_MAX {
            self.0.watermark.set(watermark);
        }
    }

    /// Sets the processing time, in milliseconds since the Unix epoch.
    #[inline]
    pub fn set_processing_ms(&self, ms: i64) {
        self.0.processing_ms.set(ms);
    }

    /// Event time of the record (or timer) at hand.
    #[inline(always)]
    pub fn timestamp(&self) -> Timestamp {
        self.0.timestamp.get()
    }

    /// The watermark.
    #[inline(always)]
    pub fn watermark(&self) -> Timestamp {
        self.0.watermark.get()
    }

    /// The processing time, in milliseconds since the Unix epoch.
    #[inline(always)]
    pub fn processing_ms(&self) -> i64 {
        self.0.processing_ms.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setting_long_keys_reuses_memory() {
        let key = CurrentKey::<String>::new();
        for n in 0..1000 {
            let text = format!("a key that does not fit in place {n}");
            key.set(n, &text);
            assert_eq!((key.hash(), key.owned()), (n, text));
        }
        assert!(key.0.heap.borrow().bytes() < 200);
    }
}
