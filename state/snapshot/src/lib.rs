//! The checkpoint store: manifests, data objects, shared files, retention, restoring.
//!
//! A *checkpoint* is an epoch of a job. It consists of a [`Manifest`], one data object per
//! worker ([`mod@format`]), and *shared files* that several checkpoints may reference. Payloads are
//! bytes: this crate knows nothing of operators, and has no clock.
//!
//! | to | use |
//! | --- | --- |
//! | store | [`DirStore`], [`MemoryStore`], `S3Store` (feature `s3`), behind [`SnapshotStore`] |
//! | write from cores that must not block | [`SnapshotWriter`] (a thread around [`WriterCore`]) |
//! | commit | [`Manifest::assemble`], then [`SnapshotStore::put_manifest`] |
//! | find what to restore | [`restore_latest`], [`open_path`] |
//! | read it | [`SnapshotReader`] |
//! | delete what is no longer needed | [`retain`] |
//! | test against failing storage | [`FaultyStore`] |
#![forbid(unsafe_code)]

#[cfg(test)]
mod contract;
mod dir;
mod error;
mod faulty;
pub mod format;
mod manifest;
mod memory;
mod object;
mod reader;
mod resolve;
mod restore;
mod retention;
#[cfg(feature = "s3")]
mod s3;
mod store;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod verify;
mod writer;

pub use dir::DirStore;
pub use error::{Error, Report, Result};
pub use faulty::{Faults, FaultyStore};
pub use format::{ChunkKey, FormatError, PAYLOAD_BYTES_MAX, SectionKind};
pub use manifest::{
    JobFacts, MANIFEST_BYTES_MAX, MANIFEST_VERSION, Manifest, ObjectInfo, OperatorEntry, Run,
    SectionEntry, SharedFile, StateEntry, SubtaskEntry, SubtaskId, Totals, WorkerPart, object_name,
};
pub use memory::MemoryStore;
pub use object::ObjectBuilder;
pub use reader::{Section, Sections, SnapshotReader};
pub use resolve::{Decision, Fact, Skipped, Step, next_step};
pub use restore::{
    Opened, Restored, open_at, open_path, restore_epoch, restore_latest, split_place,
};
pub use retention::{Facts, Plan, Policy, Retained, Seen, plan, retain};
#[cfg(feature = "s3")]
pub use s3::{PART_BYTES_MIN, S3Credentials, S3Limits, S3Objects, S3Settings, S3Store};
pub use store::{CheckpointId, ObjectReader, ObjectWriter, SnapshotStore, content_name, describe};
pub use verify::verify;
pub use writer::{
    Event, Job, JobSender, ShareSource, SnapshotWriter, TrySendError, WriterCore, WriterOptions,
};
