//! The recipe of a run: what `lapidary train CONFIG` reads.
//!
//! A [`Recipe`] is what a file says, with every default that does not depend on the model.
//! [`Recipe::resolve`] fills in the rest (`d_sae`, `lr`, …) for a width of activations; the
//! [`ResolvedRecipe`] travels with the checkpoint and the dictionary.

mod difference;
mod memory;
mod reference;
mod validation;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use burn::tensor::{Int, Tensor};
use lapidary_activations::Exclusion;
use lapidary_coder::{Architecture, ArchitectureKind, SiteKeys, Sites};
use lapidary_io::settings::{FromToml, Reader};
use toml::Value;

use crate::architectures::{StepContext, facts, method};
use crate::error::SaeError;
use crate::keys::{AfterReading, Values, Widths, to_json, to_map, to_text};

pub use crate::architectures::{
    ArchitectureTables, JumpReluConfig, JumpReluPenalty, MatryoshkaConfig, ProximalConfig,
    PursuitConfig, ResolvedJumpRelu, ResolvedMatryoshka, ResolvedProximal, ResolvedPursuit,
    ResolvedTables,
};
pub use crate::keys::{
    ActivationsConfig, CoderConfig, CorpusConfig, DeadLatents, DecoderBiasStart, DecoderNorm,
    EvaluationConfig, ExcludeConfig, FeaturesConfig, Loss, Optimizer, ResolvedActivations,
    ResolvedCoder, ResolvedTraining, SparsityPenalty, TrainingConfig,
};
pub use difference::Difference;
pub use reference::reference;

/// Where the coder reads where a recipe does not say. The command chooses the middle layer of the
/// model instead.
const HOOK_POINT: &str = "blocks.2.hook_resid_post";

/// The whole recipe, as read.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    /// Model: a Hugging Face folder, a hub name, or "embedded" (the small model inside the
    /// program).
    pub model: String,
    /// What the coder reads and what it reconstructs.
    pub sites: Sites,
    /// Seed of everything random: initial weights and, unless it has its own, the order of the
    /// activations.
    pub seed: u64,
    /// The text.
    pub corpus: CorpusConfig,
    /// From text to batches of activations.
    pub activations: ActivationsConfig,
    /// Which tokens' activations are left out.
    pub exclude: ExcludeConfig,
    /// The sparse coder.
    pub coder: CoderConfig,
    /// What belongs to one architecture each.
    pub architectures: ArchitectureTables,
    /// The optimization.
    pub training: TrainingConfig,
    /// The metrics after training.
    pub evaluation: EvaluationConfig,
    /// The feature tables after training.
    pub features: FeaturesConfig,
}

/// The recipe of a coder in training: every value that it needs.
#[derive(Clone, Debug, PartialEq)]
pub struct ResolvedRecipe {
    /// The recipe with every value filled in.
    recipe: Recipe,
    /// The architecture with its parameters.
    pub architecture: Architecture,
    /// The sparse coder.
    pub coder: ResolvedCoder,
    /// What belongs to one architecture each.
    pub architectures: ResolvedTables,
    /// The optimization.
    pub training: ResolvedTraining,
    /// Seed of the order of the activations.
    pub order_seed: u64,
}

impl Recipe {
    /// Reads a recipe from `path`; each of `set` is `dotted.key=value` and wins over the file.
    ///
    /// # Errors
    /// The file cannot be read, is not TOML, has an unknown key (the error says which was probably
    /// meant), a value of the wrong type, or values that contradict each other.
    pub fn load(path: &Path, set: &[String]) -> Result<Self, SaeError> {
        let text = lapidary_io::read_text(path)?;
        Self::parse(&path.display().to_string(), &text, set)
    }

    /// The settings that `beneath`, items like those of `set`, adds to `set`: those whose key
    /// neither `text` nor `set` has.
    ///
    /// # Errors
    /// `text` is not TOML, or an item has no `=`.
    pub fn set_beneath(
        file: &str,
        text: &str,
        set: &[String],
        beneath: &[String],
    ) -> Result<Vec<String>, SaeError> {
        let given = Self::given(file, text, set)?;
        let absent = |item: &&String| {
            let key = item.split_once('=').map_or(item.as_str(), |(key, _)| key);
            !given.contains(key)
        };
        Ok(beneath.iter().filter(absent).chain(set).cloned().collect())
    }

    /// The keys that `text` or `set` gives, dotted.
    ///
    /// # Errors
    /// `text` is not TOML, or an item has no `=`.
    pub fn given(file: &str, text: &str, set: &[String]) -> Result<BTreeSet<String>, SaeError> {
        let values = Reader::new(file, text, set)?.into_values();
        Ok(values.into_keys().collect())
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
    /// As [`Recipe::load`].
    pub fn parse(file: &str, text: &str, set: &[String]) -> Result<Self, SaeError> {
        let mut r = Reader::new(file, text, set)?;
        let keys = read_sites(&mut r)?;
        let given = |r: &Reader, key: &str| r.peek(key).and_then(Value::as_str).map(str::to_owned);
        let mut after = AfterReading {
            facts: facts(r.peek_as("coder.architecture", ArchitectureKind::TopK)),
            optimizer: r.peek_as("training.optimizer", Optimizer::Adam),
            transcodes: keys.hook_point_out.is_some() || !keys.hook_points_out.is_empty(),
            has_two_models: keys.other_model.is_some(),
            corpus: given(&r, "corpus.path").unwrap_or_else(|| "embedded".to_owned()),
        };
        let corpus = CorpusConfig::read(&mut r, &after)?;
        after.corpus.clone_from(&corpus.path);
        let recipe = Self {
            model: r.or("model", "embedded".to_owned())?,
            sites: keys.clone().into(),
            seed: r.or("seed", 0)?,
            corpus,
            activations: ActivationsConfig::read(&mut r, &after)?,
            exclude: ExcludeConfig::read(&mut r, &after)?,
            coder: CoderConfig::read(&mut r, &after)?,
            architectures: ArchitectureTables::read(&mut r, &after)?,
            training: TrainingConfig::read(&mut r, &after)?,
            evaluation: EvaluationConfig::read(&mut r, &after)?,
            features: FeaturesConfig::read(&mut r, &after)?,
        };
        recipe.check(file, &r, &keys)?;
        r.finish()?;
        Ok(recipe)
    }

    /// The same recipe with every absent key filled in for activations of width `width`, for
    /// several hook points that at the first.
    ///
    /// # Errors
    /// `k` exceeds the number of latents that `expansion_factor` gives.
    pub fn resolve(&self, width: usize) -> Result<ResolvedRecipe, SaeError> {
        let widths = self.widths(width);
        self.check_latents("configuration", widths.d_sae)?;
        let activations = self.activations.resolve(&widths);
        let mut coder = self.coder.resolve(&widths);
        coder.expansion_factor = None;
        let architectures = self.architectures.resolve(&widths);
        let training = self.training.resolve(&widths);
        Ok(ResolvedRecipe {
            recipe: Self {
                activations: (&activations).into(),
                coder: (&coder).into(),
                architectures: self
                    .architectures
                    .filled(self.coder.architecture, &architectures),
                training: (&training).into(),
                ..self.clone()
            }
            .without_foreign_keys(),
            architecture: self.architecture(),
            architectures,
            order_seed: activations.seed,
            coder,
            training,
        })
    }

    /// The architecture with its parameters.
    #[must_use]
    pub fn architecture(&self) -> Architecture {
        let kind = self.coder.architecture;
        method(kind).architecture(kind, self.coder.k, &self.architectures)
    }

    /// What defaults depend on where activations have this width.
    fn widths(&self, width: usize) -> Widths {
        let d_sae = self.coder.d_sae.unwrap_or_else(|| {
            let factor = self.coder.expansion_factor.unwrap_or(16.0);
            ((factor * width as f64).round() as usize).max(1)
        });
        Widths {
            width,
            d_sae,
            k: match self.coder.target_l0 {
                Some(target) => target.round() as usize,
                None => self.coder.k,
            },
            layers: self.sites.layers(),
            batch_tokens: self.training.batch_tokens,
            steps: self.steps(),
            tokens: self.training.tokens,
            order_seed: self.order_seed(),
            facts: facts(self.coder.architecture),
            optimizer: self.training.optimizer,
            dead_latents: self.training.revival,
            decoder_norm: self.training.decoder_norm,
            transcodes: self.sites.transcodes(),
            starts_at_zero: self.starts_at_zero(),
            has_target_l0: self.coder.target_l0.is_some(),
            k_falls: self.coder.k_start.is_some(),
        }
    }

    /// The seed of the order of the activations.
    #[must_use]
    pub fn order_seed(&self) -> u64 {
        self.activations.seed.unwrap_or(self.seed)
    }

    /// Which tokens' activations are left out.
    #[must_use]
    pub fn exclusion(&self) -> Exclusion {
        Exclusion {
            special_tokens: self.exclude.special_tokens,
            first_positions: self.exclude.first_positions,
            norm_multiple: Some(self.exclude.norm_multiple as f32)
                .filter(|multiple| *multiple > 0.0),
        }
    }

    /// Training steps: whole batches in `training.tokens`.
    #[must_use]
    pub fn steps(&self) -> u64 {
        (self.training.tokens / self.training.batch_tokens as u64).max(1)
    }

    /// Whether decoder rows may start at 0. A penalty weighed by their norms has no slope there.
    fn starts_at_zero(&self) -> bool {
        let free = self.training.decoder_norm == DecoderNorm::Free;
        let facts = facts(self.coder.architecture);
        free && self.sites.transcodes() && facts.is_topk_like
    }

    /// Without values of keys that mean nothing for this coder, which [`Recipe::to_toml`] leaves
    /// out.
    fn without_foreign_keys(mut self) -> Self {
        // One latent has no prefixes, and a list without widths is not read back.
        let widths = &mut self.architectures.matryoshka.widths;
        widths.take_if(|widths| widths.is_empty());
        if self.coder.k_start.is_none() {
            self.training.k_anneal_steps = None;
        }
        if self.training.revival != DeadLatents::Resampling {
            self.training.resample_every_steps = None;
        }
        self
    }

    /// Every key with its value, in the order of the reference page. Keys of other coders are left
    /// out.
    fn ordered_values(&self) -> Values {
        let keys = SiteKeys::from(self.sites.clone());
        let text = |text: &Option<String>| text.as_ref().map(String::to_toml);
        let list = |list: &Vec<String>| (!list.is_empty()).then(|| list.to_toml());
        let mut values = vec![
            ("model", Some(self.model.to_toml())),
            ("hook_point", text(&keys.hook_point)),
            ("hook_points", list(&keys.hook_points)),
            ("hook_points_out", list(&keys.hook_points_out)),
            ("hook_point_out", text(&keys.hook_point_out)),
            ("other_model", text(&keys.other_model)),
            ("other_hook_point", text(&keys.other_hook_point)),
            ("seed", Some(self.seed.to_toml())),
        ];
        values.extend(self.corpus.values());
        values.extend(self.activations.values());
        values.extend(self.exclude.values());
        values.extend(self.coder.values());
        values.extend(self.architectures.values(self.coder.architecture));
        values.extend(self.training.values());
        values.extend(self.evaluation.values());
        values.extend(self.features.values());
        values
    }

    /// Every key that has a value, dotted, in alphabetic order.
    #[must_use]
    pub fn values(&self) -> BTreeMap<String, Value> {
        to_map(self.ordered_values())
    }

    /// The recipe as TOML, which [`Recipe::parse`] reads back to the same recipe.
    #[must_use]
    pub fn to_toml(&self) -> String {
        to_text(&self.ordered_values())
    }

    /// The recipe as JSON, which [`Recipe::from_json`] reads back.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        to_json(&self.ordered_values())
    }

    /// The recipe in a dictionary's file, if this version can read it: a newer one may have a coder
    /// that this one does not know.
    #[must_use]
    pub fn from_json(json: &serde_json::Value) -> Option<Self> {
        let mut json = json.clone();
        let table =
            |json: &mut serde_json::Value, name: &str, keys: &[(&str, serde_json::Value)]| {
                if let Some(table) = json.get_mut(name).and_then(|t| t.as_object_mut()) {
                    for (key, value) in keys {
                        table.entry(*key).or_insert_with(|| value.clone());
                    }
                }
            };
        // What recipes meant that were written before these keys existed.
        table(
            &mut json,
            "corpus",
            &[("attend_across_documents", true.into())],
        );
        if let Some(activations) = json.get_mut("activations") {
            table(activations, "exclude", &[("norm_multiple", 0.0.into())]);
        }
        let topk_like = ["topk", "batchtopk", "matryoshka"];
        let architecture = json.pointer("/coder/architecture").and_then(|a| a.as_str());
        let revival = match architecture.is_some_and(|a| topk_like.contains(&a)) {
            true => "aux_k",
            false => "none",
        };
        let training = json.get_mut("training").and_then(|t| t.as_object_mut());
        if let Some(training) = training {
            training.entry("revival").or_insert_with(|| revival.into());
            if let Some(steps) = training.remove("l1_warmup_steps") {
                training.entry("sparsity_warmup_steps").or_insert(steps);
            }
        }
        drop_nulls(&mut json);
        let table: toml::Table = serde_json::from_value(json).ok()?;
        Self::parse("recipe", &table.to_string(), &[]).ok()
    }
}

/// TOML has no null: an absent key is one that is not there.
fn drop_nulls(json: &mut serde_json::Value) {
    if let serde_json::Value::Object(map) = json {
        map.retain(|_, value| !value.is_null());
        map.values_mut().for_each(drop_nulls);
    }
}

/// The keys of the hook points. `hook_point_out` where it reads is the same as none.
fn read_sites(r: &mut Reader) -> Result<SiteKeys, SaeError> {
    let hook_points: Vec<String> = r.or("hook_points", vec![])?;
    let first = hook_points.first().map_or(HOOK_POINT, String::as_str);
    let hook_point = r.or("hook_point", first.to_owned())?;
    let hook_point_out: Option<String> = r.optional("hook_point_out")?;
    Ok(SiteKeys {
        hook_point_out: hook_point_out.filter(|out| *out != hook_point),
        hook_point: Some(hook_point),
        hook_points,
        hook_points_out: r.or("hook_points_out", vec![])?,
        other_model: r.optional("other_model")?,
        other_hook_point: r.optional("other_hook_point")?,
    })
}

impl ResolvedRecipe {
    /// The recipe with every value filled in, as it is written and compared.
    #[must_use]
    pub const fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// What the coder reads and what it reconstructs.
    #[must_use]
    pub const fn sites(&self) -> &Sites {
        &self.recipe.sites
    }

    /// Seed of the initial weights.
    #[must_use]
    pub const fn seed(&self) -> u64 {
        self.recipe.seed
    }

    /// Training steps.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.recipe.steps()
    }

    /// Where training stands after `step` steps, with these latents of each layer dead and this
    /// factor of the penalty's weight.
    pub(crate) const fn context<'a>(
        &'a self,
        step: u64,
        dead: &'a [Option<Tensor<1, Int>>],
        l0_factor: f64,
    ) -> StepContext<'a> {
        StepContext {
            coder: &self.coder,
            training: &self.training,
            tables: &self.architectures,
            step,
            dead,
            l0_factor,
        }
    }

    /// Active latents per token at `step`, from 0: `k_start` falls linearly to `k`.
    pub(crate) fn k_at(&self, step: u64) -> usize {
        let (k, over) = (self.coder.k, self.training.k_anneal_steps);
        let start = self.coder.k_start.unwrap_or(k);
        match step < over {
            true => k + ((start - k) as f64 * (1.0 - step as f64 / over as f64)).round() as usize,
            false => k,
        }
    }

    /// Changes what a resumed coder may change: logging, checkpoints, and what happens after
    /// training. Everything else in `recipe` is ignored.
    pub(crate) fn update_settings(&mut self, recipe: &Recipe) {
        let (ours, theirs) = (&mut self.recipe, recipe);
        ours.training.log_every_steps = theirs.training.log_every_steps;
        ours.training.checkpoint_every_steps = theirs.training.checkpoint_every_steps;
        ours.evaluation = theirs.evaluation.clone();
        ours.features = theirs.features.clone();
        self.training.log_every_steps = theirs.training.log_every_steps;
        self.training.checkpoint_every_steps = theirs.training.checkpoint_every_steps;
    }

    /// Takes the length of the training, and what follows from it, from another resolved recipe.
    pub(crate) fn extend(&mut self, longer: &Self) {
        let (ours, theirs) = (&mut self.training, &longer.training);
        ours.tokens = theirs.tokens;
        ours.lr = theirs.lr;
        ours.lr_warmup_steps = theirs.lr_warmup_steps;
        ours.sparsity_warmup_steps = theirs.sparsity_warmup_steps;
        ours.k_anneal_steps = theirs.k_anneal_steps;
        ours.resample_every_steps = theirs.resample_every_steps;
        ours.dead_after_tokens = theirs.dead_after_tokens;
        ours.threshold_decay = theirs.threshold_decay;
        self.recipe.training = (&self.training).into();
        self.recipe = self.recipe.clone().without_foreign_keys();
    }
}

#[cfg(test)]
mod tests;
