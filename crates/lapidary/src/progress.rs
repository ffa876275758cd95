//! What long work tells whoever watches it.

use std::fmt::Display;
use std::time::Instant;

/// Watches long work: a progress bar, a notebook, a log. Every method has a default that does
/// nothing.
pub trait Progress {
    /// A stage of `length` units begins, with a line for each of `lines` things that go on at once.
    fn begin(&self, _stage: &str, _length: u64, _lines: &[&str]) -> Box<dyn StageDisplay> {
        Box::new(Silent)
    }

    /// Something to say, under a short name: `note`, or the name of a stage.
    fn say(&self, _name: &str, _text: &str) {}

    /// Whether the training is to leave after this step, with a checkpoint.
    fn must_stop(&self) -> bool {
        false
    }

    /// The training begins, or ends: meanwhile [`Progress::must_stop`] is asked after each step.
    fn training(&self, _runs: bool) {}
}

/// Shows one stage.
pub trait StageDisplay {
    /// So many units are done.
    fn at(&self, _done: u64, _message: &str) {}

    /// The content of one of the lines.
    fn line(&self, _number: usize, _message: &str) {}

    /// The stage is over, with what it came to.
    fn done(self: Box<Self>, _message: &str) {}
}

/// Shows nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {}
impl StageDisplay for Silent {}

/// A stage of work that is shown.
pub(crate) struct Stage {
    display: Box<dyn StageDisplay>,
    start: Instant,
}

impl Stage {
    pub(crate) fn new(progress: &dyn Progress, name: &str, length: u64) -> Self {
        Self::with_lines(progress, name, length, &[])
    }

    pub(crate) fn with_lines(
        progress: &dyn Progress,
        name: &str,
        length: u64,
        lines: &[&str],
    ) -> Self {
        Self {
            display: progress.begin(name, length, lines),
            start: Instant::now(),
        }
    }

    pub(crate) fn at(&self, done: u64, message: impl AsRef<str>) {
        self.display.at(done, message.as_ref());
    }

    pub(crate) fn line(&self, number: usize, message: impl AsRef<str>) {
        self.display.line(number, message.as_ref());
    }

    pub(crate) fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    pub(crate) fn done(self, message: impl Display) {
        self.display.done(&message.to_string());
    }
}

/// `1 token`, `2 tokens`.
#[must_use]
pub fn count(n: u64, what: &str) -> String {
    match n {
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    }
}
