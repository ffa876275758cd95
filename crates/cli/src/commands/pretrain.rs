//! `lapidary pretrain`.

use crate::arguments::DeviceArgument;
use crate::progress::Stage;
use crate::terminal::shown;
use anyhow::{Result, bail};
use clap::Args;
use lapidary::run_folder::{Maker, RunWriter};
use lapidary_activations::{Corpus, TEXT_FIELD};
use lapidary_io::write_atomically;
use lapidary_model::pretrain::{PretrainConfig, Pretrainer, mean_loss};
use lapidary_model::{LanguageModel, Sampling, Tokenizer, generate};
use std::io::{Write, stdout};
use std::path::{Path, PathBuf};

/// Train a small language model from scratch
#[derive(Args)]
#[command(
    after_help = "Examples:\n  lapidary pretrain configs/pretrain/embedded.toml --out my-model\n  lapidary train configs/quickstart.toml --set model=my-model"
)]
pub struct Pretrain {
    /// Recipe in TOML, such as configs/pretrain/embedded.toml
    config: PathBuf,
    /// Override a key of the recipe, such as tokens=1000000; can be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Folder for the model: config.json, model.safetensors, tokenizer.json and README.md (the
    /// model card)
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    device: DeviceArgument,
    /// Replace the model in the folder --out
    #[arg(long)]
    overwrite: bool,
    /// Seed of all random numbers; default: `seed` of the recipe
    #[arg(long)]
    seed: Option<u64>,
}

impl Pretrain {
    pub fn run(self) -> Result<()> {
        let seed = self.seed.map(|seed| format!("seed={seed}"));
        let settings: Vec<String> = self.set.into_iter().chain(seed).collect();
        let config = PretrainConfig::load(&self.config, &settings)?;
        let device = self.device.open()?;
        let weights = self.out.join("model.safetensors");
        if weights.exists() && !self.overwrite {
            bail!(
                "{} holds a model already ({} is there): give --overwrite to replace it, or another --out",
                self.out.display(),
                weights.display()
            );
        }
        let files = [
            "config.json",
            "model.safetensors",
            "tokenizer.json",
            "README.md",
        ];
        let files = files.map(str::to_owned).into();
        // Locked until the model is written.
        let mut writer = RunWriter::claim(&self.out, Maker::Pretrain, &files)?;
        writer.add(files)?;
        let stage = Stage::new("tokenize", 1);
        let texts = documents(&config.corpus)?;
        let tokenizer = Tokenizer::train(&texts, config.d_vocab)?;
        let train = tokenizer.encode_batch(texts.iter().map(String::as_str).collect())?;
        let heldout_texts = documents(&config.heldout)?;
        let heldout = tokenizer.encode_batch(heldout_texts.iter().map(String::as_str).collect())?;
        let mut trainer = Pretrainer::new(&config, &tokenizer, &train, &device)?;
        stage.done(format!(
            "{} tokens of text, a vocabulary of {}",
            trainer.corpus_tokens(),
            tokenizer.len()
        ));

        let stage = Stage::new("pretrain", trainer.steps());
        let mut loss = f32::NAN;
        while trainer.done() < trainer.steps() {
            let report = trainer.step()?;
            loss = report.loss;
            let speed = report.tokens as f64 / stage.seconds();
            stage.at(
                report.step,
                format!(
                    "{speed:.0} tokens/s  loss {:.4}  lr {:.1e}",
                    report.loss, report.lr
                ),
            );
            if config.save_every_steps > 0 && report.step.is_multiple_of(config.save_every_steps) {
                trainer.save(&self.out, &tokenizer)?;
            }
        }
        trainer.save(&self.out, &tokenizer)?;
        stage.done(format!("{} steps, last loss {loss:.4}", trainer.steps()));

        let stage = Stage::new("evaluate", 1);
        let model = LanguageModel::load(&self.out.to_string_lossy(), &device)?;
        let (loss, tokens) = mean_loss(&model, &heldout)?;
        let bytes: usize = heldout_texts.iter().map(String::len).sum();
        stage.done(format!("held-out loss {loss:.4} nats per token"));
        let card = card(
            &self.config,
            &config,
            &model,
            Heldout {
                loss,
                tokens,
                bytes,
            },
        )?;
        write_atomically(&self.out.join("README.md"), card.as_bytes())?;
        writeln!(stdout(), "{}", shown(&card))?;
        Ok(())
    }
}

fn documents(corpus: &str) -> Result<Vec<String>> {
    let corpus = Corpus::open(corpus, TEXT_FIELD)?;
    let mut texts = vec![];
    for document in corpus.documents() {
        texts.push(document?.text);
    }
    if let Some(note) = corpus.skipped_rows().note() {
        crate::progress::note(note);
    }
    Ok(texts)
}

struct Heldout {
    loss: f64,
    tokens: u64,
    bytes: usize,
}

/// The model card: what the model is, how good, and how it writes.
fn card(
    recipe: &Path,
    config: &PretrainConfig,
    model: &LanguageModel,
    heldout: Heldout,
) -> Result<String> {
    let c = model.config();
    let tokenizer = model.tokenizer()?;
    let prompt = "The people of the United States";
    let tokens: Vec<u32> = tokenizer
        .bos()
        .into_iter()
        .chain(tokenizer.encode(prompt)?)
        .collect();
    let sampling = Sampling {
        max_tokens: 80,
        temperature: 0.7,
        ..Default::default()
    };
    let text = tokenizer.decode_plain(&generate(model, &tokens, &sampling, &[], &mut |_| ())?);
    let bits =
        heldout.loss * heldout.tokens as f64 / std::f64::consts::LN_2 / heldout.bytes.max(1) as f64;
    Ok(format!(
        "# A small language model\n\n\
        Made by `lapidary pretrain {}`: a Llama-family transformer of {:.2} million weights (f16), trained from scratch on\n\
        {} tokens of `{}`.\n\n\
        | | |\n|---|---|\n\
        | layers, width, heads | {}, {}, {} |\n\
        | MLP width | {} |\n\
        | vocabulary (byte-level BPE, its own) | {} |\n\
        | context | {} tokens |\n\
        | held-out text (`{}`, never trained on) | {} tokens |\n\
        | held-out loss | {:.4} nats per token, perplexity {:.1}, {:.3} bits per byte |\n\n\
        How it continues \"{prompt}\" (temperature 0.7, top-k 40, seed 0):\n\n\
        > {prompt}{}\n",
        recipe
            .file_name()
            .map_or("CONFIG".into(), |n| n.to_string_lossy()),
        c.n_params() as f64 / 1e6,
        config.tokens,
        config.corpus,
        c.n_layers(),
        c.d_model,
        c.n_heads,
        c.d_mlp,
        c.d_vocab,
        c.n_ctx,
        config.heldout,
        heldout.tokens,
        heldout.loss,
        heldout.loss.exp(),
        bits,
        text.replace('\n', "\n> "),
    ))
}
