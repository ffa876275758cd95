//! Training a small Llama-family model from scratch on a stream of tokens: AdamW (Loshchilov &
//! Hutter 2019), warm-up, cosine decay, gradients clipped to unit norm. Enough to make a model
//! worth looking into, on a CPU, in about an hour.

use crate::config::{Activation, Family, LayerConfig, ModelConfig, Norm};
use crate::language_model::LanguageModel;
use crate::rotary::{Rope, RopeScaling};
use crate::run::HookedRun;
use crate::tokenizer::Tokenizer;
use crate::transformer::{Extras, forward};
use crate::weights::{Layer, Linear, NormWeights, Param, Weights};
use crate::{ModelError, Outgoing, Values, family, write_tensors};
use burn::tensor::{Device, Distribution, IndexingUpdateOp, Int, Tensor, TensorData, activation};
use lapidary_io::settings::Reader;
use lapidary_io::write_atomically;
use lapidary_kernels::{AdamStep, Moments, adam_step};
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
    fn model(&self, tokenizer: &Tokenizer) -> ModelConfig {
        let d_head = self.d_model / self.n_heads;
        let rope = Rope {
            theta: 10000.0,
            dims: d_head,
            scaling: RopeScaling::None,
        };
        let layer = LayerConfig {
            window: None,
            rope: Some(rope),
        };
        ModelConfig {
            family: Family::Llama,
            d_model: self.d_model,
            n_heads: self.n_heads,
            n_kv_heads: self.n_heads,
            d_head,
            d_mlp: self.d_mlp,
            d_vocab: tokenizer.len(),
            n_ctx: self.n_ctx,
            norm: Norm::Rms,
            norm_eps: 1e-5,
            parallel: false,
            post_norms: false,
            qk_norm: false,
            gated: true,
            learned_positions: false,
            embed_scale: 1.0,
            attn_scale: (d_head as f64).powf(-0.5),
            attn_softcap: None,
            logit_softcap: None,
            layers: vec![layer; self.n_layers],
            activation: Activation::Silu,
            qkv_bias: false,
            o_bias: false,
            mlp_bias: false,
            tied: true,
            bos: tokenizer.bos(),
            eos: tokenizer.eos().into_iter().collect(),
            pad: None,
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

enum ParamMoments {
    Vector(Moments<1>),
    Matrix(Moments<2>),
}

/// A model in training.
pub struct Pretrainer {
    config: PretrainConfig,
    model: ModelConfig,
    weights: Weights,
    moments: Vec<ParamMoments>,
    stream: Vec<u32>,
    order: Vec<usize>,
    rng: ChaCha8Rng,
    step: u64,
    bos: u32,
    device: Device,
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
        let model = config.model(tokenizer);
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
        let mut weights = random_weights(&model, &mut rng, device);
        let mut moments = Vec::new();
        weights.each(&mut |param| {
            moments.push(match param {
                Param::Vector(p) => ParamMoments::Vector(Moments {
                    m: p.zeros_like(),
                    v: p.zeros_like(),
                }),
                Param::Matrix(p) => ParamMoments::Matrix(Moments {
                    m: p.zeros_like(),
                    v: p.zeros_like(),
                }),
            });
        });
        let device = device.clone();
        Ok(Self {
            config: config.clone(),
            model,
            weights,
            moments,
            stream,
            order: vec![],
            rng,
            step: 0,
            bos,
            device,
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
        self.step
    }

    /// Tokens a pass over the corpus.
    pub fn corpus_tokens(&self) -> usize {
        self.stream.len()
    }

    /// Inputs and targets of one batch, `[batch * n_ctx]` each. An input is BOS, then the text;
    /// each pass over the corpus cuts it at other places and in another order.
    fn batch(&mut self) -> (Vec<i32>, Vec<i32>) {
        let n = self.config.n_ctx;
        let (mut inputs, mut targets) = (vec![], vec![]);
        for _ in 0..self.config.batch {
            if self.order.is_empty() {
                let offset = self.rng.random_range(0..n.min(self.stream.len() - n));
                self.order = (offset..=self.stream.len() - n).step_by(n).collect();
                self.order.shuffle(&mut self.rng);
            }
            let start = self.order.pop().expect("the order was just filled");
            let text = self.stream[start..start + n].iter().map(|t| *t as i32);
            inputs.push(self.bos as i32);
            inputs.extend(text.clone().take(n - 1));
            targets.extend(text);
        }
        (inputs, targets)
    }

    /// One step.
    ///
    /// # Errors
    /// When the loss is no longer finite.
    pub fn step(&mut self) -> Result<PretrainReport, ModelError> {
        let (n, batch) = (self.config.n_ctx, self.config.batch);
        let (inputs, targets) = self.batch();
        // Sequences are worked on a few at a time, several threads at once: elementwise operations
        // on the CPU use one thread each, and small pieces stay in its cache. The pieces are added
        // in order, so the sum's bits do not depend on the number of threads.
        let rows = SEQUENCES_AT_ONCE * n;
        let pieces: Vec<(f64, Vec<Tensor<2>>)> = inputs
            .par_chunks(rows)
            .zip(targets.par_chunks(rows))
            .map(|(inputs, targets)| self.gradients(inputs, targets, batch * n))
            .collect();
        let (loss, mut grads) = pieces
            .into_iter()
            .reduce(|(loss, sum), (l, grads)| {
                (
                    loss + l,
                    sum.into_iter().zip(grads).map(|(a, b)| a + b).collect(),
                )
            })
            .expect("a batch holds a sequence");
        let square: f64 = grads
            .iter()
            .map(|g| f64::from(g.clone().square().sum().into_scalar::<f32>()))
            .sum();
        let (loss, grad_norm) = (loss as f32, square.sqrt() as f32);
        if !loss.is_finite() || !grad_norm.is_finite() {
            let problem = format!("loss {loss}, gradient norm {grad_norm}; try a lower `lr`");
            return Err(ModelError::Pretrain {
                step: self.step + 1,
                problem,
            });
        }
        self.step += 1;
        let lr = self.learning_rate();
        let clip = (1.0 / grad_norm).min(1.0);
        let mut grads = grads.drain(..);
        let mut moments = std::mem::take(&mut self.moments).into_iter();
        let mut updated = Vec::with_capacity(grads.len());
        let (step, weight_decay) = (self.step, self.config.weight_decay);
        self.weights.each(&mut |param| {
            let grad = grads.next().expect("one gradient a weight") * clip;
            let adam = AdamStep {
                lr,
                beta1: 0.9,
                beta2: 0.95,
                eps: 1e-8,
                weight_decay,
                step,
            };
            match (param, moments.next().expect("one pair of moments a weight")) {
                (Param::Vector(p), ParamMoments::Vector(m)) => {
                    // Norms' weights are not decayed.
                    let adam = AdamStep {
                        weight_decay: 0.0,
                        ..adam
                    };
                    let grad = grad.squeeze_dim(0);
                    let (next, m) = adam_step(take(p), grad, m, &adam);
                    *p = next;
                    updated.push(ParamMoments::Vector(m));
                }
                (Param::Matrix(p), ParamMoments::Matrix(m)) => {
                    let (next, m) = adam_step(take(p), grad, m, &adam);
                    *p = next;
                    updated.push(ParamMoments::Matrix(m));
                }
                _ => unreachable!("weights are always visited in one order"),
            }
        });
        self.moments = updated;
        let tokens = self.step * (batch * n) as u64;
        Ok(PretrainReport {
            step: self.step,
            steps: self.steps(),
            tokens,
            loss,
            lr,
            grad_norm,
        })
    }

    /// The part of a batch's mean loss that these sequences bear, and its gradient for every weight
    /// in visiting order, vectors as one-row matrices. `rows` is the whole batch's number of
    /// targets.
    fn gradients(&self, inputs: &[i32], targets: &[i32], rows: usize) -> (f64, Vec<Tensor<2>>) {
        let n = self.config.n_ctx;
        let tokens = Tensor::<2, Int>::from_data(
            TensorData::new(inputs.to_vec(), [inputs.len() / n, n]),
            &self.device,
        );
        let targets = Tensor::<2, Int>::from_data(
            TensorData::new(targets.to_vec(), [inputs.len(), 1]),
            &self.device,
        );
        let mut tracked = self.weights.clone();
        tracked.each(&mut |param| match param {
            Param::Vector(p) => *p = p.clone().autodiff().require_grad(),
            Param::Matrix(p) => *p = p.clone().autodiff().require_grad(),
        });
        let run = HookedRun {
            logits: true,
            ..Default::default()
        };
        let extras = Extras::default();
        let logits = forward(&self.model, &tracked, tokens.autodiff(), &run, extras)
            .output
            .logits
            .expect("asked for");
        let logits = logits.reshape([inputs.len(), self.model.d_vocab]); // [n, d_vocab]
        let (loss, gradient) = cross_entropy(logits.clone().inner(), targets, rows);
        // The gradient with respect to the logits is known in closed form: its inner product with
        // them has just that gradient, and costs one pass where a recorded log-softmax costs four.
        let mut gradients = (logits * gradient.autodiff()).sum().backward();
        let mut grads = Vec::with_capacity(self.moments.len());
        tracked.each(&mut |param| {
            grads.push(match param {
                Param::Vector(p) => p
                    .grad_remove(&mut gradients)
                    .expect("every weight is used")
                    .unsqueeze(),
                Param::Matrix(p) => p.grad_remove(&mut gradients).expect("every weight is used"),
            });
        });
        (loss, grads)
    }

    /// Linear warm-up, then a cosine to a twentieth.
    fn learning_rate(&self) -> f32 {
        let (step, warmup) = (self.step as f32, self.config.warmup_steps as f32);
        if step <= warmup {
            return self.config.lr * step / warmup;
        }
        let progress = (step - warmup) / (self.steps() as f32 - warmup).max(1.0);
        let cosine = 0.5 * (1.0 + (std::f32::consts::PI * progress.min(1.0)).cos());
        self.config.lr * (0.05 + 0.95 * cosine)
    }

    /// The model as it stands.
    pub fn model(&self, name: &str, tokenizer: Tokenizer) -> LanguageModel {
        LanguageModel::new(
            name,
            self.model.clone(),
            self.weights.clone(),
            Some(tokenizer),
            &self.device,
        )
    }

    /// Writes `config.json`, `model.safetensors` (f16) and `tokenizer.json` into a folder, each by
    /// way of a temporary file.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, folder: &Path, tokenizer: &Tokenizer) -> Result<(), ModelError> {
        std::fs::create_dir_all(folder).map_err(ModelError::write(folder))?;
        let tensors: Vec<Outgoing> = family::llama::write_weights(&self.model, &self.weights)
            .into_iter()
            .map(|(name, tensor)| {
                // Norms' weights travel as one-row matrices.
                let shape = match tensor.dims() {
                    [1, n] => vec![n],
                    dims => dims.to_vec(),
                };
                Outgoing {
                    name,
                    shape,
                    values: Values::F16(tensor.into_data().iter::<f32>().collect()),
                }
            })
            .collect();
        let metadata = Some(("format", "pt".to_owned()));
        write_tensors(&folder.join("model.safetensors"), &tensors, metadata)?;
        let config = serde_json::to_string_pretty(&family::llama::write_config(&self.model))
            .expect("plain JSON");
        write_atomically(&folder.join("config.json"), config.as_bytes())?;
        let tokenizer = tokenizer.to_json()?;
        write_atomically(&folder.join("tokenizer.json"), tokenizer.as_bytes())?;
        Ok(())
    }
}

/// Takes a tensor out of its place, so that the update can reuse its memory.
fn take<const D: usize>(place: &mut Tensor<D>) -> Tensor<D> {
    let device = place.device();
    std::mem::replace(place, Tensor::empty([0; D], &device))
}

/// Next-token cross-entropy in nats, summed and divided by `rows`, and its gradient with respect to
/// `logits`, `[n, d_vocab]`.
fn cross_entropy(logits: Tensor<2>, targets: Tensor<2, Int>, rows: usize) -> (f64, Tensor<2>) {
    let n = logits.dims()[0];
    let log_p = activation::log_softmax(logits, 1); // [n, d_vocab]
    let loss = log_p
        .clone()
        .gather(1, targets.clone())
        .sum()
        .neg()
        .into_scalar::<f32>();
    let minus_one = Tensor::full([n, 1], -1.0, &targets.device());
    let gradient = log_p
        .exp()
        .scatter(1, targets, minus_one, IndexingUpdateOp::Add)
        / rows as f32;
    (f64::from(loss) / rows as f64, gradient)
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

/// Normal weights of standard deviation 0.02, those that write to the residual stream scaled down
/// by √(2 layers) (GPT-2's recipe); norms start at one.
fn random_weights(c: &ModelConfig, rng: &mut ChaCha8Rng, device: &Device) -> Weights {
    device.seed(rng.random());
    let normal = |shape: [usize; 2], std: f64| {
        Tensor::<2>::random(shape, Distribution::Normal(0.0, std), device)
    };
    let ones = || NormWeights {
        weight: Tensor::ones([c.d_model], device),
        bias: None,
    };
    let residual = 0.02 / (2.0 * c.n_layers() as f64).sqrt();
    let linear = |shape, std| Linear {
        weight: normal(shape, std),
        bias: None,
    };
    let heads = c.n_heads * c.d_head;
    let layers = (0..c.n_layers()).map(|_| Layer {
        ln1: ones(),
        qkv: Linear::side_by_side((0..3).map(|_| linear([c.d_model, heads], 0.02)).collect()),
        q_norm: None,
        k_norm: None,
        o: linear([heads, c.d_model], residual),
        ln1_post: None,
        ln2: ones(),
        up: Linear::side_by_side((0..2).map(|_| linear([c.d_model, c.d_mlp], 0.02)).collect()),
        down: linear([c.d_mlp, c.d_model], residual),
        ln2_post: None,
    });
    Weights {
        embed: normal([c.d_vocab, c.d_model], 0.02),
        positions: None,
        layers: layers.collect(),
        final_norm: ones(),
        unembed: None,
        unembed_bias: None,
        headless: false,
    }
}
