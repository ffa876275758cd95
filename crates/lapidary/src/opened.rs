//! A dictionary with its model and text, opened for evaluation and tables.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::Device;
use lapidary_activations::{BlockConfig, BlockStream, OtherModel, Segment, TEXT_FIELD, TokenBlock};
use lapidary_coder::Dictionary;
use lapidary_evaluation::{Evaluation, Evaluator, Hooks, Metrics};
use lapidary_features::{CodeReader, names};
use lapidary_formats::{Format, saelens};
use lapidary_model::{HookPoint, LanguageModel};
use lapidary_sae::Recipe;
use serde::Serialize;

use crate::dictionary_model::{self, corpus_of};
use crate::error::{Context, Result, bail};
use crate::progress::{Progress, Stage};
use crate::run_folder::RunFolder;
use crate::tables::Tables;

/// Metrics with what they are of.
#[derive(Serialize)]
pub struct SignedMetrics<'a> {
    #[serde(flatten)]
    /// The metrics.
    pub metrics: &'a Metrics,
    /// The text.
    pub corpus: &'a str,
    /// The model's name.
    pub model: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    /// Where the dictionary lies; a run's own metrics do not say.
    pub dictionary: Option<String>,
    /// Moment, as `2026-01-31T12:00:00Z`. A run's own metrics have none, so that the same run gives
    /// the same bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub date: Option<String>,
    /// The program's version.
    pub lapidary_version: &'a str,
}

/// A dictionary with the model that it belongs to.
pub struct Opened {
    /// The dictionary.
    pub dictionary: Dictionary,
    /// Its model, changed as the dictionary's metadata say.
    pub model: Arc<LanguageModel>,
    /// Where the dictionary lies.
    path: PathBuf,
    /// The run's folder, if the dictionary lies in one.
    pub folder: Option<RunFolder>,
}

impl Opened {
    /// Opens the dictionary at `path` with `model`, or the model that it names.
    ///
    /// # Errors
    /// The dictionary or the model cannot be read, or they do not fit.
    pub fn new(
        path: &Path,
        how: DictionaryOptions,
        model: Option<&str>,
        device: &Device,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let dictionary = open_dictionary(path, how, device)?;
        Self::with_dictionary(dictionary, path, model, device, progress)
    }

    /// The same for who has the dictionary at `path` already.
    ///
    /// # Errors
    /// The model cannot be read, or does not fit.
    pub fn with_dictionary(
        dictionary: Dictionary,
        path: &Path,
        model: Option<&str>,
        device: &Device,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let folder = RunFolder::new(path);
        let in_run = saelens::exists(&folder.dictionary());
        let model = dictionary_model::load(progress, &dictionary, path, model, device)?;
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
    ///
    /// # Errors
    /// The second model cannot be read.
    pub fn second(&self) -> Result<Option<OtherModel>> {
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

    /// The codes of this dictionary on blocks of text. `second` is [`Opened::second`].
    ///
    /// # Errors
    /// The dictionary does not fit the model.
    pub fn reader<'a>(&'a self, second: Option<&'a OtherModel>) -> Result<CodeReader<'a>> {
        let [hooks, _] = Hooks::sources_of_both(&self.dictionary)?;
        Ok(CodeReader::new(
            &self.model,
            &self.dictionary.coder,
            hooks,
            second,
        )?)
    }

    /// The name of the text that [`Opened::read_text`] reads.
    ///
    /// # Errors
    /// No text is given, and the dictionary does not name one.
    pub(crate) fn text_name<'a>(&'a self, corpus: Option<&'a str>) -> Result<&'a str> {
        let named = || self.dictionary.provenance.corpus.as_deref();
        corpus
            .or_else(named)
            .context("the dictionary does not say which text to read: give --corpus")
    }

    /// Blocks of `corpus`, or of the text that the dictionary was trained on if none is given.
    ///
    /// # Errors
    /// As [`read_blocks`]; or no text is given, and the dictionary does not name one.
    pub fn read_text(
        &self,
        corpus: Option<&str>,
        text: &TextOptions,
        tokens: u64,
        progress: &dyn Progress,
    ) -> Result<Vec<TokenBlock>> {
        let name = self.text_name(corpus)?;
        self.blocks(name, text, tokens, progress)
            .map_err(corpus_of(&self.path, corpus.is_some()))
    }

    /// A block of tokens of one text, BOS first where the training had it; `offset` tokens of the
    /// text come before it.
    pub(crate) fn block_of(&self, tokens: &[u32], offset: usize) -> TokenBlock {
        let bos: Vec<u32> = self.context().1.into_iter().collect();
        TokenBlock {
            tokens: [&bos, tokens].concat(),
            segments: vec![Segment {
                start: 0,
                bos: !bos.is_empty(),
                document: 0,
                offset: offset as u32,
            }],
            attend_across_documents: false,
        }
    }

    /// The hook point of a dictionary that reads only one.
    ///
    /// # Errors
    /// It reads several, or does not say which.
    pub fn only_hook(&self) -> Result<HookPoint> {
        match Hooks::sources(&self.dictionary)?[..] {
            [hook] => Ok(hook),
            ref several => bail!(
                "found a dictionary that reads {}, expected one that reads one hook point",
                names(several)
            ),
        }
    }

    /// How a text is cut into blocks, if as in training.
    pub(crate) fn block_config(&self, corpus: &str, text: &TextOptions) -> BlockConfig {
        let (context, bos) = self.context();
        let recipe = self.recipe();
        let recipe = recipe.as_ref().map(|recipe| &recipe.corpus);
        BlockConfig {
            corpus: corpus.into(),
            text_field: text
                .text_field
                .clone()
                .or_else(|| recipe.map(|corpus| corpus.text_field.clone()))
                .unwrap_or_else(|| TEXT_FIELD.to_owned()),
            context,
            prepend_bos: bos.is_some(),
            attend_across_documents: text.attend_across_documents
                || recipe.is_some_and(|corpus| corpus.attend_across_documents),
        }
    }

    /// Blocks of a text, cut as those of the training were.
    ///
    /// # Errors
    /// As [`read_blocks`].
    pub fn blocks(
        &self,
        corpus: &str,
        text: &TextOptions,
        tokens: u64,
        progress: &dyn Progress,
    ) -> Result<Vec<TokenBlock>> {
        let config = self.block_config(corpus, text);
        read_blocks(progress, &self.model, &config, tokens)
    }
}

/// As many whole blocks as fit in `tokens`, at least one; fewer if the corpus ends before.
///
/// # Errors
/// The text cannot be read, or holds less than one block.
pub fn read_blocks(
    progress: &dyn Progress,
    model: &Arc<LanguageModel>,
    config: &BlockConfig,
    tokens: u64,
) -> Result<Vec<TokenBlock>> {
    let stream = BlockStream::new(model.clone(), config)?; // refuses a context below 2
    let skipped = stream.skipped_rows();
    let blocks = stream.take(blocks_of(tokens, config.context));
    let blocks: Vec<TokenBlock> = blocks.collect::<Result<_, _>>()?;
    if let Some(text) = skipped.note() {
        progress.say("note", &text);
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

/// The whole blocks of `context` tokens that fit in `tokens`, at least one.
pub(crate) fn blocks_of(tokens: u64, context: usize) -> usize {
    (tokens / context as u64).max(1) as usize
}

/// Evaluates a dictionary of one model on blocks of text. Its `tables`, if there are to be any, get
/// the codes of the blocks that both read first, so that one forward pass serves both.
///
/// # Errors
/// The dictionary does not fit the model, or the model fails.
pub fn measure(
    progress: &dyn Progress,
    model: &LanguageModel,
    dictionary: &Dictionary,
    blocks: &[TokenBlock],
    mut tables: Option<&mut Tables<'_>>,
) -> Result<Evaluation> {
    let stage = Stage::new(progress, "evaluate", blocks.len() as u64);
    let mut evaluator = Evaluator::new(model, dictionary, Hooks::of(dictionary)?, blocks)?;
    while let Some(batch) = evaluator.next_batch()? {
        if let Some(tables) = &mut tables {
            tables.take(&batch);
        }
        stage.at(batch.done as u64, format!("{} blocks", batch.done));
    }
    let evaluation = evaluator.finish()?;
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

/// What a dictionary's files may leave open.
#[derive(Clone, Copy, Debug, Default)]
pub struct DictionaryOptions {
    /// The format, where the files could be of several.
    pub format: Option<Format>,
    /// The hook point that the dictionary reads, where its files do not say.
    pub hook_point: Option<HookPoint>,
}

/// How a text is read, where it is not read as in training.
#[derive(Clone, Debug, Default)]
pub struct TextOptions {
    /// The field of JSON lines, or the column of Parquet, that holds the text.
    pub text_field: Option<String>,
    /// Let a document's tokens see those of the documents before it in a block.
    pub attend_across_documents: bool,
}

/// Reads a dictionary of any format: a folder, a file of it, a run's folder, or
/// `hf:OWNER/NAME/PATH` of the hub.
///
/// # Errors
/// There is none, its format is not known, or its files are damaged.
pub fn open_dictionary(path: &Path, how: DictionaryOptions, device: &Device) -> Result<Dictionary> {
    let place = place_of_dictionary(path)?;
    let mut dictionary = lapidary_formats::open(&place, how.format, device)?;
    if let Some(hook) = how.hook_point {
        dictionary.provenance.sites.set_read(hook.to_string());
    }
    Ok(dictionary)
}

/// The folder or file of the dictionary that is meant by `path`, on this machine.
pub(crate) fn place_of_dictionary(path: &Path) -> Result<PathBuf> {
    let in_run = RunFolder::new(path).dictionary();
    Ok(match saelens::exists(&in_run) {
        true => in_run,
        false => lapidary_formats::local(path)?,
    })
}

/// Reads transcoders, each with its place as a name. A place is that of a dictionary
/// ([`open_dictionary`]), that of a set of them in one folder, or a folder of finished runs, such
/// as training several recipes leaves.
///
/// # Errors
/// As [`open_dictionary`].
pub fn open_transcoders(
    places: &[PathBuf],
    how: DictionaryOptions,
    device: &Device,
) -> Result<Vec<(PathBuf, Dictionary)>> {
    let mut all = vec![];
    for place in places {
        for member in members(place, how)? {
            let dictionary = open_dictionary(&member, how, device)?;
            all.push((member, dictionary));
        }
    }
    Ok(all)
}

/// The places of the dictionaries at a place.
fn members(place: &Path, how: DictionaryOptions) -> Result<Vec<PathBuf>> {
    let is_run = |folder: &Path| saelens::exists(&RunFolder::new(folder).dictionary());
    if is_run(place) {
        return Ok(vec![place.to_path_buf()]);
    }
    if let Ok(entries) = std::fs::read_dir(place) {
        let folders = entries.flatten().map(|entry| entry.path());
        let begun = folders.filter(|folder| {
            let run = RunFolder::new(folder);
            let of_several = place.join("run.json").is_file() && !folder.ends_with("checkpoint");
            is_run(folder) || run.config().is_file() || of_several && folder.is_dir()
        });
        let mut runs: Vec<PathBuf> = begun.collect();
        runs.sort();
        if let Some(unfinished) = runs.iter().find(|folder| !is_run(folder)) {
            bail!(
                "{} is a run without a dictionary yet: continue it with train --resume",
                unfinished.display()
            );
        }
        if !runs.is_empty() {
            return Ok(runs);
        }
    }
    let local = lapidary_formats::local(place)?;
    Ok(lapidary_formats::members(&local, how.format)?)
}
