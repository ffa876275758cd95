//! Qwen 2 and 2.5 (Yang et al. 2024): Llama with biases on queries, keys and values; upper layers
//! may see a sliding window only. Layout: transformers, `models/qwen2/`.

use super::{llama, slide};
use crate::ModelError;
use crate::config::{Family, ModelConfig};
use crate::fields::Fields;

pub fn config(fields: &Fields) -> Result<ModelConfig, ModelError> {
    let mut c = ModelConfig {
        family: Family::Qwen2,
        qkv_bias: true,
        ..llama::config(fields)?
    };
    windows(&mut c, fields)?;
    Ok(c)
}

/// `use_sliding_window` turns windows on, for the layers from `max_window_layers` on.
pub fn windows(c: &mut ModelConfig, fields: &Fields) -> Result<(), ModelError> {
    let first = fields.size("max_window_layers")?;
    if !fields.flag("use_sliding_window")? || fields.get("sliding_window").is_none() {
        return Ok(());
    }
    slide(c, fields, &|l| l >= first)
}
