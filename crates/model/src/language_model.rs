//! A model that can be run: found, loaded and checked.

use crate::config::{Family, ModelConfig};
use crate::hook::{BlockHook, HookPoint};
use crate::tensor_file::TensorFile;
use crate::tokenizer::Tokenizer;
use crate::transformer::{HookedRun, RunOutput, forward, unembed};
use crate::weights::Weights;
use crate::{ModelError, embedded, family, hub};
use burn::tensor::{Device, Int, Tensor, TensorData};
use std::path::{Path, PathBuf};

/// A decoder-only transformer on a device, with its tokenizer.
pub struct LanguageModel {
    name: String,
    config: ModelConfig,
    weights: Weights,
    tokenizer: Option<Tokenizer>,
    tokenizer_path: PathBuf,
    device: Device,
}

impl LanguageModel {
    /// Loads a model: the word `embedded`, a folder in Hugging Face layout (`config.json`, `model.safetensors` or its
    /// shards, `tokenizer.json`), or the name of a model on the Hugging Face hub (fetched once into the hub's own
    /// cache; `HF_HUB_OFFLINE=1` forbids fetching).
    ///
    /// ```
    /// # fn main() -> Result<(), lapidary_model::ModelError> {
    /// use burn::tensor::Device;
    /// use lapidary_model::{HookedRun, LanguageModel};
    ///
    /// let model = LanguageModel::load("embedded", &Device::flex())?;
    /// let hook = "blocks.2.hook_resid_post".parse()?;
    /// let tokens = model.tokens(&[model.tokenizer()?.encode("The Congress of the United States")?])?;
    /// let output = model.run(tokens, &HookedRun { capture: &[hook], ..Default::default() })?;
    /// println!("{:?}", output.captured[&hook].dims()); // [1, pos, d_model]
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When nothing is found under that name, or a file is missing, truncated, or disagrees with `config.json`.
    pub fn load(source: &str, device: &Device) -> Result<Self, ModelError> {
        if source == "embedded" {
            return embedded::load(device);
        }
        let folder = Path::new(source);
        if folder.is_dir() {
            let name = folder
                .file_name()
                .map_or(source.into(), |n| n.to_string_lossy().into_owned());
            return Self::from_folder(&name, folder, device);
        }
        let folder = hub::fetch(source)?;
        Self::from_folder(source, &folder, device)
    }

    fn from_folder(name: &str, folder: &Path, device: &Device) -> Result<Self, ModelError> {
        let config = ModelConfig::read(&folder.join("config.json"))?;
        let path = folder.join("tokenizer.json");
        let tokenizer = match path.exists() {
            true => Some(Tokenizer::read(&path, config.bos, config.eos)?),
            false => None,
        };
        let checkpoint = TensorFile::open_model(folder)?;
        let mut model = Self::from_parts(name, config, &checkpoint, tokenizer, device)?;
        model.tokenizer_path = path;
        Ok(model)
    }

    pub(crate) fn from_parts(
        name: &str,
        config: ModelConfig,
        checkpoint: &TensorFile,
        tokenizer: Option<Tokenizer>,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let weights = match config.family {
            Family::Gpt2 => family::gpt2::weights(&config, checkpoint, device)?,
            Family::Llama => family::llama::weights(&config, checkpoint, device)?,
        };
        Ok(Self::new(name, config, weights, tokenizer, device))
    }

    pub(crate) fn new(
        name: &str,
        config: ModelConfig,
        weights: Weights,
        tokenizer: Option<Tokenizer>,
        device: &Device,
    ) -> Self {
        let tokenizer_path = "tokenizer.json".into();
        Self {
            name: name.into(),
            config,
            weights,
            tokenizer,
            tokenizer_path,
            device: device.clone(),
        }
    }

    /// The folder's or the hub's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sizes and choices.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Where the weights are.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// When the model's folder holds no `tokenizer.json`.
    pub fn tokenizer(&self) -> Result<&Tokenizer, ModelError> {
        self.tokenizer
            .as_ref()
            .ok_or_else(|| ModelError::NoTokenizer {
                model: self.name.clone(),
                path: self.tokenizer_path.clone(),
            })
    }

    /// `W_U`, `[d_model, d_vocab]`.
    pub fn unembedding(&self) -> Tensor<2> {
        self.weights
            .unembed
            .as_ref()
            .unwrap_or(&self.weights.embed)
            .clone()
            .transpose()
    }

    /// Logits, `[n, d_vocab]`, of values at `ln_final.hook_normalized`, `[n, d_model]`.
    pub fn unembed(&self, normalized: Tensor<2>) -> Tensor<2> {
        unembed(&self.weights, normalized)
    }

    /// The weight of the final norm, `[d_model]`: folded into the unembedding, it tells what a direction of the
    /// residual stream promotes.
    pub fn final_norm_weight(&self) -> Tensor<1> {
        self.weights.final_norm.weight.clone()
    }

    /// Width of the value at a hook point.
    ///
    /// # Errors
    /// When this model has no such point.
    pub fn width(&self, hook: HookPoint) -> Result<usize, ModelError> {
        let c = &self.config;
        let absent = |reason: String| {
            Err(ModelError::HookPointAbsent {
                point: hook.to_string(),
                reason,
            })
        };
        match hook {
            HookPoint::Embed | HookPoint::FinalNorm => Ok(c.d_model),
            HookPoint::PosEmbed if c.rope_theta.is_none() => Ok(c.d_model),
            HookPoint::PosEmbed => absent("its positions are rotary".into()),
            HookPoint::Logits => Ok(c.d_vocab),
            HookPoint::Block(layer, _) if layer >= c.n_layers => {
                absent(format!("its layers are 0 to {}", c.n_layers - 1))
            }
            HookPoint::Block(_, BlockHook::Q | BlockHook::Z) => Ok(c.n_heads * c.d_head),
            HookPoint::Block(_, BlockHook::K | BlockHook::V) => Ok(c.n_kv_heads * c.d_head),
            HookPoint::Block(layer, BlockHook::MlpPreLinear) => {
                match self.weights.layers[layer].gate {
                    Some(_) => Ok(c.d_mlp),
                    None => absent("its MLP has no gate".into()),
                }
            }
            HookPoint::Block(_, BlockHook::MlpPre | BlockHook::MlpPost) => Ok(c.d_mlp),
            HookPoint::Block(..) => Ok(c.d_model),
        }
    }

    /// Sequences of one length as a `[batch, pos]` tensor, every id checked against the vocabulary.
    ///
    /// # Errors
    /// When an id is outside the vocabulary, a sequence is empty, longer than the context, or unlike the others.
    pub fn tokens<S: AsRef<[u32]>>(&self, sequences: &[S]) -> Result<Tensor<2, Int>, ModelError> {
        let pos = sequences.first().map_or(0, |s| s.as_ref().len());
        if pos == 0 {
            return Err(ModelError::NoTokens);
        }
        if pos > self.config.n_ctx {
            return Err(ModelError::Context {
                found: pos,
                n_ctx: self.config.n_ctx,
            });
        }
        let mut ids = Vec::with_capacity(sequences.len() * pos);
        for sequence in sequences {
            let sequence = sequence.as_ref();
            assert_eq!(
                sequence.len(),
                pos,
                "sequences of one batch have one length"
            );
            for (position, &id) in sequence.iter().enumerate() {
                if id as usize >= self.config.d_vocab {
                    return Err(ModelError::Token {
                        found: id.into(),
                        position,
                        d_vocab: self.config.d_vocab,
                    });
                }
                ids.push(id as i32);
            }
        }
        Ok(Tensor::from_data(
            TensorData::new(ids, [sequences.len(), pos]),
            &self.device,
        ))
    }

    /// One forward pass over `tokens`, `[batch, pos]` (from [`Self::tokens`], which checks them).
    ///
    /// # Errors
    /// When a hook point does not exist in this model.
    pub fn run(
        &self,
        tokens: Tensor<2, Int>,
        run: &HookedRun<'_>,
    ) -> Result<RunOutput, ModelError> {
        for hook in run
            .capture
            .iter()
            .copied()
            .chain(run.replace.map(|(point, _)| point))
        {
            self.width(hook)?;
        }
        Ok(forward(&self.config, &self.weights, tokens, run))
    }
}
