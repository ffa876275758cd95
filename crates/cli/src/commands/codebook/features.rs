//! `lapidary codebook features`.

use crate::arguments::{DeviceArgument, TextArgument};
use crate::progress::Watched;
use anyhow::Result;
use clap::Args;
use lapidary::CodebookRun;
use lapidary::codebooks::{RunText, write_code_tables};
use lapidary::run_folder::{Maker, RunFolder, RunWriter, table_files};
use std::path::PathBuf;

/// Write tables and a report of the codes, in the form of those of a dictionary's latents
#[derive(Args)]
#[command(after_help = "Examples:
  lapidary codebook features codes
  lapidary codebook features codes --corpus text.jsonl --tokens 500000 --out codes-of-text

A code fires where it is chosen. Its activation is the cosine between the code and the activation that it stands for. The table has
the columns layer, head and code in addition to those of a dictionary's latents.")]
pub struct Features {
    /// Folder of a finished `lapidary codebook train`
    run: PathBuf,
    /// The text; default: the text that the run was trained on
    #[arg(long)]
    corpus: Option<String>,
    #[command(flatten)]
    text: TextArgument,
    /// Number of tokens
    #[arg(long, default_value_t = 200_000)]
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
        let options = self.text.options();
        let text = RunText::read(
            &run,
            self.corpus.as_deref(),
            &options,
            self.tokens,
            &Watched,
        )?;
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
