//! How a job is run, as the command line says it.

use std::cell::Cell;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Where to start from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RestoreFrom {
    /// The newest checkpoint in the checkpoint directory; a fresh start where there is none.
    Latest,
    /// This checkpoint, or the newest one in this directory.
    Path(PathBuf),
}

/// Which backend keeps keyed state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum State {
    /// Tables in memory.
    #[default]
    Heap,
    /// RocksDB behind a write-back cache.
    RocksDb,
}

/// The engine's flags.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) parallelism: Option<u32>,
    pub(crate) checkpoint_dir: Option<PathBuf>,
    pub(crate) checkpoint_interval: Option<Duration>,
    pub(crate) aligned_timeout: Option<Option<Duration>>,
    pub(crate) restore: Option<RestoreFrom>,
    pub(crate) allow_dropped_state: bool,
    /// Not given: embedded on the heap, in a cluster where that keeps state by default.
    pub(crate) state: Option<State>,
    /// Where state on disk goes: a directory of its own below this one; the system's for temporary
    /// files if not given.
    pub(crate) state_dir: Option<PathBuf>,
    /// Memory for state on disk, each slot.
    pub(crate) state_memory_mib: usize,
    pub(crate) metrics_addr: Option<SocketAddr>,
    /// Whether addresses that other machines reach may be bound without a token.
    pub(crate) insecure: bool,
    pub(crate) keep_checkpoints: usize,
    /// Whether progress and a summary are printed.
    pub(crate) progress: bool,
    /// Whether Ctrl-C is handled.
    pub(crate) signals: bool,
}

impl Options {
    /// Nothing printed, nothing stored.
    pub(crate) fn quiet() -> Self {
        Options {
            parallelism: None,
            checkpoint_dir: None,
            checkpoint_interval: None,
            aligned_timeout: None,
            restore: None,
            allow_dropped_state: false,
            state: None,
            state_dir: None,
            state_memory_mib: 256,
            metrics_addr: None,
            insecure: false,
            keep_checkpoints: 2,
            progress: false,
            signals: false,
        }
    }
}

thread_local! {
    static PARALLELISM: Cell<Option<u32>> = const { Cell::new(None) };
}

/// Flags that go before what the program says, for the environments that this thread makes.
pub(crate) fn set_overrides(options: &Options) {
    PARALLELISM.set(options.parallelism);
}

/// The `--parallelism` of the command line.
pub(crate) fn parallelism_override() -> Option<u32> {
    PARALLELISM.get()
}
