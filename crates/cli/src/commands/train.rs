//! `lapidary quickstart` and `lapidary train`: from text to a feature dictionary, or to several on one pass.

use crate::arguments::{DeviceArgument, device_name};
use crate::commands::eval::{measure, read_blocks};
use crate::commands::features;
use crate::first_batch;
use crate::progress::Stage;
use crate::recipe::{Recipe, Sweep, read_all};
use crate::run_folder::{MetricsLog, RunFolder, write_json};
use crate::summary;
use anyhow::{Context, Result, anyhow, bail, ensure};
use burn::tensor::Device;
use clap::Args;
use lapidary_activations::{
    ActivationStream, BatchSource, BlockConfig, BlockStream, FirstBatch, OtherModel,
    SequenceStream, StoreBatches, StreamConfig,
};
use lapidary_evaluation::Metrics;
use lapidary_model::{HookPoint, LanguageModel, write_atomically};
use lapidary_sae::{RunConfig, SaeError, StepReport, TrainingRun, checkpoint, hook_points};
use std::io::{Write, stdout};
use std::path::PathBuf;
use std::sync::Arc;

const QUICKSTART: &str = include_str!("../../../../configs/quickstart.toml");

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
  lapidary train configs/quickstart.toml --out out --resume    # after an interruption

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
    /// Go on from the last checkpoint of the same run
    #[arg(long)]
    resume: bool,
    /// Replace the run that the folder holds
    #[arg(long, conflicts_with = "resume")]
    overwrite: bool,
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
        let recipe = Recipe::read(name, "configs/quickstart.toml", QUICKSTART, set)?;
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
    several: bool,
}

fn train(recipes: Vec<Recipe>, options: &Options, out: PathBuf, several: bool) -> Result<()> {
    let device = options.device.open()?;
    let stage = Stage::new("load", 1);
    let configs: Vec<RunConfig> = recipes.iter().map(|r| r.config.clone()).collect();
    let first = &recipes[0].config;
    let model = Arc::new(LanguageModel::load(&first.model, &device)?);
    let block_config = BlockConfig {
        corpus: first.corpus.path.clone(),
        text_field: first.corpus.text_field.clone(),
        context: first.corpus.context,
        prepend_bos: first.corpus.prepend_bos,
        attend_across_documents: first.corpus.attend_across_documents,
    };
    let other = match &first.other_model {
        Some(name) => Some(Arc::new(LanguageModel::load(name, &device)?)),
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
        .partition(|hook| hook.starts_with(OtherModel::PREFIX));
    let hooks: Vec<HookPoint> = hooks.iter().map(|h| h.parse()).collect::<Result<_, _>>()?;
    let others = others
        .iter()
        .filter_map(|h| h.strip_prefix(OtherModel::PREFIX));
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

    let folder = match options.resume {
        true => RunFolder::new(&out),
        false => RunFolder::create(&out, options.overwrite)?,
    };
    let folders = recipes.iter().map(|recipe| match several {
        false => Ok(RunFolder::new(&out)),
        true if options.resume => Ok(RunFolder::new(&out.join(&recipe.name))),
        true => RunFolder::create(&out.join(&recipe.name), options.overwrite),
    });
    let common = Common {
        folders: folders.collect::<Result<_>>()?,
        model,
        device,
        hooks,
        other,
        blocks: block_config,
        several,
    };
    let mut run = match options.resume {
        true => resume(&recipes, &widths, &common, &folder)?,
        false => start(&recipes, &common, &folder, blocks)?,
    }
    .with_checkpoints(&folder.checkpoint());
    let mut logs = vec![];
    for (trainer, folder) in run.trainers().iter().zip(&common.folders) {
        write_atomically(&folder.config(), trainer.config().to_toml().as_bytes())?;
        logs.push(folder.append_log(trainer.step_count())?);
    }
    steps(&mut run, &recipes, logs)?;

    let configs: Vec<RunConfig> = run.trainers().iter().map(|t| t.config().clone()).collect();
    let mut dictionaries = vec![];
    for (number, folder) in common.folders.iter().enumerate() {
        let dictionary = run.finish(number)?;
        dictionary.save(&folder.dictionary())?;
        dictionaries.push(dictionary);
    }
    drop(run);
    let mut figures = vec![];
    for (number, dictionary) in dictionaries.iter().enumerate() {
        if several {
            eprintln!("{:>10} {}", "coder", recipes[number].name);
        }
        figures.push(describe(&common, number, &configs[number], dictionary)?);
    }
    let written = if several {
        let names: Vec<&str> = recipes.iter().map(|r| r.name.as_str()).collect();
        summary::write(&out, &names, &configs, &common.folders, &figures)?
    } else if configs[0].features.tokens > 0 {
        folder.report()
    } else {
        folder.dictionary()
    };
    writeln!(stdout(), "{}", written.display())?;
    Ok(())
}

/// Refuses a recipe that does not fit model, store or evaluation text; gives the width of its activations.
fn check(
    recipe: &Recipe,
    model: &Arc<LanguageModel>,
    other: Option<&Arc<LanguageModel>>,
    blocks: &BlockConfig,
) -> Result<usize> {
    let config = &recipe.config;
    if let Some(store) = &recipe.store {
        store.check_model(model)?;
    }
    for hook in hook_points(std::slice::from_ref(config)) {
        if let (Some(hook), Some(other)) = (hook.strip_prefix(OtherModel::PREFIX), other) {
            other.width(hook.parse()?)?;
            continue;
        }
        let width = model.width(hook.parse()?)?;
        let Some(store) = &recipe.store else { continue };
        let (_, kept) = store.hook(&hook)?;
        ensure!(
            kept == width,
            "{}: the activations at {hook} are {kept} wide, those of model `{}` {width}",
            store.folder().display(),
            model.name()
        );
    }
    let width = model.width(config.hook_point.parse()?)?;
    config.resolve(width)?;
    if config.evaluation.tokens > 0 {
        let held_out = BlockConfig {
            corpus: config.evaluation.corpus.clone(),
            ..blocks.clone()
        };
        BlockStream::new(model.clone(), &held_out)?;
    }
    Ok(width)
}

/// A fresh run, in place of whatever the folders held.
fn start(
    recipes: &[Recipe],
    common: &Common,
    folder: &RunFolder,
    blocks: BlockStream,
) -> Result<TrainingRun> {
    let stage = Stage::new("buffer", 1);
    let first = &recipes[0].config.activations;
    let look = FirstBatch::of(blocks, &common.hooks, first.harvest_blocks)?;
    first_batch::show(&look);
    let configs: Vec<RunConfig> = recipes.iter().map(|r| r.config.clone()).collect();
    let run = TrainingRun::new(&configs, source(&recipes[0], common, true)?, &common.device)
        .map_err(|e| named(e, recipes))?;
    // Only now is it sure that there will be a run in their place.
    folder.clear()?;
    for (folder, config) in common.folders.iter().zip(&configs) {
        folder.clear()?;
        let read = hook_points(std::slice::from_ref(config));
        let of_coder = look.iter().filter(|r| read.contains(&r.hook_point));
        let of_coder: Vec<FirstBatch> = of_coder.cloned().collect();
        first_batch::keep(&folder.path, &of_coder)?;
    }
    stage.done(format!("{} activations to shuffle", first.buffer_tokens));
    Ok(run)
}

/// The run of the folder's checkpoint, if it is one of these recipes.
fn resume(
    recipes: &[Recipe],
    widths: &[usize],
    common: &Common,
    folder: &RunFolder,
) -> Result<TrainingRun> {
    let place = folder.checkpoint();
    ensure!(
        checkpoint::exists(&place),
        "{}: no checkpoint to resume from; leave out --resume to start",
        place.display()
    );
    let stage = Stage::new("buffer", 1);
    let saved = checkpoint::recipes(&place)?;
    ensure!(
        saved.len() == recipes.len(),
        "{}: the checkpoint is of {} coders, here are {}",
        place.display(),
        saved.len(),
        recipes.len()
    );
    for ((saved, recipe), width) in saved.iter().zip(recipes).zip(widths) {
        if let Some((key, there, here)) = saved.training_difference(&recipe.config.resolve(*width)?)
        {
            let of = match common.several {
                true => format!(" of {}", recipe.name),
                false => String::new(),
            };
            bail!(
                "{}: the checkpoint was trained with {key} = {there}, the recipe{of} says {here}",
                place.display()
            );
        }
    }
    let source = source(&recipes[0], common, false)?;
    let mut run = TrainingRun::resume(&place, source, &common.device)?;
    let configs: Vec<RunConfig> = recipes.iter().map(|r| r.config.clone()).collect();
    run.adopt(&configs);
    let to_shuffle = recipes[0].config.activations.buffer_tokens;
    stage.done(format!("{to_shuffle} activations to shuffle"));
    Ok(run)
}

/// All steps, with bars and logs.
fn steps(run: &mut TrainingRun, recipes: &[Recipe], mut logs: Vec<MetricsLog>) -> Result<()> {
    let several = recipes.len() > 1;
    let names: Vec<&str> = recipes.iter().map(|r| r.name.as_str()).collect();
    let stage = match several {
        true => Stage::with_lines("train", run.total_steps(), &names),
        false => Stage::new("train", run.total_steps()),
    };
    let first = run.step_count();
    let batch = recipes[0].config.training.batch_tokens as f64;
    let mut failed = None;
    let mut last: Vec<Option<StepReport>> = vec![None; recipes.len()];
    let trained = run.run(&mut |number, report| {
        let speed = report.step.saturating_sub(first) as f64 * batch / stage.seconds();
        let figures = format!(
            "loss {:.4}  FVU {:.3}  L0 {:.1}  dead {}",
            report.loss, report.fvu, report.l0, report.dead
        );
        if several {
            stage.line(number, figures);
            stage.at(report.step, format!("{speed:.0} tokens/s"));
        } else {
            stage.at(report.step, format!("{speed:.0} tokens/s  {figures}"));
        }
        failed = failed.take().or(logs[number].push(report).err());
        last[number] = Some(report.clone());
    });
    trained.map_err(|e| named(e, recipes))?;
    if let Some(error) = failed {
        return Err(error);
    }
    let count = run.step_count();
    let speed = (count - first) as f64 * batch / stage.seconds();
    let figures = |r: &StepReport| {
        format!(
            "loss {:.4}, FVU {:.4}, L0 {:.1}, dead {}",
            r.loss, r.fvu, r.l0, r.dead
        )
    };
    match (several, &last[0]) {
        (true, _) => {
            let coders = recipes.len();
            stage.done(format!(
                "{count} steps of {coders} coders at {speed:.0} tokens/s"
            ));
            for (name, last) in names.iter().zip(&last) {
                if let Some(r) = last {
                    eprintln!("{:>10} {name}: {}", "", figures(r));
                }
            }
        }
        (false, Some(r)) => {
            stage.done(format!(
                "{count} steps at {speed:.0} tokens/s: {}",
                figures(r)
            ));
        }
        (false, None) => stage.done(format!("{count} steps")),
    }
    Ok(())
}

/// An error that is of one coder says so by its name.
fn named(error: SaeError, recipes: &[Recipe]) -> anyhow::Error {
    match error {
        SaeError::OfCoder { number, error } => {
            anyhow!(*error).context(format!("coder {}", recipes[number].name))
        }
        error => error.into(),
    }
}

/// Figures of merit, tables and report of a coder, as its recipe asks.
fn describe(
    common: &Common,
    number: usize,
    config: &RunConfig,
    dictionary: &lapidary_sae::Dictionary,
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
            write_json(&folder.metrics(), &metrics)?;
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

/// Where a run's activations come from: its store, or the model. Opened for a fresh run, or unread for one whose state
/// comes from a checkpoint. Recipes of one run agree in all that is read here.
fn source(recipe: &Recipe, common: &Common, fresh: bool) -> Result<Box<dyn BatchSource>> {
    let (c, seed) = (&recipe.config, recipe.config.order_seed());
    let normalization = serde_json::from_value(c.activations.normalization.clone().into())?;
    let (batch, window) = (c.training.batch_tokens, c.activations.buffer_tokens);
    let device = &common.device;
    if let Some(store) = &recipe.store {
        let names: Vec<String> = common.hooks.iter().map(ToString::to_string).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let store = store.clone();
        return Ok(Box::new(match fresh {
            true => StoreBatches::new(store, &names, batch, window, normalization, seed, device)?,
            false => StoreBatches::unread(store, &names, batch, window, seed, device)?,
        }));
    }
    let blocks = BlockStream::new(common.model.clone(), &common.blocks)?;
    let stream = StreamConfig {
        hook_points: common.hooks.clone(),
        batch_tokens: batch,
        buffer_tokens: window,
        harvest_blocks: c.activations.harvest_blocks,
        exclude: c.activations.exclude,
        normalization,
        seed,
        other: common.other.clone(),
    };
    if c.learns_end_to_end() {
        return Ok(Box::new(match fresh {
            true => SequenceStream::new(blocks, stream)?,
            false => SequenceStream::unfilled(blocks, stream)?,
        }));
    }
    Ok(Box::new(match fresh {
        true => ActivationStream::new(blocks, stream)?,
        false => ActivationStream::unfilled(blocks, stream)?,
    }))
}
