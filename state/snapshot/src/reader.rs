//! Reads a restored checkpoint section by section.
//!
//! Invariants
//!   X1  A payload is handed out only after its chunk's checksum and key were compared, so bytes
//!       that went bad since the checkpoint was verified are still noticed.
//!   X2  A section ends without an error only after all its chunks were handed out, in order.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::{CHUNK_HEADER_BYTES, ChunkHeader, ChunkKey, SectionKind};
use crate::manifest::{Manifest, Run, SectionEntry};
use crate::store::{ObjectReader, SnapshotStore};

/// Reads a checkpoint's sections. Cheap to share; every call reads on its own.
pub struct SnapshotReader {
    manifest: Arc<Manifest>,
    objects: BTreeMap<String, Box<dyn ObjectReader>>,
}

/// One verified payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Whose bytes these are.
    pub key: ChunkKey,
    /// The bytes, as they were handed to the writer.
    pub payload: Vec<u8>,
}

impl SnapshotReader {
    /// Opens the objects of a checkpoint.
    ///
    /// # Errors
    /// When an object cannot be opened.
    pub fn open(store: &dyn SnapshotStore, manifest: Arc<Manifest>) -> Result<Self> {
        let mut objects = BTreeMap::new();
        for object in &manifest.objects {
            let reader = store.open_object(manifest.epoch, &object.name)?;
            objects.insert(object.name.clone(), reader);
        }
        Ok(SnapshotReader { manifest, objects })
    }

    /// What the checkpoint consists of.
    pub fn manifest(&self) -> &Arc<Manifest> {
        &self.manifest
    }

    /// The payloads of one state of an operator, of one subtask or (`None`) of all, in the order
    /// of the subtasks and, within one, as written. Empty when there are none.
    pub fn sections(
        &self,
        operator: u64,
        subtask: Option<u32>,
        kind: SectionKind,
        state: u16,
    ) -> Sections<'_> {
        let mut todo = VecDeque::new();
        for s in &self.manifest.subtasks {
            if s.operator != operator || subtask.is_some_and(|wanted| wanted != s.subtask) {
                continue;
            }
            let key = ChunkKey { operator, subtask: s.subtask, kind, state };
            let fits = |section: &&SectionEntry| section.kind == kind && section.state == state;
            todo.extend(s.sections.iter().filter(fits).map(|section| (key, section)));
        }
        Sections { reader: self, todo, current: None }
    }
}

/// Iterator over verified payloads; after an error it is at its end.
pub struct Sections<'a> {
    reader: &'a SnapshotReader,
    todo: VecDeque<(ChunkKey, &'a SectionEntry)>,
    current: Option<Cursor<'a>>,
}

/// A place within one section.
struct Cursor<'a> {
    key: ChunkKey,
    object: &'a dyn ObjectReader,
    section: &'a SectionEntry,
    runs: std::slice::Iter<'a, Run>,
    /// What is left of the current run.
    run: Run,
    crc: crc32fast::Hasher,
    bytes: u64,
}

impl<'a> Sections<'a> {
    fn open(&self, key: ChunkKey, section: &'a SectionEntry) -> Result<Cursor<'a>> {
        let Some(object) = self.reader.objects.get(&section.object) else {
            return Err(Error::damaged(&section.object, "is named by a section, but not listed"));
        };
        let run = Run { offset: 0, bytes: 0, chunks: 0 };
        let (object, runs, crc) = (&**object, section.runs.iter(), crc32fast::Hasher::new());
        Ok(Cursor { key, object, section, runs, run, crc, bytes: 0 })
    }

    fn advance(&mut self) -> Result<Option<Section>> {
        loop {
            if let Some(cursor) = &mut self.current {
                if let Some(section) = cursor.next_chunk()? {
                    return Ok(Some(section));
                }
                self.current = None;
            }
            let Some((key, section)) = self.todo.pop_front() else {
                return Ok(None);
            };
            self.current = Some(self.open(key, section)?);
        }
    }
}

impl Iterator for Sections<'_> {
    type Item = Result<Section>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.advance();
        if next.is_err() {
            self.todo.clear();
            self.current = None;
        }
        next.transpose()
    }
}

impl Cursor<'_> {
    fn next_chunk(&mut self) -> Result<Option<Section>> {
        while self.run.chunks == 0 {
            if self.run.bytes != 0 {
                return Err(self.damaged("a run of chunks ends early"));
            }
            let Some(run) = self.runs.next() else {
                return self.end();
            };
            self.run = *run;
        }
        let header = self.header()?;
        let mut payload = vec![0; header.length as usize];
        self.object.read_at(self.run.offset + CHUNK_HEADER_BYTES as u64, &mut payload)?;
        header.check(&payload).map_err(|e| self.damaged(e))?;
        self.run.offset += header.chunk_bytes();
        self.run.bytes -= header.chunk_bytes();
        self.run.chunks -= 1;
        self.bytes += u64::from(header.length);
        self.crc.update(&header.crc32.to_le_bytes());
        Ok(Some(Section { key: self.key, payload }))
    }

    fn header(&self) -> Result<ChunkHeader> {
        let mut bytes = [0; CHUNK_HEADER_BYTES];
        if self.run.bytes < CHUNK_HEADER_BYTES as u64 {
            return Err(self.damaged("a run of chunks ends in a chunk's header"));
        }
        self.object.read_at(self.run.offset, &mut bytes)?;
        let header = ChunkHeader::decode(&bytes).map_err(|e| self.damaged(e))?;
        if header.key != self.key {
            let (found, want) = (header.key, self.key);
            return Err(self.damaged(format!("chunk of {found:?} where {want:?} should be")));
        }
        if header.chunk_bytes() > self.run.bytes {
            return Err(self.damaged("a chunk is longer than its run"));
        }
        Ok(header)
    }

    /// X2: the section is over; was it all of it?
    fn end(&mut self) -> Result<Option<Section>> {
        let crc = std::mem::take(&mut self.crc).finalize();
        if self.bytes == self.section.bytes && crc == self.section.crc32 {
            return Ok(None);
        }
        let (found, want) = (self.bytes, self.section.bytes);
        let section = self.section.crc32;
        Err(self.damaged(format!(
            "section of {found} bytes with crc32 {crc:08x}, the manifest says {want} bytes with {section:08x}"
        )))
    }

    fn damaged(&self, seen: impl std::fmt::Display) -> Error {
        Error::damaged(self.object.path(), format!("at byte {}: {seen}", self.run.offset))
    }
}
