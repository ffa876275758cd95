//! Progress bars for long work. They go to standard error and vanish where it is no terminal; each stage's closing line
//! is printed either way.

use indicatif::{ProgressBar, ProgressStyle};
use std::time::Instant;

/// One stage of a command.
pub struct Stage {
    bar: ProgressBar,
    name: &'static str,
    start: Instant,
}

impl Stage {
    pub fn new(name: &'static str, length: u64) -> Self {
        let bar = ProgressBar::new(length);
        let style = ProgressStyle::with_template(
            "{prefix:>10} {bar:30} {percent:>3}%  {msg}  ({eta} left)",
        )
        .expect("the template is fixed");
        bar.set_style(style.progress_chars("━╸─"));
        bar.set_prefix(name);
        Self {
            bar,
            name,
            start: Instant::now(),
        }
    }

    pub fn at(&self, position: u64, message: impl Into<String>) {
        self.bar.set_message(message.into());
        self.bar.set_position(position);
    }

    pub fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    /// Clears the bar and prints what the stage came to.
    pub fn done(self, message: impl std::fmt::Display) {
        self.bar.finish_and_clear();
        eprintln!("{:>10} {message} ({:.1} s)", self.name, self.seconds());
    }
}
