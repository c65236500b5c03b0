//! The shared-memory primitives that this crate is written against: the standard library's, or loom's
//! under `--cfg loom`, which then runs the models of `tests/loom.rs` through every interleaving and
//! every weak-memory outcome.
//!
//! Nothing in `spsc` or `doorbell` names an atomic, a cell or a shared pointer from anywhere else.

#[cfg(not(loom))]
pub(crate) use self::native::{
    Arc, AtomicBool, AtomicUsize, AtomicWaker, Ordering, UnsafeCell, fence,
};

#[cfg(loom)]
pub(crate) use self::model::{
    Arc, AtomicBool, AtomicUsize, AtomicWaker, Ordering, UnsafeCell, fence,
};

#[cfg(not(loom))]
mod native {
    pub(crate) use atomic_waker::AtomicWaker;
    pub(crate) use std::sync::Arc;
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};

    /// `std::cell::UnsafeCell` with loom's interface: access happens inside a closure.
    #[derive(Debug)]
    pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(std::cell::UnsafeCell::new(value))
        }

        #[inline(always)]
        pub(crate) fn with<R>(&self, read: impl FnOnce(*const T) -> R) -> R {
            read(self.0.get())
        }

        #[inline(always)]
        pub(crate) fn with_mut<R>(&self, write: impl FnOnce(*mut T) -> R) -> R {
            write(self.0.get())
        }
    }
}

#[cfg(loom)]
#[expect(clippy::unwrap_used, reason = "no model poisons a lock")]
mod model {
    pub(crate) use loom::cell::UnsafeCell;
    pub(crate) use loom::sync::Arc;
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
    use std::task::Waker;

    /// The interface of the crate `atomic-waker`, its state under a lock. It registers and takes at one
    /// instant each; what the crate does in between is that crate's to prove. The lock orders more
    /// than the crate does, so the models do not show that D4 (doorbell.rs) needs its Release.
    #[derive(Debug)]
    pub(crate) struct AtomicWaker(loom::sync::Mutex<Option<Waker>>);

    impl AtomicWaker {
        pub(crate) fn new() -> Self {
            Self(loom::sync::Mutex::new(None))
        }

        pub(crate) fn register(&self, waker: &Waker) {
            let old = self.0.lock().unwrap().replace(waker.clone());
            drop(old);
        }

        pub(crate) fn wake(&self) {
            let taken = self.0.lock().unwrap().take();
            if let Some(waker) = taken {
                waker.wake();
            }
        }
    }
}
