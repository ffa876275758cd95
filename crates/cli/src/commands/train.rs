//! `lapidary quickstart` and `lapidary train`: from text to a feature dictionary, or to several on one pass.

mod resume;
mod steps;

use crate::arguments::{DeviceArgument, device_name, load_model};
use crate::commands::eval::{Signed, measure, read_blocks};
use crate::commands::features;
use crate::first_batch;
use crate::progress::{Stage, count, note, say};
use crate::recipe::{NamedRecipe, Sweep, read_all};
use crate::run_folder::{Maker, RunFolder, RunWriter, training_files, write_json};
use crate::summary;
use anyhow::{Context, Result, bail, ensure};
use burn::tensor::Device;
use clap::Args;
use lapidary_activations::{
    ActivationStream, BatchSource, BlockConfig, BlockStream, FirstBatch, OtherModel,
    SequenceStream, SkippedRows, StoreBatches, StreamConfig,
};
use lapidary_coder::Dictionary;
use lapidary_coder::SECOND_MODEL;
use lapidary_evaluation::Metrics;
use lapidary_formats::saelens;
use lapidary_io::write_atomically;
use lapidary_model::{HookPoint, LanguageModel};
use lapidary_sae::{Recipe, TrainingRun, hook_points};
use resume::{Way, finished, resume};
use std::collections::BTreeSet;
use std::io::{Write, stdout};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use steps::{named, steps};

const QUICKSTART: &str = include_str!("../../../../configs/quickstart.toml");

/// Said before an error about a recipe's model.
const NAMED_BY_RECIPE: &str = "the recipe's model (--set model=FOLDER names another; the recipe's first lines say where it comes from)";

/// Train a TopK autoencoder on the embedded model, with tables and report, in a few minutes
#[derive(Args)]
#[command(after_help = "Example:\n  lapidary quickstart --out out    # then open out/report.html")]
pub struct Quickstart {
    #[command(flatten)]
    options: Options,
    /// Seed of everything random; the recipe's unless given
    #[arg(long)]
    seed: Option<u64>,
    /// Where results go
    #[arg(long, default_value = "out", value_name = "DIR")]
    out: PathBuf,
}

/// Train a sparse coder as a recipe says, or several on one pass, with evaluation, tables and report
#[derive(Args)]
#[command(after_help = "Examples:
  lapidary train configs/quickstart.toml --out out
  lapidary train configs/quickstart.toml --set coder.architecture=batchtopk --set training.tokens=2000000 --out wide
  lapidary train configs/quickstart.toml --out out --resume    # starts, goes on after an interruption, or finds the work done
  lapidary train configs/quickstart.toml --out out --keep-checkpoint
  lapidary train configs/quickstart.toml --out out --extend --set training.tokens=2000000

Several coders on one pass of the model or the store, each in a folder of its own, with out/runs.parquet beside them:
  lapidary train configs/quickstart.toml --seeds 1,2,3 --out out
  lapidary train configs/quickstart.toml --sweep coder.k=16,32,64 --sweep training.lr=2e-4,4e-4 --out out
  lapidary train configs/quickstart.toml configs/matryoshka-embedded.toml --out out")]
pub struct Train {
    /// Recipes in TOML; configs/ has some. Several share model, text, activations and batch size
    #[arg(required = true)]
    config: Vec<PathBuf>,
    #[command(flatten)]
    options: Options,
    /// Seed of everything random; the recipe's unless given
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
    /// Change a setting of the recipe, such as training.lr=3e-4; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    device: DeviceArgument,
    /// Go on from the last checkpoint of the same run; start where there is none, and do nothing where all is done
    #[arg(long)]
    resume: bool,
    /// Go on with a run whose checkpoint was kept to a larger training.tokens, with the schedules of that length
    #[arg(long, conflicts_with = "resume")]
    extend: bool,
    /// Replace the run that the folder holds, once the new one has its first checkpoint
    #[arg(long, conflicts_with_all = ["resume", "extend"])]
    overwrite: bool,
    /// Keep the checkpoint of the finished run, so that it can be extended
    #[arg(long)]
    keep_checkpoint: bool,
}

impl Options {
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
        train(vec![recipe], &self.options, self.out, false)
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
        train(recipes, &self.options, out, several)
    }
}

/// What all coders of a run have in common, and where it goes.
struct Common {
    model: Arc<LanguageModel>,
    device: Device,
    hooks: Vec<HookPoint>,
    /// The second model, with its hook points, if there is one.
    other: Option<OtherModel>,
    blocks: BlockConfig,
    /// Each coder's folder.
    folders: Vec<RunFolder>,
    /// The coders' names where there are several; the folder of one is the run's own.
    names: Vec<String>,
}

impl Common {
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

fn train(
    mut recipes: Vec<NamedRecipe>,
    options: &Options,
    out: PathBuf,
    several: bool,
) -> Result<()> {
    let device = options.device.open()?;
    note_evaluation_text(&recipes[0]);
    let stage = Stage::new("load", 1);
    let model = load_model(&recipes[0].config.model, &device).context(NAMED_BY_RECIPE)?;
    for recipe in &mut recipes {
        choose_hook_point(recipe, &model);
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
        Some(name) => Some(load_model(name, &device).context(NAMED_BY_RECIPE)?),
        None => None,
    };
    // What can be refused is refused before anything is written or any long work begins.
    let mut widths = vec![];
    for recipe in &recipes {
        let width = check(recipe, &model, other.as_ref(), &block_config);
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
    let blocks = BlockStream::new(model.clone(), &block_config)?;
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
        device_name(&device),
    ));

    let names: Vec<String> = match several {
        true => recipes.iter().map(|r| r.name.clone()).collect(),
        false => vec![],
    };
    let files = training_files(&names);
    let mut writer = RunWriter::claim(&out, Maker::Train, &files)?;
    let mut common = Common {
        folders: vec![],
        model,
        device,
        hooks,
        other,
        blocks: block_config,
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
            let (mut run, skipped) = match way {
                Way::Start => start(&recipes, &mut common, &mut writer, files, blocks)?,
                _ => {
                    let run = resume(&recipes, &widths, &common, options.extend)?;
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
            steps(&mut run, &recipes, logs, &mut writer)?;
            note_text(run.passes(), skipped);
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
    for (number, dictionary) in dictionaries.iter().enumerate() {
        if several {
            say!("{:>10} {}", "coder", recipes[number].name);
        }
        let config = &configs[number];
        figures.push(describe(&common, number, config, dictionary)?);
        // Last, so that a finished run whose tables are made anew is not taken for done when it is killed meanwhile.
        write_atomically(
            &common.folders[number].config(),
            config.to_toml().as_bytes(),
        )?;
    }
    let folder = RunFolder::new(&out);
    let written = if dictionaries.is_empty() {
        out // whose run was finished before
    } else if several {
        summary::write(&out, &common.names, &configs, &common.folders, &figures)?
    } else if configs[0].features.tokens > 0 {
        folder.report()
    } else {
        folder.dictionary()
    };
    writer.finish(options.keep_checkpoint || options.extend)?;
    writeln!(stdout(), "{}", written.display())?;
    Ok(())
}

/// Says what a look at the metrics does not show of the text: rows that were skipped, and that it was short.
fn note_text(passes: u64, skipped: Option<SkippedRows>) {
    if let Some(text) = skipped.and_then(|skipped| skipped.note()) {
        note(text);
    }
    if passes > 1 {
        note(format_args!(
            "the training went through its text or store more than {passes} times"
        ));
    }
}

/// Says so where metrics will be of the text that the coder is trained on.
fn note_evaluation_text(recipe: &NamedRecipe) {
    let config = &recipe.config;
    if config.evaluation.tokens > 0 && config.evaluation.corpus == config.corpus.path {
        note(format_args!(
            "metrics will be measured on the training text {}: evaluation.corpus names held-out text",
            config.corpus.path
        ));
    }
}

/// Where the coder reads if the recipe does not say: after the middle layer.
fn choose_hook_point(recipe: &mut NamedRecipe, model: &LanguageModel) {
    if recipe.names_hook_point() {
        return;
    }
    let layer = model.config().n_layers() / 2;
    let hook = format!("blocks.{layer}.hook_resid_post");
    recipe.config.sites.set_read(hook.clone());
    note(format_args!(
        "the recipe names no hook point: {hook}, after the middle layer"
    ));
}

/// Refuses a recipe that does not fit model, store or evaluation text; gives the width of its activations.
fn check(
    recipe: &NamedRecipe,
    model: &Arc<LanguageModel>,
    other: Option<&Arc<LanguageModel>>,
    blocks: &BlockConfig,
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
        let held_out = BlockConfig {
            corpus: config.evaluation.corpus.clone(),
            ..blocks.clone()
        };
        BlockStream::new(model.clone(), &held_out)?;
    }
    Ok(width)
}

/// A fresh run, in place of whatever the folders hold.
fn start(
    recipes: &[NamedRecipe],
    common: &mut Common,
    writer: &mut RunWriter,
    files: BTreeSet<String>,
    blocks: BlockStream,
) -> Result<(TrainingRun, Option<SkippedRows>)> {
    check_store(&recipes[0])?;
    let stage = Stage::new("buffer", 1);
    let first = &recipes[0].config.activations;
    let look = FirstBatch::of(blocks, &common.hooks, first.harvest_blocks)?;
    first_batch::show(&look);
    let configs: Vec<Recipe> = recipes.iter().map(|r| r.config.clone()).collect();
    let (source, skipped) = source(&recipes[0], common, true)?;
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
    Ok((run, skipped))
}

/// Figures of merit, tables and report of a coder, as its recipe asks.
fn describe(
    common: &Common,
    number: usize,
    config: &Recipe,
    dictionary: &Dictionary,
) -> Result<Option<Metrics>> {
    let (folder, model) = (&common.folders[number], &common.model);
    let metrics = match config.evaluation.tokens {
        0 => None,
        tokens => {
            let held_out = BlockConfig {
                corpus: config.evaluation.corpus.clone(),
                ..common.blocks.clone()
            };
            let metrics =
                measure(model, dictionary, &read_blocks(model, &held_out, tokens)?)?.metrics;
            let signed = Signed {
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
    if config.features.tokens > 0 {
        let blocks = read_blocks(model, &common.blocks, config.features.tokens)?;
        let examples = config.features.examples_per_feature;
        features::write(
            folder,
            (model, common.other.as_ref()),
            dictionary,
            &blocks,
            examples,
            metrics.as_ref(),
            &folder.read_log(),
        )?;
    }
    Ok(metrics)
}

/// Reads the recipe's store, if it has one, against its checksums.
fn check_store(recipe: &NamedRecipe) -> Result<()> {
    let Some(store) = &recipe.store else {
        return Ok(());
    };
    // A cache of SAELens has no checksums.
    let Some(manifest) = store.manifest() else {
        return Ok(());
    };
    let total = manifest.shards.iter().map(|shard| shard.bytes).sum();
    let stage = Stage::new("check", total);
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

/// Where a run's activations come from: its store, or the model. Opened for a fresh run, or unread for one whose state
/// comes from a checkpoint. Recipes of one run agree in all that is read here.
fn source(
    recipe: &NamedRecipe,
    common: &Common,
    fresh: bool,
) -> Result<(Box<dyn BatchSource>, Option<SkippedRows>)> {
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
        return Ok((Box::new(batches), None));
    }
    let blocks = BlockStream::new(common.model.clone(), &common.blocks)?;
    let skipped = Some(blocks.skipped_rows());
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
        return Ok((Box::new(sequences), skipped));
    }
    let activations = match fresh {
        true => ActivationStream::new(blocks, stream)?,
        false => ActivationStream::unfilled(blocks, stream)?,
    };
    Ok((Box::new(activations), skipped))
}
