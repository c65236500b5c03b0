//! Text that user functions write.

use serde::Serialize;
use std::fmt;
use tidemill_base::Record;

/// What a function that writes text may return: nothing, or what `write!` returns. So
/// `|(word, n), out| write!(out, "{word} {n}")` needs no more.
pub trait Written {
    /// As a result.
    fn check(self) -> fmt::Result;
}

impl Written for () {
    #[inline(always)]
    fn check(self) -> fmt::Result {
        Ok(())
    }
}

impl Written for fmt::Result {
    #[inline(always)]
    fn check(self) -> fmt::Result {
        self
    }
}

/// A function that writes a record as text, without naming its type.
pub trait TextFn<T: Record>:
    for<'a> FnMut(T::View<'a>, &mut String) -> fmt::Result + Clone + Send + 'static
{
}

impl<T, F> TextFn<T> for F
where
    T: Record,
    F: for<'a> FnMut(T::View<'a>, &mut String) -> fmt::Result + Clone + Send + 'static,
{
}

/// Appends a record as a line of JSON.
pub(crate) fn json_line<T: Record + Serialize>(view: T::View<'_>, out: &mut String) -> fmt::Result {
    let text = serde_json::to_string(&T::from_view(view)).map_err(|_| fmt::Error)?;
    out.push_str(&text);
    Ok(())
}
