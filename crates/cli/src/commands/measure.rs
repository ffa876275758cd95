//! `lapidary measure`.

use crate::arguments::{DeviceArgument, DictionaryArgument};
use crate::progress::Watched;
use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use lapidary::measures::{LabelledCodes, core_features, overlap};
use lapidary::run_folder::write_json;
use lapidary::{LabelledTexts, Opened};
use lapidary_features::measures::{CoreConfig, CoreDenominator, LatentInformationConfig};
use lapidary_io::check_target;
use serde::Serialize;
use std::io::{Write, stdout};
use std::path::PathBuf;

/// Measure codes: information about classes, separation of classes, codes as hashes, chance
/// overlap, core features
#[derive(Args)]
pub struct Measure {
    #[command(subcommand)]
    kind: Kind,
}

#[derive(Subcommand)]
enum Kind {
    Information(Information),
    Gdv(Gdv),
    Hash(Hash),
    Sdr(Sdr),
    Core(Core),
}

impl Measure {
    pub fn run(self) -> Result<()> {
        match self.kind {
            Kind::Information(command) => command.run(),
            Kind::Gdv(command) => command.run(),
            Kind::Hash(command) => command.run(),
            Kind::Sdr(command) => command.run(),
            Kind::Core(command) => command.run(),
        }
    }
}

/// A dictionary and texts with classes.
#[derive(Args)]
struct OnTexts {
    /// Dictionary: a run's folder, a folder or file in any format, or hf:OWNER/NAME/PATH on the
    /// Hugging Face hub
    #[arg(value_name = "DIR")]
    dictionary: PathBuf,
    #[command(flatten)]
    from: DictionaryArgument,
    /// Language model; default: the model that the dictionary names
    #[arg(long)]
    model: Option<String>,
    /// Texts with classes, as JSON Lines or Parquet: `embedded`, a file, a folder, or hf:OWNER/NAME
    /// (a dataset on the Hugging Face hub)
    #[arg(long, value_name = "TEXTS")]
    texts: String,
    /// JSON field or Parquet column that holds the text
    #[arg(long, value_name = "NAME", default_value = "text")]
    text_field: String,
    /// JSON field or Parquet column that has the class: a string, a number, or true or false
    #[arg(long, value_name = "NAME", default_value = "label")]
    label_field: String,
    /// Number of classes; those with the most texts are chosen
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(2..))]
    classes: u32,
    /// Maximum number of passages per text. A passage has at most as many tokens as the
    /// dictionary's context, and is represented by the mean over its tokens
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    passages: u32,
    /// The texts of each class are divided into two halves. This is the maximum number of passages
    /// per class in each half
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    samples: u32,
    /// Seed for all random choices
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    device: DeviceArgument,
}

#[derive(Args)]
struct Output {
    /// Also write the JSON to this file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl Output {
    fn check(&self) -> Result<()> {
        if let Some(path) = &self.out {
            check_target(path)?;
        }
        Ok(())
    }

    fn print(&self, found: &impl Serialize) -> Result<()> {
        if let Some(path) = &self.out {
            write_json(path, found)?;
        }
        writeln!(stdout(), "{}", serde_json::to_string_pretty(found)?)?;
        Ok(())
    }
}

impl OnTexts {
    fn read(&self) -> Result<(Opened, LabelledCodes)> {
        self.output.check()?;
        let device = self.device.open()?;
        let model = self.model.as_deref();
        let opened = self
            .from
            .open_with_model(&self.dictionary, model, &device)?;
        let texts = LabelledTexts {
            source: self.texts.clone(),
            text_field: self.text_field.clone(),
            label_field: self.label_field.clone(),
            classes: self.classes as usize,
            passages: self.passages as usize,
            samples: self.samples as usize,
            test_share: 0.5, // both halves are used
            seed: self.seed,
        };
        let codes = LabelledCodes::read(&opened, &texts, &Watched)?;
        Ok((opened, codes))
    }
}

/// Mutual information of each latent and the class of a text
#[derive(Args)]
#[command(after_help = "Example:
  lapidary measure information out --texts embedded --label-field president --passages 20

For each latent, the output has the mutual information I(T; Y) in bits. Y is the class of the text. T is a bin of the latent's mean
activation in a passage: bin 0 if the latent does not fire, otherwise one of --bins bins with equal numbers of distinct values.
`by_chance` is the mean of the same estimate for random permutations of the classes. An estimate from few passages is too high: compare
it with `by_chance`. docs/methods/measures.md has the formula.")]
struct Information {
    #[command(flatten)]
    on: OnTexts,
    /// Number of bins for positive means; 1 only asks whether the latent fires
    #[arg(long, default_value_t = 4)]
    bins: usize,
    /// Number of permutations of the classes
    #[arg(long, default_value_t = 20)]
    permutations: usize,
    /// Number of latents to print, the most informative ones
    #[arg(long, default_value_t = 20, value_name = "N")]
    top: usize,
}

impl Information {
    fn run(self) -> Result<()> {
        let (_, codes) = self.on.read()?;
        let config = LatentInformationConfig {
            bins: self.bins,
            permutations: self.permutations,
            seed: self.on.seed,
        };
        self.on.output.print(&codes.information(&config, self.top)?)
    }
}

/// Generalized discrimination value: separation of classes in activations and in codes
#[derive(Args)]
#[command(after_help = "Example:
  lapidary measure gdv out --texts embedded --label-field president --passages 20

A value of 0 means no separation, and a negative value means separation. `bound` is the smallest value that classes of equal size can
have: -1 for two classes. `ratio` is the value divided by `bound`. docs/methods/measures.md has the formula.")]
struct Gdv {
    #[command(flatten)]
    on: OnTexts,
}

impl Gdv {
    fn run(self) -> Result<()> {
        let (_, codes) = self.on.read()?;
        self.on.output.print(&codes.discrimination()?)
    }
}

/// Codes as hashes: how much the active latents alone tell about a text
#[derive(Args)]
#[command(after_help = "Example:
  lapidary measure hash out --texts embedded --label-field president --passages 20

The hash of a passage is the set of its k latents with the largest mean activations. docs/methods/measures.md defines the values in the
output.")]
struct Hash {
    #[command(flatten)]
    on: OnTexts,
    /// Number of latents per hash
    #[arg(short, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    k: u32,
    /// Number of nearest neighbours
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    neighbours: u32,
    /// Number of pairs of passages for the correlation with activations
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(2..=10_000_000))]
    pairs: u32,
}

impl Hash {
    fn run(self) -> Result<()> {
        let (_, codes) = self.on.read()?;
        let [k, neighbours, pairs] = [self.k, self.neighbours, self.pairs].map(|n| n as usize);
        let found = codes.hashes(k, neighbours, pairs, self.on.seed)?;
        self.on.output.print(&found)
    }
}

/// Chance overlap of sparse codes, and how many codes a union can hold
#[derive(Args)]
#[command(after_help = "Example:
  lapidary measure sdr --d-sae 4096 -k 32 --level 1e-6

The codes are random: in each, k of d_sae latents are active. `smallest_theta` is the smallest number for which two codes share so many
latents or more with a probability below --level. The union of several codes has the latents that are active in at least one of them. A
random code is a false member of the union if at least --theta of its latents are in the union. `largest_union` is the largest number of
codes for which the probability of a false member is at most --level. docs/methods/measures.md has the formulas.")]
struct Sdr {
    /// Number of latents
    #[arg(long)]
    d_sae: u64,
    /// Number of active latents
    #[arg(short)]
    k: u64,
    /// Minimum number of latents that a member shares with the union; default: k
    #[arg(long)]
    theta: Option<u64>,
    /// Probability for `smallest_theta` and `largest_union`
    #[arg(long, default_value_t = 1e-6)]
    level: f64,
    #[command(flatten)]
    output: Output,
}

impl Sdr {
    fn run(self) -> Result<()> {
        self.output.check()?;
        self.output
            .print(&overlap(self.d_sae, self.k, self.theta, self.level)?)
    }
}

/// Core features of a text, and the perplexity of the model with only these features
#[derive(Args)]
#[command(after_help = "Example:
  lapidary measure core out --text \"The war is over, and the armies of both nations return to their homes.\"

The core of a token is the set of latents whose activation is at least the (1 - alpha) quantile of the token's positive activations. For
each latent, count the tokens whose core has it. The core of the text is the share beta of the latents with a count above 0 that have the
highest counts. For `perplexity_reconstructed`, the reconstructions replace the activations. For `perplexity_core`, the
reconstructions use only the latents in the core of the text. docs/methods/measures.md has the definitions.")]
struct Core {
    /// Dictionary: a run's folder, a folder or file in any format, or hf:OWNER/NAME/PATH on the
    /// Hugging Face hub
    #[arg(value_name = "DIR")]
    dictionary: PathBuf,
    #[command(flatten)]
    from: DictionaryArgument,
    /// Language model; default: the model that the dictionary names
    #[arg(long)]
    model: Option<String>,
    /// Text, which must fit into one context
    #[arg(long)]
    text: String,
    /// Share of a token's positive activations that are in the core of this token
    #[arg(long, default_value_t = 0.4)]
    alpha: f64,
    /// Share of the latents in token cores that are in the core of the text
    #[arg(long, default_value_t = 0.2)]
    beta: f64,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    device: DeviceArgument,
}

impl Core {
    fn run(self) -> Result<()> {
        self.output.check()?;
        for (name, share) in [("--alpha", self.alpha), ("--beta", self.beta)] {
            if !(share > 0.0 && share <= 1.0) {
                bail!("{name}: found {share}, expected more than 0 and at most 1");
            }
        }
        let device = self.device.open()?;
        let model = self.model.as_deref();
        let opened = self
            .from
            .open_with_model(&self.dictionary, model, &device)?;
        let config = CoreConfig {
            alpha: self.alpha,
            beta: self.beta,
            denominator: CoreDenominator::InTokenCores,
        };
        self.output
            .print(&core_features(&opened, &self.text, &config)?)
    }
}
