//! Ctrl-C: the first ends the job cleanly, the second at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once};

static ASKED: AtomicBool = AtomicBool::new(false);
static INSTALL: Once = Once::new();

/// Whether the user has asked for the end.
pub(crate) fn asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}

/// Handles SIGINT and SIGTERM from now on.
pub(crate) fn install() {
    INSTALL.call_once(|| {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            // Order matters: the second signal finds the flag set and ends the process.
            let _ = signal_hook::flag::register_conditional_shutdown(signal, 130, flag.clone());
            let _ = signal_hook::flag::register(signal, flag.clone());
        }
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
