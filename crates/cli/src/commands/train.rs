//! `lapidary quickstart` and `lapidary train`: from text to a feature dictionary, or to several on
//! one pass.

use crate::arguments::DeviceArgument;
use crate::progress::Watched;
use anyhow::{Result, bail};
use clap::Args;
use lapidary::{NamedRecipe, Sweep, TrainOptions, read_all};
use std::io::{Write, stdout};
use std::path::PathBuf;
use std::str::FromStr;

const QUICKSTART: &str = include_str!("../../../../configs/quickstart.toml");

/// Train a TopK autoencoder on the embedded model in a few minutes, and write metrics, tables and a
/// report
#[derive(Args)]
#[command(after_help = "Example:\n  lapidary quickstart --out out    # then open out/report.html")]
pub struct Quickstart {
    #[command(flatten)]
    options: Options,
    /// Seed of all random numbers; default: `seed` of the recipe
    #[arg(long)]
    seed: Option<u64>,
    /// Folder for the results
    #[arg(long, default_value = "out", value_name = "DIR")]
    out: PathBuf,
}

/// Train a sparse coder from a recipe, or several coders in one run, and write metrics, tables and
/// a report
#[derive(Args)]
#[command(after_help = "Examples:
  lapidary train configs/quickstart.toml --out out
  lapidary train configs/quickstart.toml --set coder.architecture=batchtopk --set training.tokens=2000000 --out wide
  lapidary train configs/quickstart.toml --out out --resume    # start the run, or continue it after an interruption
  lapidary train configs/quickstart.toml --out out --keep-checkpoint
  lapidary train configs/quickstart.toml --out out --extend --set training.tokens=2000000

Examples with several coders in one run. The model runs once for all coders. Each coder has its own folder in --out, and runs.parquet
in --out has one row per coder:
  lapidary train configs/quickstart.toml --seeds 1,2,3 --out out
  lapidary train configs/quickstart.toml --sweep coder.k=16,32,64 --sweep training.lr=2e-3,4e-3 --out out
  lapidary train configs/transcoder-embedded.toml --layers 0-3 --out transcoders
  lapidary train configs/quickstart.toml configs/matryoshka-embedded.toml --out out")]
pub struct Train {
    /// Recipes in TOML, such as configs/quickstart.toml. Several recipes must have the same
    /// `model`, `other_model`, `[corpus]`, `[activations]` and `training.batch_tokens`.
    /// `training.loss` must be `local` in all of them or in none
    #[arg(required = true)]
    config: Vec<PathBuf>,
    #[command(flatten)]
    options: Options,
    /// Seed of all random numbers; default: `seed` of the recipe
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Train one coder for each of these seeds. The seeds set the initial weights. All coders get
    /// the same batches, whose order is set by the recipe's own seed
    #[arg(long, value_delimiter = ',', value_name = "SEED,SEED…")]
    seeds: Vec<u64>,
    /// Train one coder for each of these values of a recipe key. With several --sweep, train one
    /// coder for each combination of values
    #[arg(long, value_name = "KEY=VALUE,VALUE…")]
    sweep: Vec<Sweep>,
    /// Train one coder for each of these layers, such as 0-3 or 2,5,8. For each coder, the recipe's
    /// hook points are moved to its layer
    #[arg(long, value_name = "LAYERS")]
    layers: Option<Layers>,
    /// Folder for the results; default: out/NAME for the recipe NAME.toml. Required for several
    /// recipes
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Layers as they are written: numbers and ranges, separated by commas.
#[derive(Clone)]
struct Layers(Vec<usize>);

impl FromStr for Layers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("found `{text}`, expected layers such as 0-3 or 2,5,8");
        let number = |text: &str| text.trim().parse::<u8>().map_err(|_| wrong());
        let mut layers = vec![];
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let range = number(first)?..=number(last)?;
            if range.is_empty() {
                return Err(wrong());
            }
            layers.extend(range.map(usize::from));
        }
        Ok(Self(layers))
    }
}

#[derive(Args)]
struct Options {
    /// Override a key of the recipe, such as training.lr=3e-4; can be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    device: DeviceArgument,
    /// Continue from the last checkpoint. If there is no checkpoint, start the run. If the run is
    /// finished, do not train. If keys under `[evaluation]` or `[features]` have changed since
    /// then, write metrics and tables again
    #[arg(long)]
    resume: bool,
    /// Continue a finished run to a larger training.tokens. The learning rate and other schedules
    /// then follow the new length. The finished run needs its checkpoint: train it with
    /// --keep-checkpoint
    #[arg(long, conflicts_with = "resume")]
    extend: bool,
    /// Replace the run in the folder --out. The old run is removed when the new run has its first
    /// checkpoint
    #[arg(long, conflicts_with_all = ["resume", "extend"])]
    overwrite: bool,
    /// Keep the checkpoint of the finished run, so that --extend can continue the run
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
        if let Some(Layers(layers)) = &self.layers {
            sweeps.insert(0, Sweep::layers(layers));
        }
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
