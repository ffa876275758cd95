//! Qwen 3 (Yang et al. 2025): Llama with queries and keys normalized head by head. Layout:
//! transformers, `models/qwen3/`.

use super::{llama, qwen2};
use crate::ModelError;
use crate::config::{Family, ModelConfig};
use crate::fields::Fields;

pub fn config(fields: &Fields) -> Result<ModelConfig, ModelError> {
    let mut c = ModelConfig {
        family: Family::Qwen3,
        qk_norm: true,
        ..llama::config(fields)?
    };
    qwen2::windows(&mut c, fields)?;
    Ok(c)
}
