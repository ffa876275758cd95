//! Progress bars for long work. They go to standard error and vanish where it is no terminal; each stage's closing line
//! is printed either way.

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::time::Instant;

/// One stage of a command.
pub struct Stage {
    bar: ProgressBar,
    /// Below the bar, one for each of several things that go on at once.
    lines: Vec<ProgressBar>,
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
            lines: vec![],
            name,
            start: Instant::now(),
        }
    }

    /// A stage with a line for each of `names` below its bar.
    pub fn with_lines(name: &'static str, length: u64, names: &[&str]) -> Self {
        let mut stage = Self::new(name, length);
        let all = MultiProgress::new();
        stage.bar = all.add(stage.bar);
        let width = names.iter().map(|name| name.chars().count()).max();
        let width = width.unwrap_or(0);
        let line = |name: &&str| {
            let line = all.add(ProgressBar::no_length());
            let style = ProgressStyle::with_template("{prefix}  {msg}");
            line.set_style(style.expect("the template is fixed"));
            line.set_prefix(format!("{:>10} {name:width$}", ""));
            line
        };
        stage.lines = names.iter().map(line).collect();
        stage
    }

    /// Writes what stands in the line of this number, if there is one.
    pub fn line(&self, number: usize, message: impl Into<String>) {
        if let Some(line) = self.lines.get(number) {
            line.set_message(message.into());
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
        for line in &self.lines {
            line.finish_and_clear();
        }
        self.bar.finish_and_clear();
        eprintln!("{:>10} {message} ({:.1} s)", self.name, self.seconds());
    }
}
