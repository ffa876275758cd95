//! From a recipe to a feature dictionary with its metrics, tables and report, or to several in one
//! run.

mod resume;
mod steps;

use crate::device::device_name;
use crate::dictionary_model::load_model;
use crate::document_ids::document_ids;
use crate::error::{Context, Result, ensure};
use crate::first_batch;
use crate::opened::{SignedMetrics, measure};
use crate::progress::{Progress, Stage, count};
use crate::recipes::NamedRecipe;
use crate::run_folder::{Maker, RunFolder, RunWriter, training_files, write_json};
use crate::summary;
use crate::tables::Tables;
use crate::texts::{FirstBlocks, Texts};
use burn::tensor::Device;
use lapidary_activations::{
    ActivationStream, BatchSource, BlockConfig, BlockStream, FirstBatch, OtherModel,
    SequenceStream, StoreBatches, StreamConfig,
};
use lapidary_coder::{Dictionary, SECOND_MODEL, Sites};
use lapidary_evaluation::Metrics;
use lapidary_formats::saelens;
use lapidary_io::write_atomically;
use lapidary_model::{HookPoint, LanguageModel};
use lapidary_sae::{Recipe, TrainingRun, hook_points};
use resume::{Way, finished, resume};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use steps::{named, steps};

/// Said before an error about a recipe's model.
const NAMED_BY_RECIPE: &str = "the recipe's model (--set model=FOLDER names another; the recipe's first lines say where it comes from)";

/// What to do in a folder that holds a run already, and with a finished run's checkpoint.
#[derive(Clone, Copy, Debug, Default)]
pub struct TrainOptions {
    /// Continue from the last checkpoint. If there is no checkpoint, start the run. If the run is
    /// finished, do not train. If keys under `[evaluation]` or `[features]` have changed since
    /// then, write metrics and tables again.
    pub resume: bool,
    /// Continue a finished run to a larger `training.tokens` (codebooks: a run, finished or not, to
    /// other `training.steps`). The learning rate and other schedules then follow the new length.
    /// The finished run needs its checkpoint: train it with `keep_checkpoint`.
    pub extend: bool,
    /// Replace the run in the folder. The old run is removed when the new run has its first
    /// checkpoint.
    pub overwrite: bool,
    /// Keep the checkpoint of the finished run, so that `extend` can continue the run.
    pub keep_checkpoint: bool,
}

impl TrainOptions {
    /// Refuses to extend a run in a folder that does not exist, before anything is loaded.
    pub(crate) fn check(self, out: &Path) -> Result<()> {
        ensure!(
            !self.extend || out.exists(),
            "{}: found no folder, expected that of a run to extend",
            out.display()
        );
        Ok(())
    }
}

/// What all coders of a run have in common, and where it goes.
struct Common<'a> {
    progress: &'a dyn Progress,
    model: Arc<LanguageModel>,
    device: Device,
    hooks: Vec<HookPoint>,
    /// The second model, with its hook points, if there is one.
    other: Option<OtherModel>,
    /// Each coder's folder.
    folders: Vec<RunFolder>,
    /// The coders' names where there are several; the folder of one is the run's own.
    names: Vec<String>,
}

impl Common<'_> {
    fn several(&self) -> bool {
        !self.names.is_empty()
    }

    /// Says where the run is written now.
    fn write_to(&mut self, run: &Path) {
        self.folders = match self.several() {
            false => vec![RunFolder::new(run)],
            true => self
                .names
                .iter()
                .map(|n| RunFolder::new(&run.join(n)))
                .collect(),
        };
    }
}

/// Trains the coders of `recipes` in one run, each as if it were alone, in the folder `out`:
/// dictionaries, metrics, tables and reports. `several`: each coder has a folder of its own, even
/// if there is only one. Gives what a reader would look at first.
///
/// # Errors
/// A recipe does not fit the model, the folder holds something else, or a step fails. An
/// interrupted run is an error too ([`crate::Error::Interrupted`]); it goes on with
/// [`TrainOptions::resume`].
///
/// # Panics
/// There is no recipe.
pub fn train(
    mut recipes: Vec<NamedRecipe>,
    out: &Path,
    several: bool,
    options: TrainOptions,
    device: &Device,
    progress: &dyn Progress,
) -> Result<PathBuf> {
    options.check(out)?;
    note_evaluation_text(progress, &recipes[0]);
    let stage = Stage::new(progress, "load", 1);
    let model = load_model(progress, &recipes[0].config.model, device).context(NAMED_BY_RECIPE)?;
    for recipe in &mut recipes {
        choose_hook_point(progress, recipe, &model);
    }
    let configs: Vec<Recipe> = recipes.iter().map(|r| r.config.clone()).collect();
    let first = &configs[0];
    let block_config = BlockConfig {
        corpus: first.corpus.path.clone(),
        text_field: first.corpus.text_field.clone(),
        context: first.corpus.context,
        prepend_bos: first.corpus.prepend_bos,
        attend_across_documents: first.corpus.attend_across_documents,
    };
    let other = match first.sites.second_model() {
        Some(name) => Some(load_model(progress, name, device).context(NAMED_BY_RECIPE)?),
        None => None,
    };
    // What can be refused is refused before anything is written or any long work begins.
    let corpus = block_config.corpus.clone();
    let mut texts = Texts::new(model.clone(), block_config);
    let mut widths = vec![];
    for recipe in &recipes {
        let width = check(recipe, &model, other.as_ref(), &mut texts);
        widths.push(match several {
            true => width.with_context(|| format!("coder {}", recipe.name))?,
            false => width?,
        });
    }
    let hooks = hook_points(&configs);
    let (others, hooks): (Vec<String>, Vec<String>) = hooks
        .into_iter()
        .partition(|hook| hook.starts_with(SECOND_MODEL));
    let hooks: Vec<HookPoint> = hooks.iter().map(|h| h.parse()).collect::<Result<_, _>>()?;
    let others = others.iter().filter_map(|h| h.strip_prefix(SECOND_MODEL));
    let others: Vec<HookPoint> = others.map(|h| h.parse()).collect::<Result<_, _>>()?;
    let other = other.map(|model| OtherModel {
        model,
        hook_points: others,
    });
    if let Some(other) = &other {
        other.check_tokens(&model)?;
    }
    for config in &configs {
        texts.open(&corpus, config.features.tokens)?;
    }
    let wide = |(hook, width)| format!("{hook} is {width} wide");
    let places: Vec<String> = hooks
        .iter()
        .map(|hook| Ok((hook, model.width(*hook)?)))
        .map(|place: Result<_>| place.map(wide))
        .collect::<Result<_>>()?;
    stage.done(format!(
        "{}: {} layers, {:.1} M weights; {}; device {}",
        model.name(),
        model.config().n_layers(),
        model.config().n_params() as f64 / 1e6,
        places.join(", "),
        device_name(device),
    ));

    let names: Vec<String> = match several {
        true => recipes.iter().map(|r| r.name.clone()).collect(),
        false => vec![],
    };
    let files = training_files(&names);
    let mut writer = RunWriter::claim(out, Maker::Train, &files)?;
    let mut common = Common {
        progress,
        folders: vec![],
        model,
        device: device.clone(),
        hooks,
        other,
        names,
    };
    common.write_to(&writer.folder());
    let way = Way::of(options, &writer)?;
    let (configs, dictionaries) = match way {
        Way::Done => finished(
            &recipes,
            &widths,
            &common,
            (&writer.folder(), &writer.coders()),
        )?,
        Way::Start | Way::GoOn => {
            let mut run = match way {
                Way::Start => start(&recipes, &mut common, &mut writer, files, &mut texts)?,
                _ => {
                    let run = resume(&recipes, &widths, &common, &mut texts, options.extend)?;
                    writer.go_on(files)?;
                    run
                }
            };
            let mut logs = vec![];
            for (trainer, folder) in run.trainers().iter().zip(&common.folders) {
                let config = trainer.recipe().recipe();
                write_atomically(&folder.config(), config.to_toml().as_bytes())?;
                logs.push(folder.append_log(trainer.step_count(), config.training.batch_tokens)?);
            }
            steps(progress, &mut run, &recipes, logs, &mut writer)?;
            note_passes(progress, run.passes());
            common.write_to(&writer.folder());
            let configs = run.trainers().iter().map(|t| t.recipe().recipe().clone());
            let configs: Vec<Recipe> = configs.collect();
            let mut dictionaries = vec![];
            for (number, folder) in common.folders.iter().enumerate() {
                let dictionary = run.finish(number)?;
                saelens::save(&dictionary, &folder.dictionary())?;
                dictionaries.push(dictionary);
            }
            (configs, dictionaries)
        }
    };
    let mut figures = vec![];
    if !dictionaries.is_empty() {
        let blocks = texts.read(progress)?;
        for (number, dictionary) in dictionaries.iter().enumerate() {
            if several {
                progress.say("coder", &recipes[number].name);
            }
            let config = &configs[number];
            figures.push(describe(&common, number, config, dictionary, &blocks)?);
            // Last, so that a finished run whose tables are made anew is not taken for done when
            // it is killed meanwhile.
            write_atomically(
                &common.folders[number].config(),
                config.to_toml().as_bytes(),
            )?;
        }
    }
    let folder = RunFolder::new(out);
    let written = if dictionaries.is_empty() {
        out.to_path_buf() // whose run was finished before
    } else if several {
        summary::write(
            progress,
            out,
            &common.names,
            &configs,
            &common.folders,
            &figures,
        )?
    } else if configs[0].features.tokens > 0 {
        folder.report()
    } else {
        folder.dictionary()
    };
    writer.finish(options.keep_checkpoint || options.extend)?;
    Ok(written)
}

/// Says so where the text was short, which the metrics do not show.
fn note_passes(progress: &dyn Progress, passes: u64) {
    if passes > 1 {
        let text = format!("the training went through its text or store more than {passes} times");
        progress.say("note", &text);
    }
}

/// Says so where metrics will be of the text that the coder is trained on.
fn note_evaluation_text(progress: &dyn Progress, recipe: &NamedRecipe) {
    let config = &recipe.config;
    if config.evaluation.tokens > 0 && config.evaluation.corpus == config.corpus.path {
        let text = format!(
            "metrics will be measured on the training text {}: evaluation.corpus names held-out text",
            config.corpus.path
        );
        progress.say("note", &text);
    }
}

/// Where the coder reads if the recipe does not say: after the middle layer.
fn choose_hook_point(progress: &dyn Progress, recipe: &mut NamedRecipe, model: &LanguageModel) {
    if recipe.names_hook_point() {
        return;
    }
    let layer = model.config().n_layers() / 2;
    let hook = format!("blocks.{layer}.hook_resid_post");
    let sites = &mut recipe.config.sites;
    sites.set_read(hook.clone());
    // A second model is read at the same one unless the recipe says otherwise.
    if let Sites::TwoModels { second_at, .. } = sites
        && !recipe.given.contains("other_hook_point")
    {
        second_at.clone_from(&hook);
    }
    let text = format!("the recipe names no hook point: {hook}, after the middle layer");
    progress.say("note", &text);
}

/// Refuses a recipe that does not fit model, store or evaluation text; gives the width of its
/// activations.
fn check(
    recipe: &NamedRecipe,
    model: &Arc<LanguageModel>,
    other: Option<&Arc<LanguageModel>>,
    texts: &mut Texts,
) -> Result<usize> {
    let config = &recipe.config;
    if config.evaluation.tokens > 0
        || config.features.tokens > 0
        || config.training.loss.is_end_to_end()
    {
        model.check_head()?;
    }
    if let Some(store) = &recipe.store {
        store.check_model(model)?;
    }
    let width_at = |hook: &str| -> Result<usize> {
        Ok(match (hook.strip_prefix(SECOND_MODEL), other) {
            (Some(hook), Some(other)) => other.width(hook.parse()?)?,
            _ => model.width(hook.parse()?)?,
        })
    };
    for hook in hook_points(std::slice::from_ref(config)) {
        let width = width_at(&hook)?;
        let Some(store) = &recipe.store else { continue };
        let (_, kept) = store.hook(&hook)?;
        ensure!(
            kept == width,
            "{}: the activations at {hook} are {kept} wide, those of model `{}` {width}",
            store.folder().display(),
            model.name()
        );
    }
    let first = config.sites.first_read().unwrap_or_default();
    let width = model.width(first.parse()?)?;
    let widths = |hooks: Vec<String>| {
        hooks
            .iter()
            .map(|hook| width_at(hook))
            .sum::<Result<usize>>()
    };
    let (d_in, d_out) = (
        widths(config.sites.read())?,
        widths(config.sites.written())?,
    );
    config.resolve(width)?.check_memory(d_in, d_out)?;
    if config.evaluation.tokens > 0 {
        texts.open(&config.evaluation.corpus, config.evaluation.tokens)?;
    }
    Ok(width)
}

/// A fresh run, in place of whatever the folders hold.
fn start(
    recipes: &[NamedRecipe],
    common: &mut Common<'_>,
    writer: &mut RunWriter,
    files: BTreeSet<String>,
    texts: &mut Texts,
) -> Result<TrainingRun> {
    check_store(common.progress, &recipes[0])?;
    let stage = Stage::new(common.progress, "buffer", 1);
    let first = &recipes[0].config.activations;
    let mut blocks = texts.training_stream()?;
    let look = FirstBatch::of(
        &mut blocks,
        &common.hooks,
        first.harvest_blocks,
        &recipes[0].config.exclusion(),
    )?;
    first_batch::show(common.progress, &look);
    let configs: Vec<Recipe> = recipes.iter().map(|r| r.config.clone()).collect();
    let source = source(&recipes[0], common, blocks, true)?;
    let run = TrainingRun::new(&configs, source, &common.device).map_err(|e| named(e, recipes))?;
    // Only now is it sure that there will be a run in their place.
    writer.begin(files)?;
    common.write_to(&writer.folder());
    for (folder, config) in common.folders.iter().zip(&configs) {
        let read = hook_points(std::slice::from_ref(config));
        let of_coder = look.iter().filter(|r| read.contains(&r.hook_point));
        let of_coder: Vec<FirstBatch> = of_coder.cloned().collect();
        first_batch::keep(&folder.path, &of_coder)?;
    }
    stage.done(format!("{} activations to shuffle", first.buffer_tokens));
    Ok(run)
}

/// Metrics, tables and report of a coder, as its recipe asks.
fn describe(
    common: &Common<'_>,
    number: usize,
    config: &Recipe,
    dictionary: &Dictionary,
    blocks: &FirstBlocks,
) -> Result<Option<Metrics>> {
    let (folder, model) = (&common.folders[number], &common.model);
    let tables = || -> Result<Tables<'_>> {
        let corpus = &config.corpus.path;
        let blocks = blocks.of(corpus, config.features.tokens)?;
        let models = (&**model, common.other.as_ref());
        let tables = Tables::new(
            models,
            dictionary,
            blocks,
            config.features.examples_per_feature,
        )?;
        Ok(tables.of_text(corpus, document_ids(corpus, None, blocks)?))
    };
    let mut tables = (config.features.tokens > 0).then(tables);
    let metrics = match config.evaluation.tokens {
        0 => None,
        tokens => {
            let blocks = blocks.of(&config.evaluation.corpus, tokens)?;
            // Tables that fail do not cost the metrics.
            let taking = tables.as_mut().and_then(|tables| tables.as_mut().ok());
            let metrics = measure(common.progress, model, dictionary, blocks, taking)?.metrics;
            let signed = SignedMetrics {
                metrics: &metrics,
                corpus: &config.evaluation.corpus,
                model: model.name(),
                dictionary: None,
                date: None,
                lapidary_version: env!("CARGO_PKG_VERSION"),
            };
            write_json(&folder.metrics(), &signed)?;
            Some(metrics)
        }
    };
    if let Some(tables) = tables {
        tables?.write(
            common.progress,
            folder,
            metrics.as_ref(),
            &folder.read_log(),
        )?;
    }
    Ok(metrics)
}

/// Reads the recipe's store, if it has one, against its checksums.
fn check_store(progress: &dyn Progress, recipe: &NamedRecipe) -> Result<()> {
    let Some(store) = &recipe.store else {
        return Ok(());
    };
    // A cache of SAELens has no checksums.
    let Some(manifest) = store.manifest() else {
        return Ok(());
    };
    let total = manifest.shards.iter().map(|shard| shard.bytes).sum();
    let stage = Stage::new(progress, "check", total);
    let rate = |bytes: u64| bytes as f64 / 1e6 / stage.seconds().max(1e-9);
    store.check_shards(&mut |bytes| stage.at(bytes, format!("{:.0} MB/s", rate(bytes))))?;
    let shards = count(manifest.shards.len() as u64, "shard");
    let text = format!(
        "{shards} of {}, {:.1} MB, by their checksums at {:.0} MB/s",
        store.folder().display(),
        total as f64 / 1e6,
        rate(total)
    );
    stage.done(text);
    Ok(())
}

/// Where a run's activations come from: its store, or the model on `blocks`. Opened for a fresh
/// run, or unread for one whose state comes from a checkpoint. Recipes of one run agree in all that
/// is read here.
fn source(
    recipe: &NamedRecipe,
    common: &Common<'_>,
    blocks: BlockStream,
    fresh: bool,
) -> Result<Box<dyn BatchSource>> {
    let (c, seed) = (&recipe.config, recipe.config.order_seed());
    let normalization = c.activations.normalization;
    let (batch, window) = (c.training.batch_tokens, c.activations.buffer_tokens);
    let device = &common.device;
    if let Some(store) = &recipe.store {
        let names: Vec<String> = common.hooks.iter().map(ToString::to_string).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let store = store.clone();
        let batches = match fresh {
            true => StoreBatches::new(store, &names, batch, window, normalization, seed, device)?,
            false => StoreBatches::unread(store, &names, batch, window, seed, device)?,
        };
        return Ok(Box::new(batches));
    }
    let stream = StreamConfig {
        hook_points: common.hooks.clone(),
        batch_tokens: batch,
        buffer_tokens: window,
        harvest_blocks: c.activations.harvest_blocks,
        exclude: c.exclusion(),
        normalization,
        seed,
        other: common.other.clone(),
    };
    if c.training.loss.is_end_to_end() {
        let sequences = match fresh {
            true => SequenceStream::new(blocks, stream)?,
            false => SequenceStream::unfilled(blocks, stream)?,
        };
        return Ok(Box::new(sequences));
    }
    let activations = match fresh {
        true => ActivationStream::new(blocks, stream)?,
        false => ActivationStream::unfilled(blocks, stream)?,
    };
    Ok(Box::new(activations))
}
