//! Qwen 2 and 2.5 (Yang et al. 2024): Llama with biases on queries, keys and values; upper layers may see a sliding
//! window only. Layout: transformers, `models/qwen2/`.

use super::{llama, slide};
use crate::ModelError;
use crate::config::{Family, Fields, ModelConfig};

pub fn config(fields: &Fields) -> Result<ModelConfig, ModelError> {
    let mut c = ModelConfig {
        family: Family::Qwen2,
        qkv_bias: true,
        o_bias: false,
        ..llama::config(fields)?
    };
    windows(&mut c, fields)?;
    Ok(c)
}

/// `use_sliding_window` turns windows on, for the layers from `max_window_layers` on.
pub fn windows(c: &mut ModelConfig, fields: &Fields) -> Result<(), ModelError> {
    if !fields.flag("use_sliding_window", false)? {
        return Ok(());
    }
    let first = fields.optional_size("max_window_layers")?.unwrap_or(28);
    slide(c, fields, &|l| l >= first)
}
