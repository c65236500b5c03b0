//! Nowhere.

use tidemill_base::{Record, Result, Timestamp};
use tidemill_runtime::sink::{Sink, SinkContext, SinkWriter};

/// Forgets every record.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiscardSink;

impl<T: Record> Sink<T> for DiscardSink {
    type Writer = DiscardSink;
    fn open(&self, _: &SinkContext) -> Result<DiscardSink> {
        Ok(DiscardSink)
    }
    fn name(&self) -> String {
        String::from("discard")
    }
}

impl<T: Record> SinkWriter<T> for DiscardSink {
    #[inline(always)]
    fn write(&mut self, _: T::View<'_>, _: Timestamp) -> Result<()> {
        Ok(())
    }
}
