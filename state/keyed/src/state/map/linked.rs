//! A value with links to its neighbours, that is archived as the value alone.

use tidemill_base::Record;
use tidemill_base::record::Encoder;
use tidemill_base::rkyv::rancor::Failure;
use tidemill_base::rkyv::{Archive, Place};

/// No entry.
pub(super) const NONE: u32 = u32::MAX;

/// A value and the ids of the entries before and after.
pub(super) struct Linked<V> {
    pub(super) value: V,
    pub(super) previous: u32,
    pub(super) next: u32,
}

impl<V: Record> Archive for Linked<V> {
    type Archived = V::Archived;
    type Resolver = V::Resolver;
    fn resolve(&self, resolver: V::Resolver, out: Place<V::Archived>) {
        self.value.resolve(resolver, out);
    }
}

impl<V: Record> Record for Linked<V> {
    const PLAIN: bool = V::PLAIN;
    const WRITTEN: usize = V::WRITTEN;
    type View<'a> = V::View<'a>;
    fn view(&self) -> V::View<'_> {
        self.value.view()
    }
    fn view_archived(archived: &V::Archived) -> V::View<'_> {
        V::view_archived(archived)
    }
    fn from_view(view: V::View<'_>) -> Self {
        Linked { value: V::from_view(view), previous: NONE, next: NONE }
    }
    fn shorten<'short, 'long: 'short>(view: V::View<'long>) -> V::View<'short> {
        V::shorten(view)
    }
    fn serialize_view(view: V::View<'_>, out: &mut Encoder<'_>) -> Result<V::Resolver, Failure> {
        V::serialize_view(view, out)
    }
    fn resolve_view(view: V::View<'_>, resolver: V::Resolver, out: Place<V::Archived>) {
        V::resolve_view(view, resolver, out);
    }
    fn shape(out: &mut String) {
        V::shape(out);
    }
}
