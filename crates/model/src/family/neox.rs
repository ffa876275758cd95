//! GPT-NeoX (Black et al. 2022), of which Pythia is one: attention and MLP side by side, rotary embedding of a part of
//! each head. Layout: transformers, `models/gpt_neox/{configuration,modeling}_gpt_neox.py`; queries, keys and values
//! stand in one matrix, head by head.

use super::{Loader, heads, plain, rotate_all};
use crate::ModelError;
use crate::config::{Family, Fields, ModelConfig};
use crate::rotary::Rope;
use crate::tensor_file::TensorFile;
use crate::weights::{Layer, Linear, Weights};
use burn::tensor::Device;

pub fn config(fields: &Fields) -> Result<ModelConfig, ModelError> {
    let d_model = fields.size("hidden_size")?;
    let n_heads = heads(fields, "num_attention_heads", d_model)?;
    let n_layers = fields.layers("num_hidden_layers")?;
    let bias = fields.flag("attention_bias", true)?;
    let mut c = ModelConfig {
        d_mlp: fields.size("intermediate_size")?,
        n_ctx: fields
            .optional_size("max_position_embeddings")?
            .unwrap_or(2048),
        norm_eps: fields.number("layer_norm_eps", 1e-5)?,
        parallel: fields.flag("use_parallel_residual", true)?,
        activation: fields.activation("hidden_act", "gelu")?,
        qkv_bias: bias,
        o_bias: bias,
        mlp_bias: true,
        tied: fields.flag("tie_word_embeddings", false)?,
        ..plain(Family::NeoX, fields, n_layers, d_model, n_heads)?
    };
    let field = match fields.get("rope_parameters") {
        Some(_) => "rope_parameters",
        None => "rope_scaling",
    };
    let rope = Rope::of(
        fields,
        field,
        fields.get(field),
        fields.number("rotary_emb_base", 10000.0)?,
        fields.number("rotary_pct", 0.25)?,
        c.d_head,
    )?;
    rotate_all(&mut c, &rope);
    Ok(c)
}

pub fn weights(c: &ModelConfig, from: &TensorFile, device: &Device) -> Result<Weights, ModelError> {
    let load = Loader {
        from,
        device,
        prefix: "gpt_neox.".into(),
        turned: true,
        norm_bias: true,
        norm_offset: 0.0,
    };
    let d = c.d_model;
    let layers = (0..c.n_layers()).map(|l| {
        let at = |name: &str| format!("layers.{l}.{name}");
        let qkv = load.linear(&at("attention.query_key_value"), [d, 3 * d], c.qkv_bias)?;
        let part = |i: usize| Linear {
            weight: qkv
                .weight
                .clone()
                .reshape([d, c.n_heads, 3, c.d_head])
                .narrow(2, i, 1)
                .reshape([d, d]),
            bias: qkv.bias.clone().map(|b| {
                b.reshape([c.n_heads, 3, c.d_head])
                    .narrow(1, i, 1)
                    .reshape([d])
            }),
        };
        Ok(Layer {
            ln1: load.norm(&at("input_layernorm"), d)?,
            q: part(0),
            k: part(1),
            v: part(2),
            q_norm: None,
            k_norm: None,
            o: load.linear(&at("attention.dense"), [d, d], c.o_bias)?,
            ln1_post: None,
            ln2: load.norm(&at("post_attention_layernorm"), d)?,
            gate: None,
            up: load.linear(&at("mlp.dense_h_to_4h"), [d, c.d_mlp], true)?,
            down: load.linear(&at("mlp.dense_4h_to_h"), [c.d_mlp, d], true)?,
            ln2_post: None,
        })
    });
    Ok(Weights {
        embed: from.matrix("gpt_neox.embed_in.weight", [c.d_vocab, d], device)?,
        positions: None,
        layers: layers.collect::<Result<_, ModelError>>()?,
        final_norm: load.norm("final_layer_norm", d)?,
        unembed: match c.tied {
            true => None,
            false => {
                // The old name is that of Pythia's files, the new one that of transformers 5.
                let names = ["embed_out.weight", "lm_head.weight"];
                let name = names.into_iter().find(|name| from.contains(name));
                Some(from.matrix(name.unwrap_or(names[0]), [c.d_vocab, d], device)?)
            }
        },
        unembed_bias: None,
    })
}
