//! A RocksDB database for the state of one subtask (or of several on one thread).

use super::codec::hash_of;
use super::memory::Memory;
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, DB, DBCompressionType, DEFAULT_COLUMN_FAMILY_NAME,
    Options, WriteBatch, WriteOptions,
};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use tidemill_base::{Error, Result};

/// Bytes of writes that are handed over at once.
pub(crate) const WRITE_BYTES: usize = 1 << 20;

/// An open database; clones share it.
#[derive(Clone)]
pub struct Database(Rc<Inner>);

struct Inner {
    db: Arc<DB>,
    dir: PathBuf,
    memory: Memory,
    writing: WriteOptions,
    tables: RefCell<BTreeSet<u64>>,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Database({})", self.0.dir.display())
    }
}

fn describe(memory: &Memory) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(memory.blocks());
    blocks.set_bloom_filter(10.0, false);
    // Indexes and filters of a large database do not fit into the cache: in parts the size of a
    // block, those that a key needs are read and no others.
    blocks.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    blocks.set_partition_filters(true);
    blocks.set_metadata_block_size(4 << 10);
    blocks.set_pin_top_level_index_and_filter(true);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_cache_index_and_filter_blocks_with_high_priority(true);
    let mut o = Options::default();
    o.create_if_missing(true);
    o.set_block_based_table_factory(&blocks);
    o.set_write_buffer_size(memory.write_buffer(1));
    o.set_level_compaction_dynamic_level_bytes(true);
    o.set_compression_type(DBCompressionType::Lz4);
    // Most keys that are looked up are not in a memtable.
    o.set_memtable_whole_key_filtering(true);
    o.set_memtable_prefix_bloom_ratio(0.1);
    o.set_max_background_jobs(memory.background_jobs());
    o.set_keep_log_file_num(2);
    // Checkpoints have it in their index: old versions of it are dropped early.
    o.set_max_manifest_file_size(256 << 10);
    o.set_disable_auto_compactions(!memory.is_concurrent());
    o.set_stats_dump_period_sec(0);
    o
}

impl Database {
    /// Opens the database in `dir`, made if there is none. Fails if another process has it open.
    pub fn open(dir: &Path, memory: &Memory) -> Result<Self> {
        let described = describe(memory);
        // Batched reads want the column family by name, so it has to be opened by name.
        let families = [(DEFAULT_COLUMN_FAMILY_NAME, described.clone())];
        let db = DB::open_cf_with_opts(&described, dir, families)
            .map_err(|e| failed(dir, "opening", e))?;
        let mut writing = WriteOptions::default();
        writing.disable_wal(true);
        let db = Arc::new(db);
        memory.join(&db).map_err(|e| failed(dir, "sharing memory", e))?;
        Ok(Database(Rc::new(Inner {
            db,
            dir: dir.to_owned(),
            memory: memory.clone(),
            writing,
            tables: RefCell::default(),
        })))
    }

    /// Opens a database in `dir`, which must not exist, with the contents of a native checkpoint.
    /// Files are linked where both are on one file system, else copied.
    pub fn open_from(dir: &Path, checkpoint: &Path, memory: &Memory) -> Result<Self> {
        let io = |what: &str, e: std::io::Error| {
            Error::attempt(format!(
                "restoring {} into {}: {what}: {e}",
                checkpoint.display(),
                dir.display()
            ))
        };
        std::fs::create_dir_all(dir).map_err(|e| io("making the directory", e))?;
        for entry in std::fs::read_dir(checkpoint).map_err(|e| io("listing", e))? {
            let from = entry.map_err(|e| io("listing", e))?.path();
            let Some(name) = from.file_name().and_then(|n| n.to_str()) else { continue };
            let to = dir.join(name);
            // RocksDB writes to all files but the tables: those are copied.
            let table = name.ends_with(".sst");
            if !table || std::fs::hard_link(&from, &to).is_err() {
                std::fs::copy(&from, &to).map_err(|e| io(name, e))?;
            }
        }
        Self::open(dir, memory)
    }

    /// Adds the entries of a native checkpoint for which `keep(hash of the key)` holds: for
    /// restoring at another parallelism.
    pub fn import(&self, checkpoint: &Path, keep: impl Fn(u64) -> bool) -> Result<()> {
        let other = DB::open_for_read_only(&Options::default(), checkpoint, false)
            .map_err(|e| failed(checkpoint, "opening a checkpoint", e))?;
        let mut iter = other.raw_iterator();
        iter.seek_to_first();
        let mut writes = WriteBatch::default();
        while let Some((key, value)) = iter.item() {
            if keep(hash_of(key)?) {
                writes.put(key, value);
                if writes.size_in_bytes() >= WRITE_BYTES {
                    self.write(&mut writes)?;
                }
            }
            iter.next();
        }
        iter.status().map_err(|e| failed(checkpoint, "reading a checkpoint", e))?;
        self.write(&mut writes)
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    pub(crate) fn db(&self) -> &Arc<DB> {
        &self.0.db
    }

    /// Takes a table's number; false if it is taken.
    pub(crate) fn claim(&self, table: u64) -> bool {
        self.0.tables.borrow_mut().insert(table)
    }

    /// The memory that it shares with others.
    pub(crate) fn memory(&self) -> &Memory {
        &self.0.memory
    }

    pub(crate) fn write(&self, writes: &mut WriteBatch) -> Result<()> {
        if writes.is_empty() {
            return Ok(());
        }
        let written = self.0.db.write_opt(std::mem::take(writes), &self.0.writing);
        written.map_err(|e| self.failed("writing", e))
    }

    pub(crate) fn failed(&self, what: &str, e: rocksdb::Error) -> Error {
        failed(&self.0.dir, what, e)
    }
}

pub(super) fn failed(dir: &Path, what: &str, e: rocksdb::Error) -> Error {
    Error::attempt(format!("RocksDB in {}: {what}: {e}", dir.display()))
}
