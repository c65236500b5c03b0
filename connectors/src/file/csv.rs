//! Comma-separated values, one record a line unless told otherwise.

use super::format::{Format, Malformed};
use csv::{ErrorKind, StringRecord};
use csv_core::{ReadRecordResult, Reader, ReaderBuilder, Terminator};
use memchr::{memchr, memchr2};
use serde::de::DeserializeOwned;
use std::marker::PhantomData;
use tidemill_base::Record;

use crate::FileSource;

/// CSV with a header line.
pub struct Csv<T> {
    delimiter: u8,
    has_header: bool,
    multiline: bool,
    splitter: Splitter,
    record: StringRecord,
    item: PhantomData<fn() -> T>,
}

/// Parts a line into fields, without allocating once its buffers have grown.
#[derive(Clone)]
struct Splitter {
    core: Reader,
    fields: Vec<u8>,
    ends: Vec<usize>,
}

impl<T> Csv<T> {
    pub(crate) fn new() -> Self {
        Csv::with(b',', true, false)
    }
    fn with(delimiter: u8, has_header: bool, multiline: bool) -> Self {
        let core =
            ReaderBuilder::new().delimiter(delimiter).terminator(Terminator::Any(b'\n')).build();
        let splitter = Splitter { core, fields: vec![0; 256], ends: vec![0; 16] };
        let record = StringRecord::new();
        Csv { delimiter, has_header, multiline, splitter, record, item: PhantomData }
    }
}

impl<T> Clone for Csv<T> {
    fn clone(&self) -> Self {
        Csv::with(self.delimiter, self.has_header, self.multiline)
    }
}

impl<T: Record + DeserializeOwned> FileSource<Csv<T>> {
    /// What parts fields, `,` if not set. Panics unless it is ASCII, and neither a quote nor a
    /// line break.
    #[must_use]
    pub fn delimiter(mut self, delimiter: u8) -> Self {
        let bad = !delimiter.is_ascii() || matches!(delimiter, b'"' | b'\n' | b'\r');
        assert!(!bad, "the delimiter {:?} cannot part CSV fields", char::from(delimiter));
        self.format = Csv::with(delimiter, self.format.has_header, self.format.multiline);
        self
    }

    /// Whether the first line of each file names the fields. Without, they are read by position.
    #[must_use]
    pub fn header(mut self, has_header: bool) -> Self {
        self.format = Csv::with(self.format.delimiter, has_header, self.format.multiline);
        self
    }

    /// Whether quoted fields may hold line breaks. A file is then read from its start to its end by
    /// one subtask, because nobody can tell from its middle which line breaks are quoted; the files
    /// of a directory are still read in parallel. A quote that does not end takes the rest of its
    /// file, and fails the job at 16 MiB.
    #[must_use]
    pub fn multiline(mut self, multiline: bool) -> Self {
        self.format = Csv::with(self.format.delimiter, self.format.has_header, multiline);
        self
    }
}

impl Splitter {
    /// Fills `record`; false if a quoted field does not end.
    fn split(&mut self, line: &str, record: &mut StringRecord) -> Result<bool, Malformed> {
        self.core.reset();
        record.clear();
        let (mut input, mut written, mut fields, mut ended) = (line.as_bytes(), 0, 0, false);
        loop {
            let out = (&mut self.fields[written..], &mut self.ends[fields..]);
            let (result, read, wrote, ends) = self.core.read_record(input, out.0, out.1);
            (input, written, fields) = (&input[read..], written + wrote, fields + ends);
            match result {
                ReadRecordResult::OutputFull => self.fields.resize(2 * self.fields.len(), 0),
                ReadRecordResult::OutputEndsFull => self.ends.resize(2 * self.ends.len(), 0),
                ReadRecordResult::InputEmpty if !ended => (input, ended) = (b"\n", true),
                ReadRecordResult::InputEmpty => return Ok(false),
                ReadRecordResult::Record | ReadRecordResult::End => break,
            }
        }
        let mut from = 0;
        for &end in &self.ends[..fields] {
            let field = std::str::from_utf8(&self.fields[from..end]);
            record.push_field(field.map_err(|_| Malformed {
                column: 1,
                message: String::from("a field is not valid UTF-8"),
            })?);
            from = end;
        }
        Ok(true)
    }
}

/// What ends a field.
enum FieldEnd {
    Delimiter(usize),
    Break(usize),
    /// The text; the quote at this place has not been closed.
    Text {
        quote: Option<usize>,
    },
}

/// What ends the field that starts at `at`. A quote opens a field at its start only; a doubled one
/// within is part of the value.
fn field_end(text: &[u8], start: usize, delimiter: u8) -> FieldEnd {
    let mut at = start;
    if text.get(at) == Some(&b'"') {
        at += 1;
        loop {
            let Some(quote) = memchr(b'"', &text[at..]) else {
                return FieldEnd::Text { quote: Some(start) };
            };
            at += quote + 1;
            if text.get(at) != Some(&b'"') {
                break;
            }
            at += 1;
        }
    }
    match memchr2(delimiter, b'\n', &text[at..]) {
        None => FieldEnd::Text { quote: None },
        Some(len) if text[at + len] == b'\n' => FieldEnd::Break(at + len),
        Some(len) => FieldEnd::Delimiter(at + len),
    }
}

/// Where field `n` begins, as a byte of the record from 1.
#[cold]
fn column_of(record: &str, delimiter: u8, n: usize) -> usize {
    let mut at = 0;
    for _ in 0..n {
        match field_end(record.as_bytes(), at, delimiter) {
            FieldEnd::Delimiter(end) => at = end + 1,
            FieldEnd::Break(_) | FieldEnd::Text { .. } => return record.len() + 1,
        }
    }
    at + 1
}

impl<T: Record + DeserializeOwned> Format for Csv<T> {
    type Item = T;
    type Header = StringRecord;
    const NAME: &'static str = "CSV";

    fn has_header(&self) -> bool {
        self.has_header
    }

    fn header(&mut self, line: &str) -> Result<StringRecord, Malformed> {
        let mut names = StringRecord::new();
        if self.has_header {
            if !self.splitter.split(line, &mut names)? {
                return Err(self.unterminated(line));
            }
            names.trim();
        }
        Ok(names)
    }

    #[inline(always)]
    fn spans_lines(&self) -> bool {
        self.multiline
    }

    fn record_end(&self, text: &[u8]) -> Option<usize> {
        let mut at = 0;
        loop {
            match field_end(text, at, self.delimiter) {
                FieldEnd::Delimiter(end) => at = end + 1,
                FieldEnd::Break(end) => return Some(end),
                FieldEnd::Text { .. } => return None,
            }
        }
    }

    fn parse(
        &mut self,
        header: &StringRecord,
        line: &str,
        emit: impl for<'v> FnOnce(T::View<'v>),
    ) -> Result<(), Malformed> {
        if line.is_empty() {
            return Ok(());
        }
        if !self.splitter.split(line, &mut self.record)? {
            return Err(self.unterminated(line));
        }
        let names = self.has_header.then_some(header);
        if let Some(names) = names.filter(|n| n.len() != self.record.len()) {
            return Err(Malformed {
                column: column_of(line, self.delimiter, names.len().min(self.record.len())),
                message: format!("{} fields, the header has {}", self.record.len(), names.len()),
            });
        }
        match self.record.deserialize::<T>(names) {
            Ok(item) => {
                emit(item.view());
                Ok(())
            }
            Err(error) => Err(self.malformed(line, header, &error)),
        }
    }
}

impl<T> Csv<T> {
    #[cold]
    fn unterminated(&self, record: &str) -> Malformed {
        let mut at = 0;
        let quote = loop {
            match field_end(record.as_bytes(), at, self.delimiter) {
                FieldEnd::Delimiter(end) | FieldEnd::Break(end) => at = end + 1,
                FieldEnd::Text { quote } => break quote.unwrap_or(at),
            }
        };
        let message = match self.multiline {
            true => "a quoted field does not end",
            false => {
                "a quoted field does not end in its line; for fields with line breaks choose \
                 .multiline(true)"
            }
        };
        Malformed { column: quote + 1, message: String::from(message) }
    }

    #[cold]
    fn malformed(&self, line: &str, header: &StringRecord, error: &csv::Error) -> Malformed {
        let ErrorKind::Deserialize { err, .. } = error.kind() else {
            return Malformed { column: 1, message: error.to_string() };
        };
        let Some(field) = err.field().map(|f| f as usize) else {
            return Malformed { column: 1, message: err.kind().to_string() };
        };
        let name = header.get(field).map_or(String::new(), |n| format!(" ('{n}')"));
        let value = self.record.get(field).unwrap_or_default();
        Malformed {
            column: column_of(line, self.delimiter, field),
            message: format!("field {}{name} is '{value}': {}", field + 1, err.kind()),
        }
    }
}
