//! Mistral (Jiang et al. 2023): Llama whose layers may all see a sliding window only. Layout: transformers,
//! `models/mistral/`.

use super::{llama, slide};
use crate::ModelError;
use crate::config::{Family, Fields, ModelConfig};

pub fn config(fields: &Fields) -> Result<ModelConfig, ModelError> {
    let mut c = ModelConfig {
        family: Family::Mistral,
        ..llama::config(fields)?
    };
    let windowed = fields.get("sliding_window").is_some();
    slide(&mut c, fields, &|_| windowed)?;
    Ok(c)
}
