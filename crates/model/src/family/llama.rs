//! Llama (Touvron et al. 2023). Layout: transformers,
//! `models/llama/{configuration,modeling}_llama.py`; `nn.Linear` keeps matrices as `[out, in]`.

use super::layout::{Layout, PLAIN};
use super::{heads, plain, rotate_all};
use crate::ModelError;
use crate::config::{Activation, Family, ModelConfig, Norm};
use crate::fields::Fields;
use crate::rotary::Rope;
use crate::weights::{Linear, Weights};
use burn::tensor::Tensor;
use serde_json::{Value, json};

pub fn config(fields: &Fields) -> Result<ModelConfig, ModelError> {
    let mut c = unrotated(fields, "hidden_act")?;
    let rope = Rope::read(fields, c.d_head, 10000.0)?;
    rotate_all(&mut c, &rope);
    Ok(c)
}

/// The same before rotary embeddings, and with the key of the MLP's nonlinearity.
pub fn unrotated(fields: &Fields, activation: &str) -> Result<ModelConfig, ModelError> {
    let d_model = fields.size("hidden_size")?;
    let (n_heads, d_head) = match fields.optional_size("head_dim")? {
        Some(size) => (fields.size("num_attention_heads")?, size),
        None => {
            let n_heads = heads(fields, "num_attention_heads", d_model)?;
            (n_heads, d_model / n_heads)
        }
    };
    let n_layers = fields.layers("num_hidden_layers")?;
    let attention_bias = fields.flag("attention_bias")?;
    Ok(ModelConfig {
        n_kv_heads: fields
            .optional_size("num_key_value_heads")?
            .unwrap_or(n_heads),
        d_head,
        attn_scale: (d_head as f64).powf(-0.5),
        d_mlp: fields.size("intermediate_size")?,
        n_ctx: fields.size("max_position_embeddings")?,
        norm: Norm::Rms,
        norm_eps: fields.number("rms_norm_eps")?,
        gated: true,
        activation: Activation::read(fields, activation)?,
        qkv_bias: attention_bias,
        o_bias: attention_bias,
        mlp_bias: fields.flag("mlp_bias")?,
        ..plain(Family::Llama, fields, n_layers, d_model, n_heads)?
    })
}

pub fn layout() -> Layout {
    Layout {
        prefix: "model.",
        norm_bias: false,
        qk_norms: Some(["self_attn.q_norm", "self_attn.k_norm"]),
        gate: Some("mlp.gate_proj"),
        ..PLAIN
    }
}

/// The `config.json` that [`config`] reads back.
pub fn write_config(c: &ModelConfig) -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": c.d_model,
        "num_hidden_layers": c.n_layers(),
        "num_attention_heads": c.n_heads,
        "num_key_value_heads": c.n_kv_heads,
        "head_dim": c.d_head,
        "intermediate_size": c.d_mlp,
        "vocab_size": c.d_vocab,
        "max_position_embeddings": c.n_ctx,
        "rms_norm_eps": c.norm_eps,
        "rope_theta": c.layers.first().and_then(|l| l.rope.as_ref()).map(|r| r.theta),
        "hidden_act": "silu",
        "attention_bias": c.qkv_bias,
        "mlp_bias": c.mlp_bias,
        "tie_word_embeddings": c.tied,
        "bos_token_id": c.bos,
        "eos_token_id": match c.eos[..] {
            [one] => one.into(),
            _ => Value::from(c.eos.clone()),
        },
        "torch_dtype": "float16",
    })
}

/// The tensors under the names of [`layout`].
pub fn write_weights(c: &ModelConfig, w: &Weights) -> Vec<(String, Tensor<2>)> {
    let row = |t: &Tensor<1>| t.clone().unsqueeze::<2>();
    let turn = |l: &Linear| l.weight.clone().transpose();
    let mut out = vec![("model.embed_tokens.weight".to_string(), w.embed.clone())];
    for (l, layer) in w.layers.iter().enumerate() {
        let mut add =
            |name: &str, tensor| out.push((format!("model.layers.{l}.{name}.weight"), tensor));
        add("input_layernorm", row(&layer.ln1.weight));
        let [q, k, v] = layer.q_k_v(c.n_heads * c.d_head);
        add("self_attn.q_proj", turn(&q));
        add("self_attn.k_proj", turn(&k));
        add("self_attn.v_proj", turn(&v));
        add("self_attn.o_proj", turn(&layer.o));
        add("post_attention_layernorm", row(&layer.ln2.weight));
        add("mlp.gate_proj", turn(&layer.up.columns(0..c.d_mlp)));
        add("mlp.up_proj", turn(&layer.up.columns(c.d_mlp..2 * c.d_mlp)));
        add("mlp.down_proj", turn(&layer.down));
    }
    out.push(("model.norm.weight".into(), row(&w.final_norm.weight)));
    if let Some(unembed) = &w.unembed {
        out.push(("lm_head.weight".into(), unembed.clone()));
    }
    out
}
