//! The trainer: batches in, a dictionary out. One step is encode, decode, loss, gradients, Adam; the device is asked
//! for a number only when a line is logged.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use lapidary_activations::BatchSource;
use lapidary_kernels::{
    AdamStep, Moments, RowUpdate, SparseGradient, adam_step, sparse_adam_step, squared_norm,
};
use serde::{Deserialize, Serialize};

use crate::batchtopk::ThresholdAverage;
use crate::checkpoint;
use crate::coder::{Architecture, Codes, SparseCoder};
use crate::config::RunConfig;
use crate::decoder_norm;
use crate::dictionary::Dictionary;
use crate::error::SaeError;
use crate::firing::Firing;
use crate::json::nan_if_null;
use crate::schedule::{learning_rate_factor, rise};
use crate::sparse_step::{Aux, sparse_step};
use crate::{init, losses, standard};

/// One line of `metrics.jsonl`. A number that is not finite is written as `null`,
/// which is read as NaN.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// Steps done.
    pub step: u64,
    /// Activations trained on.
    pub tokens: u64,
    /// What was minimized.
    #[serde(deserialize_with = "nan_if_null")]
    pub loss: f64,
    /// Squared error of a token, summed over dimensions, mean over the batch (normalized activations).
    #[serde(deserialize_with = "nan_if_null")]
    pub mse: f64,
    /// `mse` over the batch's variance.
    #[serde(deserialize_with = "nan_if_null")]
    pub fvu: f64,
    /// Active latents a token.
    #[serde(deserialize_with = "nan_if_null")]
    pub l0: f64,
    /// L1 penalty before its coefficient; 0 except for "standard".
    #[serde(deserialize_with = "nan_if_null")]
    pub l1: f64,
    /// Auxiliary loss before its coefficient; 0 while nothing is dead.
    #[serde(deserialize_with = "nan_if_null")]
    pub aux: f64,
    /// Dead latents, as of the last count.
    pub dead: u64,
    /// Learning rate.
    #[serde(deserialize_with = "nan_if_null")]
    pub lr: f64,
    /// Norm of the whole gradient, before clipping.
    #[serde(deserialize_with = "nan_if_null")]
    pub grad_norm: f64,
    /// "batchtopk": the moving average of the threshold.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub threshold: Option<f64>,
}

/// A weight with its Adam moments. Empty only inside [`Parameter::update`], which needs to own what it changes in place.
pub(crate) struct Parameter<const D: usize>(Option<(Tensor<D>, Moments<D>)>);

impl<const D: usize> Parameter<D> {
    pub(crate) fn new(value: Tensor<D>, moments: Moments<D>) -> Self {
        Self(Some((value, moments)))
    }

    fn fresh(value: Tensor<D>) -> Self {
        let moments = Moments {
            m: value.zeros_like(),
            v: value.zeros_like(),
        };
        Self::new(value, moments)
    }

    pub(crate) fn parts(&self) -> &(Tensor<D>, Moments<D>) {
        self.0.as_ref().expect("only empty inside update")
    }

    fn value(&self) -> Tensor<D> {
        self.parts().0.clone()
    }

    fn update(&mut self, grad: Tensor<D>, step: &AdamStep) {
        let (value, moments) = self.0.take().expect("only empty inside update");
        self.0 = Some(adam_step(value, grad, moments, step));
    }

    fn map(&mut self, f: impl FnOnce(Tensor<D>) -> Tensor<D>) {
        let (value, moments) = self.0.take().expect("only empty inside update");
        self.0 = Some((f(value), moments));
    }
}

impl Parameter<2> {
    fn update_rows(&mut self, gradient: SparseGradient, how: &RowUpdate) {
        let (value, moments) = self.0.take().expect("only empty inside update");
        self.0 = Some(sparse_adam_step(value, gradient, moments, how));
    }
}

/// The four weights of a coder.
pub(crate) struct Parameters {
    pub(crate) w_enc: Parameter<2>,
    pub(crate) b_enc: Parameter<1>,
    pub(crate) w_dec: Parameter<2>,
    pub(crate) b_dec: Parameter<1>,
}

/// How far a run has come.
pub(crate) struct Progress {
    pub(crate) step: u64,
    pub(crate) tokens: u64,
    pub(crate) threshold: ThresholdAverage,
}

/// Trains one coder on one source of activations.
pub struct Trainer {
    pub(crate) config: RunConfig,
    pub(crate) source: Box<dyn BatchSource>,
    pub(crate) device: Device,
    pub(crate) parameters: Parameters,
    pub(crate) progress: Progress,
    pub(crate) firing: Firing,
    checkpoint: Option<PathBuf>,
}

impl Trainer {
    /// A fresh run. The first batch of `source` decides where `b_dec` starts and is not trained on.
    ///
    /// # Errors
    /// The source fails, or the recipe does not fit its width.
    pub fn new(
        config: RunConfig,
        mut source: Box<dyn BatchSource>,
        device: &Device,
    ) -> Result<Self, SaeError> {
        let config = config.resolve(source.d_in())?;
        let first = source.next_batch()?;
        let coder = init::coder(&config, first, device)?;
        let parameters = Parameters {
            w_enc: Parameter::fresh(coder.w_enc),
            b_enc: Parameter::fresh(coder.b_enc),
            w_dec: Parameter::fresh(coder.w_dec),
            b_dec: Parameter::fresh(coder.b_dec),
        };
        let d_sae = parameters.w_dec.value().dims()[0];
        Ok(Self {
            config,
            source,
            device: device.clone(),
            parameters,
            progress: Progress {
                step: 0,
                tokens: 0,
                threshold: ThresholdAverage::default(),
            },
            firing: Firing::new(d_sae),
            checkpoint: None,
        })
    }

    /// Goes on with the run whose checkpoint stands in `dir`, to the same bits as if it had never stopped. `source`
    /// is made as for a fresh run; its state comes from the checkpoint.
    ///
    /// # Errors
    /// There is no checkpoint, it is damaged, or the source does not fit it.
    pub fn resume(
        dir: &Path,
        mut source: Box<dyn BatchSource>,
        device: &Device,
    ) -> Result<Self, SaeError> {
        let state = checkpoint::load(dir, source.as_mut(), device)?;
        Ok(Self {
            config: state.config,
            source,
            device: device.clone(),
            parameters: state.parameters,
            progress: state.progress,
            firing: state.firing,
            checkpoint: None,
        })
    }

    /// Where [`Trainer::run`] puts its checkpoints (the folder itself, `.../checkpoint`).
    #[must_use]
    pub fn with_checkpoints(mut self, dir: &Path) -> Self {
        self.checkpoint = Some(dir.to_path_buf());
        self
    }

    /// The resolved recipe.
    #[must_use]
    pub const fn config(&self) -> &RunConfig {
        &self.config
    }

    /// Changes what a resumed run may change: logging, checkpoints, and what happens after training. Everything else
    /// in `config` is ignored.
    pub fn adopt(&mut self, config: &RunConfig) {
        self.config.training.log_every_steps = config.training.log_every_steps;
        self.config.training.checkpoint_every_steps = config.training.checkpoint_every_steps;
        self.config.evaluation = config.evaluation.clone();
        self.config.features = config.features.clone();
    }

    /// Steps done.
    #[must_use]
    pub const fn step_count(&self) -> u64 {
        self.progress.step
    }

    /// Steps that the recipe asks for.
    #[must_use]
    pub fn total_steps(&self) -> u64 {
        self.config.steps()
    }

    /// Whether the recipe's steps are done.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.progress.step >= self.total_steps()
    }

    /// The coder as it stands, in normalized activations.
    #[must_use]
    pub fn coder(&self) -> SparseCoder {
        let architecture = self.config.architecture();
        SparseCoder {
            architecture,
            k: if architecture == Architecture::Standard {
                64
            } else {
                self.config.coder.k
            },
            apply_b_dec_to_input: self.config.coder.apply_b_dec_to_input,
            w_enc: self.parameters.w_enc.value(),
            b_enc: self.parameters.b_enc.value(),
            w_dec: self.parameters.w_dec.value(),
            b_dec: self.parameters.b_dec.value(),
            threshold: None,
        }
    }

    /// One step on the next batch. A report comes back on the first step, every `log_every_steps`, and on the last.
    ///
    /// # Errors
    /// The source or the device fails, or the loss of a logged step is not finite.
    pub fn step(&mut self) -> Result<Option<StepReport>, SaeError> {
        let x = self.source.next_batch()?; // [n, d_in]
        let n = x.dims()[0];
        let step = self.progress.step;
        let total_steps = self.total_steps();
        let training = self.config.training.clone();
        let log = step == 0
            || (step + 1).is_multiple_of(training.log_every_steps)
            || step + 1 == total_steps;

        let (terms, mut gradients) = self.loss(x)?;
        self.firing.record(&terms.codes, n as u64);
        let l0 = log.then(|| active(&terms.codes));

        let unit = training.decoder_norm == "unit";
        if let (true, Gradients::Dense(g)) = (unit, &mut gradients) {
            let grad = g.w_dec.clone();
            self.parameters.w_dec.map(|rows| {
                let (grad, rows) = decoder_norm::remove_parallel(grad, rows);
                g.w_dec = grad;
                rows
            });
        }
        let mut grad_norm = f64::NAN;
        if log || training.clip_grad_norm > 0.0 {
            grad_norm = scalar(gradients.squares(&self.parameters, unit))?.sqrt();
        }
        let mut scale = 1.0;
        if training.clip_grad_norm > 0.0 && grad_norm > training.clip_grad_norm {
            scale = training.clip_grad_norm / grad_norm;
        }

        let lr = training.lr.expect("resolved")
            * learning_rate_factor(
                step,
                total_steps,
                training.lr_warmup_steps.expect("resolved"),
                training.lr_decay_fraction,
            );
        let adam = AdamStep {
            lr: lr as f32,
            beta1: training.adam_beta1 as f32,
            beta2: training.adam_beta2 as f32,
            eps: training.adam_eps as f32,
            weight_decay: 0.0,
            step: step + 1,
        };
        self.parameters.update(gradients, &adam, scale, unit);

        self.progress.step += 1;
        self.progress.tokens += n as u64;
        if let Some(t) = terms.threshold {
            self.progress.threshold.observe(t, training.threshold_decay);
        }
        if self
            .progress
            .step
            .is_multiple_of(training.dead_check_every_steps)
        {
            let dead_after = training.dead_after_tokens.expect("resolved");
            self.firing.check(dead_after, &self.device)?;
        }
        if !log {
            return Ok(None);
        }
        let report = StepReport {
            step: self.progress.step,
            tokens: self.progress.tokens,
            loss: scalar(terms.total)?,
            mse: scalar(terms.mse)?,
            fvu: scalar(terms.fvu)?,
            l0: l0.map_or(Ok(0.0), scalar)? / n.max(1) as f64,
            l1: terms.l1.map_or(Ok(0.0), scalar)?,
            aux: terms.aux.map_or(Ok(0.0), scalar)?,
            dead: self.firing.dead.len() as u64,
            lr,
            grad_norm,
            threshold: terms.threshold.map(|_| self.progress.threshold.value()),
        };
        if !report.loss.is_finite() {
            return Err(SaeError::Diverged {
                step: report.step,
                loss: report.loss,
            });
        }
        Ok(Some(report))
    }

    /// The batch's loss and gradients: written out where they are sparse, otherwise by automatic differentiation.
    fn loss(&self, x: Tensor<2>) -> Result<(Terms, Gradients), SaeError> {
        let coder = self.coder();
        let d_in = coder.d_in();
        if x.dims()[1] != d_in {
            return Err(SaeError::Shape {
                what: "width of a batch of activations",
                found: x.dims()[1],
                expected: d_in,
            });
        }
        match coder.architecture {
            Architecture::Standard | Architecture::JumpRelu => Ok(self.dense_loss(&coder, x)),
            Architecture::TopK | Architecture::BatchTopK => {
                let training = &self.config.training;
                let k = training.aux_k.expect("resolved");
                let wanted = k > 0 && training.aux_k_coefficient > 0.0;
                let dead = self.firing.dead_tensor().filter(|_| wanted);
                let aux = dead.map(|dead| Aux {
                    dead,
                    k,
                    coefficient: training.aux_k_coefficient,
                });
                let step = sparse_step(&coder, x.inner(), aux);
                let terms = Terms {
                    total: step.total,
                    mse: step.mse,
                    fvu: step.fvu,
                    l1: None,
                    aux: step.aux,
                    codes: Codes::Sparse(step.codes),
                    threshold: step.threshold,
                };
                let gradients = SparseGradients {
                    w_enc: step.w_enc,
                    b_enc: step.b_enc,
                    w_dec: step.w_dec,
                    b_dec: step.b_dec,
                };
                Ok((terms, Gradients::Sparse(Box::new(gradients))))
            }
        }
    }

    fn dense_loss(&self, coder: &SparseCoder, x: Tensor<2>) -> (Terms, Gradients) {
        let coder = coder.tracked();
        let x = x.inner().autodiff();
        let forward = standard::forward(&coder, coder.centre(x.clone()));
        let mse = losses::mse(x.clone(), forward.reconstruction.clone());
        let fvu = mse.clone() / losses::batch_variance(x);
        let penalty = match &forward.codes {
            Codes::Dense(latents) => losses::l1(latents.clone(), coder.w_dec.clone()),
            Codes::Sparse(_) => unreachable!("standard is dense"),
        };
        let training = &self.config.training;
        let warmup = training.l1_warmup_steps.expect("resolved");
        let weight = training.l1_coefficient * rise(self.progress.step, warmup);
        let total = mse.clone() + penalty.clone() * weight;
        let mut gradients = total.backward();
        let found = DenseGradients {
            w_enc: gradient(&coder.w_enc, &mut gradients),
            b_enc: gradient(&coder.b_enc, &mut gradients),
            w_dec: gradient(&coder.w_dec, &mut gradients),
            b_dec: gradient(&coder.b_dec, &mut gradients),
        };
        let terms = Terms {
            total,
            mse,
            fvu,
            l1: Some(penalty),
            aux: None,
            codes: forward.codes,
            threshold: None,
        };
        (terms, Gradients::Dense(Box::new(found)))
    }

    /// Steps until the recipe is done, with checkpoints where [`Trainer::with_checkpoints`] says: every
    /// `checkpoint_every_steps` and at the end.
    ///
    /// # Errors
    /// A step or a checkpoint fails.
    pub fn run(&mut self, on_report: &mut dyn FnMut(&StepReport)) -> Result<(), SaeError> {
        let every = self.config.training.checkpoint_every_steps;
        while !self.is_done() {
            if let Some(report) = self.step()? {
                on_report(&report);
            }
            let due = every > 0 && self.progress.step.is_multiple_of(every);
            if let Some(dir) = self.checkpoint.clone()
                && (due || self.is_done())
            {
                self.save_checkpoint(&dir)?;
            }
        }
        Ok(())
    }

    /// A run that has diverged must neither replace a sound checkpoint nor pass for a dictionary.
    fn check_finite(&self) -> Result<(), SaeError> {
        let p = &self.parameters;
        let count = not_finite(&p.w_enc)
            + not_finite(&p.b_enc)
            + not_finite(&p.w_dec)
            + not_finite(&p.b_dec);
        match scalar(count)? {
            0.0 => Ok(()),
            count => Err(SaeError::NotFinite {
                step: self.progress.step,
                count: count as u64,
            }),
        }
    }

    /// Writes everything that [`Trainer::resume`] needs to the folder `dir`, in place of the previous checkpoint.
    ///
    /// # Errors
    /// The folder cannot be written, or a weight is not finite; the previous checkpoint then still stands.
    pub fn save_checkpoint(&mut self, dir: &Path) -> Result<(), SaeError> {
        self.firing.count()?;
        self.check_finite()?;
        checkpoint::save(self, dir)
    }

    /// The dictionary, for activations as the model makes them: normalization and decoder norms folded in.
    ///
    /// # Errors
    /// The device fails, or a weight is not finite.
    pub fn finish(&self) -> Result<Dictionary, SaeError> {
        self.check_finite()?;
        Dictionary::from_training(
            &self.coder(),
            self.progress.threshold.value(),
            self.source.normalization(),
            &self.config,
            (self.progress.step, self.progress.tokens),
        )
    }
}

/// The number of values that are not finite, `[1]`: infinity and NaN alike turn `0 * x` into NaN, which is not itself.
fn not_finite<const D: usize>(parameter: &Parameter<D>) -> Tensor<1> {
    let (value, moments) = parameter.parts();
    let count = |t: &Tensor<D>| {
        let zero = t.clone() * 0.0;
        zero.equal_elem(0.0).bool_not().float().sum()
    };
    count(value) + count(&moments.m) + count(&moments.v)
}

/// Gradients of the four weights.
enum Gradients {
    Dense(Box<DenseGradients>),
    Sparse(Box<SparseGradients>),
}

struct DenseGradients {
    w_enc: Tensor<2>,
    b_enc: Tensor<1>,
    w_dec: Tensor<2>,
    b_dec: Tensor<1>,
}

struct SparseGradients {
    w_enc: SparseGradient,
    b_enc: Tensor<1>,
    w_dec: SparseGradient,
    b_dec: Tensor<1>,
}

impl Gradients {
    /// The squared norm of all of them, `[1]`; `unit`: of the decoder's what is left beside its rows.
    fn squares(&self, parameters: &Parameters, unit: bool) -> Tensor<1> {
        match self {
            Self::Dense(g) => {
                squares(&g.w_enc) + squares(&g.b_enc) + squares(&g.w_dec) + squares(&g.b_dec)
            }
            Self::Sparse(g) => {
                squared_norm(&parameters.w_enc.parts().0, &g.w_enc, false)
                    + squares(&g.b_enc)
                    + squared_norm(&parameters.w_dec.parts().0, &g.w_dec, unit)
                    + squares(&g.b_dec)
            }
        }
    }
}

impl Parameters {
    /// Adam's step by the gradients times `scale`; `unit`: decoder rows are scaled back to norm 1.
    fn update(&mut self, gradients: Gradients, adam: &AdamStep, scale: f64, unit: bool) {
        let scaled = |t: Tensor<1>| if scale == 1.0 { t } else { t * scale };
        match gradients {
            Gradients::Dense(g) => {
                let scaled_rows = |t: Tensor<2>| if scale == 1.0 { t } else { t * scale };
                self.w_enc.update(scaled_rows(g.w_enc), adam);
                self.b_enc.update(scaled(g.b_enc), adam);
                self.w_dec.update(scaled_rows(g.w_dec), adam);
                self.b_dec.update(scaled(g.b_dec), adam);
                if unit {
                    self.w_dec.map(decoder_norm::unit_rows);
                }
            }
            Gradients::Sparse(g) => {
                let how = |unit_rows| RowUpdate {
                    adam: *adam,
                    scale: scale as f32,
                    unit_rows,
                };
                self.w_enc.update_rows(g.w_enc, &how(false));
                self.b_enc.update(scaled(g.b_enc), adam);
                self.w_dec.update_rows(g.w_dec, &how(unit));
                self.b_dec.update(scaled(g.b_dec), adam);
            }
        }
    }
}

/// The loss and its parts, with gradients.
struct Terms {
    total: Tensor<1>,
    mse: Tensor<1>,
    fvu: Tensor<1>,
    l1: Option<Tensor<1>>,
    aux: Option<Tensor<1>>,
    codes: Codes,
    threshold: Option<f32>,
}

/// The gradient of a leaf; zeros if the loss did not touch it.
fn gradient<const D: usize>(
    leaf: &Tensor<D>,
    gradients: &mut burn::tensor::Gradients,
) -> Tensor<D> {
    leaf.grad_remove(gradients)
        .unwrap_or_else(|| leaf.clone().inner().zeros_like())
}

fn squares<const D: usize>(tensor: &Tensor<D>) -> Tensor<1> {
    tensor.clone().square().sum()
}

/// Number of active codes in the batch, `[1]`.
fn active(codes: &Codes) -> Tensor<1> {
    let values = match codes {
        Codes::Sparse(c) => c.values.clone(),
        Codes::Dense(latents) => latents.clone(),
    };
    values.inner().greater_elem(0.0).float().sum()
}

fn scalar(tensor: Tensor<1>) -> Result<f64, SaeError> {
    tensor
        .inner()
        .try_into_scalar::<f32>()
        .map(f64::from)
        .map_err(|e| SaeError::Device {
            what: "a loss",
            message: format!("{e:?}"),
        })
}
