//! Memory and threads that several databases share.

use super::background::{Background, Outcome};
use rocksdb::{Cache, DB, Env};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tidemill_base::{Error, Result};

/// RocksDB rounds smaller memtables up to this.
const WRITE_BUFFER_MIN: usize = 64 << 10;

/// Least cache of blocks: index and filter of the files in use.
const BLOCKS_MIN: usize = 1 << 20;

/// How much databases may use together.
#[derive(Clone, Copy, Debug)]
pub struct RocksOptions {
    /// Memory for everything, in bytes: three eighths for the tables' write-back caches, as much
    /// for blocks read, a quarter for memtables. The caches count what values own outside of them (the
    /// bytes of strings, the elements of lists) as well as [`Record::owned_bytes`] tells. 0 is for tests:
    /// a few entries of each table.
    ///
    /// [`Record::owned_bytes`]: tidemill_base::Record::owned_bytes
    pub memory_bytes: usize,
    /// Threads of RocksDB for compactions; one more flushes. The process has them once, in the
    /// largest number asked for.
    pub background_jobs: u8,
    /// Whether things happen in the background as they come, as they should. If not, files are as
    /// the calls alone make them: for the simulation.
    pub concurrent: bool,
}

impl Default for RocksOptions {
    fn default() -> Self {
        RocksOptions { memory_bytes: 256 << 20, background_jobs: 2, concurrent: true }
    }
}

/// Memory that the databases of one slot share; clones share it, too.
#[derive(Clone)]
pub struct Memory(Arc<Shared>);

struct Shared {
    options: RocksOptions,
    blocks: Cache,
    /// Tables that are open: each has an equal share of the write-back cache.
    tables: AtomicUsize,
    databases: Mutex<Vec<Weak<DB>>>,
    background: Background,
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Memory({} bytes)", self.bytes())
    }
}

impl Memory {
    /// Memory of this size. Make it on a thread that is not pinned: RocksDB's threads begin here
    /// and inherit the CPUs of their creator.
    ///
    /// # Errors
    /// If RocksDB's environment cannot be had.
    pub fn new(options: RocksOptions) -> Result<Self> {
        let mut env = Env::new().map_err(|e| Error::job(format!("starting RocksDB: {e}")))?;
        env.set_background_threads(i32::from(options.background_jobs.max(1)));
        env.set_high_priority_background_threads(1);
        Ok(Memory(Arc::new(Shared {
            options,
            blocks: Cache::new_lru_cache((options.memory_bytes / 8 * 3).max(BLOCKS_MIN)),
            tables: AtomicUsize::new(0),
            databases: Mutex::default(),
            background: if options.concurrent { Background::start()? } else { Background::Inline },
        })))
    }

    /// Does work that would block, elsewhere. It must not hold this memory.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Outcome<T> {
        self.0.background.run(work)
    }

    pub(super) fn is_concurrent(&self) -> bool {
        self.0.options.concurrent
    }

    /// Entries that are in memory at least, of each table.
    pub(crate) fn entries_min(&self) -> usize {
        if self.bytes() == 0 { 8 } else { 1024 }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.0.options.memory_bytes
    }

    pub(super) fn blocks(&self) -> &Cache {
        &self.0.blocks
    }

    pub(super) fn background_jobs(&self) -> i32 {
        i32::from(self.0.options.background_jobs.max(1))
    }

    /// Bytes of one memtable where `databases` share: each has two, one of them being flushed.
    pub(super) fn write_buffer(&self, databases: usize) -> usize {
        (self.bytes() / 8 / databases.max(1)).max(WRITE_BUFFER_MIN)
    }

    /// A database shares from now on; memtables to come get smaller.
    pub(super) fn join(&self, db: &Arc<DB>) -> Result<(), rocksdb::Error> {
        let mut databases = self.0.databases.lock().unwrap_or_else(PoisonError::into_inner);
        databases.retain(|d| d.strong_count() > 0);
        databases.push(Arc::downgrade(db));
        if databases.len() > 1 {
            let bytes = self.write_buffer(databases.len()).to_string();
            for db in databases.iter().filter_map(Weak::upgrade) {
                db.set_options(&[("write_buffer_size", &bytes)])?;
            }
        }
        Ok(())
    }

    /// Counts a table.
    pub(super) fn open_table(&self) {
        self.0.tables.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts it no longer.
    pub(super) fn close_table(&self) {
        self.0.tables.fetch_sub(1, Ordering::Relaxed);
    }

    /// Bytes of write-back cache of one table.
    pub(super) fn cache_share(&self) -> usize {
        self.bytes() / 8 * 3 / self.0.tables.load(Ordering::Relaxed).max(1)
    }
}
