//! `lapidary eval`.

use super::figures::table;
use crate::arguments::{DeviceArgument, DictionaryArgument, TextArgument};
use crate::progress::Watched;
use anyhow::{Context, Result, ensure};
use clap::Args;
use lapidary::dictionary_model::corpus_of;
use lapidary::run_folder::write_json;
use lapidary::{SignedMetrics, measure};
use lapidary_evaluation::Evaluation;
use lapidary_features::{RunRow, write_latents, write_runs};
use lapidary_io::check_target;
use serde_json::json;
use std::io::{Write, stdout};
use std::path::PathBuf;
use std::time::SystemTime;

/// Compute the metrics of a dictionary on a text, preferably a held-out text
#[derive(Args)]
#[command(after_help = "Examples:
  lapidary eval out
  lapidary eval out --json | jq .ce_loss_score
  lapidary eval out --latents latents.parquet
  lapidary eval out --out evaluation.parquet
  lapidary eval my-dictionary --model ./smollm2 --corpus heldout.jsonl --tokens 100000")]
pub struct Eval {
    /// Dictionary: a run's folder, a folder or file in any format, or hf:OWNER/NAME/PATH on the
    /// Hugging Face hub
    #[arg(value_name = "DIR")]
    dictionary: PathBuf,
    #[command(flatten)]
    from: DictionaryArgument,
    /// Language model; default: the model that the dictionary names
    #[arg(long)]
    model: Option<String>,
    /// Text: `embedded`, a file, a folder, or hf:OWNER/NAME (a dataset on the Hugging Face hub);
    /// default: `evaluation.corpus` of the dictionary's recipe
    #[arg(long)]
    corpus: Option<String>,
    #[command(flatten)]
    text: TextArgument,
    /// Number of tokens; default: `evaluation.tokens` of the dictionary's recipe, else 50000
    #[arg(long)]
    tokens: Option<u64>,
    /// Number of active latents per token (TopK) or of steps per token (matching pursuit); default:
    /// k of the dictionary
    #[arg(long)]
    k: Option<usize>,
    /// Also write the metrics to this file: as JSON, or as a table with one row if the name ends in
    /// .parquet
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print the metrics as JSON instead of a table
    #[arg(long)]
    json: bool,
    /// Also write the metrics of each latent to this Parquet file
    #[arg(long, value_name = "FILE")]
    latents: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgument,
}

impl Eval {
    pub fn run(self) -> Result<()> {
        ensure!(
            self.tokens != Some(0),
            "--tokens: found 0, expected at least 1"
        );
        let device = self.device.open()?;
        let mut opened =
            self.from
                .open_with_model(&self.dictionary, self.model.as_deref(), &device)?;
        if let Some(k) = self.k {
            opened.dictionary.coder = opened.dictionary.coder.with_k(k)?;
        }
        let recipe = opened.recipe();
        let given = self.corpus.is_some();
        let corpus = self
            .corpus
            .or_else(|| recipe.as_ref().map(|r| r.evaluation.corpus.clone()));
        let corpus = corpus
            .context("the dictionary does not say on which text to evaluate: give --corpus")?;
        let tokens = self
            .tokens
            .or_else(|| {
                recipe
                    .as_ref()
                    .map(|r| r.evaluation.tokens)
                    .filter(|n| *n > 0)
            })
            .unwrap_or(50_000);
        for path in self.out.iter().chain(&self.latents) {
            check_target(path)?;
        }
        opened.model.check_head()?;
        let blocks = opened
            .blocks(&corpus, &self.text.options(), tokens, &Watched)
            .map_err(corpus_of(&self.dictionary, given))?;
        let Evaluation { metrics, latents } =
            measure(&Watched, &opened.model, &opened.dictionary, &blocks, None)?;
        let signed = SignedMetrics {
            metrics: &metrics,
            corpus: &corpus,
            model: opened.model.name(),
            dictionary: Some(self.dictionary.display().to_string()),
            date: Some(humantime::format_rfc3339_seconds(SystemTime::now()).to_string()),
            lapidary_version: env!("CARGO_PKG_VERSION"),
        };
        if let Some(path) = self.out {
            match path.extension().is_some_and(|e| e == "parquet") {
                true => write_runs(&path, &[row(&signed)])?,
                false => write_json(&path, &signed)?,
            }
        }
        if let Some(path) = self.latents {
            write_latents(&path, &latents)?;
        }
        if self.json {
            writeln!(stdout(), "{}", serde_json::to_string_pretty(&signed)?)?;
        } else {
            write!(stdout(), "{}", table(&metrics))?;
        }
        Ok(())
    }
}

/// The metrics as a row of a table, what they are of first.
fn row(signed: &SignedMetrics<'_>) -> RunRow {
    let said = [
        ("dictionary", json!(signed.dictionary)),
        ("model", json!(signed.model)),
        ("corpus", json!(signed.corpus)),
        ("date", json!(signed.date)),
        ("lapidary_version", json!(signed.lapidary_version)),
    ];
    let metrics = signed.metrics.values();
    let metrics = metrics.map(|(metric, value)| (metric.name, json!(value)));
    let cells = said.into_iter().chain(metrics);
    cells.map(|(name, cell)| (name.to_owned(), cell)).collect()
}
