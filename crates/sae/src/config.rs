//! The recipe of a run: what `lapidary train CONFIG` reads. Every key has a default that works; keys that are absent
//! and depend on the model (`d_sae`, `lr`, ..) are filled in by [`RunConfig::resolve`], and the resolved recipe
//! travels with the checkpoint and the dictionary.

mod check;
mod difference;
mod memory;
mod tables;

use std::collections::BTreeSet;
use std::path::Path;

use crate::coder::Architecture;
use crate::coders::{JumpReluConfig, MatryoshkaConfig, matching_pursuit, proximal};
use crate::end_to_end::Loss;
use crate::error::SaeError;
use crate::optimizer::Optimizer;
use crate::revival::Revival;
use lapidary_activations::{Exclusion, OtherModel, TEXT_FIELD};
use lapidary_model::settings::Reader;

pub use tables::{
    ActivationsConfig, CoderConfig, CorpusConfig, EvaluationConfig, FeaturesConfig, RunConfig,
    TrainingConfig,
};

impl RunConfig {
    /// Reads a recipe from `path`; each of `set` is `dotted.key=value` and wins over the file.
    ///
    /// # Errors
    /// The file cannot be read, is not TOML, has an unknown key (the error says which was probably meant), a value of
    /// the wrong type, or values that contradict each other.
    pub fn load(path: &Path, set: &[String]) -> Result<Self, SaeError> {
        let text = lapidary_io::read_text(path)?;
        Self::parse(&path.display().to_string(), &text, set)
    }

    /// The settings that `beneath`, items like those of `set`, adds to `set`: those whose key neither `text` nor `set` has.
    ///
    /// # Errors
    /// `text` is not TOML, or an item has no `=`.
    pub fn set_beneath(
        file: &str,
        text: &str,
        set: &[String],
        beneath: &[String],
    ) -> Result<Vec<String>, SaeError> {
        let given = Reader::new(file, text, set)?.into_values();
        let absent = |item: &&String| {
            let key = item.split_once('=').map_or(item.as_str(), |(key, _)| key);
            !given.contains_key(key)
        };
        Ok(beneath.iter().filter(absent).chain(set).cloned().collect())
    }

    /// The keys that `text` or `set` gives, dotted.
    ///
    /// # Errors
    /// `text` is not TOML, or an item has no `=`.
    pub fn given(file: &str, text: &str, set: &[String]) -> Result<BTreeSet<String>, SaeError> {
        Ok(Reader::new(file, text, set)?
            .into_values()
            .into_keys()
            .collect())
    }

    /// The recipe with every default, as if read from an empty file.
    ///
    /// # Errors
    /// An item of `set` is wrong.
    pub fn with_defaults(set: &[String]) -> Result<Self, SaeError> {
        Self::parse("defaults", "", set)
    }

    /// Reads a recipe from `text`; errors call it `file`.
    ///
    /// # Errors
    /// As [`RunConfig::load`].
    pub fn parse(file: &str, text: &str, set: &[String]) -> Result<Self, SaeError> {
        let mut r = Reader::new(file, text, set)?;
        let architecture = r.one_of(
            "coder.architecture",
            &Architecture::ALL.map(Architecture::name),
            "topk",
        )?;
        let named = Architecture::named(&architecture).expect("one of these names");
        let hook_points: Vec<String> = r.or("hook_points", vec![])?;
        let first = hook_points.first().map(String::as_str);
        let first = first.unwrap_or("blocks.2.hook_resid_post").to_owned();
        let hook_point = r.or("hook_point", first)?;
        let hook_point_out: Option<String> = r.optional("hook_point_out")?;
        let hook_point_out = hook_point_out.filter(|out| *out != hook_point);
        let hook_points_out: Vec<String> = r.or("hook_points_out", vec![])?;
        let transcodes = hook_point_out.is_some() || !hook_points_out.is_empty();
        let frees_decoder_norm = frees_decoder_norm(named, transcodes);
        let optimizer = r.one_of("training.optimizer", &Optimizer::NAMES, "adam")?;
        let decay = Optimizer::named(&optimizer).default_decay();
        // All tables are read, so that a mistake in one shows, but a recipe keeps its coder's only.
        let jumprelu = JumpReluConfig::read(&mut r)?;
        let matryoshka = MatryoshkaConfig::read(&mut r)?;
        let pursuit = matching_pursuit::read(&mut r)?;
        let pursues = matches!(named, Architecture::MatchingPursuit(_));
        let penalty = proximal::read(&mut r)?;
        let shrinks = matches!(named, Architecture::Proximal(_));
        let corpus_path = r.or("corpus.path", "embedded".to_owned())?;
        let evaluation_corpus = if corpus_path == "embedded" {
            "embedded:heldout".to_owned()
        } else {
            corpus_path.clone()
        };
        let other_model: Option<String> = r.optional("other_model")?;
        let evaluation_tokens = match other_model {
            Some(_) => 0,
            None => 32_768,
        };
        let config = Self {
            model: r.or("model", "embedded".to_owned())?,
            hook_point,
            hook_points,
            hook_points_out,
            hook_point_out,
            other_model,
            other_hook_point: r.optional("other_hook_point")?,
            seed: r.or("seed", 0)?,
            corpus: CorpusConfig {
                path: corpus_path,
                text_field: r.or("corpus.text_field", TEXT_FIELD.to_owned())?,
                context: r.or("corpus.context", 128)?,
                prepend_bos: r.or("corpus.prepend_bos", true)?,
                attend_across_documents: r.or("corpus.attend_across_documents", false)?,
            },
            activations: ActivationsConfig {
                buffer_tokens: r.or("activations.buffer_tokens", 65_536)?,
                harvest_blocks: r.or("activations.harvest_blocks", 16)?,
                normalization: r.one_of(
                    "activations.normalization",
                    &["unit_norm", "mean_centred", "none"],
                    "unit_norm",
                )?,
                store: r.optional("activations.store")?,
                seed: r.optional("activations.seed")?,
                exclude: Exclusion {
                    special_tokens: r.or("activations.exclude.special_tokens", true)?,
                    first_positions: r.or("activations.exclude.first_positions", 0)?,
                    norm_multiple: r
                        .optional::<f64>("activations.exclude.norm_multiple")?
                        .map(|multiple| multiple as f32),
                },
            },
            training: TrainingConfig {
                tokens: r.or("training.tokens", 1_000_000)?,
                batch_tokens: r.or("training.batch_tokens", 2048)?,
                optimizer,
                lr: r.optional("training.lr")?,
                lr_warmup_steps: r.optional("training.lr_warmup_steps")?,
                lr_decay_fraction: r.or("training.lr_decay_fraction", 0.2)?,
                adam_beta1: r.or("training.adam_beta1", decay)?,
                adam_beta2: r.or("training.adam_beta2", 0.999)?,
                adam_eps: r.or("training.adam_eps", 6.25e-10)?,
                loss: r.one_of("training.loss", &Loss::NAMES, "local")?,
                local_coefficient: r.or("training.local_coefficient", 0.0)?,
                sparsity_penalty: r.one_of("training.sparsity_penalty", &["l1", "tanh"], "l1")?,
                tanh_scale: r.or("training.tanh_scale", tables::tanh_scale())?,
                l1_coefficient: r.or("training.l1_coefficient", 0.05)?,
                sparsity_warmup_steps: r.optional("training.sparsity_warmup_steps")?,
                k_anneal_steps: r.optional("training.k_anneal_steps")?,
                revival: r.one_of(
                    "training.revival",
                    &Revival::NAMES,
                    Revival::usual(named.method()),
                )?,
                resample_every_steps: r.optional("training.resample_every_steps")?,
                aux_k: r.optional("training.aux_k")?,
                aux_k_coefficient: r.or("training.aux_k_coefficient", 1.0 / 32.0)?,
                dead_after_tokens: r.optional("training.dead_after_tokens")?,
                dead_check_every_steps: r.or("training.dead_check_every_steps", 4)?,
                decoder_norm: r.one_of(
                    "training.decoder_norm",
                    &["unit", "free"],
                    if frees_decoder_norm { "free" } else { "unit" },
                )?,
                clip_grad_norm: r.or("training.clip_grad_norm", 0.0)?,
                threshold_decay: r.or("training.threshold_decay", 0.99)?,
                checkpoint_every_steps: r.or("training.checkpoint_every_steps", 0)?,
                log_every_steps: r.or("training.log_every_steps", 10)?,
            },
            coder: CoderConfig {
                architecture,
                d_sae: r.optional("coder.d_sae")?,
                expansion_factor: r.optional("coder.expansion_factor")?,
                k: r.or("coder.k", 32)?,
                k_start: r.optional("coder.k_start")?,
                skip_connection: r.or("coder.skip_connection", false)?,
                apply_b_dec_to_input: r.or("coder.apply_b_dec_to_input", !transcodes)?,
                b_dec_init: r.one_of(
                    "coder.b_dec_init",
                    &["geometric_median", "mean", "zeros"],
                    "geometric_median",
                )?,
                decoder_init_norm: r.optional("coder.decoder_init_norm")?,
                multi_topk: r.or("coder.multi_topk", false)?,
                jumprelu: Some(jumprelu).filter(|_| named == Architecture::JumpRelu),
                matryoshka: Some(matryoshka).filter(|_| named == Architecture::Matryoshka),
                matching_pursuit: Some(pursuit).filter(|_| pursues),
                proximal: Some(penalty).filter(|_| shrinks),
            },
            evaluation: EvaluationConfig {
                corpus: r.or("evaluation.corpus", evaluation_corpus)?,
                tokens: r.or("evaluation.tokens", evaluation_tokens)?,
            },
            features: FeaturesConfig {
                tokens: r.or("features.tokens", 200_000)?,
                examples_per_feature: r.or("features.examples_per_feature", 16)?,
            },
        };
        config.check(file, &r)?;
        r.finish()?;
        Ok(config)
    }

    /// The same recipe with every absent key filled in for activations of width `d_in`, of a crosscoder those at its first hook point.
    ///
    /// # Errors
    /// `k` exceeds the number of latents that `expansion_factor` gives.
    pub fn resolve(&self, d_in: usize) -> Result<Self, SaeError> {
        let mut c = self.clone();
        let steps = self.steps();
        let d_sae = self.coder.d_sae.unwrap_or_else(|| {
            let factor = self.coder.expansion_factor.unwrap_or(16.0);
            ((factor * d_in as f64).round() as usize).max(1)
        });
        c.activations.seed = Some(self.order_seed());
        c.coder.d_sae = Some(d_sae);
        c.coder.expansion_factor = None;
        c.check_latents("configuration", d_sae)?;
        let method = self.architecture().method();
        let free = self.training.decoder_norm == "free";
        c.coder
            .decoder_init_norm
            .get_or_insert(match (free, self.starts_at_zero()) {
                (true, true) => 0.0,
                (true, false) => method.free_initial_norm(),
                (false, _) => 1.0,
            });
        let t = &mut c.training;
        let optimizer = Optimizer::named(&t.optimizer);
        t.lr.get_or_insert_with(|| optimizer.default_lr(method.default_lr(d_sae), d_sae));
        if self.coder.k_start.is_some() {
            t.k_anneal_steps.get_or_insert(steps / 2);
        }
        t.lr_warmup_steps.get_or_insert((steps / 20).min(1000));
        t.sparsity_warmup_steps.get_or_insert(steps / 20);
        t.aux_k.get_or_insert(d_in / 2);
        if Revival::of(self) == Revival::Resampling {
            t.resample_every_steps.get_or_insert((steps / 5).max(1));
        }
        t.dead_after_tokens
            .get_or_insert((self.training.tokens / 10).min(10_000_000));
        Ok(c)
    }

    /// The architecture as an enum.
    #[must_use]
    pub fn architecture(&self) -> Architecture {
        Architecture::of(&self.coder)
    }

    /// Whether the loss goes through the model, for which batches are whole sequences.
    #[must_use]
    pub fn learns_end_to_end(&self) -> bool {
        Loss::named(&self.training.loss) != Loss::Local
    }

    /// Layers of a cross-layer transcoder; none of any other coder.
    #[must_use]
    pub fn layers(&self) -> Option<usize> {
        let layers = self.hook_points_out.len();
        (layers > 0).then_some(layers)
    }

    /// The hook points whose activations the coder reads: one, but for crosscoders and cross-layer transcoders. That of a second model has [`OtherModel::PREFIX`] before it.
    #[must_use]
    pub fn read_hook_points(&self) -> Vec<String> {
        if self.other_model.is_some() {
            let other = self.other_hook_point.as_ref().unwrap_or(&self.hook_point);
            let other = format!("{}{other}", OtherModel::PREFIX);
            return vec![self.hook_point.clone(), other];
        }
        match self.hook_points.is_empty() {
            true => vec![self.hook_point.clone()],
            false => self.hook_points.clone(),
        }
    }

    /// The hook points whose activations the coder reconstructs.
    #[must_use]
    pub fn written_hook_points(&self) -> Vec<String> {
        if !self.hook_points_out.is_empty() {
            return self.hook_points_out.clone();
        }
        let out = self.hook_point_out.clone();
        out.map_or_else(|| self.read_hook_points(), |out| vec![out])
    }

    /// Whether the coder is a transcoder: reconstructs other activations than it reads.
    #[must_use]
    pub const fn transcodes(&self) -> bool {
        self.hook_point_out.is_some() || !self.hook_points_out.is_empty()
    }

    /// Whether decoder rows may start at 0. A penalty weighed by their norms has no slope there.
    fn starts_at_zero(&self) -> bool {
        let free = self.training.decoder_norm == "free";
        free && self.transcodes() && self.architecture().method().counts_latents()
    }

    /// The seed of the order of the activations.
    #[must_use]
    pub fn order_seed(&self) -> u64 {
        self.activations.seed.unwrap_or(self.seed)
    }

    /// Active latents a token at `step`, from 0: `k_start` falls linearly to `k`.
    pub(crate) fn k_at(&self, step: u64) -> usize {
        let (k, start) = (self.coder.k, self.coder.k_start.unwrap_or(self.coder.k));
        let over = self.training.k_anneal_steps.unwrap_or(0);
        match step < over {
            true => k + ((start - k) as f64 * (1.0 - step as f64 / over as f64)).round() as usize,
            false => k,
        }
    }

    /// Training steps: whole batches in `training.tokens`.
    #[must_use]
    pub fn steps(&self) -> u64 {
        (self.training.tokens / self.training.batch_tokens as u64).max(1)
    }

    /// The recipe as TOML, which [`RunConfig::parse`] reads back to the same recipe.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a recipe is made of tables, strings and numbers")
    }
}

/// Whether decoder rows may have any norm in training, and then do unless the recipe says otherwise.
fn frees_decoder_norm(architecture: Architecture, transcodes: bool) -> bool {
    let method = architecture.method();
    method.frees_decoder_norm() || (transcodes && method.counts_latents())
}

#[cfg(test)]
mod tests;
