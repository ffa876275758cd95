//! `lapidary codebook train`.

use crate::arguments::DeviceArgument;
use crate::progress::Watched;
use anyhow::Result;
use clap::Args;
use lapidary::{TrainOptions, train_codebooks};
use lapidary_codebook::CodebookConfig;
use std::io::{Write, stdout};
use std::path::PathBuf;

/// Train or fine-tune a language model together with its codebooks, and compute metrics
#[derive(Args)]
#[command(after_help = "Examples:
  lapidary codebook train configs/codebook/tokfsm-small.toml --out fsm
  lapidary codebook train configs/codebook/tokfsm-small.toml --set codebook.places=[] --out dense    # the same model without codebooks
  lapidary codebook train configs/codebook/embedded.toml --out codes --resume    # start the run, or continue it after an interruption
  lapidary codebook train configs/codebook/tokfsm.toml --out fsm --extend --set training.steps=3000    # end the interrupted run after 3000 steps")]
pub struct Train {
    /// Config in TOML, such as configs/codebook/tokfsm-small.toml
    config: PathBuf,
    /// Override a key of the config, such as codebook.k=4; can be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Folder for the results
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Continue from the last checkpoint. If there is no checkpoint, start the run. If the run is
    /// finished, do nothing
    #[arg(long, conflicts_with = "overwrite")]
    resume: bool,
    /// Continue a run from its checkpoint to another number of steps (training.steps). A finished
    /// run has a checkpoint if it was trained with --keep-checkpoint
    #[arg(long, conflicts_with = "overwrite")]
    extend: bool,
    /// Replace the run in the folder --out
    #[arg(long)]
    overwrite: bool,
    /// Keep the checkpoint of the finished run, so that --extend can continue the run
    #[arg(long)]
    keep_checkpoint: bool,
    /// Seed of all random numbers; default: `seed` of the config
    #[arg(long)]
    seed: Option<u64>,
    #[command(flatten)]
    device: DeviceArgument,
}

impl Train {
    pub fn run(self) -> Result<()> {
        let seed = self.seed.map(|seed| format!("seed={seed}"));
        let settings: Vec<String> = self.set.into_iter().chain(seed).collect();
        let config = CodebookConfig::load(&self.config, &settings)?;
        let device = self.device.open()?;
        let options = TrainOptions {
            resume: self.resume,
            extend: self.extend,
            overwrite: self.overwrite,
            keep_checkpoint: self.keep_checkpoint,
        };
        let metrics = train_codebooks(&config, &self.out, options, &device, &Watched)?;
        writeln!(stdout(), "{}", serde_json::to_string_pretty(&metrics)?)?;
        Ok(())
    }
}
