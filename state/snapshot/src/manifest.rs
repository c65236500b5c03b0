//! The manifest: what a checkpoint consists of, with counts and checksums. Pure.
//!
//! A checkpoint exists when its manifest does; everything it names was made durable before.
//!
//! Invariants (checked by [`Manifest::validate`] before writing and after reading)
//!   M1  Operator ids, operator uids, object names, shared names and (operator, subtask) pairs
//!       are unique.
//!   M2  Every operator has an entry for each of its subtasks 0..parallelism, and no other.
//!   M3  Every section names a listed object and lies within it; its runs' chunks add up.
//!   M4  `totals` equals what the lists add up to.
//!   M5  A savepoint is complete in itself: it references no shared file.
//!   M6  Names are plain file names: a manifest cannot point outside its checkpoint.
//!
//! Not here: bytes on disk (envelope.rs), comparing with the objects (verify.rs).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::format::SectionKind;

mod envelope;
#[cfg(test)]
mod tests;
mod text;

pub(crate) use envelope::Unreadable;
pub use envelope::{MANIFEST_BYTES_MAX, MANIFEST_VERSION};

/// What a checkpoint consists of.
///
/// `Deserialize` is for tools; to read a stored manifest use [`Manifest::decode`], which
/// verifies its checksum.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Name of the job.
    pub job: String,
    /// The checkpoint's id.
    pub epoch: u64,
    /// Wall time of the trigger, milliseconds since 1970.
    pub created_at_ms: i64,
    /// Kept until deleted by hand, and complete in itself.
    pub savepoint: bool,
    /// Parallelism of the job.
    pub parallelism: u32,
    /// Number of key groups; fixed for the life of the job's state.
    pub max_parallelism: u32,
    /// Sums over the lists below.
    pub totals: Totals,
    /// Free-form facts: versions, positions, whatever the engine wants to find again.
    pub properties: BTreeMap<String, String>,
    /// The operators of the job graph.
    pub operators: Vec<OperatorEntry>,
    /// The data objects, one a worker.
    pub objects: Vec<ObjectInfo>,
    /// Files under `shared/` that this checkpoint needs.
    pub shared: Vec<SharedFile>,
    /// Where each subtask's state lies.
    pub subtasks: Vec<SubtaskEntry>,
}

/// Sums over a manifest's lists.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Totals {
    /// Operators.
    pub operators: u64,
    /// Subtask entries.
    pub subtasks: u64,
    /// Data objects.
    pub objects: u64,
    /// Chunks in all objects.
    pub chunks: u64,
    /// Records in all sections.
    pub records: u64,
    /// Bytes of all objects, headers included.
    pub object_bytes: u64,
    /// Shared files.
    pub shared_files: u64,
    /// Bytes of all shared files.
    pub shared_bytes: u64,
}

/// One operator of the job graph.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorEntry {
    /// The stable id that the user gave, or the one derived from the graph.
    pub uid: String,
    /// Hash of the uid; tags the chunks.
    #[serde(with = "text::hex64")]
    pub id: u64,
    /// Name for people.
    pub name: String,
    /// Number of subtasks.
    pub parallelism: u32,
    /// Declared states; a chunk's state index counts into this list.
    pub states: Vec<StateEntry>,
}

/// One declared state of an operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateEntry {
    /// Name of the state.
    pub name: String,
    /// Kind of the state, in the state backend's words ("value", "list", ...).
    pub kind: String,
    /// The shape of its records, for people.
    pub schema: String,
    /// Hash of the shape, for comparison.
    #[serde(with = "text::hex64")]
    pub fingerprint: u64,
}

/// A subtask of an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SubtaskId {
    /// Operator id.
    #[serde(with = "text::hex64")]
    pub operator: u64,
    /// Index of the subtask, from 0.
    pub subtask: u32,
}

/// Where the state of one subtask lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubtaskEntry {
    /// Operator id.
    #[serde(with = "text::hex64")]
    pub operator: u64,
    /// Index of the subtask, from 0.
    pub subtask: u32,
    /// Its sections; none when it has no state.
    pub sections: Vec<SectionEntry>,
}

/// All chunks of one (operator, subtask, kind, state) in one object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SectionEntry {
    /// Name of the object.
    pub object: String,
    /// What the payloads are.
    pub kind: SectionKind,
    /// State index.
    pub state: u16,
    /// Records, as the writer counted them.
    pub records: u64,
    /// Payload bytes.
    pub bytes: u64,
    /// Chunks.
    pub chunks: u64,
    /// crc32 over the chunks' crc32s, in order.
    #[serde(with = "text::hex32")]
    pub crc32: u32,
    /// Where the chunks lie, in order.
    pub runs: Vec<Run>,
}

/// Neighbouring chunks of one section. Written as `"offset+bytes/chunks"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Run {
    /// Offset of the first chunk's header in the object.
    pub offset: u64,
    /// Bytes of all chunks, headers included.
    pub bytes: u64,
    /// Number of chunks.
    pub chunks: u64,
}

/// One data object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectInfo {
    /// `worker-<n>.data`.
    pub name: String,
    /// Length in bytes.
    pub bytes: u64,
    /// crc32 of the whole.
    #[serde(with = "text::hex32")]
    pub crc32: u32,
    /// Number of chunks.
    pub chunks: u64,
}

/// A file under `shared/`, referenced by one or more checkpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedFile {
    /// File name, derived from the content (see [`crate::content_name`]).
    pub name: String,
    /// Length in bytes.
    pub bytes: u64,
    /// crc32 of the whole.
    #[serde(with = "text::hex32")]
    pub crc32: u32,
}

/// What one worker contributes to a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerPart {
    /// Its data object.
    pub object: ObjectInfo,
    /// Its subtasks.
    pub subtasks: Vec<SubtaskEntry>,
    /// The shared files that its subtasks reference.
    pub shared: Vec<SharedFile>,
}

/// The facts about a job that head a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobFacts {
    /// Name of the job.
    pub job: String,
    /// The checkpoint's id.
    pub epoch: u64,
    /// Wall time of the trigger, milliseconds since 1970.
    pub created_at_ms: i64,
    /// Whether this is a savepoint.
    pub savepoint: bool,
    /// Parallelism of the job.
    pub parallelism: u32,
    /// Number of key groups.
    pub max_parallelism: u32,
    /// The operators of the job graph.
    pub operators: Vec<OperatorEntry>,
    /// Free-form facts.
    pub properties: BTreeMap<String, String>,
}

impl Manifest {
    /// Assembles the workers' parts; the order of the parts does not matter. Call
    /// [`validate`](Self::validate) (or `put_manifest`, which does) to know that it is whole.
    pub fn assemble(facts: JobFacts, parts: impl IntoIterator<Item = WorkerPart>) -> Self {
        let mut manifest = Manifest {
            job: facts.job,
            epoch: facts.epoch,
            created_at_ms: facts.created_at_ms,
            savepoint: facts.savepoint,
            parallelism: facts.parallelism,
            max_parallelism: facts.max_parallelism,
            totals: Totals::default(),
            properties: facts.properties,
            operators: facts.operators,
            objects: Vec::new(),
            shared: Vec::new(),
            subtasks: Vec::new(),
        };
        for part in parts {
            manifest.objects.push(part.object);
            manifest.subtasks.extend(part.subtasks);
            manifest.shared.extend(part.shared);
        }
        manifest.objects.sort_by(|a, b| a.name.cmp(&b.name));
        manifest.subtasks.sort_by_key(|s| (s.operator, s.subtask));
        manifest.shared.sort_by(|a, b| a.name.cmp(&b.name));
        // Subtasks may share a file; equal entries are one. Unequal ones fail M1.
        manifest.shared.dedup();
        manifest.totals = manifest.count();
        manifest
    }

    /// What the lists add up to.
    pub fn count(&self) -> Totals {
        let sections = self.subtasks.iter().flat_map(|s| &s.sections);
        Totals {
            operators: self.operators.len() as u64,
            subtasks: self.subtasks.len() as u64,
            objects: self.objects.len() as u64,
            chunks: self.objects.iter().map(|o| o.chunks).fold(0, u64::saturating_add),
            records: sections.map(|s| s.records).fold(0, u64::saturating_add),
            object_bytes: self.objects.iter().map(|o| o.bytes).fold(0, u64::saturating_add),
            shared_files: self.shared.len() as u64,
            shared_bytes: self.shared.iter().map(|s| s.bytes).fold(0, u64::saturating_add),
        }
    }

    /// Checks M1 to M6.
    ///
    /// # Errors
    /// A sentence that names the entry and the contradiction.
    pub fn validate(&self) -> Result<(), String> {
        if self.parallelism == 0 || self.max_parallelism == 0 {
            let (p, m) = (self.parallelism, self.max_parallelism);
            return Err(format!("parallelism {p} of at most {m}; both must be at least 1"));
        }
        self.validate_names()?;
        self.validate_subtasks()?;
        self.validate_sections()?;
        let counted = self.count();
        if counted != self.totals {
            return Err(format!("totals say {:?}, the lists add up to {counted:?}", self.totals));
        }
        if self.savepoint && !self.shared.is_empty() {
            let first = &self.shared[0].name;
            return Err(format!(
                "a savepoint must be complete in itself, but needs shared/{first}"
            ));
        }
        Ok(())
    }

    /// M1 (but for subtasks) and M6.
    fn validate_names(&self) -> Result<(), String> {
        unique("operator id", self.operators.iter().map(|o| format!("{:016x}", o.id)))?;
        unique("operator uid", self.operators.iter().map(|o| o.uid.clone()))?;
        unique("object", self.objects.iter().map(|o| o.name.clone()))?;
        unique("shared file", self.shared.iter().map(|s| s.name.clone()))?;
        for object in &self.objects {
            check_object_name(&object.name)?;
        }
        for file in &self.shared {
            check_shared_name(&file.name)?;
        }
        Ok(())
    }

    /// M2 and the subtasks' part of M1.
    fn validate_subtasks(&self) -> Result<(), String> {
        let parallelism: BTreeMap<u64, u32> =
            self.operators.iter().map(|o| (o.id, o.parallelism)).collect();
        let mut seen: BTreeMap<u64, BTreeSet<u32>> = BTreeMap::new();
        for s in &self.subtasks {
            let (id, subtask) = (s.operator, s.subtask);
            let Some(p) = parallelism.get(&id) else {
                return Err(format!(
                    "subtask {subtask} of operator {id:016x}, which is not listed"
                ));
            };
            if subtask >= *p {
                return Err(format!(
                    "subtask {subtask} of operator {id:016x} with parallelism {p}"
                ));
            }
            if !seen.entry(id).or_default().insert(subtask) {
                return Err(format!("subtask {subtask} of operator {id:016x} is listed twice"));
            }
        }
        for o in &self.operators {
            let found = seen.get(&o.id).map_or(0, BTreeSet::len);
            if found != o.parallelism as usize {
                let (uid, p) = (&o.uid, o.parallelism);
                return Err(format!("operator {uid} has {found} of {p} subtask entries"));
            }
        }
        Ok(())
    }

    /// M3.
    fn validate_sections(&self) -> Result<(), String> {
        let objects: BTreeMap<&str, &ObjectInfo> =
            self.objects.iter().map(|o| (o.name.as_str(), o)).collect();
        for s in &self.subtasks {
            let owner = || format!("operator {:016x} subtask {}", s.operator, s.subtask);
            for section in &s.sections {
                let Some(object) = objects.get(section.object.as_str()) else {
                    let name = &section.object;
                    return Err(format!(
                        "{} has a section in {name}, which is not listed",
                        owner()
                    ));
                };
                let mut chunks = 0u64;
                for run in &section.runs {
                    let end = run.offset.checked_add(run.bytes);
                    if end.is_none_or(|end| end > object.bytes) {
                        let run = String::from(*run);
                        let (name, bytes) = (&object.name, object.bytes);
                        let owner = owner();
                        return Err(format!("{owner}: run {run} in {name} of {bytes} bytes"));
                    }
                    chunks = chunks.saturating_add(run.chunks);
                }
                if chunks != section.chunks {
                    let n = section.chunks;
                    return Err(format!("{}: section of {n} chunks, runs of {chunks}", owner()));
                }
            }
        }
        Ok(())
    }
}

fn unique(what: &str, names: impl Iterator<Item = String>) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for name in names {
        if let Some(twice) = seen.replace(name) {
            return Err(format!("{what} {twice} is listed twice"));
        }
    }
    Ok(())
}

/// The name of a worker's data object.
pub fn object_name(worker: u32) -> String {
    format!("worker-{worker}.data")
}

/// Whether this is a name that [`object_name`] gives.
pub(crate) fn check_object_name(name: &str) -> Result<(), String> {
    let number = name.strip_prefix("worker-").and_then(|n| n.strip_suffix(".data"));
    match number.and_then(|n| n.parse::<u32>().ok()) {
        Some(worker) if object_name(worker) == name => Ok(()),
        _ => Err(format!("object name {name:?} is not of the form worker-<n>.data")),
    }
}

/// Whether this may be the name of a shared file: 1 to 128 of `a-z 0-9 . _ -`, no dot in front.
pub(crate) fn check_shared_name(name: &str) -> Result<(), String> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
    let fits = (1..=128).contains(&name.len());
    if fits && name.bytes().all(plain) && !name.starts_with('.') {
        return Ok(());
    }
    Err(format!(
        "shared file name {name:?} is not 1 to 128 of a-z, 0-9, '.', '_', '-' (no dot in front)"
    ))
}
