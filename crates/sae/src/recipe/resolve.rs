//! Defaults that depend on other keys, or on the width of the activations.

use lapidary_coder::{ArchitectureKind, Shape};

use super::Recipe;
use super::facts::facts;
use super::names::{DeadLatents, DecoderNorm, Optimizer};

/// What defaults may depend on while a recipe is read.
pub(super) struct AfterReading {
    pub(super) architecture: ArchitectureKind,
    pub(super) optimizer: Optimizer,
    pub(super) transcodes: bool,
    pub(super) has_two_models: bool,
    pub(super) corpus: String,
    pub(super) penalty_shape: Shape,
}

impl AfterReading {
    pub(super) fn dead_latents(&self) -> DeadLatents {
        match facts(self.architecture).is_topk_like {
            true => DeadLatents::AuxK,
            false => DeadLatents::None,
        }
    }

    pub(super) fn decoder_norm(&self) -> DecoderNorm {
        match frees_decoder_norm(self.architecture, self.transcodes) {
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

/// Whether decoder rows may have any norm in training, and then do unless the recipe says
/// otherwise.
pub(super) fn frees_decoder_norm(architecture: ArchitectureKind, transcodes: bool) -> bool {
    let facts = facts(architecture);
    facts.frees_decoder_norm || (transcodes && facts.is_topk_like)
}

/// What defaults may depend on when a recipe is resolved.
pub(super) struct Widths<'a> {
    pub(super) recipe: &'a Recipe,
    /// The width of the activations that are read, at the first hook point.
    pub(super) width: usize,
    pub(super) d_sae: usize,
    pub(super) steps: u64,
}

impl<'a> Widths<'a> {
    pub(super) fn new(recipe: &'a Recipe, width: usize) -> Self {
        let d_sae = recipe.coder.d_sae.unwrap_or_else(|| {
            let factor = recipe.coder.expansion_factor.unwrap_or(16.0);
            ((factor * width as f64).round() as usize).max(1)
        });
        Self {
            recipe,
            width,
            d_sae,
            steps: recipe.steps(),
        }
    }

    pub(super) fn lr(&self) -> f64 {
        let fixed = facts(self.recipe.coder.architecture).fixed_lr;
        let adam = fixed.unwrap_or_else(|| 2e-4 / (self.d_sae as f64 / 16_384.0).sqrt());
        let optimizer = self.recipe.training.optimizer;
        optimizer.default_lr(adam, self.d_sae)
    }

    pub(super) fn decoder_init_norm(&self) -> f64 {
        let facts = facts(self.recipe.coder.architecture);
        match self.recipe.training.decoder_norm {
            DecoderNorm::Free if self.recipe.starts_at_zero() => 0.0,
            DecoderNorm::Free => facts.free_initial_norm,
            DecoderNorm::Unit => 1.0,
        }
    }

    pub(super) fn k_anneal_steps(&self) -> u64 {
        match self.recipe.coder.k_start {
            Some(_) => self.steps / 2,
            None => 0,
        }
    }

    pub(super) fn resample_every_steps(&self) -> u64 {
        match self.recipe.training.revival {
            DeadLatents::Resampling => (self.steps / 5).max(1),
            _ => 0,
        }
    }

    pub(super) fn matryoshka_widths(&self) -> Vec<usize> {
        let mut widths: Vec<usize> = [16, 8, 4, 2].map(|part| self.d_sae / part).into();
        widths.dedup();
        widths.retain(|w| (1..self.d_sae).contains(w));
        widths
    }
}
