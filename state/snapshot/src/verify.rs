//! Compares everything a manifest names with what is stored: sizes, checksums, and every chunk.
//!
//! Invariants
//!   V1  `verify` passes only if each object, scanned from its first byte to its last, yields
//!       exactly the sections that the manifest lists for it (O4): nothing missing, moved,
//!       altered or added.
//!   V2  Memory is bounded by one buffer, whatever lengths the damaged bytes claim.

use crate::error::{Error, Result};
use crate::format::{self, CHUNK_HEADER_BYTES, ChunkHeader, FormatError, OBJECT_HEADER_BYTES};
use crate::manifest::{Manifest, ObjectInfo, SectionEntry, SubtaskId};
use crate::object::Index;
use crate::store::{self, ObjectReader, SnapshotStore};

const BUFFER_BYTES: usize = 256 << 10;

const REMEDY_VERSION: &str =
    "restore with the version of Tidemill that wrote it, or start without it";

/// Reads a whole checkpoint and compares it with its manifest.
///
/// # Errors
/// [`Error::Damaged`] naming the file and what is wrong with it, [`Error::Refused`] for an object of
/// another format version; other classes when the store cannot be read.
pub fn verify(store: &dyn SnapshotStore, manifest: &Manifest) -> Result<()> {
    for object in &manifest.objects {
        let reader = present(store.open_object(manifest.epoch, &object.name))?;
        verify_object(&*reader, object, manifest)?;
    }
    for file in &manifest.shared {
        let reader = present(store.get_shared(&file.name))?;
        check_length(&*reader, file.bytes)?;
        check_crc(&*reader, store::sum(&*reader)?.1, file.crc32)?;
    }
    Ok(())
}

/// A file that a committed manifest names must be there.
fn present(found: Result<Box<dyn ObjectReader>>) -> Result<Box<dyn ObjectReader>> {
    found.map_err(|e| match e {
        Error::Missing(r) => Error::damaged(r.path, "is missing, but the manifest names it"),
        e => e,
    })
}

fn check_length(reader: &dyn ObjectReader, want: u64) -> Result<()> {
    let found = reader.bytes();
    if found == want {
        return Ok(());
    }
    let how = if found < want { "torn" } else { "grown" };
    let seen = format!("{how}: {found} bytes, the manifest says {want}");
    Err(Error::damaged(reader.path(), seen))
}

fn check_crc(reader: &dyn ObjectReader, found: u32, want: u32) -> Result<()> {
    if found == want {
        return Ok(());
    }
    let seen = format!("altered: crc32 is {found:08x}, the manifest says {want:08x}");
    Err(Error::damaged(reader.path(), seen))
}

fn verify_object(reader: &dyn ObjectReader, info: &ObjectInfo, manifest: &Manifest) -> Result<()> {
    check_length(reader, info.bytes)?;
    let mut scan = Scan::new(reader);
    let mut index = Index::default();
    let mut chunks = 0;
    scan.header()?;
    while scan.at < info.bytes {
        let (offset, header) = (scan.at, scan.chunk()?);
        index.add(&header, offset, 0);
        chunks += 1;
    }
    check_crc(reader, scan.crc.finalize(), info.crc32)?;
    if chunks != info.chunks {
        let seen = format!("holds {chunks} chunks, the manifest says {}", info.chunks);
        return Err(Error::damaged(reader.path(), seen));
    }
    compare(reader.path(), index.finish(&info.name), listed(manifest, &info.name))
}

/// The manifest's sections in one object, in the index's order, without what a scan cannot know.
fn listed(manifest: &Manifest, object: &str) -> Vec<(SubtaskId, SectionEntry)> {
    let mut listed = Vec::new();
    for s in &manifest.subtasks {
        let id = SubtaskId { operator: s.operator, subtask: s.subtask };
        for section in s.sections.iter().filter(|section| section.object == object) {
            listed.push((id, SectionEntry { records: 0, ..section.clone() }));
        }
    }
    listed.sort_by_key(|(id, s)| (id.operator, id.subtask, s.kind, s.state));
    listed
}

fn compare(
    path: &str,
    found: Vec<(SubtaskId, SectionEntry)>,
    listed: Vec<(SubtaskId, SectionEntry)>,
) -> Result<()> {
    if found == listed {
        return Ok(());
    }
    let name = |entry: Option<&(SubtaskId, SectionEntry)>| match entry {
        None => "nothing".to_owned(),
        Some((id, s)) => format!(
            "operator {:016x} subtask {} {:?} state {}: {} bytes in {} chunks, crc32 {:08x}",
            id.operator, id.subtask, s.kind, s.state, s.bytes, s.chunks, s.crc32
        ),
    };
    let n = found.len().max(listed.len());
    let first = (0..n).find(|i| found.get(*i) != listed.get(*i)).unwrap_or(0);
    let (f, l) = (name(found.get(first)), name(listed.get(first)));
    Err(Error::damaged(path, format!("holds [{f}] where the manifest lists [{l}]")))
}

/// Reads an object from front to back through one buffer.
struct Scan<'a> {
    reader: &'a dyn ObjectReader,
    /// Offset of the next byte to be taken.
    at: u64,
    crc: crc32fast::Hasher,
    buf: Vec<u8>,
    /// Bytes of `buf` already taken; `buf` ends at offset `at + (buf.len() - taken)`.
    taken: usize,
}

impl<'a> Scan<'a> {
    fn new(reader: &'a dyn ObjectReader) -> Self {
        Scan { reader, at: 0, crc: crc32fast::Hasher::new(), buf: Vec::new(), taken: 0 }
    }

    fn damaged(&self, offset: u64, seen: impl std::fmt::Display) -> Error {
        Error::damaged(self.reader.path(), format!("at byte {offset}: {seen}"))
    }

    /// The next bytes: at least one, at most `most`.
    fn take(&mut self, most: u64) -> Result<&[u8]> {
        if self.taken == self.buf.len() {
            let left = self.reader.bytes() - self.at;
            if left == 0 {
                return Err(self.damaged(self.at, "ends in the middle of a chunk"));
            }
            self.buf.resize(left.min(BUFFER_BYTES as u64) as usize, 0);
            self.taken = 0;
            self.reader.read_at(self.at, &mut self.buf)?;
        }
        let n = most.min((self.buf.len() - self.taken) as u64) as usize;
        let piece = &self.buf[self.taken..self.taken + n];
        self.taken += n;
        self.at += n as u64;
        self.crc.update(piece);
        Ok(piece)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut out = [0; N];
        let mut filled = 0;
        while filled < N {
            let piece = self.take((N - filled) as u64)?;
            out[filled..filled + piece.len()].copy_from_slice(piece);
            filled += piece.len();
        }
        Ok(out)
    }

    fn header(&mut self) -> Result<()> {
        let bytes = self.array::<OBJECT_HEADER_BYTES>()?;
        format::check_object_header(&bytes).map_err(|e| match e {
            // Whole, and another version's: nothing is to be fallen back from, and nothing deleted.
            FormatError::Version(_) => Error::refused(self.reader.path(), e, REMEDY_VERSION),
            _ => self.damaged(0, e),
        })
    }

    fn chunk(&mut self) -> Result<ChunkHeader> {
        let offset = self.at;
        let bytes = self.array::<CHUNK_HEADER_BYTES>()?;
        let header = ChunkHeader::decode(&bytes).map_err(|e| self.damaged(offset, e))?;
        let mut checksum = header.checksum();
        let mut left = u64::from(header.length);
        while left > 0 {
            let piece = self.take(left)?;
            checksum.update(piece);
            left -= piece.len() as u64;
        }
        checksum.check(header.crc32, &[]).map_err(|e| self.damaged(offset, e))?;
        Ok(header)
    }
}
