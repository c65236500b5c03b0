//! Comma-separated values, one record a line.

use super::format::{Format, Malformed};
use csv::{ErrorKind, StringRecord};
use csv_core::{ReadRecordResult, Reader, ReaderBuilder, Terminator};
use serde::de::DeserializeOwned;
use std::marker::PhantomData;
use tidemill_base::Record;

use crate::FileSource;

/// CSV with a header line.
pub struct Csv<T> {
    delimiter: u8,
    has_header: bool,
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
        Csv::with(b',', true)
    }
    fn with(delimiter: u8, has_header: bool) -> Self {
        let core =
            ReaderBuilder::new().delimiter(delimiter).terminator(Terminator::Any(b'\n')).build();
        let splitter = Splitter { core, fields: vec![0; 256], ends: vec![0; 16] };
        let record = StringRecord::new();
        Csv { delimiter, has_header, splitter, record, item: PhantomData }
    }
}

impl<T> Clone for Csv<T> {
    fn clone(&self) -> Self {
        Csv::with(self.delimiter, self.has_header)
    }
}

impl<T: Record + DeserializeOwned> FileSource<Csv<T>> {
    /// What parts fields, `,` if not set. Panics unless it is ASCII, and neither a quote nor a
    /// line break.
    #[must_use]
    pub fn delimiter(mut self, delimiter: u8) -> Self {
        let bad = !delimiter.is_ascii() || matches!(delimiter, b'"' | b'\n' | b'\r');
        assert!(!bad, "the delimiter {:?} cannot part CSV fields", char::from(delimiter));
        self.format = Csv::with(delimiter, self.format.has_header);
        self
    }

    /// Whether the first line of each file names the fields. Without, they are read by position.
    #[must_use]
    pub fn header(mut self, has_header: bool) -> Self {
        self.format = Csv::with(self.format.delimiter, has_header);
        self
    }
}

impl Splitter {
    fn split(&mut self, line: &str, record: &mut StringRecord) -> Result<(), Malformed> {
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
                ReadRecordResult::InputEmpty => return Err(unterminated(line)),
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
        Ok(())
    }
}

#[cold]
fn unterminated(line: &str) -> Malformed {
    let column = line.rfind('"').map_or(1, |at| at + 1);
    let message = "a quoted field does not end in its line; fields with line breaks are not read";
    Malformed { column, message: String::from(message) }
}

/// Where field `n` begins, as a byte of the line from 1.
#[cold]
fn column_of(line: &str, delimiter: u8, n: usize) -> usize {
    let (mut quoted, mut seen) = (false, 0);
    for (at, byte) in line.bytes().enumerate() {
        if seen == n {
            return at + 1;
        }
        match byte {
            b'"' => quoted = !quoted,
            _ if byte == delimiter && !quoted => seen += 1,
            _ => {}
        }
    }
    line.len() + 1
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
            self.splitter.split(line, &mut names)?;
            names.trim();
        }
        Ok(names)
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
        self.splitter.split(line, &mut self.record)?;
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
