//! `Vec<T>` and its view [`List`].

use super::{Encoder, Record};
use rkyv::Place;
use rkyv::rancor::Failure;
use rkyv::vec::{ArchivedVec, VecResolver};
use std::fmt;

/// Lists up to this length are archived without allocating.
const FEW: usize = 16;

/// A borrowed list: of owned elements or of archived ones, alike to its user.
pub enum List<'a, T: Record> {
    /// Elements of a `Vec<T>`.
    Owned(&'a [T]),
    /// Elements in a buffer.
    Archived(&'a [T::Archived]),
}

impl<T: Record> Clone for List<'_, T> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}
impl<T: Record> Copy for List<'_, T> {}

impl<T: Record> fmt::Debug for List<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<T: Record> PartialEq for List<'_, T> {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl<'a, T: Record> List<'a, T> {
    /// Number of elements.
    #[inline]
    pub fn len(&self) -> usize {
        match self {
            List::Owned(s) => s.len(),
            List::Archived(s) => s.len(),
        }
    }
    /// Whether there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Element `i`, if there are as many.
    #[inline]
    pub fn get(&self, i: usize) -> Option<T::View<'a>> {
        match self {
            List::Owned(s) => s.get(i).map(T::view),
            List::Archived(s) => s.get(i).map(T::view_archived),
        }
    }
    /// Views of the elements, in order.
    #[inline]
    pub fn iter(&self) -> ListIter<'a, T> {
        ListIter { list: *self, next: 0 }
    }
}

impl<'a, T: Record> IntoIterator for List<'a, T> {
    type Item = T::View<'a>;
    type IntoIter = ListIter<'a, T>;
    fn into_iter(self) -> ListIter<'a, T> {
        self.iter()
    }
}

/// Iterator over a [`List`].
pub struct ListIter<'a, T: Record> {
    list: List<'a, T>,
    next: usize,
}

impl<'a, T: Record> Iterator for ListIter<'a, T> {
    type Item = T::View<'a>;
    #[inline]
    fn next(&mut self) -> Option<T::View<'a>> {
        let item = self.list.get(self.next)?;
        self.next += 1;
        Some(item)
    }
    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.list.len() - self.next;
        (left, Some(left))
    }
}

impl<T: Record> ExactSizeIterator for ListIter<'_, T> {}

impl<T: Record> Record for Vec<T> {
    type View<'a> = List<'a, T>;
    #[inline(always)]
    fn view(&self) -> List<'_, T> {
        List::Owned(self)
    }
    #[inline(always)]
    fn view_archived(archived: &ArchivedVec<T::Archived>) -> List<'_, T> {
        List::Archived(archived.as_slice())
    }
    fn from_view(view: List<'_, T>) -> Vec<T> {
        view.iter().map(T::from_view).collect()
    }
    #[inline(always)]
    fn shorten<'short, 'long: 'short>(view: List<'long, T>) -> List<'short, T> {
        view
    }
    fn serialize_view(view: List<'_, T>, out: &mut Encoder<'_>) -> Result<VecResolver, Failure> {
        // Short lists keep their resolvers on the stack, and a `Vec` of zero-sized resolvers (of
        // elements without parts outside themselves) has no heap: neither allocates.
        if size_of::<T::Resolver>() == 0 || view.len() > FEW {
            let mut resolvers = Vec::with_capacity(view.len());
            for element in view {
                resolvers.push(T::serialize_view(element, out)?);
            }
            return write_elements(view, resolvers.into_iter(), out);
        }
        let mut few = [const { None }; FEW];
        for (element, resolver) in view.iter().zip(&mut few) {
            *resolver = Some(T::serialize_view(element, out)?);
        }
        write_elements(view, few.into_iter().flatten(), out)
    }
    #[inline(always)]
    fn resolve_view(view: List<'_, T>, resolver: VecResolver, out: Place<Self::Archived>) {
        ArchivedVec::resolve_from_len(view.len(), resolver, out);
    }
    #[inline]
    fn owned_bytes(&self) -> usize {
        self.capacity().saturating_mul(size_of::<T>()).saturating_add(owned_by(self))
    }
    fn shape(out: &mut String) {
        out.push_str("list<");
        T::shape(out);
        out.push('>');
    }
}

/// Second half of archiving a list's contents: the elements themselves, together.
#[inline(always)]
fn write_elements<T: Record>(
    view: List<'_, T>,
    resolvers: impl Iterator<Item = T::Resolver>,
    out: &mut Encoder<'_>,
) -> Result<VecResolver, Failure> {
    let start = out.reserve::<T::Archived>(view.len())?;
    for (i, (element, resolver)) in view.iter().zip(resolvers).enumerate() {
        out.resolve_at::<T>(element, resolver, start + i * size_of::<T::Archived>());
    }
    Ok(VecResolver::from_pos(start))
}

/// Elements that stand for all of a longer list.
const SAMPLE: usize = 8;

/// About what the elements of a list own beside themselves.
pub(super) fn owned_by<T: Record>(elements: &[T]) -> usize {
    if T::PLAIN {
        return 0;
    }
    let step = elements.len().div_ceil(SAMPLE).max(1);
    let (looked, owned) = elements
        .iter()
        .step_by(step)
        .fold((0usize, 0usize), |(n, sum), e| (n + 1, sum.saturating_add(e.owned_bytes())));
    owned.saturating_mul(elements.len()).checked_div(looked).unwrap_or(0)
}
