//! `lapidary report`.

use crate::progress::Watched;
use anyhow::Result;
use clap::Args;
use lapidary::rewrite_report;
use lapidary::run_folder::RunFolder;
use std::path::PathBuf;

/// Write the report of a run again, from the tables and labels in its folder
#[derive(Args)]
#[command(after_help = "Examples:
  lapidary report out

The report shows what the folder has: features/ (written by `lapidary features`), labels.parquet (written by `lapidary label`, or your
own table with the columns feature_id, label and method), metrics.json and metrics.jsonl. No model runs. `lapidary features` and
`lapidary label` also write the report. So this command is only needed if you changed tables.")]
pub struct Report {
    /// Folder of a run, with features/
    #[arg(value_name = "DIR")]
    run: PathBuf,
}

impl Report {
    pub fn run(self) -> Result<()> {
        Ok(rewrite_report(&RunFolder::new(&self.run), &Watched)?)
    }
}
