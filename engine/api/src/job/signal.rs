//! Ctrl-C: the first ends the job cleanly, the second at once. SIGUSR1 asks for a savepoint, SIGUSR2
//! for one and the job's end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Once};

static ASKED: AtomicBool = AtomicBool::new(false);
static SAVEPOINT: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);
static STOP: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);
static INSTALL: Once = Once::new();

/// Whether the user has asked for the end.
pub(crate) fn asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}

/// Whether a savepoint, and whether the end with one, have been asked for since the last call.
pub(crate) fn savepoints_asked() -> (bool, bool) {
    (SAVEPOINT.swap(false, Ordering::Relaxed), STOP.swap(false, Ordering::Relaxed))
}

/// Handles SIGINT, SIGTERM, SIGUSR1 and SIGUSR2 from now on.
pub(crate) fn install() {
    INSTALL.call_once(|| {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            // Order matters: the second signal finds the flag set and ends the process.
            let _ = signal_hook::flag::register_conditional_shutdown(signal, 130, flag.clone());
            let _ = signal_hook::flag::register(signal, flag.clone());
        }
        // Where they cannot be handled, they end the process, as the system has it.
        let _ = signal_hook::flag::register(signal_hook::consts::SIGUSR1, SAVEPOINT.clone());
        let _ = signal_hook::flag::register(signal_hook::consts::SIGUSR2, STOP.clone());
        let watch = move || {
            while !flag.load(Ordering::Relaxed) {
                std::thread::park_timeout(std::time::Duration::from_millis(50));
            }
            ASKED.store(true, Ordering::Relaxed);
        };
        // Without the thread Ctrl-C still ends the process, only not cleanly.
        let _ = std::thread::Builder::new().name("signals".into()).spawn(watch);
    });
}
