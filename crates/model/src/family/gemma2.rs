//! Gemma 2 (Gemma Team 2024): Llama with scaled embeddings, norms after attention and MLP too, soft caps, and every
//! other layer seeing a window only. Its norms multiply by 1 + weight. Layout: transformers, `models/gemma2/`.

use super::layout::Layout;
use super::{llama, slide};
use crate::ModelError;
use crate::config::{Family, Fields, ModelConfig};

pub fn config(fields: &Fields) -> Result<ModelConfig, ModelError> {
    // A soft cap that is absent has its default, one that is null is off.
    let cap = |field: &str, default: f64| match fields.value.get(field) {
        None => Ok(Some(default)),
        Some(_) => fields.optional_number(field),
    };
    let mut c = ModelConfig {
        family: Family::Gemma2,
        attn_softcap: cap("attn_logit_softcapping", 50.0)?,
        logit_softcap: cap("final_logit_softcapping", 30.0)?,
        ..shared(fields)?
    };
    slide(&mut c, fields, &|l| l % 2 == 0)?;
    Ok(c)
}

/// What Gemma 2 and 3 have in common.
pub fn shared(fields: &Fields) -> Result<ModelConfig, ModelError> {
    fields.only("use_bidirectional_attention", false)?;
    let c = llama::config(fields)?;
    Ok(ModelConfig {
        post_norms: true,
        embed_scale: (c.d_model as f64).sqrt(),
        attn_scale: fields.number("query_pre_attn_scalar", 256.0)?.powf(-0.5),
        activation: fields.activation("hidden_activation", "gelu_pytorch_tanh")?,
        tied: fields.flag("tie_word_embeddings", true)?,
        ..c
    })
}

pub fn layout() -> Layout {
    Layout {
        norm_offset: 1.0,
        post_norms: Some(["post_attention_layernorm", "post_feedforward_layernorm"]),
        ln2: "pre_feedforward_layernorm",
        ..llama::layout()
    }
}
