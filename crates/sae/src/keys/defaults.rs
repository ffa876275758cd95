//! Defaults that depend on other keys, or on the width of the activations.

use super::facts::Facts;
use super::names::{DeadLatents, DecoderNorm, Optimizer};

/// What defaults may depend on while a recipe is read.
pub(crate) struct AfterReading {
    /// Those of the architecture.
    pub(crate) facts: Facts,
    pub(crate) optimizer: Optimizer,
    pub(crate) transcodes: bool,
    pub(crate) has_two_models: bool,
    pub(crate) corpus: String,
}

impl AfterReading {
    pub(super) const fn dead_latents(&self) -> DeadLatents {
        match self.facts.has_aux_k {
            true => DeadLatents::AuxK,
            false => DeadLatents::None,
        }
    }

    pub(super) const fn decoder_norm(&self) -> DecoderNorm {
        match self.facts.may_free_decoder_norm(self.transcodes) {
            true => DecoderNorm::Free,
            false => DecoderNorm::Unit,
        }
    }

    pub(super) fn evaluation_corpus(&self) -> String {
        match self.corpus.as_str() {
            "embedded" => "embedded:heldout".to_owned(),
            other => other.to_owned(),
        }
    }
}

/// What defaults may depend on when a recipe is resolved.
pub(crate) struct Widths {
    /// The width of the activations that are read, at the first hook point.
    pub(crate) width: usize,
    pub(crate) d_sae: usize,
    /// Active latents per token: as many as the coder chooses, or its target.
    pub(crate) k: usize,
    /// Layers that have so many latents each: more than one in a cross-layer transcoder.
    pub(crate) layers: usize,
    /// Activations per step.
    pub(crate) batch_tokens: usize,
    /// Training steps.
    pub(crate) steps: u64,
    /// Activations to train on.
    pub(crate) tokens: u64,
    /// Seed of the order of the activations.
    pub(crate) order_seed: u64,
    /// Those of the architecture.
    pub(crate) facts: Facts,
    pub(crate) optimizer: Optimizer,
    pub(crate) dead_latents: DeadLatents,
    pub(crate) decoder_norm: DecoderNorm,
    pub(crate) transcodes: bool,
    /// Whether decoder rows may start at 0.
    pub(crate) starts_at_zero: bool,
    /// Whether a controller weighs the penalty.
    pub(crate) has_target_l0: bool,
    /// Whether `k` falls in training.
    pub(crate) k_falls: bool,
}

impl Widths {
    pub(super) fn lr(&self) -> f64 {
        self.optimizer
            .default_lr(self.facts.lr_factor * self.fitted_lr(), self.d_sae)
    }

    /// Fitted for Adam (docs/results.md, "Learning rate and initialization"). At least sparsify's
    /// rate, which is meant for billions of tokens.
    fn fitted_lr(&self) -> f64 {
        let latents = (self.d_sae * self.layers) as f64;
        let of_sizes = (self.batch_tokens as f64 / (self.width as f64 * latents)).sqrt();
        let steps = self.steps as f64;
        let falls = (300.0 / steps).powf(0.25).min(1.0) * (1200.0 / steps).powf(0.75).min(1.0);
        (0.135 * of_sizes * falls).max(2e-4 * (16_384.0 / latents).sqrt())
    }

    /// Fitted on TopK coders with the learning rate.
    pub(super) const fn encoder_init_norm(&self) -> f64 {
        match (self.transcodes, self.decoder_norm) {
            (true, _) => 1.0,
            (false, DecoderNorm::Free) if !self.starts_at_target() => self.decoder_init_norm(),
            (false, _) => 0.4,
        }
    }

    pub(super) const fn decoder_init_norm(&self) -> f64 {
        match self.decoder_norm {
            DecoderNorm::Free if self.starts_at_zero => 0.0,
            DecoderNorm::Free if !self.starts_at_target() => self.facts.free_initial_norm,
            _ => 1.0,
        }
    }

    /// Whether about as many latents are active at the start as are wanted, so that rows of norm 1
    /// reconstruct nothing too large.
    const fn starts_at_target(&self) -> bool {
        self.has_target_l0 && !self.transcodes
    }

    /// The average goes back over a part of the run in which the learning rate is nearly 0, so that
    /// the weights are the final ones.
    pub(super) fn threshold_decay(&self) -> f64 {
        1.0 - 1.0 / (self.steps as f64 / 50.0).clamp(1.0, 100.0)
    }

    /// As many as a token has, which costs little; with few, more of the dead learn something.
    pub(super) fn aux_k(&self) -> usize {
        self.k.max(32).min(self.width / 2)
    }

    /// A coder that starts with the number of active latents that it is to have needs no rise.
    pub(super) const fn sparsity_warmup_steps(&self) -> u64 {
        match self.has_target_l0 {
            true => 0,
            false => self.steps / 20,
        }
    }

    pub(super) const fn k_anneal_steps(&self) -> u64 {
        match self.k_falls {
            true => self.steps / 2,
            false => 0,
        }
    }

    pub(super) fn resample_every_steps(&self) -> u64 {
        match self.dead_latents {
            DeadLatents::Resampling => (self.steps / 5).max(1),
            _ => 0,
        }
    }
}
