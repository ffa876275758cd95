//! A model trained together with codebooks, and the folder that it leaves.
//!
//! ```text
//! DIR/run.json               what in DIR belongs to the run, and whether it is finished
//! DIR/config.toml            the config, every default filled in
//! DIR/config.json            the model, in Hugging Face layout, f32
//! DIR/model.safetensors
//! DIR/tokenizer.json         of a model of text
//! DIR/codebooks.json         hook points, sizes and choices of the codebooks
//! DIR/codebooks.safetensors  their codes
//! DIR/metrics.json           metrics on held-out sequences
//! DIR/metrics.jsonl          the training log, one object per line
//! DIR/checkpoint/            what `--resume` and `--extend` go on from; removed when the run is finished,
//!                            unless it is to be kept
//! ```

use crate::error::{Context, Error, Result, bail};
use crate::progress::{Progress, Stage};
use crate::run_folder::{Maker, RunWriter, read_json, write_json};
use crate::train::TrainOptions;
use burn::tensor::Device;
use lapidary_activations::{Corpus, TEXT_FIELD};
use lapidary_codebook::{
    CodebookConfig, CodebookStep, CodebookTrainer, Codebooks, Data, DataOptions, Metrics,
    ModelOptions, Text, TokFsm, evaluate, has_checkpoint, load_checkpoint, load_codebooks,
    save_checkpoint, save_codebooks,
};
use lapidary_io::write_atomically;
use lapidary_model::{LanguageModel, Tokenizer};
use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const CHECKPOINT: &str = "checkpoint";
const CONFIG: &str = "config.toml";
const LOG: &str = "metrics.jsonl";
const METRICS: &str = "metrics.json";

/// Trains as a config says, and writes model, codebooks and metrics into `out`.
///
/// # Errors
/// The config does not fit the model or the data; the folder holds a run and `options` neither
/// resumes, extends nor overwrites it; the run in the folder has another config, or is to be
/// extended without a checkpoint or to fewer steps than it has; a file cannot be read or written;
/// the loss is no longer finite.
pub fn train_codebooks(
    config: &CodebookConfig,
    out: &Path,
    options: TrainOptions,
    device: &Device,
    progress: &dyn Progress,
) -> Result<Metrics> {
    options.check(out)?;
    let stage = Stage::new(progress, "load", 1);
    let trained = match &config.model {
        ModelOptions::Random { .. } => None,
        ModelOptions::Trained(name) => Some(LanguageModel::load(name, device)?),
    };
    let data = data(config, trained.as_ref())?;
    let tokenizer = trained
        .as_ref()
        .map(|model| model.tokenizer())
        .transpose()?;
    let mut trainer = CodebookTrainer::new(config, data, trained.as_ref(), device)?;
    let c = trainer.trainer().config();
    let text = format!(
        "{} layers, {:.2} M weights; {}",
        c.n_layers(),
        c.n_params() as f64 / 1e6,
        described(trainer.codebooks())
    );
    stage.done(text);

    let files = files(tokenizer.is_some());
    let mut writer = RunWriter::claim(out, Maker::Codebook, &files)?;
    let place = |writer: &RunWriter, name: &str| writer.folder().join(name);
    let saved_path = place(&writer, CONFIG);
    if options.resume && !options.extend && writer.is_finished() {
        let saved = CodebookConfig::load(&saved_path, &[])?;
        saved.check_same_training(config, &saved_path, false)?;
        if saved.evaluation_sequences == config.evaluation_sequences {
            return read_json(&place(&writer, METRICS));
        }
        let run = CodebookRun::open(out, device)?;
        let (seed, sequences) = (config.seed, config.evaluation_sequences);
        let metrics = evaluate(&run.model, &run.codebooks, trainer.data(), seed, sequences)?;
        write_atomically(&saved_path, config.to_toml().as_bytes())?;
        write_json(&place(&writer, METRICS), &metrics)?;
        return Ok(metrics);
    }
    let goes_on = options.resume || options.extend;
    if goes_on && has_checkpoint(&place(&writer, CHECKPOINT)) {
        let mut extend = options.extend;
        if saved_path.exists() {
            let saved = CodebookConfig::load(&saved_path, &[])?;
            if writer.is_finished() && config.steps < saved.steps {
                bail!(
                    "`training.steps`: found {}, expected at least {}, the steps of the finished run in {}",
                    config.steps,
                    saved.steps,
                    out.display()
                );
            }
            // An extension that was interrupted has written its config already.
            extend |= saved.steps == config.steps;
        }
        load_checkpoint(&mut trainer, &place(&writer, CHECKPOINT), extend)?;
        // Tables and a report are those of the codes before.
        writer.keep_only(&files)?;
        writer.go_on(files)?;
    } else if options.extend {
        bail!(
            "{}: no checkpoint to extend; `codebook train --keep-checkpoint` keeps that of a finished run",
            out.display()
        );
    } else {
        if let Some(found) = writer.existing()
            && !(options.overwrite || options.resume)
        {
            bail!(
                "{} holds a run already ({} is there): give --resume to go on with it, --extend to go on to another number of steps, --overwrite to replace it, or another --out",
                out.display(),
                found.display()
            );
        }
        writer.begin(files)?;
    }
    let text = config.to_toml();
    write_atomically(&place(&writer, CONFIG), text.as_bytes())?;
    let keep = options.keep_checkpoint || options.extend || writer.keeps_checkpoint();
    steps(progress, &mut trainer, config, &mut writer, keep)?;
    trainer.trainer().save(&writer.folder(), tokenizer, true)?;
    save_codebooks(trainer.codebooks(), &writer.folder())?;
    writer.replace_old()?;

    let stage = Stage::new(progress, "evaluate", 1);
    let metrics = trainer.evaluate()?;
    stage.done(format!(
        "loss {:.4}, accuracy {:.4} on {} held-out tokens",
        metrics.loss, metrics.accuracy, metrics.tokens
    ));
    write_json(&place(&writer, METRICS), &metrics)?;
    writer.finish(keep)?;
    Ok(metrics)
}

fn described(codebooks: &Codebooks) -> String {
    let each = codebooks.placed().iter().map(|p| {
        let (groups, n) = (p.codebook.groups(), p.codebook.options().n_codes);
        match groups {
            1 => format!("{} ({n} codes)", p.at),
            _ => format!("{} ({groups} x {n} codes)", p.at),
        }
    });
    let each: Vec<String> = each.collect();
    match each.is_empty() {
        true => "no codebooks".into(),
        false => each.join(", "),
    }
}

fn files(has_tokenizer: bool) -> BTreeSet<String> {
    let names = [
        CONFIG,
        "config.json",
        "model.safetensors",
        lapidary_codebook::DESCRIPTION,
        lapidary_codebook::CODES,
        METRICS,
        LOG,
        CHECKPOINT,
    ];
    let tokenizer = has_tokenizer.then_some("tokenizer.json");
    names
        .into_iter()
        .chain(tokenizer)
        .map(str::to_owned)
        .collect()
}

/// What a config trains on.
fn data(config: &CodebookConfig, model: Option<&LanguageModel>) -> Result<Data> {
    match (&config.data, model) {
        (DataOptions::TokFsm(options), _) => Ok(Data::TokFsm(TokFsm::new(options.clone())?)),
        (
            DataOptions::Text {
                corpus,
                heldout,
                context,
            },
            Some(model),
        ) => {
            let n_ctx = model.config().n_ctx;
            if *context > n_ctx {
                bail!(
                    "`data.context`: found {context}, expected at most {n_ctx}, the context of model `{}`",
                    model.name()
                );
            }
            let tokenizer = model.tokenizer()?;
            let Some(bos) = tokenizer.bos().or(model.config().eos.first().copied()) else {
                bail!(
                    "model `{}`: found no token that separates documents",
                    model.name()
                );
            };
            let [train, heldout] = [corpus, heldout].map(|name| documents(name, tokenizer));
            Ok(Data::Text(Text::new(&train?, &heldout?, bos, *context)?))
        }
        (DataOptions::Text { .. }, None) => {
            bail!("`model.source`: found \"random\", expected a trained model to read text with")
        }
    }
}

fn documents(corpus: &str, tokenizer: &Tokenizer) -> Result<Vec<Vec<u32>>> {
    let mut texts = vec![];
    for document in Corpus::open(corpus, TEXT_FIELD)?.documents() {
        texts.push(document?.text);
    }
    Ok(tokenizer.encode_batch(texts.iter().map(String::as_str).collect())?)
}

/// All steps that are left, with log and checkpoints; with `keep`, one after the last step too.
fn steps(
    progress: &dyn Progress,
    trainer: &mut CodebookTrainer,
    config: &CodebookConfig,
    writer: &mut RunWriter,
    keep: bool,
) -> Result<()> {
    let log = open_log(&writer.folder().join(LOG), trainer.step_count())?;
    let (mut log, mut log_path) = (log, writer.folder().join(LOG));
    let stage = Stage::new(progress, "train", config.steps);
    let mut last: Option<CodebookStep> = None;
    let first_tokens = trainer.step_count() * tokens_per_step(config);
    progress.training(true);
    let result = (|| {
        while trainer.step_count() < config.steps {
            let mut report = trainer.step()?;
            let due = |every: u64| every > 0 && report.step.is_multiple_of(every);
            let (evaluates, saves) = (due(config.evaluation_every), due(config.checkpoint_every));
            if evaluates {
                report.evaluation = Some(trainer.evaluate()?);
            }
            let speed = (report.tokens - first_tokens) as f64 / stage.seconds();
            let figures = match report.frac_unused_codes {
                Some(unused) => format!("loss {:.4}  unused codes {unused:.3}", report.loss),
                None => format!("loss {:.4}", report.loss),
            };
            stage.at(report.step, format!("{speed:.0} tokens/s  {figures}"));
            let last_step = report.step == config.steps;
            if report.step.is_multiple_of(config.log_every) || evaluates || last_step {
                let line = serde_json::to_string(&report)? + "\n";
                let written = log.write_all(line.as_bytes());
                written.with_context(|| format!("{}: cannot be written", log_path.display()))?;
            }
            let stops = progress.must_stop() && report.step < config.steps;
            if stops || saves || keep && last_step {
                save_checkpoint(trainer, &writer.folder().join(CHECKPOINT))?;
                let before = writer.folder();
                writer.replace_old()?;
                if writer.folder() != before {
                    log_path = writer.folder().join(LOG);
                    log = open_log(&log_path, report.step)?;
                }
            }
            if stops {
                return Err(Error::Interrupted(format!(
                    "stopped after step {} of {}, with a checkpoint: --resume goes on",
                    report.step, config.steps
                )));
            }
            last = Some(report);
        }
        Ok(())
    })();
    progress.training(false);
    result?;
    match last {
        Some(last) => stage.done(format!("{} steps: loss {:.4}", last.step, last.loss)),
        None => stage.done(format!("{} steps", config.steps)),
    }
    Ok(())
}

fn tokens_per_step(config: &CodebookConfig) -> u64 {
    let length = match &config.data {
        DataOptions::TokFsm(o) => o.sequence_states * o.digits,
        DataOptions::Text { context, .. } => *context,
    };
    (length * config.batch) as u64
}

/// The log for appending, without lines after `step` and without an incomplete last line.
fn open_log(path: &Path, step: u64) -> Result<std::fs::File> {
    let text = match step {
        0 => String::new(),
        _ => std::fs::read_to_string(path).unwrap_or_default(),
    };
    let mut kept = String::new();
    for line in text.lines() {
        match serde_json::from_str::<CodebookStep>(line) {
            Ok(report) if report.step <= step => {
                kept += line;
                kept.push('\n');
            }
            _ => break,
        }
    }
    write_atomically(path, kept.as_bytes())?;
    let file = OpenOptions::new().append(true).open(path);
    file.with_context(|| path.display().to_string())
}

/// A finished run of `lapidary codebook train`.
pub struct CodebookRun {
    /// Its folder.
    pub folder: PathBuf,
    /// Its config.
    pub config: CodebookConfig,
    /// The model.
    pub model: Arc<LanguageModel>,
    /// Its codebooks.
    pub codebooks: Codebooks,
}

impl CodebookRun {
    /// Opens the folder of a run.
    ///
    /// # Errors
    /// A file is missing or damaged, or the codebooks do not fit the model.
    pub fn open(folder: &Path, device: &Device) -> Result<Self> {
        let config = folder.join(CONFIG);
        let codes = folder.join(lapidary_codebook::CODES);
        if !config.exists() || !codes.exists() {
            bail!(
                "{}: found no {}, expected the folder of a finished `lapidary codebook train`",
                folder.display(),
                match config.exists() {
                    true => lapidary_codebook::CODES,
                    false => CONFIG,
                }
            );
        }
        let config = CodebookConfig::load(&config, &[])?;
        let model = LanguageModel::load(&folder.to_string_lossy(), device)?;
        let codebooks = load_codebooks(folder, device)?;
        codebooks.check(&model)?;
        Ok(Self {
            folder: folder.into(),
            config,
            model: Arc::new(model),
            codebooks,
        })
    }

    /// The machine that the model was trained on; none if that was text.
    ///
    /// # Errors
    /// The machine does not fit the model.
    pub fn machine(&self) -> Result<Option<TokFsm>> {
        let DataOptions::TokFsm(options) = &self.config.data else {
            return Ok(None);
        };
        let (fsm, c) = (TokFsm::new(options.clone())?, self.model.config());
        if (fsm.d_vocab(), fsm.length()) != (c.d_vocab, c.n_ctx) {
            bail!(
                "{}: found a machine of {} tokens and sequences of {}, expected {} and {}, those of the model",
                self.folder.join(CONFIG).display(),
                fsm.d_vocab(),
                fsm.length(),
                c.d_vocab,
                c.n_ctx
            );
        }
        Ok(Some(fsm))
    }
}
