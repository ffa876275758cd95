//! `lapidary label`.

use crate::arguments::{DeviceArgument, DictionaryArgument, TextArgument};
use crate::progress::Watched;
use anyhow::Result;
use clap::Args;
use lapidary::{LabelOptions, label};
use lapidary_features::labels::{Confusion, ExampleConfig, LabelMethod, PmiConfig};
use lapidary_features::write_labels;
use lapidary_io::check_target;
use std::io::{Write, stdout};
use std::path::PathBuf;

/// Label latents, and score the labels on other documents
#[derive(Args)]
#[command(after_help = "Examples:
  lapidary label out --out labels.parquet
  lapidary label out --method pmi,top-token,lens --tokens 500000 --out labels.parquet

Labels are made from one half of the documents:
  pmi        up to 3 n-grams (of 1 to 3 tokens) that end at the peaks of the strongest contexts, or one token before, and that are
             rare elsewhere: those with the highest log p(d | contexts) - lambda log p(d)
  top-token  the token at most of these peaks, a baseline
  lens       the 3 tokens whose logits the decoder row raises most

They are scored on windows of 32 tokens from the other half: up to 50 windows in which the latent fires, from its whole range of
activations, and 50 in which it does not. Detection: does a window that has the label contain a firing? Fuzzing: some tokens of a
window are marked; are they those on which the latent fires? Both are balanced accuracies: 0.5 is chance. A latent with fewer than
10 windows of a kind has no scores.

Columns of the output: feature_id, label (n-grams separated by |), method, detection, fuzzing.")]
pub struct Label {
    /// Dictionary: a run's folder, a folder or file in any format, or hf:OWNER/NAME/PATH on the
    /// Hugging Face hub
    #[arg(value_name = "DIR")]
    dictionary: PathBuf,
    #[command(flatten)]
    from: DictionaryArgument,
    /// Methods, separated by commas
    #[arg(long, value_name = "METHOD", value_delimiter = ',', default_value = "pmi", value_parser = method)]
    method: Vec<LabelMethod>,
    /// Language model; default: the model that the dictionary names
    #[arg(long)]
    model: Option<String>,
    /// Text: `embedded`, a file, a folder, or hf:OWNER/NAME (a dataset on the Hugging Face hub);
    /// default: the text that the dictionary was trained on
    #[arg(long)]
    corpus: Option<String>,
    #[command(flatten)]
    text: TextArgument,
    /// Number of tokens. Their codes are kept in memory, 24 bytes per active latent and token
    #[arg(long, default_value_t = 200_000)]
    tokens: u64,
    /// Weight of the frequency of an n-gram in the method pmi; 0 prefers frequent n-grams
    #[arg(long, default_value_t = 0.2)]
    lambda: f64,
    /// Fewest occurrences of an n-gram in the text for it to be a label
    #[arg(long, default_value_t = 3, value_name = "N")]
    min_count: u64,
    /// Seed for the choice of windows
    #[arg(long, default_value_t = 22)]
    seed: u64,
    /// Parquet file to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    device: DeviceArgument,
}

impl Label {
    pub fn run(self) -> Result<()> {
        check_target(&self.out)?;
        crate::once::each_once("--method", &self.method)?;
        let device = self.device.open()?;
        let model = self.model.as_deref();
        let opened = self
            .from
            .open_with_model(&self.dictionary, model, &device)?;
        let options = LabelOptions {
            methods: self.method,
            corpus: self.corpus,
            text: self.text.options(),
            tokens: self.tokens,
            pmi: PmiConfig {
                lambda: self.lambda,
                min_count: self.min_count,
                ..PmiConfig::default()
            },
            examples: ExampleConfig {
                seed: self.seed,
                ..ExampleConfig::default()
            },
        };
        let labelled = label(&opened, &options, &Watched)?;
        write_labels(&self.out, &labelled.rows, &labelled.source)?;
        let accuracy = |counts: &Confusion| match counts.balanced_accuracy() {
            Some(accuracy) => format!("{accuracy:.3}"),
            None => "-".to_owned(),
        };
        writeln!(
            stdout(),
            "{:<10} {:>9} {:>9} {:>9}",
            "method",
            "detection",
            "fuzzing",
            "scored"
        )?;
        for (method, [detection, fuzzing], scored) in &labelled.pooled {
            let (detection, fuzzing) = (accuracy(detection), accuracy(fuzzing));
            writeln!(
                stdout(),
                "{:<10} {detection:>9} {fuzzing:>9} {scored:>9}",
                method.name()
            )?;
        }
        Ok(())
    }
}

fn method(name: &str) -> Result<LabelMethod, String> {
    let names = LabelMethod::ALL.map(LabelMethod::name).join(", ");
    LabelMethod::of_name(name).ok_or_else(|| format!("found {name}, expected one of {names}"))
}
