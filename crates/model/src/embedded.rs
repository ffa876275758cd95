//! The language model that the binary carries, so that everything can be tried without a download.
//! It was made by `lapidary pretrain configs/pretrain/embedded.toml`; `embedded/README.md` is its
//! model card.

use crate::ModelError;
use crate::config::ModelConfig;
use crate::language_model::LanguageModel;
use crate::tensor_file::TensorFile;
use crate::tokenizer::Tokenizer;
use burn::tensor::Device;
use std::path::Path;

pub(crate) fn load(device: &Device) -> Result<LanguageModel, ModelError> {
    let path = |file: &str| Path::new("embedded").join(file);
    let config = path("config.json");
    let value = include_str!("../embedded/config.json");
    let value = serde_json::from_str(value).map_err(|source| ModelError::Json {
        path: config.clone(),
        source,
    })?;
    let config = ModelConfig::of_value(&config, value)?;
    let json = include_str!("../embedded/tokenizer.json");
    let tokenizer = Tokenizer::from_text(&path("tokenizer.json"), json, config.bos, &config.eos)?;
    let tensors = include_bytes!("../embedded/model.safetensors");
    let checkpoint = TensorFile::from_bytes(&path("model.safetensors"), tensors)?;
    LanguageModel::from_parts("embedded", config, &checkpoint, Some(tokenizer), device)
}
