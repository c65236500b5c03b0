//! A place in the order of timers, that is archived as nothing.

use tidemill_base::Record;
use tidemill_base::record::Encoder;
use tidemill_base::rkyv::rancor::Failure;
use tidemill_base::rkyv::{self, Archive};

/// Where a timer stands in the order.
pub(super) struct Place(pub(super) u32);

impl Archive for Place {
    type Archived = ();
    type Resolver = ();
    fn resolve(&self, (): (), _: rkyv::Place<()>) {}
}

impl Record for Place {
    const PLAIN: bool = true;
    type View<'a> = ();
    fn view(&self) {}
    fn view_archived((): &()) {}
    fn from_view((): ()) -> Self {
        Place(0)
    }
    fn shorten<'short, 'long: 'short>((): ()) {}
    fn serialize_view((): (), _: &mut Encoder<'_>) -> Result<(), Failure> {
        Ok(())
    }
    fn resolve_view((): (), (): (), _: rkyv::Place<()>) {}
    fn shape(out: &mut String) {
        <()>::shape(out);
    }
}
