//! A finished dictionary: a coder for activations as the model makes them, and where it comes from.

use std::path::Path;

use burn::tensor::Device;
use lapidary_activations::OtherModel;
use lapidary_model::HookPoint;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::coder::{Architecture, SparseCoder};
use crate::config::RunConfig;
use crate::cross_layer;
use crate::ends::Scaling;
use crate::error::SaeError;
use crate::formats::saelens;
use crate::model_loading::ModelLoading;

/// What a dictionary was trained on. What a foreign file does not say is `None`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// The model's name.
    pub model_name: Option<String>,
    /// The second model of a crosscoder of two; its hook points have [`OtherModel::PREFIX`] before them.
    #[serde(default)]
    pub other_model: Option<String>,
    /// The hook point that it reads, in TransformerLens spelling.
    pub hook_point: Option<String>,
    /// A crosscoder's: all hook points that it reads and reconstructs, side by side in this order; a cross-layer transcoder's: those
    /// that it reads; otherwise empty.
    #[serde(default)]
    pub hook_points: Vec<String>,
    /// A cross-layer transcoder's: the hook points whose activations it reconstructs, one for each of `hook_points`; otherwise empty.
    #[serde(default)]
    pub hook_points_out: Vec<String>,
    /// A transcoder's: the hook point whose activations it reconstructs, empty if a file does not say.
    pub hook_point_out: Option<String>,
    /// Tokens of context in training.
    pub context: Option<usize>,
    /// Whether blocks began with the beginning-of-sequence token.
    pub prepend_bos: Option<bool>,
    /// The training text.
    pub corpus: Option<String>,
    /// The architecture in training, if it differs from that at inference ("batchtopk").
    pub training_architecture: Option<String>,
    /// Training steps.
    pub steps: Option<u64>,
    /// Activations trained on.
    pub tokens: Option<u64>,
    /// The normalization that was folded into the weights.
    pub normalization: Option<String>,
    /// How the model was loaded, and which part of the hook point's value is read.
    #[serde(default, skip_serializing_if = "ModelLoading::is_plain")]
    pub loading: ModelLoading,
    /// The whole resolved recipe, seed included.
    pub recipe: Option<RunConfig>,
}

impl Provenance {
    /// What was serialized; none if it is something else. A recipe of a newer version is left out.
    #[must_use]
    pub fn from_json(value: &Value) -> Option<Self> {
        let mut fields = value.as_object()?.clone();
        let recipe = fields.remove("recipe");
        let mut read: Self = serde_json::from_value(fields.into()).ok()?;
        read.recipe = recipe.as_ref().and_then(recipe_of);
        Some(read)
    }
}

/// The recipe in a dictionary's file, if this version can read it: a newer one may have a coder that this one does not know.
pub(crate) fn recipe_of(value: &Value) -> Option<RunConfig> {
    let recipe = serde_json::from_value::<RunConfig>(value.clone()).ok();
    recipe.filter(|r| Architecture::named(&r.coder.architecture).is_some())
}

/// A trained sparse coder with its provenance.
#[derive(Clone, Debug)]
pub struct Dictionary {
    /// The coder; it takes raw activations.
    pub coder: SparseCoder,
    /// Where it comes from.
    pub provenance: Provenance,
}

/// What a dictionary's files say of it without its weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    /// The architecture's name.
    pub architecture: &'static str,
    /// Active latents per token, of a TopK coder.
    pub k: Option<usize>,
    /// Width of what it reads.
    pub d_in: usize,
    /// Width of what it reconstructs.
    pub d_out: usize,
    /// Number of latents, of all layers.
    pub d_sae: usize,
    /// Layers of a cross-layer transcoder.
    pub layers: Option<usize>,
    /// Where it comes from.
    pub provenance: Provenance,
}

impl Description {
    /// That of a dictionary.
    #[must_use]
    pub fn of(dictionary: &Dictionary) -> Self {
        let coder = &dictionary.coder;
        Self {
            architecture: coder.architecture.name(),
            k: matches!(coder.architecture, Architecture::TopK).then_some(coder.k),
            d_in: coder.d_in(),
            d_out: coder.d_out(),
            d_sae: coder.d_sae(),
            layers: coder.layers(),
            provenance: dictionary.provenance.clone(),
        }
    }

    /// Reads that of a folder in the layout of SAELens 6; of the weights only names, types and shapes are looked at.
    ///
    /// # Errors
    /// As [`Dictionary::load`], but for values.
    pub fn read(dir: &Path) -> Result<Self, SaeError> {
        saelens::describe(dir)
    }
}

impl Dictionary {
    /// Whether there is a dictionary in `dir`.
    #[must_use]
    pub fn exists(dir: &Path) -> bool {
        saelens::exists(dir)
    }

    /// Reads a folder in the layout of SAELens 6 (`cfg.json`, `sae_weights.safetensors`) in f32, f16 or bf16: whatever [`Self::save`]
    /// writes, and SAELens's own.
    ///
    /// # Errors
    /// A file is missing, damaged, or says something that this program cannot do exactly.
    pub fn load(dir: &Path, device: &Device) -> Result<Self, SaeError> {
        saelens::load(dir, device)
    }

    /// Writes the folder in the layout of SAELens 6. All of it stands, or what stood there before.
    ///
    /// # Errors
    /// The folder cannot be written, or something stands there that is not a dictionary.
    pub fn save(&self, dir: &Path) -> Result<(), SaeError> {
        saelens::save(self, dir)
    }

    /// Writes the files that [`Dictionary::save`] writes into `folder`, one by one, for a caller
    /// that makes the folder whole.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn write_files(&self, folder: &Path) -> Result<(), SaeError> {
        saelens::write(self, folder)
    }

    /// Whether it reconstructs other activations than it reads.
    #[must_use]
    pub fn transcodes(&self) -> bool {
        self.provenance.hook_point_out.is_some()
            || self.coder.layers().is_some()
            || self.coder.d_in() != self.coder.d_out()
            || self.coder.w_skip().is_some()
    }

    /// The hook point whose activations it reconstructs, of several the first.
    ///
    /// # Errors
    /// The dictionary does not say, or says one that no model here has.
    pub fn hook_point_out(&self) -> Result<HookPoint, SaeError> {
        let first = self.provenance.hook_points_out.first();
        match first.or(self.provenance.hook_point_out.as_ref()) {
            Some(name) if !name.is_empty() => Ok(name.parse::<HookPoint>()?),
            None if !self.transcodes() => self.hook_point(),
            _ => Err(SaeError::Config {
                place: "dictionary".to_owned(),
                message: "cfg.json does not say which hook point this transcoder reconstructs (metadata.hook_name_out)"
                    .to_owned(),
            }),
        }
    }

    /// The hook points that this dictionary reads, whose activations stand side by side in what it encodes.
    ///
    /// # Errors
    /// The dictionary does not say, or says one that no model here has.
    pub fn read_hook_points(&self) -> Result<Vec<HookPoint>, SaeError> {
        if let Some(other) = &self.provenance.other_model {
            return Err(SaeError::Config {
                place: "dictionary".to_owned(),
                message: format!(
                    "found a crosscoder of two models, `{other}` the second, expected one of one model: of two there are features, encode and inspect"
                ),
            });
        }
        if self.provenance.hook_points.is_empty() {
            return Ok(vec![self.hook_point()?]);
        }
        let parsed = self.provenance.hook_points.iter().map(|hook| hook.parse());
        Ok(parsed.collect::<Result<_, _>>()?)
    }

    /// The hook points of a crosscoder of two models, those of the first and those of the second; of any other dictionary all are the first's.
    ///
    /// # Errors
    /// As [`Dictionary::read_hook_points`], but for two models.
    pub fn hook_points_of_both(&self) -> Result<[Vec<HookPoint>; 2], SaeError> {
        if self.provenance.other_model.is_none() {
            return Ok([self.read_hook_points()?, vec![]]);
        }
        let mut both = [vec![], vec![]];
        for hook in &self.provenance.hook_points {
            match hook.strip_prefix(OtherModel::PREFIX) {
                Some(hook) => both[1].push(hook.parse()?),
                None => both[0].push(hook.parse()?),
            }
        }
        Ok(both)
    }

    /// The hook points whose activations it reconstructs, likewise.
    ///
    /// # Errors
    /// As [`Dictionary::read_hook_points`].
    pub fn written_hook_points(&self) -> Result<Vec<HookPoint>, SaeError> {
        let several = &self.provenance.hook_points_out;
        if !several.is_empty() {
            let parsed = several.iter().map(|hook| hook.parse());
            return Ok(parsed.collect::<Result<_, _>>()?);
        }
        match self.transcodes() {
            true => Ok(vec![self.hook_point_out()?]),
            false => self.read_hook_points(),
        }
    }

    /// The hook point that this dictionary reads, of several the first.
    ///
    /// # Errors
    /// The dictionary does not say, or says one that no model here has.
    pub fn hook_point(&self) -> Result<HookPoint, SaeError> {
        let Some(name) = &self.provenance.hook_point else {
            return Err(SaeError::Config {
                place: "dictionary".to_owned(),
                message: "cfg.json does not say which hook point it is for (metadata.hook_name)"
                    .to_owned(),
            });
        };
        Ok(name.parse::<HookPoint>()?)
    }

    /// The dictionary of a finished run.
    pub(crate) fn from_training(
        coder: &SparseCoder,
        threshold: f64,
        scaling: &Scaling,
        config: &RunConfig,
        (steps, tokens): (u64, u64),
    ) -> Result<Self, SaeError> {
        let trained = coder.architecture;
        let coder = match coder.each_layer() {
            Some(layers) => cross_layer::finish(coder, &layers, threshold, scaling)?,
            None => trained.method().finish(coder, threshold, scaling)?,
        };
        Ok(Self {
            provenance: Provenance {
                model_name: Some(config.model.clone()),
                hook_point: Some(config.hook_point.clone()),
                other_model: config.other_model.clone(),
                hook_points: match config.other_model {
                    Some(_) => config.read_hook_points(),
                    None => config.hook_points.clone(),
                },
                hook_points_out: config.hook_points_out.clone(),
                hook_point_out: config.hook_point_out.clone(),
                context: Some(config.corpus.context),
                prepend_bos: Some(config.corpus.prepend_bos),
                corpus: Some(config.corpus.path.clone()),
                training_architecture: (trained.name() != coder.architecture.name())
                    .then(|| trained.name().to_owned()),
                steps: Some(steps),
                tokens: Some(tokens),
                normalization: Some(config.activations.normalization.clone()),
                loading: ModelLoading::default(),
                recipe: Some(config.clone()),
            },
            coder,
        })
    }
}
