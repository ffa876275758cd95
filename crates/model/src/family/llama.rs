//! Llama (Touvron et al. 2023). Layout: transformers, `models/llama/{configuration,modeling}_llama.py`; `nn.Linear`
//! keeps matrices as `[out, in]`.

use crate::ModelError;
use crate::config::{Family, Fields, ModelConfig, Norm};
use crate::tensor_file::TensorFile;
use crate::weights::{Layer, Linear, NormWeights, Weights};
use burn::tensor::{Device, Tensor};
use serde_json::{Value, json};

pub fn config(fields: &Fields) -> Result<ModelConfig, ModelError> {
    let d_model = fields.size("hidden_size")?;
    let n_heads = fields.size("num_attention_heads")?;
    let d_head = match fields.optional_size("head_dim")? {
        Some(size) => size,
        None if n_heads > 0 && d_model.is_multiple_of(n_heads) => d_model / n_heads,
        None => {
            return Err(fields.wrong(
                "num_attention_heads",
                &format!("a divisor of hidden_size = {d_model}"),
            ));
        }
    };
    Ok(ModelConfig {
        family: Family::Llama,
        d_model,
        n_layers: fields.size("num_hidden_layers")?,
        n_heads,
        n_kv_heads: fields
            .optional_size("num_key_value_heads")?
            .unwrap_or(n_heads),
        d_head,
        d_mlp: fields.size("intermediate_size")?,
        d_vocab: fields.size("vocab_size")?,
        n_ctx: fields
            .optional_size("max_position_embeddings")?
            .unwrap_or(2048),
        norm: Norm::Rms,
        norm_eps: fields.number("rms_norm_eps", 1e-6)?,
        rope_theta: Some(rope_theta(fields)?),
        activation: fields.activation("hidden_act", "silu")?,
        attention_bias: fields.flag("attention_bias", false)?,
        mlp_bias: fields.flag("mlp_bias", false)?,
        tied: fields.flag("tie_word_embeddings", false)?,
        bos: fields.token("bos_token_id")?,
        eos: fields.token("eos_token_id")?,
    })
}

/// The rotary base: `rope_theta` up to transformers 4, `rope_parameters.rope_theta` from 5 on. Scaled variants are
/// refused, since running them unscaled would be silently wrong.
fn rope_theta(fields: &Fields) -> Result<f64, ModelError> {
    for field in ["rope_parameters", "rope_scaling"] {
        let Some(rope) = fields.value.get(field).filter(|value| !value.is_null()) else {
            continue;
        };
        let kind = rope.get("rope_type").or_else(|| rope.get("type"));
        if kind.is_some_and(|kind| kind.as_str() != Some("default")) {
            return Err(fields.wrong(
                field,
                "rope_type \"default\" (scaled rotary embeddings are not read yet)",
            ));
        }
        if let Some(theta) = rope.get("rope_theta") {
            return theta
                .as_f64()
                .filter(|t| *t > 0.0)
                .ok_or_else(|| fields.wrong(field, "a positive rope_theta"));
        }
    }
    let theta = fields.number("rope_theta", 10000.0)?;
    if theta > 0.0 {
        Ok(theta)
    } else {
        Err(fields.wrong("rope_theta", "a positive number"))
    }
}

pub fn weights(c: &ModelConfig, from: &TensorFile, device: &Device) -> Result<Weights, ModelError> {
    let norm = |name: String| {
        Ok::<_, ModelError>(NormWeights {
            weight: from.vector(&format!("model.{name}.weight"), c.d_model, device)?,
            bias: None,
        })
    };
    let linear = |name: String, shape: [usize; 2], bias: bool| {
        Ok::<_, ModelError>(Linear {
            weight: from.transposed(&format!("model.{name}.weight"), shape, device)?,
            bias: match bias {
                true => Some(from.vector(&format!("model.{name}.bias"), shape[1], device)?),
                false => None,
            },
        })
    };
    let (d, q, kv) = (c.d_model, c.n_heads * c.d_head, c.n_kv_heads * c.d_head);
    let layers = (0..c.n_layers).map(|l| {
        let attention = |name: &str, shape| {
            linear(
                format!("layers.{l}.self_attn.{name}"),
                shape,
                c.attention_bias,
            )
        };
        let mlp = |name: &str, shape| linear(format!("layers.{l}.mlp.{name}"), shape, c.mlp_bias);
        Ok(Layer {
            ln1: norm(format!("layers.{l}.input_layernorm"))?,
            q: attention("q_proj", [d, q])?,
            k: attention("k_proj", [d, kv])?,
            v: attention("v_proj", [d, kv])?,
            o: attention("o_proj", [q, d])?,
            ln2: norm(format!("layers.{l}.post_attention_layernorm"))?,
            gate: Some(mlp("gate_proj", [d, c.d_mlp])?),
            up: mlp("up_proj", [d, c.d_mlp])?,
            down: mlp("down_proj", [c.d_mlp, d])?,
        })
    });
    Ok(Weights {
        embed: from.matrix("model.embed_tokens.weight", [c.d_vocab, d], device)?,
        positions: None,
        layers: layers.collect::<Result<_, ModelError>>()?,
        final_norm: norm("norm".into())?,
        unembed: if c.tied {
            None
        } else {
            Some(from.matrix("lm_head.weight", [c.d_vocab, d], device)?)
        },
    })
}

/// The `config.json` that [`config`] reads back.
pub fn write_config(c: &ModelConfig) -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": c.d_model,
        "num_hidden_layers": c.n_layers,
        "num_attention_heads": c.n_heads,
        "num_key_value_heads": c.n_kv_heads,
        "head_dim": c.d_head,
        "intermediate_size": c.d_mlp,
        "vocab_size": c.d_vocab,
        "max_position_embeddings": c.n_ctx,
        "rms_norm_eps": c.norm_eps,
        "rope_theta": c.rope_theta,
        "hidden_act": "silu",
        "attention_bias": c.attention_bias,
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
