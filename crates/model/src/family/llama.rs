//! Llama (Touvron et al. 2023). Layout: transformers, `models/llama/{configuration,modeling}_llama.py`; `nn.Linear`
//! keeps matrices as `[out, in]`.

use super::{Loader, heads, plain, rotate_all};
use crate::ModelError;
use crate::config::{Family, Fields, ModelConfig, Norm};
use crate::rotary::Rope;
use crate::tensor_file::TensorFile;
use crate::weights::{Layer, Linear, Weights};
use burn::tensor::{Device, Tensor};
use serde_json::{Value, json};

pub fn config(fields: &Fields) -> Result<ModelConfig, ModelError> {
    let d_model = fields.size("hidden_size")?;
    let (n_heads, d_head) = match fields.optional_size("head_dim")? {
        Some(size) => (fields.size("num_attention_heads")?, size),
        None => {
            let n_heads = heads(fields, "num_attention_heads", d_model)?;
            (n_heads, d_model / n_heads)
        }
    };
    let n_layers = fields.layers("num_hidden_layers")?;
    let attention_bias = fields.flag("attention_bias", false)?;
    let mut c = ModelConfig {
        n_kv_heads: fields
            .optional_size("num_key_value_heads")?
            .unwrap_or(n_heads),
        d_head,
        attn_scale: (d_head as f64).powf(-0.5),
        d_mlp: fields.size("intermediate_size")?,
        n_ctx: fields
            .optional_size("max_position_embeddings")?
            .unwrap_or(2048),
        norm: Norm::Rms,
        norm_eps: fields.number("rms_norm_eps", 1e-6)?,
        gated: true,
        activation: fields.activation("hidden_act", "silu")?,
        qkv_bias: attention_bias,
        o_bias: attention_bias,
        mlp_bias: fields.flag("mlp_bias", false)?,
        tied: fields.flag("tie_word_embeddings", false)?,
        ..plain(Family::Llama, fields, n_layers, d_model, n_heads)?
    };
    // Gemma 3 has two embeddings, under names of their own.
    let two = fields
        .get("rope_parameters")
        .is_some_and(|p| p.get("full_attention").is_some());
    if !two {
        rotate_all(&mut c, &Rope::read(fields, d_head, 10000.0)?);
    }
    Ok(c)
}

/// Where families of Llama's layout differ from Llama.
pub struct Layout {
    pub ln1_post: Option<&'static str>,
    pub ln2: &'static str,
    pub ln2_post: Option<&'static str>,
    /// Added to the weights of norms.
    pub norm_offset: f32,
}

pub fn weights(c: &ModelConfig, from: &TensorFile, device: &Device) -> Result<Weights, ModelError> {
    let layout = Layout {
        ln1_post: None,
        ln2: "post_attention_layernorm",
        ln2_post: None,
        norm_offset: 0.0,
    };
    weights_in(&layout, c, from, device)
}

pub fn weights_in(
    layout: &Layout,
    c: &ModelConfig,
    from: &TensorFile,
    device: &Device,
) -> Result<Weights, ModelError> {
    let load = Loader {
        from,
        device,
        prefix: "model.".into(),
        turned: true,
        norm_bias: false,
        norm_offset: layout.norm_offset,
    };
    let (d, q, kv) = (c.d_model, c.n_heads * c.d_head, c.n_kv_heads * c.d_head);
    let layers = (0..c.n_layers()).map(|l| {
        let norm = |name: &str| load.norm(&format!("layers.{l}.{name}"), d);
        let optional = |name: Option<&str>| name.map(norm).transpose();
        let attention = |name: &str, shape, bias| {
            load.linear(&format!("layers.{l}.self_attn.{name}"), shape, bias)
        };
        let of_head = |name: &str| match c.qk_norm {
            true => load
                .norm(&format!("layers.{l}.self_attn.{name}"), c.d_head)
                .map(Some),
            false => Ok(None),
        };
        let mlp =
            |name: &str, shape| load.linear(&format!("layers.{l}.mlp.{name}"), shape, c.mlp_bias);
        Ok(Layer {
            ln1: norm("input_layernorm")?,
            q: attention("q_proj", [d, q], c.qkv_bias)?,
            k: attention("k_proj", [d, kv], c.qkv_bias)?,
            v: attention("v_proj", [d, kv], c.qkv_bias)?,
            q_norm: of_head("q_norm")?,
            k_norm: of_head("k_norm")?,
            o: attention("o_proj", [q, d], c.o_bias)?,
            ln1_post: optional(layout.ln1_post)?,
            ln2: norm(layout.ln2)?,
            gate: Some(mlp("gate_proj", [d, c.d_mlp])?),
            up: mlp("up_proj", [d, c.d_mlp])?,
            down: mlp("down_proj", [c.d_mlp, d])?,
            ln2_post: optional(layout.ln2_post)?,
        })
    });
    Ok(Weights {
        embed: from.matrix("model.embed_tokens.weight", [c.d_vocab, d], device)?,
        positions: None,
        layers: layers.collect::<Result<_, ModelError>>()?,
        final_norm: load.norm("norm", d)?,
        unembed: match c.tied {
            true => None,
            false => Some(from.matrix("lm_head.weight", [c.d_vocab, d], device)?),
        },
        unembed_bias: None,
    })
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
        "eos_token_id": c.eos,
        "torch_dtype": "float16",
    })
}

/// The tensors under the names and in the layout that [`weights`] reads back.
pub fn write_weights(w: &Weights) -> Vec<(String, Tensor<2>)> {
    let row = |t: &Tensor<1>| t.clone().unsqueeze::<2>();
    let turn = |l: &Linear| l.weight.clone().transpose();
    let mut out = vec![("model.embed_tokens.weight".to_string(), w.embed.clone())];
    for (l, layer) in w.layers.iter().enumerate() {
        let mut add =
            |name: &str, tensor| out.push((format!("model.layers.{l}.{name}.weight"), tensor));
        add("input_layernorm", row(&layer.ln1.weight));
        add("self_attn.q_proj", turn(&layer.q));
        add("self_attn.k_proj", turn(&layer.k));
        add("self_attn.v_proj", turn(&layer.v));
        add("self_attn.o_proj", turn(&layer.o));
        add("post_attention_layernorm", row(&layer.ln2.weight));
        if let Some(gate) = &layer.gate {
            add("mlp.gate_proj", turn(gate));
        }
        add("mlp.up_proj", turn(&layer.up));
        add("mlp.down_proj", turn(&layer.down));
    }
    out.push(("model.norm.weight".into(), row(&w.final_norm.weight)));
    if let Some(unembed) = &w.unembed {
        out.push(("lm_head.weight".into(), unembed.clone()));
    }
    out
}
