//! From the files of a checkpoint to a database, or to tables on the heap.

use super::{FileRecord, section};
use crate::context::{Context, SubtaskInfo};
use crate::keyed_snapshot::decode_record;
use crate::process::part::PartRef;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use tidemill_base::{Error, Result};
use tidemill_keyed::rocks::{Database, LazyDatabase, Memory, RocksOptions};

/// Memory of a database that is only read once.
const READING_BYTES: usize = 8 << 20;

/// Databases that this process has read so.
static READ: AtomicU64 = AtomicU64::new(0);

/// The files of one old subtask.
#[derive(Default)]
struct Old {
    parallelism: u32,
    files: Vec<FileRecord>,
}

/// The key groups of a subtask.
fn groups(subtask: u32, parallelism: u32, max: u32) -> Range<u32> {
    let first = |s: u32| (s * max).div_ceil(parallelism.max(1));
    first(subtask)..first(subtask + 1)
}

/// The old subtasks whose keys this one needs, with their files.
fn needed(context: &Context, operator: u64) -> Result<Vec<Old>> {
    let Some(restored) = &context.restored else { return Ok(Vec::new()) };
    let mut all: BTreeMap<u32, Old> = BTreeMap::new();
    for (subtask, payload) in restored.entries(section(operator)) {
        let file = decode_record::<FileRecord>(payload)?;
        let old = all.entry(*subtask).or_default();
        old.parallelism = file.0;
        old.files.push(file);
    }
    let SubtaskInfo { subtask, parallelism, max_parallelism: max, .. } = context.info;
    let mine = groups(subtask, parallelism, max);
    let overlaps = |(subtask, old): &(u32, Old)| {
        let theirs = groups(*subtask, old.parallelism, max);
        theirs.start < mine.end && mine.start < theirs.end
    };
    Ok(all.into_iter().filter(overlaps).map(|(_, old)| old).collect())
}

/// Brings files into a directory, which must not exist.
fn fetch(context: &Context, files: &[FileRecord], dir: &Path) -> Result<()> {
    let store = context.restored.as_ref().and_then(|r| r.files.as_ref());
    let store = store.ok_or_else(|| {
        Error::job("the checkpoint refers to files, but nothing was given to read them with")
    })?;
    let failed = |what: &Path, e| Error::attempt(format!("restoring {}: {e}", what.display()));
    std::fs::create_dir_all(dir).map_err(|e| failed(dir, e))?;
    for (_, name, shared, content) in files {
        let path = dir.join(name);
        match shared {
            Some((shared, ..)) => store.fetch(shared, &path)?,
            None => std::fs::write(&path, content).map_err(|e| failed(&path, e))?,
        }
    }
    Ok(())
}

/// The database of an operator in `dir`, with what the checkpoint holds of it. At the parallelism
/// of old its files are taken as they are; otherwise entries are copied.
pub(crate) fn open(
    context: &Context,
    operator: u64,
    dir: &Path,
    memory: &Memory,
) -> Result<LazyDatabase> {
    let old = needed(context, operator)?;
    match old.as_slice() {
        [] => Ok(LazyDatabase::new(dir, memory)),
        [same] if same.parallelism == context.info.parallelism => {
            fetch(context, &same.files, dir)?;
            Ok(LazyDatabase::new(dir, memory))
        }
        many => {
            let database = Database::open(dir, memory)?;
            for old in many {
                let scratch = Scratch(dir.with_extension("restoring"));
                fetch(context, &old.files, &scratch.0)?;
                database.import(&scratch.0, |hash| context.info.owns(hash))?;
            }
            Ok(database.into())
        }
    }
}

/// A directory that is removed at the end.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!("{} is left behind: {e}", self.0.display());
        }
    }
}

/// Reads what a checkpoint has in RocksDB's files into states on the heap.
pub(crate) fn restore_on_heap(
    context: &Context,
    operator: u64,
    parts: &mut [PartRef<'_>],
) -> Result<()> {
    let old = needed(context, operator)?;
    if old.is_empty() {
        return Ok(());
    }
    let options = RocksOptions { memory_bytes: READING_BYTES, ..RocksOptions::default() };
    let memory = Memory::new(options)?;
    for old in old {
        let number = READ.fetch_add(1, Ordering::Relaxed);
        let name = format!("tidemill-restore-{}-{number}", std::process::id());
        let scratch = Scratch(std::env::temp_dir().join(name));
        fetch(context, &old.files, &scratch.0)?;
        let database = Database::open(&scratch.0, &memory)?;
        for p in &mut *parts {
            let name = p.name.clone();
            p.part
                .restore_from(&database, &name, &|hash| context.info.owns(hash))
                .map_err(|e| e.context(format_args!("state '{name}'")))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_those_that_the_owner_says() {
        for (parallelism, max) in [(1, 1), (1, 128), (3, 128), (7, 10), (128, 128), (5, 4096)] {
            for subtask in 0..parallelism {
                for group in 0..max {
                    let owns = group * parallelism / max == subtask;
                    assert_eq!(groups(subtask, parallelism, max).contains(&group), owns);
                }
            }
        }
    }
}
