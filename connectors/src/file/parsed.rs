//! Bad lines as records of their own.

use super::format::{Format, Malformed};
use tidemill_base::Record;
use tidemill_macros::Record;

/// A line that is not a record.
#[derive(Record, Clone, Debug, PartialEq, Eq)]
#[record(crate = tidemill_base)]
pub struct BadLine {
    /// Path of the file.
    pub file: String,
    /// Line, from 1.
    pub line: u64,
    /// Byte in the line, from 1.
    pub column: u64,
    /// The line, with replacement characters where it is not UTF-8.
    pub text: String,
    /// What is wrong.
    pub error: String,
}

/// A record, or a line that is none.
#[derive(Record, Clone, Debug, PartialEq, Eq)]
#[record(crate = tidemill_base)]
pub enum Parsed<T: Record> {
    /// A record.
    Good(T),
    /// A line that is none.
    Bad(BadLine),
}

/// A format whose bad lines are records too.
#[derive(Clone, Debug)]
pub struct OrBad<F>(F);

impl<F> OrBad<F> {
    pub(crate) fn new(format: F) -> Self {
        OrBad(format)
    }
}

impl<F: Format> Format for OrBad<F> {
    type Item = Parsed<F::Item>;
    type Header = F::Header;
    const NAME: &'static str = F::NAME;

    fn has_header(&self) -> bool {
        self.0.has_header()
    }
    fn header(&mut self, line: &str) -> Result<F::Header, Malformed> {
        self.0.header(line)
    }
    fn parse(
        &mut self,
        header: &F::Header,
        line: &str,
        emit: impl for<'v> FnOnce(ParsedView<'v, F::Item>),
    ) -> Result<(), Malformed> {
        self.0.parse(header, line, |view| emit(ParsedView::Good(view)))
    }
    #[inline(always)]
    fn spans_lines(&self) -> bool {
        self.0.spans_lines()
    }
    fn record_end(&self, text: &[u8]) -> Option<usize> {
        self.0.record_end(text)
    }
    fn keeps_bad(&self) -> bool {
        true
    }
    fn bad(&mut self, bad: &BadLine, emit: impl for<'v> FnOnce(ParsedView<'v, F::Item>)) {
        emit(ParsedView::Bad(bad.view()));
    }
}
