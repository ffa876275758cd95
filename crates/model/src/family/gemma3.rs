//! Gemma 3, text (Gemma Team 2025): Gemma 2 with queries and keys normalized head by head, without
//! soft caps, and with five layers that see a window for one that sees all, each kind with its own
//! rotary base. Layout: transformers, `models/gemma3/`.

use super::{gemma2, slide};
use crate::ModelError;
use crate::config::{Family, ModelConfig};
use crate::fields::Fields;
use crate::rotary::Rope;
use serde_json::Value;

pub fn config(fields: &Fields) -> Result<ModelConfig, ModelError> {
    let mut c = ModelConfig {
        family: Family::Gemma3,
        qk_norm: true,
        ..gemma2::shared(fields)?
    };
    let pattern = fields.optional_size("sliding_window_pattern")?.unwrap_or(6);
    slide(&mut c, fields, &|l| {
        pattern == 0 || !(l + 1).is_multiple_of(pattern)
    })?;
    let (theta, local_theta) = (
        fields.number_or("rope_theta", 1e6)?,
        fields.number_or("rope_local_base_freq", 1e4)?,
    );
    // The older key says how the layers are scaled that see all.
    let of = |kind: &str| {
        fields
            .get("rope_parameters")
            .and_then(|both| both.get(kind))
    };
    let mut global = of("full_attention").filter(|p| !p.is_null()).cloned();
    if let Some(Value::Object(scaling)) = fields.get("rope_scaling") {
        let known = global.take();
        let mut all = known
            .and_then(|p| p.as_object().cloned())
            .unwrap_or_default();
        all.extend(scaling.clone());
        global = Some(Value::Object(all));
    }
    let field = match fields.get("rope_scaling") {
        Some(_) => "rope_scaling",
        None => "rope_parameters",
    };
    let global = Rope::of(fields, field, global.as_ref(), theta, 1.0, c.d_head)?;
    let local = of("sliding_attention");
    let local = Rope::of(fields, "rope_parameters", local, local_theta, 1.0, c.d_head)?;
    for layer in &mut c.layers {
        layer.rope = Some(match layer.window {
            Some(_) => local.clone(),
            None => global.clone(),
        });
    }
    Ok(c)
}
