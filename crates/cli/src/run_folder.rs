//! What a run leaves behind, and where.
//!
//! ```text
//! DIR/config.toml      the recipe, every default filled in
//! DIR/first_batch.json what the first batch of activations is like
//! DIR/dictionary/      cfg.json and sae_weights.safetensors, in SAELens's layout
//! DIR/features/        features.parquet and examples.parquet
//! DIR/metrics.json     figures of merit on the evaluation text
//! DIR/metrics.jsonl    the course of the training, one object a line
//! DIR/report.html      all of it for a reader
//! DIR/checkpoint/      what `--resume` goes on from
//! ```

use crate::{first_batch, summary};
use anyhow::{Context, Result, bail};
use lapidary_evaluation::Metrics;
use lapidary_model::write_atomically;
use lapidary_sae::{Dictionary, StepReport, checkpoint, remove_folder};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

pub struct RunFolder {
    pub path: PathBuf,
}

impl RunFolder {
    pub fn new(path: &Path) -> Self {
        Self { path: path.into() }
    }

    /// Makes the folder for a new run; one that already holds a run is refused unless it may be overwritten, and even then
    /// keeps it until [`Self::clear`].
    pub fn create(path: &Path, overwrite: bool) -> Result<Self> {
        let folder = Self::new(path);
        let taken = [
            (folder.metrics_log(), folder.metrics_log().exists()),
            (
                folder.dictionary(),
                Dictionary::exists(&folder.dictionary()),
            ),
            (
                folder.checkpoint(),
                checkpoint::exists(&folder.checkpoint()),
            ),
        ]
        .into_iter()
        .find(|(_, exists)| *exists);
        match taken {
            Some((found, _)) if !overwrite => bail!(
                "{} holds a run already ({} is there): give --resume to go on with it, --overwrite to replace it, or another --out",
                path.display(),
                found.display()
            ),
            _ => std::fs::create_dir_all(path)
                .with_context(|| format!("{}: cannot be made", path.display()))?,
        }
        Ok(folder)
    }

    /// Removes what a run wrote and nothing else.
    pub fn clear(&self) -> Result<()> {
        for file in [
            self.config(),
            self.metrics(),
            self.metrics_log(),
            self.report(),
            self.path.join(first_batch::FILE),
            self.path.join(summary::FILE),
        ] {
            if file.exists() {
                std::fs::remove_file(&file)
                    .with_context(|| format!("{}: cannot be removed", file.display()))?;
            }
        }
        for folder in [self.dictionary(), self.features(), self.checkpoint()] {
            remove_folder(&folder)
                .with_context(|| format!("{}: cannot be removed", folder.display()))?;
        }
        Ok(())
    }

    pub fn config(&self) -> PathBuf {
        self.path.join("config.toml")
    }

    pub fn dictionary(&self) -> PathBuf {
        self.path.join("dictionary")
    }

    pub fn features(&self) -> PathBuf {
        self.path.join("features")
    }

    pub fn metrics(&self) -> PathBuf {
        self.path.join("metrics.json")
    }

    pub fn metrics_log(&self) -> PathBuf {
        self.path.join("metrics.jsonl")
    }

    pub fn report(&self) -> PathBuf {
        self.path.join("report.html")
    }

    pub fn checkpoint(&self) -> PathBuf {
        self.path.join("checkpoint")
    }

    /// The figures of merit, if they were written.
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

    /// Opens the log for appending, what was logged after `step` (and lost with the interruption) taken out.
    pub fn append_log(&self, step: u64) -> Result<MetricsLog> {
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
        })
    }
}

/// `metrics.jsonl`, growing.
pub struct MetricsLog {
    file: std::fs::File,
    path: PathBuf,
}

impl MetricsLog {
    pub fn push(&mut self, report: &StepReport) -> Result<()> {
        let line = serde_json::to_string(report)? + "\n";
        self.file
            .write_all(line.as_bytes())
            .with_context(|| format!("{}: cannot be written", self.path.display()))
    }
}

pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("{}: cannot be read", path.display()))?;
    serde_json::from_str(&text)
        .with_context(|| format!("{}: not what was expected", path.display()))
}

pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value)? + "\n";
    Ok(write_atomically(path, text.as_bytes())?)
}
