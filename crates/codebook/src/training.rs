//! Training a model together with its codebooks, step by step, and its checkpoint.
//!
//! The model is trained by AdamW on the next-token loss; codes too, on the gradients that
//! [`CodeLoss`](crate::CodeLoss) says. Every `replace_every` steps, codes that were not chosen
//! since the last time move to inputs of the step's batch.

use crate::codebook::layer_norm;
use crate::config::{CodebookConfig, Initialization, ModelOptions};
use crate::data::{Data, generator, stream};
use crate::evaluation::{Metrics, evaluate};
use crate::init::{k_means, normal_codes, rows_as_codes};
use crate::inputs::tokens;
use crate::memory::{TRAINED, product, too_large};
use crate::usage::{CodeUsage, replace_dead};
use crate::{Codebook, CodebookError, Codebooks, Placed};
use burn::tensor::{Device, Int, Tensor, TensorData};
use lapidary_io::nan_if_null;
use lapidary_io::tensors::{TensorWriter, Tensors};
use lapidary_kernels::{AdamStep, Moments, adam_step};
use lapidary_model::training::{Inserted, ModelTrainer, Replaced, SmallModel};
use lapidary_model::{HookPoint, HookedRun, LanguageModel};
use serde::{Deserialize, Serialize};

/// Rounds of k-means where codes start from clusters.
const K_MEANS_ROUNDS: usize = 10;

/// Sequences of one forward and backward pass, at least.
const SEQUENCES_AT_ONCE: usize = 4;
/// Tokens of one forward and backward pass, where sequences are short.
const TOKENS_AT_ONCE: usize = 512;

/// What a step did: a line of the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CodebookStep {
    /// Steps done.
    pub step: u64,
    /// Tokens trained on.
    pub tokens: u64,
    /// Next-token cross-entropy of the step's batch, nats per token.
    pub loss: f64,
    /// Weighted squared errors of the codebooks, summed over codebooks, per token.
    #[serde(deserialize_with = "nan_if_null")]
    pub code_loss: f64,
    /// Learning rate.
    pub lr: f32,
    /// Norm of the model's gradient before clipping.
    pub grad_norm: f32,
    /// Share of codes that were not chosen since the last replacement; `None` without codebooks.
    pub frac_unused_codes: Option<f64>,
    /// Metrics after the step, at every `evaluation.every`-th step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<Metrics>,
}

/// Adam's moments and the use of one codebook.
struct Trained {
    moments: Moments<2>,
    usage: CodeUsage,
}

/// What a step remembers of a piece of the batch at one codebook.
struct Record {
    codes: Vec<Tensor<2, Int>>,
    /// What the codebook read, `[n, width]`, where it is needed.
    inputs: Option<Tensor<2>>,
}

/// A model in training with its codebooks.
pub struct CodebookTrainer {
    config: CodebookConfig,
    data: Data,
    model: ModelTrainer,
    codebooks: Codebooks,
    trained: Vec<Trained>,
    device: Device,
}

impl CodebookTrainer {
    /// Starts. `trained` is the model that the config names, unless that is a random one.
    ///
    /// # Errors
    /// When a layer does not exist, there are more codes than activations to start from, or the
    /// model cannot be trained.
    pub fn new(
        config: &CodebookConfig,
        data: Data,
        trained: Option<&LanguageModel>,
        device: &Device,
    ) -> Result<Self, CodebookError> {
        let model = match (&config.model, &data, trained) {
            (
                ModelOptions::Random {
                    d_model,
                    n_layers,
                    n_heads,
                    d_mlp,
                },
                Data::TokFsm(fsm),
                _,
            ) => {
                let shape = SmallModel {
                    d_vocab: fsm.d_vocab(),
                    d_model: *d_model,
                    n_layers: *n_layers,
                    n_heads: *n_heads,
                    d_mlp: *d_mlp,
                    n_ctx: fsm.length(),
                    bos: Some(fsm.bos()),
                    eos: vec![],
                };
                ModelTrainer::random(&shape, config.seed, device)
            }
            (_, _, Some(trained)) => ModelTrainer::of_model(trained)?,
            _ => {
                let expected = "a trained model";
                return Err(CodebookError::value("model.source", "none", expected));
            }
        };
        let codebooks = start(config, &data, &model, device)?;
        let trained = codebooks
            .placed()
            .iter()
            .map(|Placed { codebook, .. }| {
                let zeros = || codebook.codes().zeros_like();
                Trained {
                    moments: Moments {
                        m: zeros(),
                        v: zeros(),
                    },
                    usage: CodeUsage::new(codebook.groups(), codebook.options().n_codes),
                }
            })
            .collect();
        Ok(Self {
            config: config.clone(),
            data,
            model,
            codebooks,
            trained,
            device: device.clone(),
        })
    }

    /// Steps done.
    pub fn step_count(&self) -> u64 {
        self.model.step_count()
    }

    /// The config.
    pub fn config(&self) -> &CodebookConfig {
        &self.config
    }

    /// What the model is trained on.
    pub fn data(&self) -> &Data {
        &self.data
    }

    /// The model in training.
    pub fn trainer(&self) -> &ModelTrainer {
        &self.model
    }

    /// The codebooks as they stand.
    pub fn codebooks(&self) -> &Codebooks {
        &self.codebooks
    }

    /// The model as it stands, without a tokenizer.
    pub fn model(&self) -> LanguageModel {
        self.model.model("codebook", None)
    }

    /// One step.
    ///
    /// # Errors
    /// When the loss is no longer finite.
    pub fn step(&mut self) -> Result<CodebookStep, CodebookError> {
        let step = self.step_count() + 1;
        let batch = self
            .data
            .training(self.config.seed, step, self.config.batch);
        // The first step after a period replaces, so that a run that ends with a period ends with
        // codes that were trained through the whole of it.
        let every = self.config.replace_every;
        let replaces = every > 0 && step > 1 && (step - 1).is_multiple_of(every);
        let found = {
            let functions: Vec<_> = self
                .codebooks
                .placed()
                .iter()
                .map(|Placed { codebook, .. }| {
                    move |value: Tensor<3>, codes: Tensor<2>| snap(codebook, value, codes, replaces)
                })
                .collect();
            let inserted: Vec<Inserted<'_, Record>> = self
                .codebooks
                .placed()
                .iter()
                .zip(&functions)
                .map(|(placed, function)| Inserted {
                    at: placed.at,
                    matrix: placed.codebook.codes().clone(),
                    function,
                })
                .collect();
            for Placed { codebook, .. } in self.codebooks.placed() {
                codebook.encoder_rows();
            }
            let at_once = SEQUENCES_AT_ONCE.max(TOKENS_AT_ONCE / batch.length);
            self.model.gradients(&batch, at_once, &inserted)
        };
        let lr = self.config.learning_rate(step);
        let (loss, weights) = (found.loss, found.weights);
        let weight_decay = self.config.weight_decay;
        let grad_norm = self.model.update(loss, weights, lr, weight_decay)?;
        let mut inputs = vec![];
        for (number, (gradient, records)) in
            found.inserted.into_iter().zip(found.records).enumerate()
        {
            for record in &records {
                for (group, codes) in record.codes.iter().enumerate() {
                    self.trained[number].usage.add(group, codes);
                }
            }
            let pieces: Vec<_> = records.into_iter().filter_map(|r| r.inputs).collect();
            inputs.push(pieces);
            self.update_codes(number, gradient, lr, step);
        }
        let dead: Vec<f64> = self.trained.iter().map(|t| t.usage.frac_dead()).collect();
        let frac_unused_codes = match dead.len() {
            0 => None,
            n => Some(dead.iter().sum::<f64>() / n as f64),
        };
        if replaces {
            self.replace(step, inputs);
        }
        Ok(CodebookStep {
            step,
            tokens: step * batch.inputs.len() as u64,
            loss,
            code_loss: found.inserted_loss,
            lr,
            grad_norm,
            frac_unused_codes,
            evaluation: None,
        })
    }

    /// Metrics of model and codebooks as they stand.
    ///
    /// # Errors
    /// As [`evaluate`].
    pub fn evaluate(&self) -> Result<Metrics, CodebookError> {
        let (seed, sequences) = (self.config.seed, self.config.evaluation_sequences);
        evaluate(&self.model(), &self.codebooks, &self.data, seed, sequences)
    }

    fn update_codes(&mut self, number: usize, gradient: Tensor<2>, lr: f32, step: u64) {
        let codebook = &mut self.codebooks.placed_mut()[number].codebook;
        let trained = &mut self.trained[number];
        let empty = || Tensor::empty([0, 0], &self.device);
        let moments = Moments {
            m: std::mem::replace(&mut trained.moments.m, empty()),
            v: std::mem::replace(&mut trained.moments.v, empty()),
        };
        let adam = AdamStep {
            lr: lr * self.config.code_lr_factor,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: self.config.code_weight_decay,
            step,
        };
        let (codes, moments) = adam_step(codebook.take_codes(), gradient, moments, &adam);
        codebook.put_codes(codes);
        trained.moments = moments;
    }

    /// Moves codes that were not chosen since the last time to what their codebook read in this
    /// step (`inputs`, in pieces); their moments start again at 0.
    fn replace(&mut self, step: u64, inputs: Vec<Vec<Tensor<2>>>) {
        let numbered = self.trained.iter_mut().zip(inputs).enumerate();
        for (number, (trained, inputs)) in numbered {
            let codebook = &mut self.codebooks.placed_mut()[number].codebook;
            let inputs = codebook.input(Tensor::cat(inputs, 0));
            let place = step * 1024 + number as u64;
            let mut rng = generator(self.config.seed, stream::REPLACEMENT, place);
            let moved = replace_dead(codebook, &inputs, &trained.usage, &mut rng);
            trained.usage.reset();
            let Some((codes, moved)) = moved else {
                continue;
            };
            let [rows, _] = codes.dims();
            codebook.set_codes(codes);
            let mut stays = vec![1.0f32; rows];
            moved.iter().for_each(|code| stays[*code] = 0.0);
            let stays = TensorData::new(stays, [rows, 1]);
            let stays = Tensor::<2>::from_data(stays, &self.device);
            let Moments { m, v } = trained.moments.clone();
            trained.moments = Moments {
                m: m * stays.clone(),
                v: v * stays,
            };
        }
    }

    /// The tensors of a checkpoint.
    pub fn state(&self) -> TensorWriter<'static> {
        let mut out = TensorWriter::default();
        self.model.write_state(&mut out);
        for (number, (placed, trained)) in self
            .codebooks
            .placed()
            .iter()
            .zip(&self.trained)
            .enumerate()
        {
            let parts = [
                ("codes", placed.codebook.codes()),
                ("m", &trained.moments.m),
                ("v", &trained.moments.v),
            ];
            for (part, tensor) in parts {
                let values: Vec<f32> = tensor.to_data().iter::<f32>().collect();
                out.f32(
                    &format!("codebook.{number}.{part}"),
                    &tensor.dims(),
                    &values,
                );
            }
            let name = format!("codebook.{number}.counts");
            out.u64(&name, trained.usage.counts());
        }
        out
    }

    /// Goes on from a checkpoint of the same config: the next steps have the bits of a run that
    /// never stopped.
    ///
    /// # Errors
    /// When a tensor is missing or of another shape.
    pub fn restore(&mut self, tensors: &Tensors<'_>) -> Result<(), CodebookError> {
        self.model.read_state(tensors)?;
        for (number, trained) in self.trained.iter_mut().enumerate() {
            let codebook = &mut self.codebooks.placed_mut()[number].codebook;
            let shape = codebook.codes().dims();
            let read = |part: &str| -> Result<Tensor<2>, CodebookError> {
                let values = tensors.f32(&format!("codebook.{number}.{part}"), &shape)?;
                let data = TensorData::new(values, shape);
                Ok(Tensor::from_data(data, &self.device))
            };
            codebook.set_codes(read("codes")?);
            trained.moments = Moments {
                m: read("m")?,
                v: read("v")?,
            };
            let counts = tensors.u64(&format!("codebook.{number}.counts"), shape[0])?;
            let n_codes = codebook.options().n_codes;
            trained.usage = CodeUsage::from_counts(n_codes, counts);
        }
        Ok(())
    }
}

/// A codebook in the forward pass of a training step.
fn snap(
    codebook: &Codebook,
    value: Tensor<3>,
    codes: Tensor<2>,
    keeps_inputs: bool,
) -> Replaced<Record> {
    let [batch, pos, width] = value.dims();
    let a = value.reshape([batch * pos, width]);
    let inputs = keeps_inputs.then(|| a.clone().inner());
    let snapped = codebook.apply_tracked(a, codes);
    Replaced {
        value: snapped.value.reshape([batch, pos, width]),
        loss: snapped.loss,
        record: Record {
            codes: snapped.codes,
            inputs,
        },
    }
}

/// The codebooks with their first codes.
fn start(
    config: &CodebookConfig,
    data: &Data,
    model: &ModelTrainer,
    device: &Device,
) -> Result<Codebooks, CodebookError> {
    let c = model.config();
    let layers = match config.layers.is_empty() {
        true => (0..c.n_layers()).collect(),
        false => config.layers.clone(),
    };
    if let Some(layer) = layers.iter().find(|l| **l >= c.n_layers()) {
        let expected = format!("layers 0 to {}", c.n_layers() - 1);
        return Err(CodebookError::value("codebook.layers", layer, expected));
    }
    let points: Vec<_> = layers
        .iter()
        .flat_map(|layer| {
            config
                .places
                .iter()
                .map(|place| (*place, place.hook_point(*layer)))
        })
        .collect();
    let widths: Vec<usize> = points
        .iter()
        .map(|(place, _)| <[usize; 2]>::from(place.shape(c)).iter().product())
        .collect();
    let n_codes = config.codebook.n_codes;
    let numbers = product(&[n_codes, widths.iter().sum(), TRAINED]);
    if let Some(expected) = too_large(numbers) {
        return Err(CodebookError::value("codebook.n_codes", n_codes, expected));
    }
    let hooks: Vec<HookPoint> = points.iter().map(|(_, at)| *at).collect();
    let activations = match config.init {
        Initialization::Normal => None,
        _ if hooks.is_empty() => None,
        _ => {
            let batch = data.training(config.seed, 1, config.batch);
            let run = HookedRun {
                capture: &hooks,
                ..Default::default()
            };
            let model = model.model("codebook", None);
            Some(model.run(tokens(&model, &batch)?, &run)?.captured)
        }
    };
    let mut placed = vec![];
    for (number, (place, at)) in points.into_iter().enumerate() {
        let (groups, d) = place.shape(c);
        let mut rng = generator(config.seed, stream::CODES, number as u64);
        let codes = match &activations {
            None => normal_codes(groups * n_codes, d, &mut rng, device),
            Some(captured) => {
                let value = captured[&at].clone();
                let [batch, pos, width] = value.dims();
                let mut rows = value.reshape([batch * pos, width]);
                if config.codebook.layer_norm {
                    rows = layer_norm(rows, groups);
                }
                let mut all = vec![];
                for group in 0..groups {
                    let own = rows.clone().narrow(1, group * d, d);
                    all.push(match config.init {
                        Initialization::KMeans => k_means(&own, n_codes, K_MEANS_ROUNDS, &mut rng)?,
                        _ => rows_as_codes(&own, n_codes, &mut rng)?,
                    });
                }
                // The k codes near an input come to about the input.
                Tensor::cat(all, 0) * config.codebook.part()
            }
        };
        let codebook = Codebook::new(config.codebook.clone(), groups, codes)?;
        placed.push(Placed { at, codebook });
    }
    Codebooks::new(placed)
}
