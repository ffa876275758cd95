//! `lapidary eval`.

use super::figures::table;
use crate::arguments::{DeviceArgument, DictionaryArgument, TextArgument};
use crate::dictionary_model;
use crate::progress::{Stage, note};
use crate::run_folder::{RunFolder, write_json};
use anyhow::{Context, Result, bail};
use burn::tensor::Device;
use clap::Args;
use lapidary_activations::{BlockConfig, BlockStream, OtherModel, TokenBlock};
use lapidary_coder::Dictionary;
use lapidary_evaluation::{Evaluation, Hooks, Metrics, evaluate};
use lapidary_features::write_latents;
use lapidary_io::check_target;
use lapidary_model::LanguageModel;
use lapidary_sae::Recipe;
use serde::Serialize;
use std::io::{Write, stdout};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// Measure a dictionary on text, best on text that it was not trained on
#[derive(Args)]
#[command(after_help = "Examples:
  lapidary eval out
  lapidary eval out --json | jq .ce_loss_score
  lapidary eval out --latents latents.parquet
  lapidary eval my-dictionary --model ./smollm2 --corpus heldout.jsonl --tokens 100000")]
pub struct Eval {
    /// A run's folder, a dictionary of any format, or hf:OWNER/NAME/PATH of the hub
    #[arg(value_name = "DIR")]
    dictionary: PathBuf,
    #[command(flatten)]
    from: DictionaryArgument,
    /// The model; default: the one that the dictionary names
    #[arg(long)]
    model: Option<String>,
    /// The text; default: the run's evaluation text
    #[arg(long)]
    corpus: Option<String>,
    #[command(flatten)]
    text: TextArgument,
    /// Tokens to evaluate on; default: as the run's recipe says, else 50000
    #[arg(long)]
    tokens: Option<u64>,
    /// Active latents per token (TopK) or steps (matching pursuit) instead of the dictionary's
    #[arg(long)]
    k: Option<usize>,
    /// Also write the metrics to this JSON file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print the figures as JSON instead of a table
    #[arg(long)]
    json: bool,
    /// Also write the figures of each latent to this Parquet table
    #[arg(long, value_name = "FILE")]
    latents: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgument,
}

impl Eval {
    pub fn run(self) -> Result<()> {
        let device = self.device.open()?;
        let mut opened = Opened::new(&self.dictionary, &self.from, self.model.as_deref(), &device)?;
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
            .or_else(|| recipe.as_ref().map(|r| r.evaluation.tokens))
            .unwrap_or(50_000);
        for path in self.out.iter().chain(&self.latents) {
            check_target(path)?;
        }
        opened.model.check_head()?;
        let blocks = opened
            .blocks(&corpus, &self.text, tokens)
            .map_err(dictionary_model::corpus_of(&self.dictionary, given))?;
        let Evaluation { metrics, latents } = measure(&opened.model, &opened.dictionary, &blocks)?;
        let signed = Signed {
            metrics: &metrics,
            corpus: &corpus,
            model: opened.model.name(),
            dictionary: Some(self.dictionary.display().to_string()),
            date: Some(humantime::format_rfc3339_seconds(SystemTime::now()).to_string()),
            lapidary_version: env!("CARGO_PKG_VERSION"),
        };
        if let Some(path) = self.out {
            write_json(&path, &signed)?;
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

/// Metrics with what they are of.
#[derive(Serialize)]
pub struct Signed<'a> {
    #[serde(flatten)]
    pub metrics: &'a Metrics,
    pub corpus: &'a str,
    pub model: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dictionary: Option<String>,
    /// Moment, as `2026-01-31T12:00:00Z`. A run's own metrics have none, so that the same run gives the same bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub date: Option<String>,
    pub lapidary_version: &'a str,
}

/// A dictionary with the model that it belongs to.
pub struct Opened {
    pub dictionary: Dictionary,
    pub model: Arc<LanguageModel>,
    /// Where the dictionary lies.
    path: PathBuf,
    /// The run's folder, if the dictionary lies in one.
    pub folder: Option<RunFolder>,
}

impl Opened {
    pub fn new(
        path: &Path,
        from: &DictionaryArgument,
        model: Option<&str>,
        device: &Device,
    ) -> Result<Self> {
        let folder = RunFolder::new(path);
        let in_run = lapidary_formats::saelens::exists(&folder.dictionary());
        let dictionary = from.open(path, device)?;
        let model = dictionary_model::load(&dictionary, path, model, device)?;
        Ok(Self {
            dictionary,
            model,
            path: path.to_path_buf(),
            folder: in_run.then_some(folder),
        })
    }

    /// The recipe that the dictionary was trained by, if it says it and this version can read it.
    pub fn recipe(&self) -> Option<Recipe> {
        let recipe = self.dictionary.provenance.recipe.as_ref();
        recipe.and_then(Recipe::from_json)
    }

    /// The second model of a crosscoder of two, with its hook points.
    pub fn other(&self) -> Result<Option<OtherModel>> {
        let Some(name) = self.dictionary.sites().second_model() else {
            return Ok(None);
        };
        let [_, hook_points] = Hooks::sources_of_both(&self.dictionary)?;
        let model = dictionary_model::load_second(name, &self.path, self.model.device())?;
        Ok(Some(OtherModel {
            model: Arc::new(model),
            hook_points,
        }))
    }

    /// Tokens of context in training, and the BOS that each sequence began with.
    pub fn context(&self) -> (usize, Option<u32>) {
        let provenance = &self.dictionary.provenance;
        let context = provenance.context.unwrap_or(128);
        let bos = self.model.config().bos;
        (
            context.min(self.model.config().n_ctx),
            bos.filter(|_| provenance.prepend_bos.unwrap_or(true)),
        )
    }

    /// Blocks of a text, cut as those of the training were.
    pub fn blocks(
        &self,
        corpus: &str,
        text: &TextArgument,
        tokens: u64,
    ) -> Result<Vec<TokenBlock>> {
        let (context, bos) = self.context();
        let recipe = self.recipe();
        let recipe = recipe.as_ref().map(|recipe| &recipe.corpus);
        let config = BlockConfig {
            corpus: corpus.into(),
            text_field: text.field(recipe),
            context,
            prepend_bos: bos.is_some(),
            attend_across_documents: text.attend_across_documents
                || recipe.is_some_and(|corpus| corpus.attend_across_documents),
        };
        read_blocks(&self.model, &config, tokens)
    }
}

/// As many whole blocks as fit in `tokens`, at least one; fewer if the corpus ends before.
pub fn read_blocks(
    model: &Arc<LanguageModel>,
    config: &BlockConfig,
    tokens: u64,
) -> Result<Vec<TokenBlock>> {
    let stream = BlockStream::new(model.clone(), config)?; // refuses a context below 2
    let skipped = stream.skipped_rows();
    let n = (tokens / config.context as u64).max(1) as usize;
    let blocks: Vec<TokenBlock> = stream.take(n).collect::<Result<_, _>>()?;
    if let Some(text) = skipped.note() {
        note(text);
    }
    if blocks.is_empty() {
        bail!(
            "corpus {} holds less than one block of {} tokens",
            config.corpus,
            config.context
        );
    }
    Ok(blocks)
}

pub fn measure(
    model: &LanguageModel,
    dictionary: &Dictionary,
    blocks: &[TokenBlock],
) -> Result<Evaluation> {
    let stage = Stage::new("evaluate", blocks.len() as u64);
    let hooks = Hooks::of(dictionary)?;
    let evaluation = evaluate(model, dictionary, hooks, blocks, &mut |done| {
        stage.at(done as u64, format!("{done} blocks"));
    })?;
    let metrics = &evaluation.metrics;
    stage.done(format!(
        "CE-loss score {:.4}, FVU {:.4}, L0 {:.1}, alive {:.1} % on {} tokens",
        metrics.ce_loss_score,
        metrics.fvu,
        metrics.l0,
        100.0 * metrics.frac_alive,
        metrics.tokens
    ));
    Ok(evaluation)
}
