//! The threads on which requests are made: one small runtime for the whole process, since the SDK is
//! asynchronous and the store's callers are not.
//!
//! Threads inherit the CPUs of their creator: whoever opens the first store must not be pinned.

use std::future::Future;
use std::sync::OnceLock;

use tokio::runtime::{Builder, Handle, Runtime};

use crate::error::{Error, Result};

/// Enough for the checksums and signatures of a few parts on their way.
const THREADS: usize = 2;
/// For names of hosts, which the system resolves blocking.
const BLOCKING_THREADS_MAX: usize = 8;

fn start() -> std::io::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(THREADS)
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_name("s3")
        .enable_all()
        .build()
}

/// The runtime, started on first use and never ended.
pub(super) fn handle() -> Result<Handle> {
    static RUNTIME: OnceLock<Result<Runtime, String>> = OnceLock::new();
    match RUNTIME.get_or_init(|| start().map_err(|e| e.to_string())) {
        Ok(runtime) => Ok(runtime.handle().clone()),
        Err(e) => {
            let seen = format!("cannot start the threads for S3: {e}");
            Err(Error::refused("s3:", seen, "raise the limit on threads (ulimit -u, pids.max)"))
        }
    }
}

/// Does it there and waits for it. Not for threads of that runtime.
pub(super) fn wait<T: Send + 'static>(
    handle: &Handle,
    future: impl Future<Output = T> + Send + 'static,
) -> Result<T> {
    let (done, result) = std::sync::mpsc::sync_channel(1);
    handle.spawn(async move {
        // Nobody else waits for it.
        let _ = done.send(future.await);
    });
    result.recv().map_err(|_| {
        Error::refused("s3:", "a request ended in a panic; see the log", "report this as a defect")
    })
}
