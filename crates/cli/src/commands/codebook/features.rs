//! `lapidary codebook features`.

use super::corpus::CorpusArgument;
use crate::arguments::DeviceArgument;
use crate::progress::Watched;
use anyhow::Result;
use clap::Args;
use lapidary::CodebookRun;
use lapidary::codebooks::write_code_tables;
use lapidary::run_folder::{Maker, RunFolder, RunWriter, table_files};
use std::path::PathBuf;

/// Write feature tables and a report in which each code has the place of a latent
#[derive(Args)]
#[command(after_help = "Examples:
  lapidary codebook features codes
  lapidary codebook features codes --corpus text.jsonl --tokens 500000 --out codes-of-text

A code fires at the tokens at which it is chosen. Its activation there is the cosine between the code and the model's activation.
features.parquet has the columns of `lapidary features`, and also layer, head and code.")]
pub struct Features {
    /// Folder of a finished run of `lapidary codebook train`
    run: PathBuf,
    #[command(flatten)]
    text: CorpusArgument,
    /// Number of tokens
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1..))]
    tokens: u64,
    /// Number of strongest contexts for each code
    #[arg(long, default_value_t = 8)]
    examples: usize,
    /// Folder for features/ and report.html; default: the folder of the run
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgument,
}

impl Features {
    pub fn run(self) -> Result<()> {
        let run = CodebookRun::open(&self.run, &self.device.open()?)?;
        let folder = RunFolder::new(self.out.as_ref().unwrap_or(&self.run));
        let mut writer = RunWriter::claim(&folder.path, Maker::Features, &table_files())?;
        let text = self.text.read(&run, self.tokens)?;
        writer.add(table_files())?;
        Ok(write_code_tables(
            &run,
            &text,
            self.examples,
            &folder,
            &Watched,
        )?)
    }
}
