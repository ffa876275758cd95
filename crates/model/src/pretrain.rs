//! Training a small Llama-family model from scratch on a stream of tokens: AdamW (Loshchilov &
//! Hutter 2019), warm-up, cosine decay, gradients clipped to unit norm. Enough to make a model
//! worth looking into, on a CPU, in about an hour.

use crate::ModelError;
use crate::language_model::LanguageModel;
use crate::run::HookedRun;
use crate::tokenizer::Tokenizer;
use crate::training::{ModelTrainer, SmallModel, TokenBatch, cross_entropy, warmup_then_cosine};
use burn::tensor::{Device, Int, Tensor, TensorData};
use lapidary_io::settings::Reader;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::Serialize;
use std::path::Path;

/// The file that `lapidary pretrain` reads.
#[derive(Debug, Clone, PartialEq)]
pub struct PretrainConfig {
    /// Training text: a file, a folder, or `embedded`.
    pub corpus: String,
    /// Text that is never trained on, for the loss in the model card.
    pub heldout: String,
    /// Seeds the weights and the order of the text.
    pub seed: u64,
    /// Size of the vocabulary that is learnt.
    pub d_vocab: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Number of layers.
    pub n_layers: usize,
    /// Heads a layer.
    pub n_heads: usize,
    /// Width of the MLP's hidden layer.
    pub d_mlp: usize,
    /// Longest sequence, in tokens.
    pub n_ctx: usize,
    /// Tokens to train on; past the corpus's end it is read again in another order.
    pub tokens: u64,
    /// Sequences a step.
    pub batch: usize,
    /// Highest learning rate.
    pub lr: f32,
    /// Steps of linear warm-up.
    pub warmup_steps: u64,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// Steps between two writings of the model as it stands; 0 writes only the finished one.
    pub save_every_steps: u64,
}

impl Default for PretrainConfig {
    fn default() -> Self {
        Self {
            corpus: "embedded".into(),
            heldout: "embedded:heldout".into(),
            seed: 0,
            d_vocab: 4096,
            d_model: 256,
            n_layers: 4,
            n_heads: 4,
            d_mlp: 688,
            n_ctx: 256,
            tokens: 6_000_000,
            batch: 16,
            lr: 3e-3,
            warmup_steps: 100,
            weight_decay: 0.1,
            save_every_steps: 0,
        }
    }
}

impl PretrainConfig {
    fn model(&self, tokenizer: &Tokenizer) -> SmallModel {
        SmallModel {
            d_vocab: tokenizer.len(),
            d_model: self.d_model,
            n_layers: self.n_layers,
            n_heads: self.n_heads,
            d_mlp: self.d_mlp,
            n_ctx: self.n_ctx,
            bos: tokenizer.bos(),
            eos: tokenizer.eos().into_iter().collect(),
        }
    }

    /// Reads a recipe; each of `set` is `key=value` and wins over the file.
    ///
    /// # Errors
    /// When the file cannot be read, is not TOML, has an unknown key or a value that cannot be.
    pub fn load(path: &Path, set: &[String]) -> Result<Self, ModelError> {
        let text = lapidary_io::read_text(path)?;
        let default = Self::default();
        let mut r = Reader::new(&path.display().to_string(), &text, set)?;
        let config = Self {
            corpus: r.or("corpus", default.corpus)?,
            heldout: r.or("heldout", default.heldout)?,
            seed: r.or("seed", default.seed)?,
            d_vocab: r.or("d_vocab", default.d_vocab)?,
            d_model: r.or("d_model", default.d_model)?,
            n_layers: r.or("n_layers", default.n_layers)?,
            n_heads: r.or("n_heads", default.n_heads)?,
            d_mlp: r.or("d_mlp", default.d_mlp)?,
            n_ctx: r.or("n_ctx", default.n_ctx)?,
            tokens: r.or("tokens", default.tokens)?,
            batch: r.or("batch", default.batch)?,
            lr: r.or("lr", f64::from(default.lr))? as f32,
            warmup_steps: r.or("warmup_steps", default.warmup_steps)?,
            weight_decay: r.or("weight_decay", f64::from(default.weight_decay))? as f32,
            save_every_steps: r.or("save_every_steps", default.save_every_steps)?,
        };
        for (key, found, least) in [
            ("d_vocab", config.d_vocab, 257), // 256 bytes and <|endoftext|>
            ("d_model", config.d_model, 2),
            ("n_layers", config.n_layers, 1),
            ("n_heads", config.n_heads, 1),
            ("d_mlp", config.d_mlp, 1),
            ("n_ctx", config.n_ctx, 2),
            ("batch", config.batch, 1),
        ] {
            if found < least {
                return Err(r.wrong(key, found, &format!("at least {least}")).into());
            }
        }
        if !config.d_model.is_multiple_of(2 * config.n_heads) {
            let expected = format!("heads of one even width in d_model = {}", config.d_model);
            return Err(r.wrong("n_heads", config.n_heads, &expected).into());
        }
        r.finish()?;
        Ok(config)
    }
}

/// What a step did.
#[derive(Debug, Clone, Serialize)]
pub struct PretrainReport {
    /// Steps done.
    pub step: u64,
    /// Steps in all.
    pub steps: u64,
    /// Tokens trained on.
    pub tokens: u64,
    /// Next-token cross-entropy of this step's batch, nats a token.
    pub loss: f32,
    /// Learning rate of this step.
    pub lr: f32,
    /// Norm of the gradient before clipping.
    pub grad_norm: f32,
}

/// Sequences of one forward and backward pass.
const SEQUENCES_AT_ONCE: usize = 4;

/// A model in training.
pub struct Pretrainer {
    config: PretrainConfig,
    trainer: ModelTrainer,
    stream: Vec<u32>,
    order: Vec<usize>,
    rng: ChaCha8Rng,
    bos: u32,
}

impl Pretrainer {
    /// Starts from random weights. `documents` are token ids without special tokens.
    ///
    /// # Errors
    /// When the documents hold fewer tokens than one sequence.
    pub fn new(
        config: &PretrainConfig,
        tokenizer: &Tokenizer,
        documents: &[Vec<u32>],
        device: &Device,
    ) -> Result<Self, ModelError> {
        let bos = tokenizer
            .bos()
            .expect("a trained tokenizer has <|endoftext|>");
        let mut stream = Vec::new();
        for document in documents {
            stream.extend_from_slice(document);
            stream.push(bos);
        }
        if stream.len() <= config.n_ctx {
            let problem = format!(
                "the corpus holds {} tokens, one sequence takes {}",
                stream.len(),
                config.n_ctx
            );
            return Err(ModelError::Pretrain { step: 0, problem });
        }
        let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
        let model = config.model(tokenizer).config();
        let trainer = ModelTrainer::random_on_device(model, &mut rng, device);
        Ok(Self {
            config: config.clone(),
            trainer,
            stream,
            order: vec![],
            rng,
            bos,
        })
    }

    /// Steps that the configuration asks for.
    pub fn steps(&self) -> u64 {
        self.config
            .tokens
            .div_ceil((self.config.batch * self.config.n_ctx) as u64)
            .max(1)
    }

    /// Steps done.
    pub fn done(&self) -> u64 {
        self.trainer.step_count()
    }

    /// Tokens a pass over the corpus.
    pub fn corpus_tokens(&self) -> usize {
        self.stream.len()
    }

    /// One batch. An input is BOS, then the text; each pass over the corpus cuts it at other places
    /// and in another order.
    fn batch(&mut self) -> TokenBatch {
        let n = self.config.n_ctx;
        let mut starts = vec![];
        for _ in 0..self.config.batch {
            if self.order.is_empty() {
                let offset = self.rng.random_range(0..n.min(self.stream.len() - n));
                self.order = (offset..=self.stream.len() - n).step_by(n).collect();
                self.order.shuffle(&mut self.rng);
            }
            starts.push(self.order.pop().expect("the order was just filled"));
        }
        TokenBatch::of_text(&self.stream, self.bos, starts.into_iter(), n)
    }

    /// One step.
    ///
    /// # Errors
    /// When the loss is no longer finite.
    pub fn step(&mut self) -> Result<PretrainReport, ModelError> {
        let batch = self.batch();
        let found = self.trainer.gradients::<()>(&batch, SEQUENCES_AT_ONCE, &[]);
        let step = self.done() + 1;
        let lr = self.learning_rate(step);
        let weight_decay = self.config.weight_decay;
        let grad_norm = self
            .trainer
            .update(found.loss, found.weights, lr, weight_decay)?;
        Ok(PretrainReport {
            step,
            steps: self.steps(),
            tokens: step * batch.inputs.len() as u64,
            loss: found.loss as f32,
            lr,
            grad_norm,
        })
    }

    /// Linear warm-up, then a cosine to a twentieth.
    fn learning_rate(&self, step: u64) -> f32 {
        let c = &self.config;
        warmup_then_cosine(c.lr, step, c.warmup_steps, self.steps())
    }

    /// Writes `config.json`, `model.safetensors` (f16) and `tokenizer.json` into a folder, each by
    /// way of a temporary file.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, folder: &Path, tokenizer: &Tokenizer) -> Result<(), ModelError> {
        self.trainer.save(folder, Some(tokenizer), false)
    }
}

/// Mean cross-entropy over text cut into sequences of `n_ctx` tokens after BOS, nats a token, and
/// the tokens counted.
///
/// # Errors
/// When a token is outside the vocabulary.
pub fn mean_loss(model: &LanguageModel, documents: &[Vec<u32>]) -> Result<(f64, u64), ModelError> {
    let n = model.config().n_ctx;
    let bos = model.config().bos.unwrap_or(0);
    let texts: Vec<&[u32]> = documents.iter().flat_map(|d| d.chunks(n)).collect();
    let losses: Result<Vec<f64>, ModelError> = texts
        .par_iter()
        .map(|text| {
            let inputs: Vec<u32> = std::iter::once(bos)
                .chain(text[..text.len() - 1].iter().copied())
                .collect();
            let tokens = model.tokens(&[inputs])?;
            let run = HookedRun {
                logits: true,
                ..Default::default()
            };
            let logits = model.run(tokens, &run)?.logits.expect("asked for");
            let logits = logits.reshape([text.len(), model.config().d_vocab]);
            let targets: Vec<i32> = text.iter().map(|t| *t as i32).collect();
            let targets = Tensor::<2, Int>::from_data(
                TensorData::new(targets, [text.len(), 1]),
                model.device(),
            );
            Ok(cross_entropy(logits, targets, 1).0)
        })
        .collect();
    let count = texts.iter().map(|t| t.len() as u64).sum();
    Ok((
        losses?.iter().sum::<f64>() / f64::max(count as f64, 1.0),
        count,
    ))
}
