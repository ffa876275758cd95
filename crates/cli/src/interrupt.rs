//! SIGINT and SIGTERM: a training run finishes its step, writes a checkpoint and leaves; everything else ends at once.

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
            // In this order: the first signal asks, and makes the second one end the program. What cannot be registered leaves a
            // signal to end the program at once, as it does without any of this.
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

/// While this lives, the first signal only asks the work to stop ([`requested`]); the second one ends the program.
pub struct Graceful(());

impl Graceful {
    pub fn begin() -> Self {
        flags().ends.store(false, Ordering::SeqCst);
        Self(())
    }
}

impl Drop for Graceful {
    fn drop(&mut self) {
        flags().ends.store(true, Ordering::SeqCst);
    }
}

/// Whether the program was asked to stop.
pub fn requested() -> bool {
    flags().requested.load(Ordering::SeqCst)
}

/// Ends a command that stopped where it was asked to.
#[derive(Debug)]
pub struct Interrupted(pub String);

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Interrupted {}
