//! The trainer of one coder: batches in, a dictionary out. One step is encode, decode, loss,
//! gradients, Adam; the device is asked for a number only when a line is logged.

use burn::tensor::{Device, Tensor};
use lapidary_coder::{AnyCoder, Coder, CoderError, Dictionary, Provenance, Scaling};
use lapidary_io::nan_if_null;
use lapidary_io::settings::Named;
use lapidary_kernels::{AdamStep, EncoderState};
use serde::{Deserialize, Serialize};

use crate::architectures::{ThresholdAverage, method};
use crate::batch::Batch;
use crate::dead_latents;
use crate::divergence::Divergence;
use crate::encoded::Codes;
use crate::error::SaeError;
use crate::firing::Firing;
use crate::init;
use crate::l0_control::{L0Control, steering_share};
use crate::parameters::Parameters;
use crate::recipe::{DecoderNorm, Loss, Recipe, ResolvedRecipe};
use crate::schedule::{fall, rise};
use crate::step::{StepOutput, loss_and_gradients};

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
    /// Squared error of a token, summed over dimensions, mean over the batch (normalized
    /// activations).
    #[serde(deserialize_with = "nan_if_null")]
    pub mse: f64,
    /// `mse` over the batch's variance.
    #[serde(deserialize_with = "nan_if_null")]
    pub fvu: f64,
    /// Active latents a token.
    #[serde(deserialize_with = "nan_if_null")]
    pub l0: f64,
    /// Sparsity penalty before its coefficient: "standard" and "gated" L1, "jumprelu" its own; 0
    /// for those that count latents.
    #[serde(deserialize_with = "nan_if_null", alias = "l1")]
    pub penalty: f64,
    /// Auxiliary losses before their coefficients: AuxK or ghost gradients, 0 while nothing is
    /// dead; of "jumprelu" what dead latents lack, if it counts; of "gated" the squared error of
    /// the gates' reconstruction.
    #[serde(deserialize_with = "nan_if_null")]
    pub aux: f64,
    /// Dead latents, as of the last count.
    pub dead: u64,
    /// Learning rate.
    #[serde(deserialize_with = "nan_if_null")]
    pub lr: f64,
    /// How many times the coder has diverged and started anew, each time with half the learning
    /// rate.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub restarts: u64,
    /// Norm of the whole gradient, before clipping.
    #[serde(deserialize_with = "nan_if_null")]
    pub grad_norm: f64,
    /// "batchtopk": the moving average of the threshold.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub threshold: Option<f64>,
    /// With `coder.target_l0`: what the weight of the penalty is multiplied by in the next step.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub penalty_factor: Option<f64>,
}

/// How far a coder has come.
pub(crate) struct Progress {
    pub(crate) step: u64,
    pub(crate) tokens: u64,
    pub(crate) threshold: ThresholdAverage,
    pub(crate) l0_control: L0Control,
    pub(crate) divergence: Divergence,
}

/// Trains one coder on the batches that it is given.
pub struct Trainer {
    pub(crate) recipe: ResolvedRecipe,
    pub(crate) device: Device,
    pub(crate) parameters: Parameters,
    pub(crate) progress: Progress,
    pub(crate) firing: Firing,
    /// What the encoder of each layer leaves for the next step.
    pub(crate) encoder_states: Vec<EncoderState>,
}

impl Trainer {
    /// A coder not yet trained. The batch `first` decides where `b_dec` starts and is not to be
    /// trained on. What `recipe` leaves open is resolved for the width of the first hook point in
    /// it.
    ///
    /// # Errors
    /// The recipe does not fit the width of `first`.
    pub fn new(recipe: &Recipe, first: &Batch, device: &Device) -> Result<Self, SaeError> {
        let width = first.x.dims()[1] / recipe.sites.read().len().max(1);
        Self::resolved(recipe.resolve(width)?, first, device)
    }

    /// The same with a recipe that is resolved.
    ///
    /// # Errors
    /// The weights do not fit in memory.
    pub fn resolved(
        recipe: ResolvedRecipe,
        first: &Batch,
        device: &Device,
    ) -> Result<Self, SaeError> {
        let coder = init::coder(&recipe, first, device)?;
        let parameters = Parameters::fresh(&coder);
        let layers = coder.layers().len();
        let firing = Firing::new(coder.d_sae(), layers);
        Ok(Self {
            recipe,
            device: device.clone(),
            parameters,
            progress: Progress {
                step: 0,
                tokens: 0,
                threshold: ThresholdAverage::default(),
                l0_control: L0Control::default(),
                divergence: Divergence::default(),
            },
            firing,
            encoder_states: new_encoder_states(layers),
        })
    }

    /// The recipe, every value filled in.
    #[must_use]
    pub const fn recipe(&self) -> &ResolvedRecipe {
        &self.recipe
    }

    /// Changes what a resumed coder may change: logging, checkpoints, and what happens after
    /// training. Everything else in `recipe` is ignored.
    pub fn update_settings(&mut self, recipe: &Recipe) {
        self.recipe.update_settings(recipe);
    }

    /// Takes the length of the training, and what follows from it, from another resolved recipe.
    pub(crate) fn extend(&mut self, longer: &ResolvedRecipe) {
        self.recipe.extend(longer);
    }

    /// Steps done.
    #[must_use]
    pub const fn step_count(&self) -> u64 {
        self.progress.step
    }

    /// How many times the coder has diverged and started anew, and the step after which it last
    /// did.
    #[must_use]
    pub const fn restarts(&self) -> [u64; 2] {
        let divergence = &self.progress.divergence;
        [divergence.restarts, divergence.started]
    }

    /// Steps that the recipe asks for.
    #[must_use]
    pub fn total_steps(&self) -> u64 {
        self.recipe.steps()
    }

    /// Whether the recipe's steps are done.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.progress.step >= self.total_steps()
    }

    /// The coder as it stands, in normalized activations.
    #[must_use]
    pub fn coder(&self) -> AnyCoder {
        self.coder_with_k(self.recipe.coder.k)
    }

    /// The same with as many active latents as there are in the next step.
    pub(crate) fn coder_now(&self) -> AnyCoder {
        self.coder_with_k(self.recipe.k_at(self.progress.step))
    }

    fn coder_with_k(&self, k: usize) -> AnyCoder {
        AnyCoder::of_weights(
            self.recipe
                .architecture
                .at_k(k)
                .with_penalty_times(self.progress.l0_control.factor()),
            self.recipe.coder.apply_b_dec_to_input,
            self.parameters.weights(),
        )
        .with_encoder_states(&self.encoder_states)
    }

    /// One step on a batch. A report comes back on the first step, every `log_every_steps`, and on
    /// the last.
    ///
    /// # Errors
    /// The batch has another width, the device fails, or the loss of a logged step is not finite.
    pub fn step(&mut self, batch: &Batch) -> Result<Option<StepReport>, SaeError> {
        let n = batch.x.dims()[0];
        let step = self.progress.step;
        let total_steps = self.total_steps();
        let training = self.recipe.training.clone();
        let log = step == 0
            || (step + 1).is_multiple_of(training.log_every_steps)
            || step + 1 == total_steps;

        let StepOutput {
            terms,
            mut gradients,
        } = self.loss_and_gradients(batch)?;
        self.firing.record(&terms.codes, n as u64);
        let target = self.recipe.coder.target_l0;
        let l0 = match log || target.is_some() {
            true => scalar(active(&terms.codes))? / n.max(1) as f64,
            false => f64::NAN,
        };

        let unit = training.decoder_norm == DecoderNorm::Unit;
        if unit {
            self.parameters.remove_parallel(&mut gradients);
        }
        let mut grad_norm = f64::NAN;
        if log || training.clip_grad_norm > 0.0 {
            grad_norm = scalar(self.parameters.squares(&gradients, unit))?.sqrt();
        }
        let mut scale = 1.0;
        if training.clip_grad_norm > 0.0 && grad_norm > training.clip_grad_norm {
            scale = training.clip_grad_norm / grad_norm;
        }

        let divergence = self.progress.divergence;
        let lr = training.lr
            * divergence.lr_factor()
            * (rise(step - divergence.started, training.lr_warmup_steps)
                * fall(step, total_steps, training.lr_decay_fraction));
        let adam = AdamStep {
            lr: lr as f32,
            beta1: training.adam_beta1 as f32,
            beta2: training.adam_beta2 as f32,
            eps: training.adam_eps as f32,
            weight_decay: 0.0,
            step: step + 1 - divergence.started,
        };
        self.parameters
            .update(gradients, training.optimizer, &adam, scale, unit);
        method(self.recipe.coder.architecture).project(&mut self.parameters);

        self.progress.step += 1;
        self.progress.tokens += n as u64;
        // While more latents are active than will be, the threshold is another.
        if let Some(t) = terms.threshold
            && self.recipe.k_at(step) == self.recipe.coder.k
        {
            self.progress.threshold.observe(t, training.threshold_decay);
        }
        if let Some(target) = target
            && step - divergence.started >= training.sparsity_warmup_steps
        {
            let layers = self.recipe.sites().layers() as f64;
            let control = &mut self.progress.l0_control;
            let change = control.observe(l0 / layers, target, total_steps);
            let (since, left) = (step - divergence.started, total_steps - divergence.started);
            let change = change * steering_share(since, left);
            method(self.recipe.coder.architecture).steer(&mut self.parameters, change);
        }
        let resamples = dead_latents::is_due(&self.recipe, self.progress.step);
        let every = training.dead_check_every_steps;
        if resamples || self.progress.step.is_multiple_of(every) {
            self.firing
                .check(training.dead_after_tokens, &self.device)?;
        }
        let dead = self.firing.dead.len() as u64;
        if dead > 0
            && resamples
            && let AnyCoder::Sparse(coder) = self.coder_now()
        {
            let latents = self.firing.dead.clone();
            let (parameters, recipe) = (&mut self.parameters, &self.recipe);
            let step = self.progress.step;
            let resampled =
                dead_latents::resample(parameters, &coder, batch, &latents, recipe, step)?;
            self.firing.revive(&resampled, &self.device);
        }
        let restarts = training.restart_if_diverging && training.loss == Loss::Local;
        if restarts && divergence.looks_at(step, total_steps) {
            let fvu = scalar(terms.fvu.clone())?;
            if self.progress.divergence.observe(fvu, step) {
                self.restart(batch)?;
            }
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
            l0,
            penalty: terms.penalty.map_or(Ok(0.0), scalar)?,
            aux: terms.aux.map_or(Ok(0.0), scalar)?,
            dead,
            lr,
            restarts: self.progress.divergence.restarts,
            grad_norm,
            threshold: terms.threshold.map(|_| self.progress.threshold.value()),
            penalty_factor: target.map(|_| self.progress.l0_control.factor()),
        };
        if !report.loss.is_finite() {
            return Err(SaeError::Diverged {
                step: report.step,
                loss: report.loss,
            });
        }
        Ok(Some(report))
    }

    /// Replaces the coder by one not yet trained, whose `b_dec` starts where `batch` says.
    fn restart(&mut self, batch: &Batch) -> Result<(), SaeError> {
        let coder = init::coder(&self.recipe, batch, &self.device)?;
        let layers = coder.layers().len();
        self.parameters = Parameters::fresh(&coder);
        self.firing = Firing::new(coder.d_sae(), layers);
        self.encoder_states = new_encoder_states(layers);
        self.progress.threshold = ThresholdAverage::default();
        self.progress.l0_control = L0Control::default();
        Ok(())
    }

    /// The batch's loss and gradients.
    fn loss_and_gradients(&self, batch: &Batch) -> Result<StepOutput, SaeError> {
        let coder = self.coder_now();
        for (part, expected) in [(&batch.x, coder.d_in()), (&batch.y, coder.d_out())] {
            let found = part.dims()[1];
            if found != expected {
                let what = "width of a batch of activations";
                return Err(SaeError::shape(what, found, expected));
            }
        }
        // Only the rise of a penalty depends on the step: it begins anew with the coder.
        let context = self.recipe.context(
            self.progress.step - self.progress.divergence.started,
            self.firing.by_layer(),
            self.progress.l0_control.factor(),
        );
        Ok(loss_and_gradients(&coder, &batch.inner(), &context))
    }

    /// A run that has diverged must neither replace a sound checkpoint nor pass for a dictionary.
    fn check_finite(&self) -> Result<(), SaeError> {
        match scalar(self.parameters.not_finite())? {
            0.0 => Ok(()),
            count => Err(SaeError::NotFinite {
                step: self.progress.step,
                count: count as u64,
            }),
        }
    }

    /// Brings the firing record up to date and refuses what must not be kept.
    pub(crate) fn finalize(&mut self) -> Result<(), SaeError> {
        self.firing.count()?;
        self.check_finite()
    }

    /// The dictionary, for activations as the model makes them: decoder norms and how the batches
    /// were normalized are folded in.
    ///
    /// # Errors
    /// The device fails, or a weight is not finite.
    pub fn finish(&self, scaling: &Scaling) -> Result<Dictionary, SaeError> {
        self.check_finite()?;
        let (trained, threshold) = (self.coder(), self.progress.threshold.value());
        let coder: AnyCoder = match &trained {
            AnyCoder::Sparse(coder) => coder.finish(threshold, scaling)?.into(),
            AnyCoder::CrossLayer(coder) => coder.finish(threshold, scaling)?.into(),
        };
        let (before, after) = (trained.architecture(), coder.architecture());
        let recipe = self.recipe.recipe();
        Ok(Dictionary {
            provenance: Provenance {
                model_name: Some(recipe.model.clone()),
                sites: recipe.sites.clone(),
                context: Some(recipe.corpus.context),
                prepend_bos: Some(recipe.corpus.prepend_bos),
                corpus: Some(recipe.corpus.path.clone()),
                training_architecture: (before.kind() != after.kind())
                    .then(|| before.name().to_owned()),
                steps: Some(self.progress.step),
                tokens: Some(self.progress.tokens),
                normalization: Some(recipe.activations.normalization.name().to_owned()),
                recipe: Some(recipe.to_json()),
                ..Provenance::default()
            },
            coder,
        })
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// States of encoders that have not been called yet, one per layer.
pub(crate) fn new_encoder_states(layers: usize) -> Vec<EncoderState> {
    (0..layers).map(|_| EncoderState::default()).collect()
}

/// Number of active codes in the batch, `[1]`.
fn active(codes: &Codes) -> Tensor<1> {
    let values = match codes {
        Codes::Sparse(c) => c.values.clone(),
        Codes::Dense(latents) => latents.clone(),
    };
    values.inner().not_equal_elem(0.0).float().sum()
}

fn scalar(tensor: Tensor<1>) -> Result<f64, SaeError> {
    tensor
        .inner()
        .try_into_scalar::<f32>()
        .map(f64::from)
        .map_err(|e| {
            let (what, message) = ("a loss", format!("{e:?}"));
            CoderError::Device { what, message }.into()
        })
}
