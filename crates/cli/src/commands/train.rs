//! `lapidary quickstart` and `lapidary train`: from text to a feature dictionary.

use crate::arguments::{DeviceArgument, device_name};
use crate::commands::eval::{measure, read_blocks};
use crate::commands::features;
use crate::first_batch;
use crate::progress::Stage;
use crate::run_folder::{RunFolder, write_json};
use anyhow::{Context, Result, bail, ensure};
use burn::tensor::Device;
use clap::Args;
use lapidary_activations::{
    ActivationStream, ActivationsError, BatchSource, BlockConfig, BlockStream, Exclusion,
    FirstBatch, Store, StoreBatches, StreamConfig,
};
use lapidary_model::{HookPoint, LanguageModel, write_atomically};
use lapidary_sae::{RunConfig, Trainer, checkpoint};
use std::io::{Write, stdout};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const QUICKSTART: &str = include_str!("../../../../configs/quickstart.toml");

/// Train a TopK autoencoder on the embedded model, with tables and report, in a few minutes
#[derive(Args)]
#[command(after_help = "Example:\n  lapidary quickstart --out out    # then open out/report.html")]
pub struct Quickstart {
    #[command(flatten)]
    options: Options,
    /// Where results go
    #[arg(long, default_value = "out", value_name = "DIR")]
    out: PathBuf,
}

/// Train a sparse coder as a recipe says, with evaluation, tables and report
#[derive(Args)]
#[command(after_help = "Examples:
  lapidary train configs/quickstart.toml --out out
  lapidary train configs/quickstart.toml --set coder.architecture=batchtopk --set training.tokens=2000000 --out wide
  lapidary train configs/quickstart.toml --out out --resume    # after an interruption")]
pub struct Train {
    /// A recipe in TOML; configs/ has some
    config: PathBuf,
    #[command(flatten)]
    options: Options,
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
    /// Seed of everything random; the recipe's unless given
    #[arg(long)]
    seed: Option<u64>,
    /// Go on from the last checkpoint of the same run
    #[arg(long)]
    resume: bool,
    /// Replace the run that the folder holds
    #[arg(long, conflicts_with = "resume")]
    overwrite: bool,
}

impl Options {
    /// The settings to change, the seed among them.
    fn settings(&self) -> Vec<String> {
        let seed = self.seed.map(|seed| format!("seed={seed}"));
        self.set.iter().cloned().chain(seed).collect()
    }
}

impl Quickstart {
    pub fn run(self) -> Result<()> {
        let recipe = Recipe::read("configs/quickstart.toml", QUICKSTART, &self.options)?;
        train(recipe, &self.options, self.out)
    }
}

impl Train {
    pub fn run(self) -> Result<()> {
        let path = self.config.display().to_string();
        let text = std::fs::read_to_string(&self.config)
            .with_context(|| format!("{path}: cannot be read"))?;
        let recipe = Recipe::read(&path, &text, &self.options)?;
        let name = self
            .config
            .file_stem()
            .context("the recipe's path ends in no file")?;
        let out = self.out.unwrap_or_else(|| PathBuf::from("out").join(name));
        train(recipe, &self.options, out)
    }
}

/// A recipe and the store that it reads, if it reads one.
struct Recipe {
    config: RunConfig,
    store: Option<Arc<Store>>,
}

impl Recipe {
    fn read(file: &str, text: &str, options: &Options) -> Result<Self> {
        let set = options.settings();
        let config = RunConfig::parse(file, text, &set)?;
        let Some(folder) = &config.activations.store else {
            return Ok(Self {
                config,
                store: None,
            });
        };
        // What the recipe leaves open about model and text is as the store has it; what it says must agree.
        let store = Store::open(Path::new(folder))?;
        let quoted = |text: &str| toml::Value::from(text).to_string();
        let settings = store.manifest().map(|manifest| &manifest.settings);
        // A cache of SAELens holds every token, and does not say of which model and text.
        let exclude = settings.map_or(
            Exclusion {
                special_tokens: false,
                ..Exclusion::default()
            },
            |s| s.exclude,
        );
        let mut said = vec![
            format!("corpus.context={}", store.context()),
            format!(
                "activations.exclude.special_tokens={}",
                exclude.special_tokens
            ),
            format!(
                "activations.exclude.first_positions={}",
                exclude.first_positions
            ),
        ];
        if let Some(multiple) = exclude.norm_multiple {
            said.push(format!("activations.exclude.norm_multiple={multiple}"));
        }
        if let Some(s) = settings {
            said.extend([
                format!("corpus.path={}", quoted(&s.corpus)),
                format!("corpus.text_field={}", quoted(&s.text_field)),
                format!("corpus.prepend_bos={}", s.prepend_bos),
                format!(
                    "corpus.attend_across_documents={}",
                    s.attend_across_documents
                ),
            ]);
        }
        let model = settings.map(|s| format!("model={}", quoted(&s.model)));
        let hook = match store.hooks() {
            [hook] => Some(format!("hook_point={}", hook.name)),
            _ => None,
        };
        let beneath: Vec<String> = said.iter().cloned().chain(model).chain(hook).collect();
        let set = RunConfig::set_beneath(file, text, &set, &beneath)?;
        let config = RunConfig::parse(file, text, &set)?;
        let over: Vec<String> = set.iter().chain(&said).cloned().collect();
        let stored = RunConfig::parse(file, text, &over)?;
        let multiple = |e: &Exclusion| format!("{:?}", e.norm_multiple);
        let (there, here) = (multiple(&exclude), multiple(&config.activations.exclude));
        let norms = ("activations.exclude.norm_multiple".to_owned(), there, here);
        let norms = Some(norms).filter(|(_, there, here)| there != here);
        if let Some((key, there, here)) = stored.training_difference(&config).or(norms) {
            bail!(
                "{folder}: the store was made with {key} = {there}, the recipe says {here}; leave it out of the recipe"
            );
        }
        store.hook(&config.hook_point)?;
        Ok(Self {
            config,
            store: Some(Arc::new(store)),
        })
    }
}

fn train(recipe: Recipe, options: &Options, out: PathBuf) -> Result<()> {
    let Recipe { config, store } = recipe;
    let device = options.device.open()?;
    let stage = Stage::new("load", 1);
    let model = Arc::new(LanguageModel::load(&config.model, &device)?);
    if let Some(store) = &store {
        store.check_model(&model)?;
    }
    let hook_point: HookPoint = config.hook_point.parse()?;
    let width = model.width(hook_point)?;
    if let Some(store) = &store {
        let (_, kept) = store.hook(&config.hook_point)?;
        ensure!(
            kept == width,
            "{}: the activations at {hook_point} are {kept} wide, those of model `{}` {width}",
            store.folder().display(),
            model.name()
        );
    }
    let block_config = BlockConfig {
        corpus: config.corpus.path.clone(),
        text_field: config.corpus.text_field.clone(),
        context: config.corpus.context,
        prepend_bos: config.corpus.prepend_bos,
        attend_across_documents: config.corpus.attend_across_documents,
    };
    // What can be refused is refused before anything is written or any long work begins.
    config.resolve(width)?;
    if config.evaluation.tokens > 0 {
        BlockStream::new(
            model.clone(),
            &BlockConfig {
                corpus: config.evaluation.corpus.clone(),
                ..block_config.clone()
            },
        )?;
    }
    let blocks = BlockStream::new(model.clone(), &block_config)?;
    stage.done(format!(
        "{}: {} layers, {:.1} M weights; {hook_point} is {width} wide; device {}",
        model.name(),
        model.config().n_layers(),
        model.config().n_params() as f64 / 1e6,
        device_name(&device),
    ));

    let folder = if options.resume {
        RunFolder::new(&out)
    } else {
        RunFolder::create(&out, options.overwrite)?
    };
    if options.resume && !checkpoint::exists(&folder.checkpoint()) {
        bail!(
            "{}: no checkpoint to resume from; leave out --resume to start",
            folder.checkpoint().display()
        );
    }
    let stage = Stage::new("buffer", 1);
    let source = || Source {
        config: &config,
        store: store.as_ref(),
        blocks: BlockStream::new(model.clone(), &block_config),
        hook_point,
        device: &device,
    };
    let to_shuffle = config.activations.buffer_tokens;
    let mut trainer = if options.resume {
        let saved = checkpoint::config(&folder.checkpoint())?;
        if let Some((key, there, here)) = saved.training_difference(&config.resolve(width)?) {
            bail!(
                "{}: the checkpoint was trained with {key} = {there}, the recipe says {here}",
                folder.checkpoint().display()
            );
        }
        let source = source().open(false)?;
        let mut trainer = Trainer::resume(&folder.checkpoint(), source, &device)?;
        trainer.adopt(&config);
        trainer
    } else {
        let look = FirstBatch::of(blocks, &[hook_point], config.activations.harvest_blocks)?;
        first_batch::show(&look);
        let source = source().open(true)?;
        let trainer = Trainer::new(config.clone(), source, &device)?;
        folder.clear()?; // only now is it sure that there will be a run in its place
        first_batch::keep(&folder.path, &look)?;
        trainer
    };
    stage.done(format!("{to_shuffle} activations to shuffle"));
    trainer = trainer.with_checkpoints(&folder.checkpoint());
    let config = trainer.config().clone();
    write_atomically(&folder.config(), config.to_toml().as_bytes())?;

    let stage = Stage::new("train", trainer.total_steps());
    let first = trainer.step_count();
    let mut log = folder.append_log(first)?;
    let mut failed = None;
    let mut last = None;
    trainer.run(&mut |report| {
        let speed =
            (report.step - first) as f64 * config.training.batch_tokens as f64 / stage.seconds();
        stage.at(
            report.step,
            format!(
                "{speed:.0} tokens/s  loss {:.4}  FVU {:.3}  L0 {:.1}  dead {}",
                report.loss, report.fvu, report.l0, report.dead
            ),
        );
        failed = failed.take().or(log.push(report).err());
        last = Some(report.clone());
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    let speed = (trainer.step_count() - first) as f64 * config.training.batch_tokens as f64
        / stage.seconds();
    match last {
        Some(r) => stage.done(format!(
            "{} steps at {speed:.0} tokens/s: loss {:.4}, FVU {:.4}, L0 {:.1}, dead {}",
            trainer.step_count(),
            r.loss,
            r.fvu,
            r.l0,
            r.dead
        )),
        None => stage.done(format!("{} steps", trainer.step_count())),
    }
    let dictionary = trainer.finish()?;
    dictionary.save(&folder.dictionary())?;
    drop(trainer);

    let metrics = match config.evaluation.tokens {
        0 => None,
        tokens => {
            let held_out = BlockConfig {
                corpus: config.evaluation.corpus.clone(),
                ..block_config.clone()
            };
            let metrics = measure(
                &model,
                &dictionary,
                &read_blocks(&model, &held_out, tokens)?,
            )?
            .metrics;
            write_json(&folder.metrics(), &metrics)?;
            Some(metrics)
        }
    };
    if config.features.tokens > 0 {
        let blocks = read_blocks(&model, &block_config, config.features.tokens)?;
        let examples = config.features.examples_per_feature;
        features::write(
            &folder,
            &model,
            &dictionary,
            &blocks,
            examples,
            metrics.as_ref(),
            &folder.read_log(),
        )?;
    }
    let written = if config.features.tokens > 0 {
        folder.report()
    } else {
        folder.dictionary()
    };
    writeln!(stdout(), "{}", written.display())?;
    Ok(())
}

/// Where a run's activations come from: its store, or the model.
struct Source<'a> {
    config: &'a RunConfig,
    store: Option<&'a Arc<Store>>,
    blocks: Result<BlockStream, ActivationsError>,
    hook_point: HookPoint,
    device: &'a Device,
}

impl Source<'_> {
    /// Opened for a fresh run, or unread for one whose state comes from a checkpoint.
    fn open(self, fresh: bool) -> Result<Box<dyn BatchSource>> {
        let (c, seed) = (self.config, self.config.seed);
        let normalization = serde_json::from_value(c.activations.normalization.clone().into())?;
        let (batch, window) = (c.training.batch_tokens, c.activations.buffer_tokens);
        if let Some(store) = self.store {
            let (store, hook) = (store.clone(), &c.hook_point);
            return Ok(Box::new(match fresh {
                true => {
                    StoreBatches::new(store, hook, batch, window, normalization, seed, self.device)?
                }
                false => StoreBatches::unread(store, hook, batch, window, seed, self.device)?,
            }));
        }
        let stream = StreamConfig {
            hook_point: self.hook_point,
            batch_tokens: batch,
            buffer_tokens: window,
            harvest_blocks: c.activations.harvest_blocks,
            exclude: c.activations.exclude,
            normalization,
            seed,
        };
        Ok(Box::new(match fresh {
            true => ActivationStream::new(self.blocks?, stream)?,
            false => ActivationStream::unfilled(self.blocks?, stream)?,
        }))
    }
}
