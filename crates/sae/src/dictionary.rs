//! A finished dictionary: a coder for activations as the model makes them, and where it comes from.

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use lapidary_activations::Normalization;
use lapidary_model::HookPoint;
use serde::{Deserialize, Serialize};

use crate::coder::{Architecture, SparseCoder};
use crate::config::RunConfig;
use crate::error::SaeError;
use crate::formats::saelens;
use crate::tensors::host;

/// What a dictionary was trained on. What a foreign file does not say is `None`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// The model's name.
    pub model_name: Option<String>,
    /// The hook point, in TransformerLens spelling.
    pub hook_point: Option<String>,
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
    /// The whole resolved recipe, seed included.
    pub recipe: Option<RunConfig>,
}

/// A trained sparse coder with its provenance.
#[derive(Clone, Debug)]
pub struct Dictionary {
    /// The coder; it takes raw activations.
    pub coder: SparseCoder,
    /// Where it comes from.
    pub provenance: Provenance,
}

impl Dictionary {
    /// Whether there is a dictionary in `dir`.
    #[must_use]
    pub fn exists(dir: &Path) -> bool {
        saelens::exists(dir)
    }

    /// Reads a folder in the layout of SAELens 6 (`cfg.json`, `sae_weights.safetensors`): architectures standard, topk
    /// and jumprelu, in f32, f16 or bf16.
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

    /// The hook point that this dictionary explains.
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
        normalization: &Normalization,
        config: &RunConfig,
        (steps, tokens): (u64, u64),
    ) -> Result<Self, SaeError> {
        let batch = coder.architecture == Architecture::BatchTopK;
        Ok(Self {
            coder: fold(coder, threshold, normalization)?,
            provenance: Provenance {
                model_name: Some(config.model.clone()),
                hook_point: Some(config.hook_point.clone()),
                context: Some(config.corpus.context),
                prepend_bos: Some(config.corpus.prepend_bos),
                corpus: Some(config.corpus.path.clone()),
                training_architecture: batch.then(|| Architecture::BatchTopK.name().to_owned()),
                steps: Some(steps),
                tokens: Some(tokens),
                normalization: Some(config.activations.normalization.clone()),
                recipe: Some(config.clone()),
            },
        })
    }
}

/// A coder for raw `x` that does what `coder` does for `x' = (x - mean) * scale`, codes and reconstruction divided by
/// `scale`; its decoder rows have norm 1 (but for TopK, whose choice of latents that would change; its rows have norm
/// 1 from training). BatchTopK becomes JumpReLU with `threshold`.
///
/// With r = scale, a = a' / r: pre' = (x' - b_dec) W + b_enc = r [ (x - mean - b_dec / r) W + b_enc / r ], hence
/// b_dec becomes mean + b_dec / r, b_enc becomes b_enc / r (less mean W if b_dec is not subtracted), W stays.
pub(crate) fn fold(
    coder: &SparseCoder,
    threshold: f64,
    normalization: &Normalization,
) -> Result<SparseCoder, SaeError> {
    let device = coder.device();
    let (d_in, d_sae) = (coder.d_in(), coder.d_sae());
    if normalization.mean.len() != d_in {
        return Err(SaeError::Shape {
            what: "length of the normalization's mean",
            found: normalization.mean.len(),
            expected: d_in,
        });
    }
    let scale = f64::from(normalization.scale);
    let mut w_enc = host(&coder.w_enc)?;
    let mut w_dec = host(&coder.w_dec)?;
    let mut b_enc: Vec<f64> = host(&coder.b_enc)?
        .iter()
        .map(|b| f64::from(*b) / scale)
        .collect();
    let b_dec: Vec<f32> = host(&coder.b_dec)?
        .iter()
        .zip(&normalization.mean)
        .map(|(b, m)| (f64::from(*m) + f64::from(*b) / scale) as f32)
        .collect();
    if !coder.apply_b_dec_to_input {
        for (b, row) in b_enc.iter_mut().zip(w_enc.chunks_exact(d_in)) {
            *b -= row
                .iter()
                .zip(&normalization.mean)
                .map(|(w, m)| f64::from(*w) * f64::from(*m))
                .sum::<f64>();
        }
    }
    let mut thresholds = vec![threshold / scale; d_sae];
    if coder.architecture != Architecture::TopK {
        for latent in 0..d_sae {
            let row = latent * d_in..(latent + 1) * d_in;
            let norm = w_dec[row.clone()]
                .iter()
                .map(|w| f64::from(*w).powi(2))
                .sum::<f64>()
                .sqrt();
            if norm == 0.0 {
                continue;
            }
            for w in &mut w_dec[row.clone()] {
                *w = (f64::from(*w) / norm) as f32;
            }
            for w in &mut w_enc[row] {
                *w = (f64::from(*w) * norm) as f32;
            }
            b_enc[latent] *= norm;
            thresholds[latent] *= norm;
        }
    }
    let narrow = |v: &[f64]| -> Vec<f32> { v.iter().map(|x| *x as f32).collect() };
    let vector = |v: Vec<f32>| {
        let n = v.len();
        Tensor::from_data(TensorData::new(v, [n]), &device)
    };
    let jump = coder.architecture == Architecture::BatchTopK;
    Ok(SparseCoder {
        architecture: if jump {
            Architecture::JumpRelu
        } else {
            coder.architecture
        },
        k: coder.k,
        apply_b_dec_to_input: coder.apply_b_dec_to_input,
        w_enc: Tensor::from_data(TensorData::new(w_enc, [d_sae, d_in]), &device),
        b_enc: vector(narrow(&b_enc)),
        w_dec: Tensor::from_data(TensorData::new(w_dec, [d_sae, d_in]), &device),
        b_dec: vector(b_dec),
        threshold: jump.then(|| vector(narrow(&thresholds))),
    })
}
