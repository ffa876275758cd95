//! `lapidary neurons`.

use crate::arguments::{DeviceArgument, ModelArgument};
use crate::once::each_once;
use crate::progress::Watched;
use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use lapidary::{ClampOptions, NeuronOptions, NeuronWeights, TextOptions, decode_neurons};
use lapidary_features::write_neurons;
use lapidary_io::check_target;
use std::io::{Write, stdout};
use std::path::PathBuf;

/// Most specialised neurons that are printed.
const PRINTED: usize = 10;

/// Decode the weights of MLP neurons with the unembedding, and check the tokens by clamping
#[derive(Args)]
#[command(after_help = "Examples:
  lapidary neurons --out neurons.parquet
  lapidary neurons --model ./smollm2 --layers 10,20 --weights out --out neurons.parquet
  lapidary neurons --model ./smollm2 --weights gate --clamp 0 --out gates.parquet

The weights of a neuron, times the weight of the final norm, times the unembedding, are one logit per token. The token with the largest
logit is the neuron's label (column token). Two columns say how specialised the neuron is. probability is the softmax of the logits at
the label. It grows with the norm of the neuron's weights. logit_kurtosis is the excess kurtosis of the logits. It does not depend on
this norm.

Clamping: the model runs on 8 windows of 32 tokens, once unchanged, and once with the neuron set to its largest value on these windows.
The gain of the neuron's label is the mean change of its log-probability. The score is the share of other neurons whose labels gain
less: 0.5 is chance. docs/methods/labels.md defines the columns and the score.

Columns of the output: layer, neuron, weights, token, token_id, probability, logit_kurtosis, promoted, suppressed, clamping.")]
pub struct Neurons {
    #[command(flatten)]
    model: ModelArgument,
    /// Layers, separated by commas; default: all
    #[arg(long, value_delimiter = ',', value_name = "L,L…")]
    layers: Vec<usize>,
    /// Weights to decode
    #[arg(long, value_name = "WEIGHTS", default_value = "out")]
    weights: Weights,
    /// Number of tokens in the lists of promoted and suppressed tokens
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    top: u16,
    /// Number of neurons to clamp, drawn at random; 0 for none
    #[arg(long, default_value_t = 100, value_name = "N")]
    clamp: usize,
    /// Text to clamp neurons on: `embedded`, a file, a folder, or hf:OWNER/NAME (a dataset on the
    /// Hugging Face hub); default: `embedded`
    #[arg(long)]
    corpus: Option<String>,
    /// JSON field or Parquet column that holds the text; default: text
    #[arg(long, value_name = "NAME")]
    text_field: Option<String>,
    /// Seed for the choice of neurons and windows
    #[arg(long, default_value_t = 22)]
    seed: u64,
    /// Parquet file to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    device: DeviceArgument,
}

#[derive(Clone, Copy, ValueEnum)]
enum Weights {
    /// Rows of W_out: what the neuron writes
    Out,
    /// Columns of W_in: what the neuron reads (in a gated MLP, its linear branch)
    In,
    /// Columns of W_gate: what the neuron's gate reads
    Gate,
}

impl Neurons {
    pub fn run(self) -> Result<()> {
        each_once("--layers", &self.layers)?;
        check_target(&self.out)?;
        if let (0, Some(corpus)) = (self.clamp, &self.corpus) {
            bail!("--corpus: found {corpus} with --clamp 0, which needs no text");
        }
        let model = self.model.load(&self.device.open()?)?;
        let options = NeuronOptions {
            weights: match self.weights {
                Weights::Out => NeuronWeights::Out,
                Weights::In => NeuronWeights::In,
                Weights::Gate => NeuronWeights::Gate,
            },
            layers: self.layers,
            top: self.top.into(),
            clamp: ClampOptions {
                latents: self.clamp,
                seed: self.seed,
                ..ClampOptions::default()
            },
            corpus: self.corpus.unwrap_or_else(|| "embedded".to_owned()),
            text: TextOptions {
                text_field: self.text_field,
                ..TextOptions::default()
            },
        };
        let neurons = decode_neurons(&model, &options, &Watched)?;
        write_neurons(&self.out, &neurons.rows, &neurons.source)?;
        let mut rows: Vec<_> = neurons.rows.iter().collect();
        rows.sort_by(|a, b| b.logit_kurtosis.total_cmp(&a.logit_kurtosis));
        let names = ["neuron", "kurtosis", "probability"];
        let [neuron, kurtosis, probability] = names;
        writeln!(
            stdout(),
            "layer {neuron:>6} {kurtosis:>9} {probability:>11}  token"
        )?;
        for row in rows.iter().take(PRINTED) {
            let token = row.promoted.first().map_or("", |token| &*token.text);
            let (layer, neuron, kurtosis) = (row.layer, row.neuron, row.logit_kurtosis);
            let numbers = format!("{layer:>5} {neuron:>6} {kurtosis:>9.2}");
            writeln!(stdout(), "{numbers} {:>11.5}  {token:?}", row.probability)?;
        }
        let scores: Vec<f64> = rows.iter().filter_map(|row| row.clamping).collect();
        if !scores.is_empty() {
            let mean = scores.iter().sum::<f64>() / scores.len() as f64;
            writeln!(
                stdout(),
                "clamping {mean:.3}, mean over {} neurons",
                scores.len()
            )?;
        }
        Ok(())
    }
}
