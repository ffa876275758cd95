//! `lapidary quickstart` and `lapidary train`: from text to a feature dictionary.

use crate::arguments::{DeviceArgument, device_name};
use crate::commands::eval::{measure, read_blocks};
use crate::commands::features;
use crate::progress::Stage;
use crate::run_folder::{RunFolder, write_json};
use anyhow::{Context, Result, bail};
use clap::Args;
use lapidary_activations::{ActivationStream, BlockConfig, BlockStream, StreamConfig};
use lapidary_model::{LanguageModel, write_atomically};
use lapidary_sae::{RunConfig, Trainer, checkpoint};
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
        let config = RunConfig::parse(
            "configs/quickstart.toml",
            QUICKSTART,
            &self.options.settings(),
        )?;
        train(config, &self.options, self.out)
    }
}

impl Train {
    pub fn run(self) -> Result<()> {
        let config = RunConfig::load(&self.config, &self.options.settings())?;
        let name = self
            .config
            .file_stem()
            .context("the recipe's path ends in no file")?;
        let out = self.out.unwrap_or_else(|| PathBuf::from("out").join(name));
        train(config, &self.options, out)
    }
}

fn train(config: RunConfig, options: &Options, out: PathBuf) -> Result<()> {
    let device = options.device.open()?;
    let stage = Stage::new("load", 1);
    let model = Arc::new(LanguageModel::load(&config.model, &device)?);
    let hook_point = config.hook_point.parse()?;
    let width = model.width(hook_point)?;
    let block_config = BlockConfig {
        corpus: config.corpus.path.clone(),
        context: config.corpus.context,
        prepend_bos: config.corpus.prepend_bos,
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
    let stream_config = StreamConfig {
        hook_point,
        batch_tokens: config.training.batch_tokens,
        buffer_tokens: config.activations.buffer_tokens,
        harvest_blocks: config.activations.harvest_blocks,
        normalization: serde_json::from_value(config.activations.normalization.clone().into())?,
        seed: config.seed,
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
        let stream = ActivationStream::unfilled(blocks, stream_config)?;
        let mut trainer = Trainer::resume(&folder.checkpoint(), Box::new(stream), &device)?;
        trainer.adopt(&config);
        trainer
    } else {
        let stream = ActivationStream::new(blocks, stream_config)?;
        let trainer = Trainer::new(config, Box::new(stream), &device)?;
        folder.clear()?; // only now is it sure that there will be a run in its place
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
            )?;
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
