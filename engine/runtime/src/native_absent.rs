//! Stands for [`native`](self) in builds without RocksDB.

use crate::context::{Context, SectionId, SectionKind};
use crate::process::part::PartRef;
use tidemill_base::{Error, Result};

/// There are none.
#[derive(Clone, Debug)]
pub enum Native {}

impl Native {
    pub(crate) fn poll(&self, _: u64, _: &Context) -> Result<bool> {
        match *self {}
    }
    pub(crate) fn abort(&self) {
        match *self {}
    }
}

impl Context {
    pub(crate) fn native(&self, _: u64) -> Option<Native> {
        None
    }
    pub(crate) fn committed(&self, _: u64) {}
}

/// Refuses what this build cannot read.
pub(crate) fn restore_on_heap(
    context: &Context,
    operator: u64,
    _: &mut [PartRef<'_>],
) -> Result<()> {
    let section = SectionId { operator, kind: SectionKind::OperatorState, state: u16::MAX };
    match &context.restored {
        Some(restored) if !restored.entries(section).is_empty() => Err(Error::job(format!(
            "checkpoint {} has state of task '{}' in files of RocksDB, which this build does not \
             have; build with the feature 'rocksdb'",
            restored.epoch, context.info.task_name
        ))),
        _ => Ok(()),
    }
}
