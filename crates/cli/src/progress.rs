//! What goes to standard error: bars for long work, closing lines of stages, notes.
//!
//! Nothing here fails: what cannot be printed, since the reader has gone or a disk is full, is
//! dropped, and the work goes on. Bars need a terminal; without one, long work prints a line a
//! minute.

use crate::interrupt;
use crate::terminal::visible;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use lapidary::{Progress, StageDisplay};
use std::cell::RefCell;
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often work says how far it is where there is no terminal.
const LINE_EVERY: Duration = Duration::from_mins(1);

static QUIET: AtomicBool = AtomicBool::new(false);

/// Prints a line to standard error, unless `--quiet` was given.
macro_rules! say {
    ($($argument:tt)*) => { $crate::progress::print(format_args!($($argument)*)) };
}
pub(crate) use say;

/// Leaves out everything but errors from now on.
pub fn be_quiet() {
    QUIET.store(true, Ordering::Relaxed);
}

/// Prints a line to standard error, unless `--quiet` was given.
pub fn print(line: std::fmt::Arguments<'_>) {
    if !QUIET.load(Ordering::Relaxed) {
        print_always(line);
    }
}

/// Prints a line to standard error; one that cannot be printed is dropped.
pub fn print_always(line: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Prints a remark, below the name `note` where stages have theirs.
pub fn note(text: impl std::fmt::Display) {
    say!("{:>10} {text}", "note");
}

/// Shows the work of the library on the terminal.
pub struct Watched;

impl Progress for Watched {
    fn begin(&self, stage: &str, length: u64, lines: &[&str]) -> Box<dyn StageDisplay> {
        Box::new(Stage::with_lines(stage, length, lines))
    }

    fn say(&self, name: &str, text: &str) {
        say!("{name:>10} {}", visible(text));
    }

    fn must_stop(&self) -> bool {
        interrupt::requested()
    }

    fn training(&self, runs: bool) {
        interrupt::be_graceful(runs);
    }
}

impl StageDisplay for Stage {
    fn at(&self, done: u64, message: &str) {
        Self::at(self, done, message);
    }

    fn line(&self, number: usize, message: &str) {
        Self::line(self, number, message);
    }

    fn done(self: Box<Self>, message: &str) {
        Self::done(*self, message);
    }
}

/// One stage of a command.
pub struct Stage {
    bar: ProgressBar,
    /// Below the bar, one for each of several things that go on at once.
    lines: Vec<ProgressBar>,
    name: String,
    start: Instant,
    /// When the last line was printed, where there is no terminal.
    last_line: RefCell<Option<Instant>>,
}

impl Stage {
    pub fn new(name: &str, length: u64) -> Self {
        let quiet = QUIET.load(Ordering::Relaxed);
        let bar = match quiet {
            true => ProgressBar::hidden(),
            false => ProgressBar::new(length),
        };
        bar.set_length(length);
        let style = ProgressStyle::with_template(
            "{prefix:>10} {bar:30} {percent:>3}%  {msg}  ({eta} left)",
        )
        .expect("the template is fixed");
        bar.set_style(style.progress_chars("━╸─"));
        bar.set_prefix(name.to_owned());
        let by_line = !quiet && !std::io::stderr().is_terminal();
        Self {
            bar,
            lines: vec![],
            name: name.to_owned(),
            start: Instant::now(),
            last_line: RefCell::new(by_line.then(Instant::now)),
        }
    }

    /// A stage with a line for each of `names` below its bar.
    pub fn with_lines(name: &str, length: u64, names: &[&str]) -> Self {
        let mut stage = Self::new(name, length);
        if names.is_empty() || stage.bar.is_hidden() {
            return stage;
        }
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

    /// Sets the length of a stage that was not known when it began.
    pub fn set_length(&self, length: u64) {
        self.bar.set_length(length);
    }

    pub fn at(&self, position: u64, message: impl Into<String>) {
        let message = visible(&message.into()).into_owned();
        let mut last = self.last_line.borrow_mut();
        if last.is_some_and(|last| last.elapsed() >= LINE_EVERY) {
            *last = Some(Instant::now());
            self.print_line(position, &message);
        }
        self.bar.set_message(message);
        self.bar.set_position(position);
    }

    /// How far it is, for a log.
    fn print_line(&self, position: u64, message: &str) {
        // How long it is may not be known.
        let Some(length) = self.bar.length().filter(|length| *length > 0) else {
            say!("{:>10} {message}", self.name);
            return;
        };
        let share = position as f64 / length as f64;
        let left = self.seconds() * (1.0 / share.max(1e-9) - 1.0);
        let left = match share > 0.0 {
            true => format!("  ({} left)", duration(left)),
            false => String::new(),
        };
        say!("{:>10} {:.0} %  {message}{left}", self.name, 100.0 * share);
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
        say!("{:>10} {message} ({:.1} s)", self.name, self.seconds());
    }
}

fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 90.0 => format!("{s:.0} s"),
        s if s < 5400.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_readable() {
        assert_eq!(
            [12.3, 600.0, 7200.0].map(duration),
            ["12 s", "10 min", "2.0 h"]
        );
    }
}
