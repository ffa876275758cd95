//! Training a Llama-family model, from random weights or from trained ones: gradients of the
//! next-token loss, AdamW (Loshchilov & Hutter 2019), gradients clipped to unit norm. Matrices
//! inserted at hook points (codebooks) get their gradients in the same pass.

use crate::ModelError;
use crate::config::{Activation, Family, ModelConfig};
use crate::hook::HookPoint;
use crate::language_model::LanguageModel;
use crate::rotary::RopeScaling;
use crate::run::{HookedRun, Intervention};
use crate::tokenizer::Tokenizer;
use crate::transformer::{Extras, forward};
use crate::weights::{Param, Weights};
use burn::tensor::{Device, Distribution, IndexingUpdateOp, Int, Tensor, TensorData, activation};
use lapidary_kernels::{AdamStep, Moments, adam_step};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use std::cell::RefCell;

mod files;
mod small_model;

pub use small_model::SmallModel;
use small_model::{random_weights, standard_normal};

/// Token sequences of one step, all of one length, and the token that follows each input.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenBatch {
    /// `[sequences * length]`
    pub inputs: Vec<i32>,
    /// `[sequences * length]`
    pub targets: Vec<i32>,
    /// Tokens of a sequence.
    pub length: usize,
}

impl TokenBatch {
    /// Sequences of `length` tokens of a text, which begin at `starts`. An input is BOS, then the
    /// text but for its last token.
    ///
    /// # Panics
    /// When a sequence reaches beyond the text.
    pub fn of_text(
        text: &[u32],
        bos: u32,
        starts: impl Iterator<Item = usize>,
        length: usize,
    ) -> Self {
        let (mut inputs, mut targets) = (vec![], vec![]);
        for start in starts {
            let text = text[start..start + length].iter().map(|t| *t as i32);
            inputs.push(bos as i32);
            inputs.extend(text.clone().take(length - 1));
            targets.extend(text);
        }
        Self {
            inputs,
            targets,
            length,
        }
    }
}

/// The learning rate of a step, counted from 1: linear warm-up to `lr`, then a cosine to a
/// twentieth of it at the last of `steps`.
pub fn warmup_then_cosine(lr: f32, step: u64, warmup_steps: u64, steps: u64) -> f32 {
    let (step, warmup) = (step as f32, warmup_steps as f32);
    if step <= warmup {
        return lr * step / warmup;
    }
    let progress = (step - warmup) / (steps as f32 - warmup).max(1.0);
    let cosine = 0.5 * (1.0 + (std::f32::consts::PI * progress.min(1.0)).cos());
    lr * (0.05 + 0.95 * cosine)
}

/// A matrix that is trained along with the model, in a function of the value at a hook point.
pub struct Inserted<'a, R> {
    /// Where.
    pub at: HookPoint,
    /// What is trained.
    pub matrix: Tensor<2>,
    /// The value there, `[batch, pos, width]`, and the matrix, both tracking gradients, to what
    /// takes the value's place.
    pub function: &'a (dyn Fn(Tensor<3>, Tensor<2>) -> Replaced<R> + Sync),
}

/// What an [`Inserted`] function makes of a value.
pub struct Replaced<R> {
    /// The value in its place, of the same shape.
    pub value: Tensor<3>,
    /// A loss of its own, summed over positions, `[1]`; its mean over the positions of the batch is
    /// added to the model's loss.
    pub loss: Option<Tensor<1>>,
    /// What the caller wants to know.
    pub record: R,
}

/// What [`ModelTrainer::gradients`] found for one batch.
pub struct BatchGradients<R> {
    /// Next-token cross-entropy, nats a token.
    pub loss: f64,
    /// Mean over positions of the losses of inserted functions.
    pub inserted_loss: f64,
    /// For every weight of the model in visiting order, vectors as one-row matrices.
    pub weights: Vec<Tensor<2>>,
    /// For every inserted matrix.
    pub inserted: Vec<Tensor<2>>,
    /// For every inserted function its records, in the order of the batch's sequences.
    pub records: Vec<Vec<R>>,
}

#[derive(Clone)]
enum ParamMoments {
    Vector(Moments<1>),
    Matrix(Moments<2>),
}

/// A model in training: its weights with Adam's moments.
pub struct ModelTrainer {
    config: ModelConfig,
    weights: Weights,
    moments: Vec<ParamMoments>,
    step: u64,
    device: Device,
}

impl ModelTrainer {
    /// Starts from random weights: normal with standard deviation 0.02, those that write to the
    /// residual stream scaled down by √(2 layers) (GPT-2's recipe); norms start at one. The same
    /// weights on every device.
    pub fn random(model: &SmallModel, seed: u64, device: &Device) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut normal = |shape: [usize; 2], std: f64| {
            let values: Vec<f32> = (0..shape[0] * shape[1])
                .map(|_| (std * standard_normal(&mut rng)) as f32)
                .collect();
            Tensor::from_data(TensorData::new(values, shape), device)
        };
        let config = model.config();
        let weights = random_weights(&config, &mut normal, device);
        Self::new(config, weights, device)
    }

    /// The same with weights from the device's own generator, which the draw seeds.
    pub(crate) fn random_on_device(
        config: ModelConfig,
        rng: &mut ChaCha8Rng,
        device: &Device,
    ) -> Self {
        device.seed(rng.random());
        let mut normal = |shape: [usize; 2], std: f64| {
            Tensor::<2>::random(shape, Distribution::Normal(0.0, std), device)
        };
        let weights = random_weights(&config, &mut normal, device);
        Self::new(config, weights, device)
    }

    /// Starts from the weights of a trained model.
    ///
    /// # Errors
    /// When the model is not of the family that [`Self::save`] writes: Llama, without biases.
    pub fn of_model(model: &LanguageModel) -> Result<Self, ModelError> {
        let c = model.config();
        let plain = c.family == Family::Llama
            && c.activation == Activation::Silu
            && !(c.qkv_bias || c.o_bias || c.mlp_bias || c.qk_norm)
            && c.layers.iter().all(|l| {
                let scaling = l.rope.as_ref().map(|r| &r.scaling);
                scaling == Some(&RopeScaling::None)
            });
        if !plain {
            return Err(ModelError::Pretrain {
                step: 0,
                problem: format!(
                    "model `{}`: found family {:?} with its own choices, expected a plain Llama \
                     (SiLU, no biases, rotary positions without scaling)",
                    model.name(),
                    c.family
                ),
            });
        }
        model.check_head()?;
        let (config, weights) = (c.clone(), model.weights().clone());
        Ok(Self::new(config, weights, model.device()))
    }

    fn new(config: ModelConfig, mut weights: Weights, device: &Device) -> Self {
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
        Self {
            config,
            weights,
            moments,
            step: 0,
            device: device.clone(),
        }
    }

    /// Sizes and choices.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Steps done.
    pub fn step_count(&self) -> u64 {
        self.step
    }

    /// The loss of a batch and its gradients, with functions inserted at hook points.
    ///
    /// `at_once` sequences go through the model at a time, on several threads: elementwise
    /// operations on the CPU use one thread each, and small pieces stay in its cache. The pieces
    /// are added in order, so the sum's bits depend on `at_once` and not on the number of threads.
    ///
    /// # Panics
    /// When the batch has no sequence.
    pub fn gradients<R: Send>(
        &self,
        batch: &TokenBatch,
        at_once: usize,
        inserted: &[Inserted<'_, R>],
    ) -> BatchGradients<R> {
        let rows = at_once.max(1) * batch.length;
        let pieces: Vec<BatchGradients<R>> = batch
            .inputs
            .par_chunks(rows)
            .zip(batch.targets.par_chunks(rows))
            .map(|(inputs, targets)| {
                self.piece(
                    [inputs, targets],
                    batch.length,
                    batch.inputs.len(),
                    inserted,
                )
            })
            .collect();
        let add = |sum: Vec<Tensor<2>>, more: Vec<Tensor<2>>| {
            sum.into_iter().zip(more).map(|(a, b)| a + b).collect()
        };
        pieces
            .into_iter()
            .reduce(|mut all, piece| {
                for (records, more) in all.records.iter_mut().zip(piece.records) {
                    records.extend(more);
                }
                BatchGradients {
                    loss: all.loss + piece.loss,
                    inserted_loss: all.inserted_loss + piece.inserted_loss,
                    weights: add(all.weights, piece.weights),
                    inserted: add(all.inserted, piece.inserted),
                    records: all.records,
                }
            })
            .expect("a batch holds a sequence")
    }

    /// The part of a batch's mean loss that these sequences bear. `rows` is the whole batch's
    /// number of targets.
    fn piece<R>(
        &self,
        [inputs, targets]: [&[i32]; 2],
        length: usize,
        rows: usize,
        inserted: &[Inserted<'_, R>],
    ) -> BatchGradients<R> {
        let tokens = Tensor::<2, Int>::from_data(
            TensorData::new(inputs.to_vec(), [inputs.len() / length, length]),
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
        let matrices: Vec<Tensor<2>> = inserted
            .iter()
            .map(|i| i.matrix.clone().autodiff().require_grad())
            .collect();
        let records = RefCell::new(inserted.iter().map(|_| vec![]).collect::<Vec<Vec<R>>>());
        let own_loss: RefCell<Option<Tensor<1>>> = RefCell::new(None);
        let functions: Vec<_> = inserted
            .iter()
            .zip(&matrices)
            .enumerate()
            .map(|(number, (inserted, matrix))| {
                let (records, own_loss) = (&records, &own_loss);
                move |value: Tensor<3>| {
                    let replaced = (inserted.function)(value, matrix.clone());
                    records.borrow_mut()[number].push(replaced.record);
                    if let Some(loss) = replaced.loss {
                        let mut sum = own_loss.borrow_mut();
                        *sum = Some(match sum.take() {
                            Some(sum) => sum + loss,
                            None => loss,
                        });
                    }
                    replaced.value
                }
            })
            .collect();
        let interventions: Vec<Intervention<'_>> = inserted
            .iter()
            .zip(&functions)
            .map(|(inserted, function)| Intervention::function(inserted.at, function))
            .collect();
        let run = HookedRun {
            logits: true,
            interventions: &interventions,
            ..Default::default()
        };
        let extras = Extras::default();
        let logits = forward(&self.config, &tracked, tokens.autodiff(), &run, extras)
            .output
            .logits
            .expect("asked for");
        let logits = logits.reshape([inputs.len(), self.config.d_vocab]); // [n, d_vocab]
        let (loss, gradient) = cross_entropy(logits.clone().inner(), targets, rows);
        // The gradient with respect to the logits is known in closed form: its inner product with
        // them has just that gradient, and costs one pass where a recorded log-softmax costs four.
        let mut scalar = (logits * gradient.autodiff()).sum();
        let mut inserted_loss = 0.0;
        if let Some(own) = own_loss.into_inner() {
            let own = own / rows as f32;
            inserted_loss = f64::from(own.clone().inner().into_scalar::<f32>());
            scalar = scalar + own;
        }
        let mut gradients = scalar.backward();
        let mut weights = Vec::with_capacity(self.moments.len());
        tracked.each(&mut |param| {
            weights.push(match param {
                Param::Vector(p) => p
                    .grad_remove(&mut gradients)
                    .expect("every weight is used")
                    .unsqueeze(),
                Param::Matrix(p) => p.grad_remove(&mut gradients).expect("every weight is used"),
            });
        });
        let of = |matrix: &Tensor<2>| {
            let gradient = matrix.grad_remove(&mut gradients);
            gradient.unwrap_or_else(|| matrix.clone().inner().zeros_like())
        };
        BatchGradients {
            loss,
            inserted_loss,
            weights,
            inserted: matrices.iter().map(of).collect(),
            records: records.into_inner(),
        }
    }

    /// One AdamW step on the model's weights (β 0.9 and 0.95) with gradients of
    /// [`Self::gradients`], clipped to unit norm all together. Norms' weights are not decayed.
    /// Returns the norm before clipping.
    ///
    /// # Errors
    /// When the loss or the norm is not finite.
    pub fn update(
        &mut self,
        loss: f64,
        gradients: Vec<Tensor<2>>,
        lr: f32,
        weight_decay: f32,
    ) -> Result<f32, ModelError> {
        let (loss, grad_norm) = (loss as f32, norm(&gradients));
        if !loss.is_finite() || !grad_norm.is_finite() {
            let problem = format!("loss {loss}, gradient norm {grad_norm}; try a lower `lr`");
            return Err(ModelError::Pretrain {
                step: self.step + 1,
                problem,
            });
        }
        self.step += 1;
        let clip = (1.0 / grad_norm).min(1.0);
        let mut grads = gradients.into_iter();
        let mut moments = std::mem::take(&mut self.moments).into_iter();
        let mut updated = Vec::with_capacity(grads.len());
        let step = self.step;
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
        Ok(grad_norm)
    }

    /// The model as it stands.
    pub fn model(&self, name: &str, tokenizer: Option<Tokenizer>) -> LanguageModel {
        let (config, weights) = (self.config.clone(), self.weights.clone());
        LanguageModel::new(name, config, weights, tokenizer, &self.device)
    }
}

/// The Euclidean norm of several matrices together.
fn norm(matrices: &[Tensor<2>]) -> f32 {
    let square: f64 = matrices
        .iter()
        .map(|g| f64::from(g.clone().square().sum().into_scalar::<f32>()))
        .sum();
    square.sqrt() as f32
}

/// Takes a tensor out of its place, so that the update can reuse its memory.
fn take<const D: usize>(place: &mut Tensor<D>) -> Tensor<D> {
    let device = place.device();
    std::mem::replace(place, Tensor::empty([0; D], &device))
}

/// Next-token cross-entropy in nats, summed and divided by `rows`, and its gradient with respect to
/// `logits`, `[n, d_vocab]`.
pub(crate) fn cross_entropy(
    logits: Tensor<2>,
    targets: Tensor<2, Int>,
    rows: usize,
) -> (f64, Tensor<2>) {
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
