//! What a run leaves behind, and where.
//!
//! ```text
//! DIR/run.json         what in DIR belongs to the run, and whether it is finished
//! DIR/config.toml      the recipe, every default filled in
//! DIR/first_batch.json what the first batch of activations is like
//! DIR/dictionary/      cfg.json and sae_weights.safetensors, in SAELens's layout
//! DIR/features/        the feature tables, such as features.parquet
//! DIR/labels.parquet   labels of the latents, if `lapidary label` was run
//! DIR/metrics.json     metrics on the evaluation text
//! DIR/metrics.jsonl    the training log, one object per line
//! DIR/report.html      all of it for a reader
//! DIR/checkpoint/      what `--resume` goes on from, until the run is finished
//! ```
//!
//! [`RunFolder`] knows the names; [`RunWriter`] decides what may be written and replaced.

mod writer;

pub use writer::{Maker, RunWriter, table_files, training_files};

use lapidary_evaluation::Metrics;
use lapidary_io::write_atomically;
use lapidary_sae::StepReport;

use crate::error::{Context, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The names in a run's folder.
pub struct RunFolder {
    /// The folder.
    pub path: PathBuf,
}

impl RunFolder {
    /// The names in the folder `path`.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.into() }
    }

    /// The recipe, every value filled in.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.path.join("config.toml")
    }

    /// The dictionary's folder.
    #[must_use]
    pub fn dictionary(&self) -> PathBuf {
        self.path.join("dictionary")
    }

    /// The folder of the feature tables.
    #[must_use]
    pub fn features(&self) -> PathBuf {
        self.path.join("features")
    }

    /// The labels of the latents.
    #[must_use]
    pub fn labels(&self) -> PathBuf {
        self.path.join("labels.parquet")
    }

    /// The metrics.
    #[must_use]
    pub fn metrics(&self) -> PathBuf {
        self.path.join("metrics.json")
    }

    /// The training log.
    #[must_use]
    pub fn metrics_log(&self) -> PathBuf {
        self.path.join("metrics.jsonl")
    }

    /// The report.
    #[must_use]
    pub fn report(&self) -> PathBuf {
        self.path.join("report.html")
    }

    /// The checkpoint's folder.
    #[must_use]
    pub fn checkpoint(&self) -> PathBuf {
        self.path.join("checkpoint")
    }

    /// The metrics, if they were written.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn read_metrics(&self) -> Result<Option<Metrics>> {
        if !self.metrics().exists() {
            return Ok(None);
        }
        read_json(&self.metrics()).map(Some)
    }

    /// The training's course, as far as it was logged.
    pub fn read_log(&self) -> Vec<StepReport> {
        self.log_lines()
            .into_iter()
            .map(|(report, _)| report)
            .collect()
    }

    /// The log's lines, read and as they stand; a line cut short by an interruption ends it.
    fn log_lines(&self) -> Vec<(StepReport, String)> {
        let text = std::fs::read_to_string(self.metrics_log()).unwrap_or_default();
        text.lines()
            .map_while(|line| Some((serde_json::from_str(line).ok()?, line.to_owned())))
            .collect()
    }

    /// Opens the log for appending, what was logged after `step` (and lost with the interruption)
    /// taken out.
    pub fn append_log(&self, step: u64, batch_tokens: usize) -> Result<MetricsLog> {
        let path = self.metrics_log();
        let mut kept = String::new();
        for (_, line) in self
            .log_lines()
            .iter()
            .filter(|(report, _)| report.step <= step)
        {
            kept += line;
            kept.push('\n');
        }
        write_atomically(&path, kept.as_bytes())?;
        let file = OpenOptions::new().append(true).open(&path);
        Ok(MetricsLog {
            file: file.with_context(|| path.display().to_string())?,
            path,
            start: Instant::now(),
            last: (step, 0.0),
            batch_tokens,
        })
    }
}

/// `metrics.jsonl`, growing.
pub struct MetricsLog {
    file: std::fs::File,
    path: PathBuf,
    start: Instant,
    /// Step and seconds of the last line.
    last: (u64, f64),
    batch_tokens: usize,
}

/// A line of the log: what the step was like, and how fast steps are.
#[derive(Serialize)]
struct LogLine<'a> {
    #[serde(flatten)]
    report: &'a StepReport,
    /// Since this process began to train.
    seconds: f64,
    /// Since the last line.
    tokens_per_second: f64,
}

impl MetricsLog {
    /// Adds a line.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn push(&mut self, report: &StepReport) -> Result<()> {
        let seconds = self.start.elapsed().as_secs_f64();
        let tokens = report.step.saturating_sub(self.last.0) * self.batch_tokens as u64;
        let rate = tokens as f64 / (seconds - self.last.1).max(1e-9);
        self.last = (report.step, seconds);
        let line = LogLine {
            report,
            seconds: (seconds * 1e3).round() / 1e3,
            tokens_per_second: rate.round(),
        };
        let line = serde_json::to_string(&line)? + "\n";
        self.file
            .write_all(line.as_bytes())
            .with_context(|| format!("{}: cannot be written", self.path.display()))
    }
}

/// Reads a JSON file.
///
/// # Errors
/// It cannot be read, or is something else.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    Ok(lapidary_io::read_json(path)?)
}

/// Writes a value as a JSON file that appears whole or not at all.
///
/// # Errors
/// It cannot be written.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value)? + "\n";
    Ok(write_atomically(path, text.as_bytes())?)
}
