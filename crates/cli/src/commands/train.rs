//! `lapidary quickstart` and `lapidary train`: from text to a feature dictionary, or to several on
//! one pass.

use crate::arguments::DeviceArgument;
use crate::progress::Watched;
use anyhow::{Result, bail};
use clap::Args;
use lapidary::{NamedRecipe, Sweep, TrainOptions, read_all};
use std::io::{Write, stdout};
use std::path::PathBuf;

const QUICKSTART: &str = include_str!("../../../../configs/quickstart.toml");

/// Train a TopK autoencoder on the embedded model, with tables and report, in a few minutes
#[derive(Args)]
#[command(after_help = "Example:\n  lapidary quickstart --out out    # then open out/report.html")]
pub struct Quickstart {
    #[command(flatten)]
    options: Options,
    /// Seed for everything random; default: the recipe's
    #[arg(long)]
    seed: Option<u64>,
    /// Where results go
    #[arg(long, default_value = "out", value_name = "DIR")]
    out: PathBuf,
}

/// Train a sparse coder from a recipe, or several on one pass, with evaluation, tables and report
#[derive(Args)]
#[command(after_help = "Examples:
  lapidary train configs/quickstart.toml --out out
  lapidary train configs/quickstart.toml --set coder.architecture=batchtopk --set training.tokens=2000000 --out wide
  lapidary train configs/quickstart.toml --out out --resume    # starts, goes on after an interruption, or finds the work done
  lapidary train configs/quickstart.toml --out out --keep-checkpoint
  lapidary train configs/quickstart.toml --out out --extend --set training.tokens=2000000

Several coders on one pass of the model or the store, each in a folder of its own, with out/runs.parquet beside them:
  lapidary train configs/quickstart.toml --seeds 1,2,3 --out out
  lapidary train configs/quickstart.toml --sweep coder.k=16,32,64 --sweep training.lr=2e-3,4e-3 --out out
  lapidary train configs/quickstart.toml configs/matryoshka-embedded.toml --out out")]
pub struct Train {
    /// Recipes in TOML, such as those in configs/. Several must agree on model, text, activations
    /// and batch size
    #[arg(required = true)]
    config: Vec<PathBuf>,
    #[command(flatten)]
    options: Options,
    /// Seed for everything random; default: the recipe's
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Seeds of the weights: a coder for each, all on the activations in the recipe's order
    #[arg(long, value_delimiter = ',', value_name = "SEED,SEED…")]
    seeds: Vec<u64>,
    /// A coder for each value of a setting; given twice, for each combination
    #[arg(long, value_name = "KEY=VALUE,VALUE…")]
    sweep: Vec<Sweep>,
    /// Where results go; default: out/ and the recipe's name
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Args)]
struct Options {
    /// Override a key of the recipe, such as training.lr=3e-4; can be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    device: DeviceArgument,
    /// Continue from the run's last checkpoint; start if there is none, do nothing if the run is
    /// finished
    #[arg(long)]
    resume: bool,
    /// Continue a finished run that kept its checkpoint to a larger training.tokens, with
    /// schedules of that length
    #[arg(long, conflicts_with = "resume")]
    extend: bool,
    /// Replace the run in the folder once the new one has its first checkpoint
    #[arg(long, conflicts_with_all = ["resume", "extend"])]
    overwrite: bool,
    /// Keep the checkpoint of the finished run, so that it can be extended
    #[arg(long)]
    keep_checkpoint: bool,
}

impl Options {
    fn train(&self, recipes: Vec<NamedRecipe>, out: PathBuf, several: bool) -> Result<()> {
        let options = TrainOptions {
            resume: self.resume,
            extend: self.extend,
            overwrite: self.overwrite,
            keep_checkpoint: self.keep_checkpoint,
        };
        let device = self.device.open()?;
        let written = lapidary::train(recipes, &out, several, options, &device, &Watched)?;
        writeln!(stdout(), "{}", written.display())?;
        Ok(())
    }

    /// The settings to change, the seed among them.
    fn settings(&self, seed: Option<u64>) -> Vec<String> {
        let seed = seed.map(|seed| format!("seed={seed}"));
        self.set.iter().cloned().chain(seed).collect()
    }
}

impl Quickstart {
    pub fn run(self) -> Result<()> {
        let (name, set) = ("quickstart".to_owned(), self.options.settings(self.seed));
        let recipe = NamedRecipe::read(name, "configs/quickstart.toml", QUICKSTART, set)?;
        self.options.train(vec![recipe], self.out, false)
    }
}

impl Train {
    pub fn run(self) -> Result<()> {
        let set = self.options.settings(self.seed);
        let mut sweeps = self.sweep;
        if !self.seeds.is_empty() {
            sweeps.push(Sweep::seeds(&self.seeds));
        }
        let recipes = read_all(&self.config, &set, &sweeps)?;
        let several = self.config.len() > 1 || !sweeps.is_empty();
        let out = match (self.out, self.config.as_slice()) {
            (Some(out), _) => out,
            (None, [file]) => PathBuf::from("out").join(file.file_stem().unwrap_or_default()),
            (None, _) => bail!("--out: of several recipes it must be said where results go"),
        };
        self.options.train(recipes, out, several)
    }
}
