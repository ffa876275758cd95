//! `lapidary dkvb`.

use crate::arguments::DeviceArgument;
use crate::progress::Watched;
use anyhow::Result;
use clap::Args;
use lapidary::run_class_incremental;
use lapidary::run_folder::write_json;
use lapidary_codebook::ClassIncremental;
use lapidary_io::check_target;
use std::io::{Write, stdout};
use std::path::PathBuf;

/// Learn classes a few at a time with a discrete key-value bottleneck, and compare it with a linear
/// probe
#[derive(Args)]
#[command(after_help = "Examples:
  lapidary dkvb configs/codebook/key-value-blobs.toml --out result.json
  lapidary dkvb configs/codebook/key-value-blobs.toml --set data.radius=1.5 --out result.json
  lapidary dkvb configs/codebook/key-value-text.toml --out result.json

A split is a group of classes that are learned together. The result has:
  accuracy_dkvb   accuracy of the bottleneck on all classes, after the last split
  accuracy_probe  accuracy of the linear probe on all classes, after the last split
  retention       accuracy of the bottleneck on the classes of the first split, after each split")]
pub struct Dkvb {
    /// Config in TOML, such as configs/codebook/key-value-blobs.toml
    config: PathBuf,
    /// Override a key of the config, such as data.radius=1.5; can be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// JSON file for the result
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Seed of all random numbers; default: `seed` of the config
    #[arg(long)]
    seed: Option<u64>,
    #[command(flatten)]
    device: DeviceArgument,
}

impl Dkvb {
    pub fn run(self) -> Result<()> {
        let seed = self.seed.map(|seed| format!("seed={seed}"));
        let settings: Vec<String> = self.set.into_iter().chain(seed).collect();
        let config = ClassIncremental::load(&self.config, &settings)?;
        check_target(&self.out)?;
        let found = run_class_incremental(&config, &self.device.open()?, &Watched)?;
        write_json(&self.out, &found)?;
        writeln!(stdout(), "{}", serde_json::to_string_pretty(&found)?)?;
        Ok(())
    }
}
