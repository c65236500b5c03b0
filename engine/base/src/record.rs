//! A record in three forms: the owned value `T`, its archive `T::Archived` (bytes in a buffer),
//! and a borrowed `T::View<'a>` with native field types, made for free from either of the two.
//!
//! User closures take views, so the same closure serves at the head of a chain (archive in a
//! buffer) and in its middle (owned value). Views are archived straight into a buffer, without an
//! owned value in between and without allocating. Archives have rkyv's layout.
//!
//! `#[derive(Record)]` implements the trait for structs and enums; implemented here: integers,
//! floats, `bool`, `char`, `()`, `String`, `Option`, `Vec`, arrays, tuples of up to eight.

mod array;
mod encoder;
mod list;
mod option;
mod primitive;
mod tuple;

pub use encoder::Encoder;
pub use list::{List, ListIter};

use rkyv::api::high::HighValidator;
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::{self, Failure};
use rkyv::{Archive, Place, Portable};
use std::fmt::Debug;

/// A type whose values can be records of a stream, fields of records, or state.
///
/// Laws: `view(t)` equals `view_archived` of `t`'s archive; `from_view(view(t)) == t`; encoding
/// `view(t)` gives the same bytes as encoding the view of `t`'s archive.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a record",
    label = "not a record",
    note = "derive it: `#[derive(Record)]`, or take a type that is one"
)]
pub trait Record:
    Archive<
        Archived: Portable + for<'a> CheckBytes<HighValidator<'a, rancor::Error>>,
        Resolver: Sized,
    > + Sized
    + 'static
{
    /// Whether an owned value is as cheap as a view: it owns no memory. Its archive then is its root
    /// and no more. Types with the same shape agree in it.
    const PLAIN: bool = false;

    /// Bytes of an archive's root that `resolve_view` writes whatever the value: the root's size if
    /// it has no padding. Only speed depends on it, as long as it is not more than that.
    const WRITTEN: usize = 0;

    /// The borrowed form: `Copy`, with native types (`u64`, `&str`). Views are equal if what they
    /// view is, whichever of the two forms that has.
    type View<'a>: Copy + Debug + PartialEq;

    /// Views an owned value.
    fn view(&self) -> Self::View<'_>;

    /// Views an archive in place.
    fn view_archived(archived: &Self::Archived) -> Self::View<'_>;

    /// An owned value from a view; allocates where the type does.
    fn from_view(view: Self::View<'_>) -> Self;

    /// The same view with a shorter lifetime (views are covariant; generic code cannot know).
    fn shorten<'short, 'long: 'short>(view: Self::View<'long>) -> Self::View<'short>;

    /// Writes what lies outside the root (string bytes, list elements); first half of archiving.
    fn serialize_view(
        view: Self::View<'_>,
        out: &mut Encoder<'_>,
    ) -> Result<Self::Resolver, Failure>;

    /// Writes the root in place; second half of archiving.
    fn resolve_view(view: Self::View<'_>, resolver: Self::Resolver, out: Place<Self::Archived>);

    /// Archives the view at once: both halves, its root last. Only speed depends on it.
    #[inline(always)]
    fn encode_view(view: Self::View<'_>, out: &mut Encoder<'_>) -> Result<(), Failure> {
        out.encode_in_halves::<Self>(view)
    }

    /// About how many bytes of memory the value owns beside itself: those of strings, and elements of
    /// lists. Takes no longer for a long list than for a short one: a few of its elements stand for
    /// all. Budgets of memory are kept by it.
    #[inline]
    fn owned_bytes(&self) -> usize {
        0
    }

    /// Appends the shape of the type, e.g. `Bid{auction:u64,url:str}`. Two types with the same
    /// shape have the same archive layout; a checkpoint stores it to detect changed types.
    fn shape(out: &mut String);
}

/// The shape of `T` as a string.
pub fn shape_of<T: Record>() -> String {
    let mut s = String::new();
    T::shape(&mut s);
    s
}

#[cfg(test)]
mod tests;
