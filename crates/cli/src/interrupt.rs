//! SIGINT and SIGTERM: a training run finishes its step, writes a checkpoint and leaves; everything
//! else ends at once.

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// The exit code of a command that was interrupted, as shells have it for SIGINT.
pub const EXIT_CODE: u8 = 130;

struct Flags {
    requested: Arc<AtomicBool>,
    /// Whether the next signal ends the program.
    ends: Arc<AtomicBool>,
}

fn flags() -> &'static Flags {
    static FLAGS: OnceLock<Flags> = OnceLock::new();
    FLAGS.get_or_init(|| {
        let flags = Flags {
            requested: Arc::default(),
            ends: Arc::new(AtomicBool::new(true)),
        };
        for signal in [SIGINT, SIGTERM] {
            // In this order: the first signal asks, and makes the second one end the program. What
            // cannot be registered leaves a signal to end the program at once, as it does without
            // any of this.
            let _ = flag::register_conditional_shutdown(
                signal,
                i32::from(EXIT_CODE),
                Arc::clone(&flags.ends),
            );
            let _ = flag::register(signal, Arc::clone(&flags.requested));
            let _ = flag::register(signal, Arc::clone(&flags.ends));
        }
        flags
    })
}

/// While work is graceful, the first signal only asks it to stop ([`requested`]); the second one
/// ends the program.
pub fn be_graceful(graceful: bool) {
    flags().ends.store(!graceful, Ordering::SeqCst);
}

/// Whether the program was asked to stop.
pub fn requested() -> bool {
    flags().requested.load(Ordering::SeqCst)
}
