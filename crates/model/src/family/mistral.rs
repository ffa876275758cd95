//! Mistral (Jiang et al. 2023): Llama whose layers may all see a sliding window only. Layout:
//! transformers, `models/mistral/`.

use super::llama;
use crate::ModelError;
use crate::config::{Family, ModelConfig};
use crate::fields::Fields;

pub fn config(fields: &Fields) -> Result<ModelConfig, ModelError> {
    let mut c = ModelConfig {
        family: Family::Mistral,
        ..llama::config(fields)?
    };
    let window = fields.optional_size("sliding_window")?;
    c.layers.iter_mut().for_each(|layer| layer.window = window);
    Ok(c)
}
