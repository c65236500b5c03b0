//! The bytes between two reads: whole lines, and where they lie.
//!
//! Invariants
//!   B1  The block holds whole lines (of a format whose records span lines: whole records) only,
//!       except for the last one of a file that is not followed. A byte order mark at the start of
//!       a file is skipped.
//!   B2  As text if all of it is UTF-8, which is checked once a block; else as bytes, checked by line.

use super::format::Format;
use crate::io_error::io_error;
use memchr::{memchr, memrchr};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use tidemill_base::{Error, Result};

/// Bytes of one read.
pub(crate) const BLOCK_BYTES: usize = 256 << 10;

/// The longest line.
pub(crate) const LINE_BYTES_MAX: usize = 16 << 20;

/// What is read beyond the end of a part, for its last line.
const BEYOND_BYTES: u64 = 4 << 10;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Whole lines of one part.
#[derive(Debug)]
pub(crate) enum Data {
    Text(String),
    Bytes(Vec<u8>),
}

/// The block that is being emitted.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) data: Data,
    /// Position of `data` in its file.
    pub(crate) base: u64,
    /// How much of `data` is done.
    pub(crate) at: usize,
    /// Lines that start here, or later, belong to another part.
    pub(crate) end: usize,
}

/// What a read found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Lines,
    /// No whole line, and the file has no more bytes.
    Nothing,
}

impl Block {
    pub(crate) fn new() -> Self {
        Block { data: Data::Text(String::new()), base: 0, at: 0, end: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.at >= self.end
    }

    /// Reads the lines from `position` on, which is the start of a line. `part_end` is where the
    /// part ends; the file is taken to have no more than it has now if `last_line`, which then
    /// needs no line break.
    pub(crate) fn read(
        &mut self,
        format: &impl Format,
        file: &File,
        path: &Path,
        position: u64,
        part_end: u64,
        last_line: bool,
    ) -> Result<Found> {
        let mut bytes = match std::mem::replace(&mut self.data, Data::Bytes(Vec::new())) {
            Data::Text(text) => text.into_bytes(),
            Data::Bytes(bytes) => bytes,
        };
        bytes.truncate(BLOCK_BYTES);
        bytes.shrink_to(BLOCK_BYTES);
        let room = (part_end - position).saturating_add(BEYOND_BYTES);
        let mut want = usize::try_from(room).unwrap_or(BLOCK_BYTES).min(BLOCK_BYTES);
        let mut have = 0;
        let whole = loop {
            // Only the rest of the last read is filled with zeros: `bytes` was cut there.
            bytes.resize(want.max(bytes.len()), 0);
            have += read_full(file, path, &mut bytes[have..want], position + have as u64)?;
            let at_end = have < want;
            match last_break(format, &bytes[..have], position) {
                _ if at_end && last_line => break have,
                Some(line_break) => break line_break + 1,
                None if at_end => break 0,
                None if have > LINE_BYTES_MAX => {
                    return Err(too_long(format, file, path, position));
                }
                None => want = (want * 4).min(LINE_BYTES_MAX + 2),
            }
        };
        bytes.truncate(whole);
        (self.base, self.at) = (position, 0);
        self.end = whole.min(usize::try_from(part_end - position).unwrap_or(usize::MAX));
        if mark(&bytes, position) > 0 {
            self.at = mark(&bytes, position);
            // The first line belongs to the part at 0, be it shorter than the mark.
            self.end = self.end.max(self.at + 1).min(whole);
        }
        self.data = match String::from_utf8(bytes) {
            Ok(text) => Data::Text(text),
            Err(error) => Data::Bytes(error.into_bytes()),
        };
        Ok(if whole == 0 { Found::Nothing } else { Found::Lines })
    }
}

/// Length of the byte order mark.
fn mark(bytes: &[u8], position: u64) -> usize {
    let marked = position == 0 && bytes.starts_with(BYTE_ORDER_MARK);
    if marked { BYTE_ORDER_MARK.len() } else { 0 }
}

/// The last line break that ends a line, or a record where they span lines.
fn last_break(format: &impl Format, bytes: &[u8], position: u64) -> Option<usize> {
    if !format.spans_lines() {
        return memrchr(b'\n', bytes);
    }
    let (mut at, mut last) = (mark(bytes, position), None);
    while let Some(len) = format.record_end(&bytes[at..]) {
        last = Some(at + len);
        at += len + 1;
    }
    last
}

/// Fills `out` from `position` on, less at the end of the file.
pub(crate) fn read_full(file: &File, path: &Path, out: &mut [u8], position: u64) -> Result<usize> {
    let mut have = 0;
    while have < out.len() {
        match file.read_at(&mut out[have..], position + have as u64) {
            Ok(0) => break,
            Ok(n) => have += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(io_error("read", path, &e)),
        }
    }
    Ok(have)
}

/// Where the first line at or behind `from` starts; the file's end if there is none.
pub(crate) fn line_start(file: &File, path: &Path, from: u64) -> Result<u64> {
    let Some(mut at) = from.checked_sub(1) else { return Ok(0) };
    let mut bytes = vec![0; BEYOND_BYTES as usize];
    loop {
        let have = read_full(file, path, &mut bytes, at)?;
        if let Some(line_break) = memchr(b'\n', &bytes[..have]) {
            return Ok(at + line_break as u64 + 1);
        }
        at += have as u64;
        if have < bytes.len() {
            return Ok(at);
        }
        bytes.resize(BLOCK_BYTES, 0);
    }
}

/// The number, from 1, of the line that starts at `position`, counted from a line that is known.
#[cold]
pub(crate) fn line_number(
    file: &File,
    path: &Path,
    known: &mut (u64, u64),
    position: u64,
) -> Result<u64> {
    if known.0 > position {
        *known = (0, 1);
    }
    let mut bytes = vec![0; BLOCK_BYTES];
    while known.0 < position {
        let want = usize::try_from(position - known.0).unwrap_or(BLOCK_BYTES).min(BLOCK_BYTES);
        let have = read_full(file, path, &mut bytes[..want], known.0)?;
        if have == 0 {
            break;
        }
        known.1 += memchr::memchr_iter(b'\n', &bytes[..have]).count() as u64;
        known.0 += have as u64;
    }
    Ok(known.1)
}

#[cold]
fn too_long(format: &impl Format, file: &File, path: &Path, position: u64) -> Error {
    let (what, question) = match format.spans_lines() {
        true => ("record", "does a quote not end?"),
        false => ("line", "is it a text file?"),
    };
    match line_number(file, path, &mut (0, 1), position) {
        Ok(line) => Error::job(format!(
            "{}:{line}: the {what} is longer than {} MiB: {question}",
            path.display(),
            LINE_BYTES_MAX >> 20
        )),
        Err(error) => error,
    }
}
