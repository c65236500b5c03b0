//! A cached value, present or known to be absent.

use std::cell::Cell;
use tidemill_base::Record;
use tidemill_base::record::Encoder;
use tidemill_base::rkyv::rancor::Failure;
use tidemill_base::rkyv::{Archive, Place};

/// What the cache knows of a key. Archived as the option alone (and that never happens: the
/// cache's own snapshots are not used).
pub(super) struct Cached<V> {
    pub(super) value: Option<V>,
    /// Used since the clock's hand passed.
    pub(super) hot: Cell<bool>,
    /// Bytes that the value owned outside of the table when it was last measured (R5).
    owned: Cell<u32>,
}

impl<V: Record> Cached<V> {
    pub(super) fn new(value: Option<V>) -> Self {
        let owned = Cell::new(owned_by(&value));
        Cached { value, hot: Cell::new(true), owned }
    }

    /// What it owned when it was last measured.
    #[inline]
    pub(super) fn owned(&self) -> usize {
        self.owned.get() as usize
    }

    /// Measures it again; what it owned before, and owns now.
    #[inline]
    pub(super) fn measure(&self) -> (usize, usize) {
        let now = owned_by(&self.value);
        (self.owned.replace(now) as usize, now as usize)
    }
}

/// In four bytes: what owns more counts as that.
#[inline]
fn owned_by<V: Record>(value: &Option<V>) -> u32 {
    if V::PLAIN { 0 } else { u32::try_from(value.owned_bytes()).unwrap_or(u32::MAX) }
}

impl<V: Record> Archive for Cached<V> {
    type Archived = <Option<V> as Archive>::Archived;
    type Resolver = <Option<V> as Archive>::Resolver;
    fn resolve(&self, resolver: Self::Resolver, out: Place<Self::Archived>) {
        self.value.resolve(resolver, out);
    }
}

impl<V: Record> Record for Cached<V> {
    const PLAIN: bool = V::PLAIN;
    type View<'a> = Option<V::View<'a>>;
    fn view(&self) -> Self::View<'_> {
        self.value.view()
    }
    fn view_archived(archived: &Self::Archived) -> Self::View<'_> {
        Option::<V>::view_archived(archived)
    }
    fn from_view(view: Self::View<'_>) -> Self {
        Cached::new(Option::<V>::from_view(view))
    }
    fn shorten<'short, 'long: 'short>(view: Self::View<'long>) -> Self::View<'short> {
        Option::<V>::shorten(view)
    }
    fn serialize_view(
        view: Self::View<'_>,
        out: &mut Encoder<'_>,
    ) -> Result<Self::Resolver, Failure> {
        Option::<V>::serialize_view(view, out)
    }
    fn resolve_view(view: Self::View<'_>, resolver: Self::Resolver, out: Place<Self::Archived>) {
        Option::<V>::resolve_view(view, resolver, out);
    }
    fn owned_bytes(&self) -> usize {
        self.value.owned_bytes()
    }
    fn shape(out: &mut String) {
        Option::<V>::shape(out);
    }
}
