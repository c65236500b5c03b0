//! Builds a data object and the index that goes into the manifest. Pure: hands out bytes,
//! writes nothing.
//!
//! Invariants
//!   O1  `bytes` and `crc32` describe exactly the bytes handed out so far.
//!   O2  The runs of all sections are disjoint and cover the object behind its header.
//!   O3  Within a section, chunks keep the order in which they were added.
//!   O4  An index rebuilt by scanning the object equals the one built while writing, but for the
//!       record counts, which only the writer knows.

use std::collections::BTreeMap;

use crate::format::{self, ChunkHeader, ChunkKey, FormatError};
use crate::manifest::{ObjectInfo, Run, SectionEntry, SubtaskEntry, SubtaskId, WorkerPart};

/// The sections of one object, by key.
#[derive(Debug, Default)]
pub(crate) struct Index {
    sections: BTreeMap<ChunkKey, Building>,
}

#[derive(Debug, Default)]
struct Building {
    records: u64,
    bytes: u64,
    chunks: u64,
    crc: crc32fast::Hasher,
    runs: Vec<Run>,
}

impl Index {
    /// Takes in the chunk that stands at `offset`.
    pub(crate) fn add(&mut self, header: &ChunkHeader, offset: u64, records: u64) {
        let section = self.sections.entry(header.key).or_default();
        section.records += records;
        section.bytes += u64::from(header.length);
        section.chunks += 1;
        section.crc.update(&header.crc32.to_le_bytes());
        match section.runs.last_mut() {
            Some(run) if run.offset + run.bytes == offset => {
                run.bytes += header.chunk_bytes();
                run.chunks += 1;
            }
            _ => section.runs.push(Run { offset, bytes: header.chunk_bytes(), chunks: 1 }),
        }
    }

    /// The finished sections of `object`, ordered by key.
    pub(crate) fn finish(self, object: &str) -> Vec<(SubtaskId, SectionEntry)> {
        let finish = |(key, s): (ChunkKey, Building)| {
            let id = SubtaskId { operator: key.operator, subtask: key.subtask };
            let entry = SectionEntry {
                object: object.to_owned(),
                kind: key.kind,
                state: key.state,
                records: s.records,
                bytes: s.bytes,
                chunks: s.chunks,
                crc32: s.crc.finalize(),
                runs: s.runs,
            };
            (id, entry)
        };
        self.sections.into_iter().map(finish).collect()
    }
}

/// Encodes chunks into one object and keeps its index.
///
/// ```
/// use tidemill_snapshot::{ChunkKey, ObjectBuilder, SectionKind};
///
/// let mut object = ObjectBuilder::new("worker-0.data");
/// let mut file = object.header().to_vec();
/// let key = ChunkKey { operator: 7, subtask: 0, kind: SectionKind::KeyedState, state: 0 };
/// file.extend(object.chunk(key, b"payload", 1)?);
/// file.extend(b"payload");
/// let part = object.finish(Vec::new());
/// assert_eq!(part.object.bytes, file.len() as u64);
/// assert_eq!(part.object.crc32, crc32fast::hash(&file));
/// # Ok::<(), tidemill_snapshot::FormatError>(())
/// ```
#[derive(Debug)]
pub struct ObjectBuilder {
    name: String,
    bytes: u64,
    chunks: u64,
    crc: crc32fast::Hasher,
    index: Index,
    done: BTreeMap<SubtaskId, ()>,
}

impl ObjectBuilder {
    /// An empty object; write [`header`](Self::header) first.
    pub fn new(name: impl Into<String>) -> Self {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&format::object_header());
        ObjectBuilder {
            name: name.into(),
            bytes: format::OBJECT_HEADER_BYTES as u64,
            chunks: 0,
            crc,
            index: Index::default(),
            done: BTreeMap::new(),
        }
    }

    /// The first bytes of the object.
    pub fn header(&self) -> [u8; format::OBJECT_HEADER_BYTES] {
        format::object_header()
    }

    /// Adds a chunk. The caller writes the returned header, then the payload.
    ///
    /// # Errors
    /// [`FormatError::Length`] when the payload is too long; nothing has been added then.
    pub fn chunk(
        &mut self,
        key: ChunkKey,
        payload: &[u8],
        records: u64,
    ) -> Result<[u8; format::CHUNK_HEADER_BYTES], FormatError> {
        let header = ChunkHeader::new(key, payload)?;
        let encoded = header.encode();
        self.crc.update(&encoded);
        self.crc.update(payload);
        self.index.add(&header, self.bytes, records);
        self.bytes += header.chunk_bytes();
        self.chunks += 1;
        Ok(encoded)
    }

    /// Notes that a subtask has handed in all its chunks, perhaps none.
    pub fn subtask_done(&mut self, subtask: SubtaskId) {
        self.done.insert(subtask, ());
    }

    /// Whether [`subtask_done`](Self::subtask_done) was called for it.
    pub fn is_done(&self, subtask: SubtaskId) -> bool {
        self.done.contains_key(&subtask)
    }

    /// Subtasks that handed in chunks but were never said to be done.
    pub fn unfinished(&self) -> Vec<SubtaskId> {
        let mut open: Vec<SubtaskId> = self
            .index
            .sections
            .keys()
            .map(|k| SubtaskId { operator: k.operator, subtask: k.subtask })
            .filter(|id| !self.is_done(*id))
            .collect();
        open.dedup();
        open
    }

    /// Bytes handed out so far, header included.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What this object contributes to the manifest.
    pub fn finish(self, shared: Vec<crate::SharedFile>) -> WorkerPart {
        let mut subtasks: BTreeMap<SubtaskId, Vec<SectionEntry>> =
            self.done.into_keys().map(|id| (id, Vec::new())).collect();
        for (id, section) in self.index.finish(&self.name) {
            subtasks.entry(id).or_default().push(section);
        }
        let entry = |(id, sections): (SubtaskId, _)| SubtaskEntry {
            operator: id.operator,
            subtask: id.subtask,
            sections,
        };
        WorkerPart {
            object: ObjectInfo {
                name: self.name,
                bytes: self.bytes,
                crc32: self.crc.finalize(),
                chunks: self.chunks,
            },
            subtasks: subtasks.into_iter().map(entry).collect(),
            shared,
        }
    }
}
