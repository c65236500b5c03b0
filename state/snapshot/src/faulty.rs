//! A store whose operations fail on demand, for crash tests and simulation.
//!
//! Every operation that changes the store counts one: `begin`, `append`, `finish`,
//! `write_manifest`, `put_shared`, `delete`, `delete_shared`, `remove_temporary`. An operation
//! that fails changes nothing, unless told to fail after it took effect.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};
use crate::manifest::SharedFile;
use crate::store::{CheckpointId, ObjectReader, ObjectWriter, SnapshotStore};

/// Which operations fail, counted from 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Faults {
    /// None; operations are counted only.
    #[default]
    None,
    /// This one alone, as when a disk is full for a moment.
    Once(u64),
    /// From the first one on, up to the second, which works again.
    Between(u64, u64),
    /// This one and all after it, as when the process or the disk died.
    From(u64),
    /// As `From`, but the first one takes effect although it reports a failure.
    FromAfterEffect(u64),
}

/// A store that fails on demand.
pub struct FaultyStore<S> {
    inner: S,
    faults: Faults,
    count: Arc<AtomicU64>,
}

#[derive(PartialEq)]
enum Outcome {
    Do,
    Fail,
    DoAndFail,
}

fn outcome(faults: Faults, n: u64) -> Outcome {
    match faults {
        Faults::Once(k) if n == k => Outcome::Fail,
        Faults::Between(from, to) if (from..to).contains(&n) => Outcome::Fail,
        Faults::From(k) if n >= k => Outcome::Fail,
        Faults::FromAfterEffect(k) if n == k => Outcome::DoAndFail,
        Faults::FromAfterEffect(k) if n > k => Outcome::Fail,
        _ => Outcome::Do,
    }
}

fn attempt<T>(
    faults: Faults,
    count: &AtomicU64,
    commit: bool,
    act: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let n = count.fetch_add(1, Ordering::Relaxed);
    let (seen, remedy) = (format!("injected failure of operation {n}"), "this is a test");
    match outcome(faults, n) {
        Outcome::Do => act(),
        Outcome::Fail => Err(Error::fail_checkpoint("faulty store", seen, remedy)),
        Outcome::DoAndFail => {
            act()?;
            let error = Error::fail_checkpoint("faulty store", seen, remedy);
            // A commit that took effect and could not be taken back is in doubt.
            Err(if commit { Error::InDoubt(error.report().clone()) } else { error })
        }
    }
}

impl<S: SnapshotStore> FaultyStore<S> {
    /// Wraps a store.
    pub fn new(inner: S, faults: Faults) -> Self {
        FaultyStore { inner, faults, count: Arc::default() }
    }

    /// Changing operations so far, failed ones included.
    pub fn operations(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    fn attempt<T>(&self, act: impl FnOnce() -> Result<T>) -> Result<T> {
        attempt(self.faults, &self.count, false, act)
    }
}

impl<S: SnapshotStore> SnapshotStore for FaultyStore<S> {
    fn locate(&self, epoch: Option<u64>) -> String {
        self.inner.locate(epoch)
    }

    fn begin(&self, epoch: u64, name: &str) -> Result<Box<dyn ObjectWriter>> {
        let inner = self.attempt(|| self.inner.begin(epoch, name))?;
        Ok(Box::new(FaultyWriter { inner, faults: self.faults, count: Arc::clone(&self.count) }))
    }

    fn write_manifest(&self, epoch: u64, bytes: &[u8]) -> Result<()> {
        let act = || self.inner.write_manifest(epoch, bytes);
        attempt(self.faults, &self.count, true, act)
    }

    fn read_manifest(&self, epoch: u64) -> Result<Option<Vec<u8>>> {
        self.inner.read_manifest(epoch)
    }

    fn list(&self) -> Result<Vec<CheckpointId>> {
        self.inner.list()
    }

    fn open_object(&self, epoch: u64, name: &str) -> Result<Box<dyn ObjectReader>> {
        self.inner.open_object(epoch, name)
    }

    fn put_shared(&self, name: &str, content: &mut dyn io::Read) -> Result<SharedFile> {
        self.attempt(|| self.inner.put_shared(name, content))
    }

    fn get_shared(&self, name: &str) -> Result<Box<dyn ObjectReader>> {
        self.inner.get_shared(name)
    }

    fn list_shared(&self) -> Result<Vec<String>> {
        self.inner.list_shared()
    }

    fn delete(&self, epoch: u64) -> Result<()> {
        self.attempt(|| self.inner.delete(epoch))
    }

    fn delete_shared(&self, name: &str) -> Result<()> {
        self.attempt(|| self.inner.delete_shared(name))
    }

    fn remove_temporary(&self) -> Result<u64> {
        self.attempt(|| self.inner.remove_temporary())
    }
}

struct FaultyWriter {
    inner: Box<dyn ObjectWriter>,
    faults: Faults,
    count: Arc<AtomicU64>,
}

impl ObjectWriter for FaultyWriter {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        attempt(self.faults, &self.count, false, || self.inner.append(bytes))
    }

    fn finish(self: Box<Self>) -> Result<u64> {
        let FaultyWriter { inner, faults, count } = *self;
        attempt(faults, &count, false, || inner.finish())
    }
}
