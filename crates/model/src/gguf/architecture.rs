//! llama.cpp's architectures as Hugging Face's: names of tensors, how they are stored, and
//! hyperparameters (llama.cpp, `convert_hf_to_gguf.py` and `gguf-py/gguf/constants.py`).

use super::Metadata;
use crate::ModelError;
use crate::tensor_file::{Entry, Stored};
use serde_json::{Value, json};
use std::collections::BTreeMap;

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Llama,
    Qwen,
    Gemma,
    Gpt2,
    NeoX,
    Phi,
}

/// `config.json` and the tensors under Hugging Face's names.
pub(super) fn translate(
    meta: &Metadata<'_>,
    tensors: Vec<(String, Entry)>,
) -> Result<(Value, BTreeMap<String, Entry>), ModelError> {
    let architecture = meta.text("general.architecture")?;
    let kind = match architecture {
        "llama" => Kind::Llama,
        "qwen2" | "qwen3" => Kind::Qwen,
        "gemma2" | "gemma3" => Kind::Gemma,
        "gpt2" => Kind::Gpt2,
        "gptneox" => Kind::NeoX,
        "phi2" => Kind::Phi,
        other => {
            return Err(meta.wrong(
                "general.architecture",
                format!("{other:?}"),
                "llama, qwen2, qwen3, gemma2, gemma3, gpt2, gptneox or phi2",
            ));
        }
    };
    let shape = Shape::read(meta, architecture)?;
    let mut entries = BTreeMap::new();
    for (name, entry) in tensors {
        let Some((there, whole)) = name_there(kind, &name) else {
            let expected = format!("a tensor of the architecture {architecture}");
            return Err(meta.wrong(&name, "an unknown tensor".into(), &expected));
        };
        if whole && kind == Kind::Phi {
            split(meta, &name, &there, entry, &shape, &mut entries)?;
            continue;
        }
        entries.insert(there.clone(), stored(kind, &name, entry, &shape));
    }
    let config = config(meta, architecture, kind, &shape, &entries)?;
    Ok((config, entries))
}

/// Sizes that every architecture has.
struct Shape {
    d_model: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    d_head: usize,
    d_mlp: usize,
    context: usize,
}

impl Shape {
    fn read(meta: &Metadata<'_>, architecture: &str) -> Result<Self, ModelError> {
        let size = |field: &str| meta.size(&format!("{architecture}.{field}"));
        let or = |field: &str, otherwise: usize| match meta.has(&format!("{architecture}.{field}"))
        {
            true => size(field),
            false => Ok(otherwise),
        };
        let (heads, d_model) = (size("attention.head_count")?, size("embedding_length")?);
        Ok(Self {
            d_model,
            layers: size("block_count")?,
            heads,
            kv_heads: or("attention.head_count_kv", heads)?,
            d_head: or("attention.key_length", d_model / heads.max(1))?,
            d_mlp: size("feed_forward_length")?,
            context: size("context_length")?,
        })
    }
}

/// A tensor's name in a Hugging Face folder, and whether it holds queries, keys and values
/// together.
fn name_there(kind: Kind, name: &str) -> Option<(String, bool)> {
    let (outer, which) = name.rsplit_once('.')?;
    if !matches!(which, "weight" | "bias") {
        return None;
    }
    let body = match kind {
        Kind::Gpt2 => "transformer",
        Kind::NeoX => "gpt_neox",
        _ => "model",
    };
    let unembedding = if kind == Kind::NeoX {
        "embed_out"
    } else {
        "lm_head"
    };
    let outer_name = match (outer, kind) {
        ("output", _) => return Some((format!("{unembedding}.{which}"), false)),
        ("token_embd", Kind::Gpt2) => "wte",
        ("token_embd", Kind::NeoX) => "embed_in",
        ("token_embd", _) => "embed_tokens",
        ("position_embd", Kind::Gpt2) => "wpe",
        ("output_norm", Kind::Gpt2) => "ln_f",
        ("output_norm", Kind::NeoX) => "final_layer_norm",
        ("output_norm", Kind::Phi) => "final_layernorm",
        ("output_norm", _) => "norm",
        _ => "",
    };
    if !outer_name.is_empty() {
        return Some((format!("{body}.{outer_name}.{which}"), false));
    }
    let (layer, part) = outer.strip_prefix("blk.")?.split_once('.')?;
    let layer: usize = layer.parse().ok()?;
    let there = match (kind, part) {
        (Kind::Gpt2, "attn_norm") => "ln_1",
        (Kind::Gpt2, "ffn_norm") => "ln_2",
        (Kind::Gpt2, "attn_qkv") => "attn.c_attn",
        (Kind::Gpt2, "attn_output") => "attn.c_proj",
        (Kind::Gpt2, "ffn_up") => "mlp.c_fc",
        (Kind::Gpt2, "ffn_down") => "mlp.c_proj",
        (Kind::Gpt2, _) => return None,
        (Kind::NeoX, "attn_qkv") => "attention.query_key_value",
        (Kind::NeoX, "attn_output") => "attention.dense",
        (Kind::NeoX, "ffn_up") => "mlp.dense_h_to_4h",
        (Kind::NeoX, "ffn_down") => "mlp.dense_4h_to_h",
        (Kind::Phi, "attn_qkv") => "self_attn",
        (Kind::Phi, "attn_output") => "self_attn.dense",
        (Kind::Phi, "ffn_up") => "mlp.fc1",
        (Kind::Phi, "ffn_down") => "mlp.fc2",
        (Kind::Gemma, "post_attention_norm") => "post_attention_layernorm",
        (Kind::Gemma, "ffn_norm") => "pre_feedforward_layernorm",
        (Kind::Gemma, "post_ffw_norm") => "post_feedforward_layernorm",
        (_, "attn_norm") => "input_layernorm",
        (Kind::NeoX, "ffn_norm") => "post_attention_layernorm",
        (Kind::NeoX, _) => return None,
        (_, "attn_q") => "self_attn.q_proj",
        (_, "attn_k") => "self_attn.k_proj",
        (_, "attn_v") => "self_attn.v_proj",
        (Kind::Phi, _) => return None,
        (_, "attn_output") => "self_attn.o_proj",
        (_, "attn_q_norm") => "self_attn.q_norm",
        (_, "attn_k_norm") => "self_attn.k_norm",
        (_, "ffn_norm") => "post_attention_layernorm",
        (_, "ffn_gate") => "mlp.gate_proj",
        (_, "ffn_up") => "mlp.up_proj",
        (_, "ffn_down") => "mlp.down_proj",
        _ => return None,
    };
    let layers = if kind == Kind::Gpt2 { "h" } else { "layers" };
    let name = format!("{body}.{layers}.{layer}.{there}.{which}");
    Some((name, part == "attn_qkv"))
}

/// Says how a tensor is stored otherwise than in a Hugging Face folder.
fn stored(kind: Kind, name: &str, mut entry: Entry, shape: &Shape) -> Entry {
    let matrix = entry.shape.len() == 2;
    entry.stored = match kind {
        // The two rotary halves of a head alternate.
        Kind::Llama if name.contains(".attn_q.") => Stored::RotaryPairs(shape.heads),
        Kind::Llama if name.contains(".attn_k.") => Stored::RotaryPairs(shape.kv_heads),
        // Norms multiply by what is stored, not by 1 and that.
        Kind::Gemma if name.ends_with("norm.weight") => Stored::OneMore,
        // As `nn.Linear`, not as `Conv1D`.
        Kind::Gpt2 if matrix && name.starts_with("blk.") => {
            entry.shape.reverse();
            Stored::Turned
        }
        // All queries, all keys, all values, not head by head.
        Kind::NeoX if name.contains(".attn_qkv.") => Stored::HeadsApart(shape.heads),
        _ => Stored::AsIs,
    };
    entry
}

/// Queries, keys and values that one tensor holds one after the other, under their own names.
fn split(
    meta: &Metadata<'_>,
    name: &str,
    there: &str,
    entry: Entry,
    shape: &Shape,
    entries: &mut BTreeMap<String, Entry>,
) -> Result<(), ModelError> {
    let (q, kv) = (shape.heads * shape.d_head, shape.kv_heads * shape.d_head);
    let rows = entry.shape[0];
    // Rows are whole blocks in a matrix; in a vector only plain floats are.
    let divisible = match (entry.shape.len(), entry.encoding) {
        (1, Ok(encoding)) => encoding.block().0 == 1,
        (2, Ok(_)) => true,
        _ => false,
    };
    if rows != q + 2 * kv || !divisible {
        let found = format!("shape {:?} as {:?}", entry.shape, entry.encoding);
        let expected = format!("{} rows that can be taken apart", q + 2 * kv);
        return Err(meta.wrong(name, found, &expected));
    }
    let Some((module, which)) = there.rsplit_once('.') else {
        return Err(meta.wrong(name, "no kind".into(), "weight or bias"));
    };
    let row = entry.bytes.len() / rows.max(1);
    let mut first = 0;
    for (letter, n) in [("q", q), ("k", kv), ("v", kv)] {
        let start = entry.bytes.start + first * row;
        let mut shape = entry.shape.clone();
        shape[0] = n;
        let part = Entry {
            file: entry.file,
            encoding: entry.encoding,
            shape,
            bytes: start..start + n * row,
            stored: Stored::AsIs,
        };
        entries.insert(format!("{module}.{letter}_proj.{which}"), part);
        first += n;
    }
    Ok(())
}

/// What `config.json` would say.
fn config(
    meta: &Metadata<'_>,
    architecture: &str,
    kind: Kind,
    shape: &Shape,
    entries: &BTreeMap<String, Entry>,
) -> Result<Value, ModelError> {
    let number =
        |field: &str, default: f64| meta.number(&format!("{architecture}.{field}"), default);
    let token = |field: &str| match meta.has(field) {
        true => meta.size(field).map(Some),
        false => Ok(None),
    };
    let has = |name: &str| entries.contains_key(name);
    let embedding = [
        "model.embed_tokens.weight",
        "transformer.wte.weight",
        "gpt_neox.embed_in.weight",
    ];
    let vocabulary = embedding.iter().find_map(|name| entries.get(*name));
    // Stored as f32: 1e-5 reads back as 9.99999974e-6.
    let eps = match kind {
        Kind::Llama | Kind::Qwen | Kind::Gemma => number("attention.layer_norm_rms_epsilon", 1e-6)?,
        _ => number("attention.layer_norm_epsilon", 1e-5)?,
    };
    let eps = shortest(eps);
    let theta = number(
        "rope.freq_base",
        if architecture == "gemma3" {
            1e6
        } else {
            10000.0
        },
    )?;
    let rotary = number("rope.dimension_count", shape.d_head as f64)?;
    // A little more, so that rounding never makes it one dimension less.
    let share = ((rotary + 0.25) / shape.d_head.max(1) as f64).min(1.0);
    let mut config = match kind {
        Kind::Gpt2 => json!({
            "model_type": "gpt2", "n_embd": shape.d_model, "n_layer": shape.layers, "n_head": shape.heads,
            "n_inner": shape.d_mlp, "n_positions": shape.context, "layer_norm_epsilon": eps,
        }),
        _ => json!({
            "hidden_size": shape.d_model, "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads, "head_dim": shape.d_head, "intermediate_size": shape.d_mlp,
            "max_position_embeddings": shape.context, "rms_norm_eps": eps, "layer_norm_eps": eps, "rope_theta": theta,
        }),
    };
    let mut set = |field: &str, value: Value| config[field] = value;
    set(
        "vocab_size",
        vocabulary.map_or(0, |entry| entry.shape[0]).into(),
    );
    set(
        "tie_word_embeddings",
        (!has("lm_head.weight") && !has("embed_out.weight")).into(),
    );
    set("bos_token_id", token("tokenizer.ggml.bos_token_id")?.into());
    set("eos_token_id", token("tokenizer.ggml.eos_token_id")?.into());
    match kind {
        Kind::Gpt2 => {}
        Kind::Llama | Kind::Qwen => {
            set("model_type", architecture.into());
            set(
                "attention_bias",
                has("model.layers.0.self_attn.q_proj.bias").into(),
            );
        }
        Kind::NeoX => {
            let field = format!("{architecture}.use_parallel_residual");
            set("model_type", "gpt_neox".into());
            set("use_parallel_residual", meta.flag(&field, true)?.into());
            set("rotary_pct", share.into());
            set("rotary_emb_base", theta.into());
            set(
                "attention_bias",
                has("gpt_neox.layers.0.attention.query_key_value.bias").into(),
            );
        }
        Kind::Phi => {
            set("model_type", "phi".into());
            set("partial_rotary_factor", share.into());
        }
        Kind::Gemma => {
            let three = architecture == "gemma3";
            // The largest of each scales by the width a head would have if heads made up d_model.
            let largest = if three { 62 } else { 46 };
            let scalar = match shape.layers == largest {
                true => shape.d_model / shape.heads.max(1),
                false => shape.d_head,
            };
            set(
                "model_type",
                if three { "gemma3_text" } else { "gemma2" }.into(),
            );
            set("query_pre_attn_scalar", scalar.into());
            let window = format!("{architecture}.attention.sliding_window");
            let window = match meta.has(&window) {
                true => meta.size(&window)?,
                false => 4096,
            };
            set("sliding_window", window.into());
            for (field, default) in [
                ("attn_logit_softcapping", 50.0),
                ("final_logit_softcapping", 30.0),
            ] {
                let there = meta.has(&format!("{architecture}.{field}"));
                let value = match three && !there {
                    true => Value::Null,
                    false => shortest(number(field, default)?).into(),
                };
                set(field, value);
            }
            if three {
                let local = number("rope.freq_base_swa", 10000.0)?;
                set(
                    "rope_parameters",
                    json!({
                        "full_attention": {"rope_type": "default", "rope_theta": theta},
                        "sliding_attention": {"rope_type": "default", "rope_theta": local},
                    }),
                );
            }
        }
    }
    let scaling = format!("{architecture}.rope.scaling.type");
    if meta.has(&scaling) {
        match (meta.text(&scaling)?, kind) {
            ("none", _) => {}
            ("linear", Kind::Llama | Kind::Qwen) => {
                let factor = number("rope.scaling.factor", 1.0)?;
                config["rope_scaling"] = json!({"rope_type": "linear", "factor": factor});
            }
            // Layers that see a window keep their frequencies.
            ("linear", Kind::Gemma) if architecture == "gemma3" => {
                let factor = number("rope.scaling.factor", 1.0)?;
                config["rope_parameters"]["full_attention"] =
                    json!({"rope_type": "linear", "factor": factor, "rope_theta": theta});
            }
            (other, _) => {
                return Err(meta.wrong(
                    &scaling,
                    format!("{other:?}"),
                    "none, or linear where it is implemented",
                ));
            }
        }
    }
    Ok(config)
}

/// The shortest decimal that an f32 is nearest to.
fn shortest(value: f64) -> f64 {
    (value as f32).to_string().parse().unwrap_or(value)
}
