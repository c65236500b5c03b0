//! From a line of text to a record.

use crate::file::parsed::BadLine;
use memchr::memchr;
use serde::de::DeserializeOwned;
use std::marker::PhantomData;
use tidemill_base::Record;

/// Why a line is not a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// Byte in the line (or the record, where it spans lines), from 1.
    pub column: usize,
    /// What is wrong there.
    pub message: String,
}

/// Reads records from lines.
pub trait Format: Clone + Send + 'static {
    /// What it reads.
    type Item: Record;
    /// What the first line of a file says about the others.
    type Header: Clone + Send + 'static;

    /// The format's name, for messages.
    const NAME: &'static str;

    /// Whether a file's first line is a header.
    fn has_header(&self) -> bool {
        false
    }

    /// Reads the first line of a file; called with "" where there is no header.
    fn header(&mut self, line: &str) -> Result<Self::Header, Malformed>;

    /// Reads a line, without its line break, and hands the record to `emit`, at most once.
    fn parse(
        &mut self,
        header: &Self::Header,
        line: &str,
        emit: impl for<'v> FnOnce(<Self::Item as Record>::View<'v>),
    ) -> Result<(), Malformed>;

    /// Whether a record may hold line breaks. A file of such records is read by one subtask from its
    /// start to its end: where a record starts in the middle of a file cannot be told.
    #[inline(always)]
    fn spans_lines(&self) -> bool {
        false
    }

    /// The line break that ends the record which starts with `text`; `None` if it is not there yet.
    /// Asked only if records span lines.
    fn record_end(&self, text: &[u8]) -> Option<usize> {
        memchr(b'\n', text)
    }

    /// Whether bad lines become records too, by [`bad`](Format::bad).
    fn keeps_bad(&self) -> bool {
        false
    }

    /// A bad line as a record.
    fn bad(&mut self, _: &BadLine, _: impl for<'v> FnOnce(<Self::Item as Record>::View<'v>)) {}
}

/// Lines as they are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lines;

impl Format for Lines {
    type Item = String;
    type Header = ();
    const NAME: &'static str = "text";

    fn header(&mut self, _: &str) -> Result<(), Malformed> {
        Ok(())
    }
    #[inline(always)]
    fn parse(
        &mut self,
        (): &(),
        line: &str,
        emit: impl for<'v> FnOnce(&'v str),
    ) -> Result<(), Malformed> {
        emit(line);
        Ok(())
    }
}

/// JSON lines.
pub struct Json<T>(PhantomData<fn() -> T>);

impl<T> Json<T> {
    pub(crate) fn new() -> Self {
        Json(PhantomData)
    }
}

impl<T> Clone for Json<T> {
    fn clone(&self) -> Self {
        Json(PhantomData)
    }
}

impl<T> std::fmt::Debug for Json<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Json")
    }
}

impl<T: Record + DeserializeOwned> Format for Json<T> {
    type Item = T;
    type Header = ();
    const NAME: &'static str = "JSON";

    fn header(&mut self, _: &str) -> Result<(), Malformed> {
        Ok(())
    }
    fn parse(
        &mut self,
        (): &(),
        line: &str,
        emit: impl for<'v> FnOnce(T::View<'v>),
    ) -> Result<(), Malformed> {
        match serde_json::from_str::<T>(line) {
            Ok(record) => {
                emit(record.view());
                Ok(())
            }
            Err(error) => Err(json_malformed(&error)),
        }
    }
}

#[cold]
fn json_malformed(error: &serde_json::Error) -> Malformed {
    let mut message = error.to_string();
    // The parser's own "at line 1 column 5": our message says it better.
    if let Some(at) = message.rfind(" at line ") {
        message.truncate(at);
    }
    Malformed { column: error.column().max(1), message }
}
