//! Gemma 3, text (Gemma Team 2025): Gemma 2 with queries and keys normalized head by head, without soft caps, and with
//! five layers that see a window for one that sees all, each kind with its own rotary base. Layout: transformers,
//! `models/gemma3/`.

use super::{gemma2, slide};
use crate::ModelError;
use crate::config::{Family, Fields, ModelConfig};
use crate::rotary::Rope;

pub fn config(fields: &Fields) -> Result<ModelConfig, ModelError> {
    let mut c = ModelConfig {
        family: Family::Gemma3,
        qk_norm: true,
        attn_softcap: fields.optional_number("attn_logit_softcapping")?,
        logit_softcap: fields.optional_number("final_logit_softcapping")?,
        ..gemma2::shared(fields)?
    };
    let pattern = fields.optional_size("sliding_window_pattern")?.unwrap_or(6);
    slide(&mut c, fields, &|l| {
        pattern == 0 || !(l + 1).is_multiple_of(pattern)
    })?;
    let (theta, local_theta) = (
        fields.number("rope_theta", 1e6)?,
        fields.number("rope_local_base_freq", 1e4)?,
    );
    let rope =
        |field: &str, parameters, theta| Rope::of(fields, field, parameters, theta, 1.0, c.d_head);
    let (global, local) = match fields.get("rope_parameters") {
        Some(both) => (
            rope("rope_parameters", both.get("full_attention"), theta)?,
            rope(
                "rope_parameters",
                both.get("sliding_attention"),
                local_theta,
            )?,
        ),
        None => (
            rope("rope_scaling", fields.get("rope_scaling"), theta)?,
            rope("rope_local_base_freq", None, local_theta)?,
        ),
    };
    for layer in &mut c.layers {
        layer.rope = Some(match layer.window {
            Some(_) => local.clone(),
            None => global.clone(),
        });
    }
    Ok(c)
}
