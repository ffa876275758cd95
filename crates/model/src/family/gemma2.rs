//! Gemma 2 (Gemma Team 2024): Llama with scaled embeddings, norms after attention and MLP too, soft
//! caps, and every other layer seeing a window only. Its norms multiply by 1 + weight. Layout:
//! transformers, `models/gemma2/`.

use super::layout::Layout;
use super::{llama, rotate_all, slide};
use crate::ModelError;
use crate::config::{Family, ModelConfig};
use crate::fields::Fields;
use crate::rotary::Rope;

pub fn config(fields: &Fields) -> Result<ModelConfig, ModelError> {
    let mut c = ModelConfig {
        family: Family::Gemma2,
        ..shared(fields)?
    };
    let rope = Rope::read(fields, c.d_head, 10000.0)?;
    rotate_all(&mut c, &rope);
    slide(&mut c, fields, &|l| l % 2 == 0)?;
    Ok(c)
}

/// What Gemma 2 and 3 have in common.
pub fn shared(fields: &Fields) -> Result<ModelConfig, ModelError> {
    fields.only("use_bidirectional_attention", false)?;
    let c = llama::unrotated(fields, "hidden_activation")?;
    Ok(ModelConfig {
        post_norms: true,
        embed_scale: (c.d_model as f64).sqrt(),
        attn_scale: fields.number("query_pre_attn_scalar")?.powf(-0.5),
        attn_softcap: fields.optional_number("attn_logit_softcapping")?,
        logit_softcap: fields.optional_number("final_logit_softcapping")?,
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

#[cfg(test)]
mod tests {
    use crate::ModelConfig;
    use serde_json::json;

    #[test]
    fn heads_are_256_wide_unless_the_configuration_says_otherwise() {
        for kind in ["gemma2", "gemma3_text"] {
            let mut value = json!({
                "model_type": kind, "hidden_size": 90, "num_hidden_layers": 2, "num_attention_heads": 4,
                "intermediate_size": 8, "vocab_size": 9, "sliding_window": 4,
            });
            let config = |value| ModelConfig::of_value("config.json".as_ref(), value).unwrap();
            assert_eq!(config(value.clone()).d_head, 256);
            let dims = config(value.clone()).layers[0]
                .rope
                .as_ref()
                .map(|rope| rope.dims);
            assert_eq!(dims, Some(256));
            value["head_dim"] = 12.into();
            assert_eq!(config(value).d_head, 12);
        }
    }
}
