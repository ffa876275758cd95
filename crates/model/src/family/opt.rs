//! OPT (Zhang et al. 2022): GPT-2 with ReLU, and positions that count from 2. Layout: transformers, `models/opt/`.

use super::{Loader, heads, plain};
use crate::ModelError;
use crate::config::{Family, Fields, ModelConfig};
use crate::tensor_file::TensorFile;
use crate::weights::{Layer, Weights};
use burn::tensor::Device;

/// Rows of the position table before the first position.
const OFFSET: usize = 2;

pub fn config(fields: &Fields) -> Result<ModelConfig, ModelError> {
    let d_model = fields.size("hidden_size")?;
    let n_heads = heads(fields, "num_attention_heads", d_model)?;
    let n_layers = fields.layers("num_hidden_layers")?;
    fields.only("do_layer_norm_before", true)?;
    fields.only("_remove_final_layer_norm", false)?;
    fields.only("layer_norm_elementwise_affine", true)?;
    if fields
        .optional_size("word_embed_proj_dim")?
        .is_some_and(|d| d != d_model)
    {
        return Err(fields.wrong(
            "word_embed_proj_dim",
            &format!("{d_model}, the hidden size"),
        ));
    }
    let bias = fields.flag("enable_bias", true)?;
    Ok(ModelConfig {
        d_mlp: fields.size("ffn_dim")?,
        n_ctx: fields.size("max_position_embeddings")?,
        learned_positions: true,
        activation: fields.activation("activation_function", "relu")?,
        qkv_bias: bias,
        o_bias: bias,
        mlp_bias: bias,
        ..plain(Family::Opt, fields, n_layers, d_model, n_heads)?
    })
}

pub fn weights(c: &ModelConfig, from: &TensorFile, device: &Device) -> Result<Weights, ModelError> {
    // The bare model has one `decoder`, the language model one inside `model`.
    let prefix = match from.contains("decoder.embed_tokens.weight") {
        true => "decoder.",
        false => "model.decoder.",
    };
    let load = Loader {
        from,
        device,
        prefix: prefix.into(),
        turned: true,
        norm_bias: true,
        norm_offset: 0.0,
    };
    let d = c.d_model;
    let layers = (0..c.n_layers()).map(|l| {
        let at = |name: &str| format!("layers.{l}.{name}");
        let attention =
            |name: &str, bias| load.linear(&at(&format!("self_attn.{name}")), [d, d], bias);
        Ok(Layer {
            ln1: load.norm(&at("self_attn_layer_norm"), d)?,
            q: attention("q_proj", c.qkv_bias)?,
            k: attention("k_proj", c.qkv_bias)?,
            v: attention("v_proj", c.qkv_bias)?,
            q_norm: None,
            k_norm: None,
            o: attention("out_proj", c.o_bias)?,
            ln1_post: None,
            ln2: load.norm(&at("final_layer_norm"), d)?,
            gate: None,
            up: load.linear(&at("fc1"), [d, c.d_mlp], c.mlp_bias)?,
            down: load.linear(&at("fc2"), [c.d_mlp, d], c.mlp_bias)?,
            ln2_post: None,
        })
    });
    let table = format!("{prefix}embed_positions.weight");
    let positions = from.matrix(&table, [c.n_ctx + OFFSET, d], device)?;
    Ok(Weights {
        embed: from.matrix(
            &format!("{prefix}embed_tokens.weight"),
            [c.d_vocab, d],
            device,
        )?,
        positions: Some(positions.narrow(0, OFFSET, c.n_ctx)),
        layers: layers.collect::<Result<_, ModelError>>()?,
        final_norm: load.norm("final_layer_norm", d)?,
        unembed: match c.tied {
            true => None,
            false => Some(from.matrix("lm_head.weight", [c.d_vocab, d], device)?),
        },
        unembed_bias: None,
    })
}
