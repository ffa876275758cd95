//! Where a family's checkpoints keep which tensor, and the one reader of them all.

use crate::ModelError;
use crate::config::ModelConfig;
use crate::tensor_file::TensorFile;
use crate::weights::{Layer, Linear, NormWeights, Weights};
use burn::tensor::{Device, Tensor};

/// Names without `.weight` and `.bias`, those of layers after `{prefix}{layers}.{l}.`, the others
/// after the prefix.
pub struct Layout {
    /// The prefix of every name but the unembedding's. A checkpoint of the bare model lacks the
    /// first part of it.
    pub prefix: &'static str,
    /// Whether matrices are stored as `[out, in]` (`nn.Linear`).
    pub turned: bool,
    /// Whether norms have biases.
    pub norm_bias: bool,
    /// Added to the weights of norms.
    pub norm_offset: f32,
    pub embed: &'static str,
    /// The table of positions, and how many rows come before the first position.
    pub positions: Option<(&'static str, usize)>,
    pub layers: &'static str,
    pub ln1: &'static str,
    /// Norms of what attention and MLP write.
    pub post_norms: Option<[&'static str; 2]>,
    /// The same as `ln1` where one norm serves both.
    pub ln2: &'static str,
    pub qkv: QkvNames,
    /// Norms of each head's query and key.
    pub qk_norms: Option<[&'static str; 2]>,
    pub o: &'static str,
    pub gate: Option<&'static str>,
    pub up: &'static str,
    pub down: &'static str,
    pub final_norm: &'static str,
    /// Whole names of an unembedding of its own: the first that is there counts.
    pub unembed: &'static [&'static str],
    pub unembed_bias: Option<&'static str>,
}

/// How queries, keys and values are kept.
pub enum QkvNames {
    /// In three matrices.
    Apart([&'static str; 3]),
    /// In one: all queries, all keys, all values.
    Together(&'static str),
    /// In one: a head's query, key and value, then the next head's.
    ByHead(&'static str),
}

/// What GPT-like families with `nn.Linear` and LayerNorm have in common; a family states the rest.
pub const PLAIN: Layout = Layout {
    prefix: "",
    turned: true,
    norm_bias: true,
    norm_offset: 0.0,
    embed: "embed_tokens",
    positions: None,
    layers: "layers",
    ln1: "input_layernorm",
    post_norms: None,
    ln2: "post_attention_layernorm",
    qkv: QkvNames::Apart(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
    qk_norms: None,
    o: "self_attn.o_proj",
    gate: None,
    up: "mlp.up_proj",
    down: "mlp.down_proj",
    final_norm: "norm",
    unembed: &["lm_head.weight"],
    unembed_bias: None,
};

/// Unread tensors named in a warning, at most.
const NAMED: usize = 3;

/// Reads a checkpoint, with warnings. The configuration is told where the file knows better which
/// unembedding there is.
pub fn weights(
    layout: &Layout,
    c: &mut ModelConfig,
    from: &TensorFile,
    device: &Device,
) -> Result<(Weights, Vec<String>), ModelError> {
    let mut warnings = vec![];
    let head = head(layout, c, from, device, &mut warnings)?;
    let c = &*c;
    let reader = Reader {
        layout,
        prefix: prefix(layout, from),
        c,
        from,
        device,
    };
    let (d, prefix) = (c.d_model, reader.prefix);
    let matrix = |name: &str, rows| from.matrix(name, [rows, d], device);
    let weights = Weights {
        embed: matrix(&format!("{prefix}{}.weight", layout.embed), c.d_vocab)?,
        positions: match layout.positions {
            None => None,
            Some((table, before)) => {
                let table = matrix(&format!("{prefix}{table}.weight"), before + c.n_ctx)?;
                Some(table.narrow(0, before, c.n_ctx))
            }
        },
        layers: (0..c.n_layers())
            .map(|l| reader.layer(l))
            .collect::<Result<_, _>>()?,
        final_norm: reader.norm(layout.final_norm, d)?,
        unembed_bias: match layout.unembed_bias {
            Some(name) if !matches!(head, Head::Missing) => {
                Some(from.vector(name, c.d_vocab, device)?)
            }
            _ => None,
        },
        headless: matches!(head, Head::Missing),
        unembed: match head {
            Head::Own(unembed) => Some(*unembed),
            Head::Tied | Head::Missing => None,
        },
    };
    warnings.extend(unread(from));
    Ok((weights, warnings))
}

/// The prefix of the names in this file.
fn prefix(layout: &Layout, from: &TensorFile) -> &'static str {
    let bare = layout.prefix.split_once('.').map_or("", |(_, rest)| rest);
    let there = |prefix: &&str| from.contains(&format!("{prefix}{}.weight", layout.embed));
    let found = [layout.prefix, bare].into_iter().find(there);
    found.unwrap_or(layout.prefix)
}

/// Where logits come from.
enum Head {
    /// The embedding.
    Tied,
    /// A matrix of its own.
    Own(Box<Tensor<2>>),
    /// Nowhere.
    Missing,
}

/// Finds the unembedding as transformers does: a configuration that ties it to the embedding is not
/// believed where the file has another one.
fn head(
    layout: &Layout,
    c: &mut ModelConfig,
    from: &TensorFile,
    device: &Device,
    warnings: &mut Vec<String>,
) -> Result<Head, ModelError> {
    let there = layout.unembed.iter().find(|name| from.contains(name));
    let Some(name) = there else {
        if c.tied {
            return Ok(Head::Tied);
        }
        warnings.push(format!(
            "{}: found no {}: hook points can be read, logits cannot",
            from.path().display(),
            layout.unembed[0]
        ));
        return Ok(Head::Missing);
    };
    let shape = [c.d_vocab, c.d_model];
    let unembed = from.matrix(name, shape, device)?;
    if c.tied {
        let embed = format!("{}{}.weight", prefix(layout, from), layout.embed);
        let (_, embed) = from.read(&embed)?;
        if unembed.clone().into_data().iter::<f32>().eq(embed) {
            return Ok(Head::Tied);
        }
        warnings.push(format!(
            "{}: tie_word_embeddings is true, but {name} is not the embedding: {name} is used, as transformers does",
            from.path().display()
        ));
        c.tied = false;
    }
    Ok(Head::Own(Box::new(unembed)))
}

/// Says which tensors nobody has read, but for buffers that models compute anew.
fn unread(from: &TensorFile) -> Option<String> {
    let buffer = |name: &&str| {
        let masks = [
            ".attn.bias",
            ".attn.masked_bias",
            ".attention.bias",
            ".attention.masked_bias",
        ];
        name.ends_with("rotary_emb.inv_freq") || masks.iter().any(|end| name.ends_with(end))
    };
    let mut names = from.unread();
    names.retain(|name| !buffer(name));
    let first = names.iter().take(NAMED).map(|name| format!("`{name}`"));
    let first = first.collect::<Vec<_>>().join(", ");
    let (more, them) = match names.len() {
        0 => return None,
        1 => ("1 tensor".into(), ""),
        n => (format!("{n} tensors"), if n > NAMED { ", …" } else { "" }),
    };
    Some(format!(
        "{}: nothing reads {more} of the file: {first}{them}; is this another architecture than config.json says?",
        from.path().display()
    ))
}

struct Reader<'a> {
    layout: &'a Layout,
    prefix: &'static str,
    c: &'a ModelConfig,
    from: &'a TensorFile,
    device: &'a Device,
}

impl Reader<'_> {
    fn layer(&self, l: usize) -> Result<Layer, ModelError> {
        let (c, layout) = (self.c, self.layout);
        let d = c.d_model;
        let at = |name: &str| format!("{}.{l}.{name}", layout.layers);
        let norm = |name: &str, width| self.norm(&at(name), width);
        let optional = |name: Option<&str>, width| name.map(|name| norm(name, width)).transpose();
        let of_heads = layout.qk_norms.filter(|_| c.qk_norm);
        let up = self.linear(&at(layout.up), [d, c.d_mlp], c.mlp_bias)?;
        let ln1 = norm(layout.ln1, d)?;
        Ok(Layer {
            ln2: match layout.ln2 == layout.ln1 {
                true => ln1.clone(),
                false => norm(layout.ln2, d)?,
            },
            ln1,
            qkv: self.qkv(l)?,
            q_norm: optional(of_heads.map(|names| names[0]), c.d_head)?,
            k_norm: optional(of_heads.map(|names| names[1]), c.d_head)?,
            o: self.linear(&at(layout.o), [c.n_heads * c.d_head, d], c.o_bias)?,
            ln1_post: optional(layout.post_norms.map(|names| names[0]), d)?,
            up: match layout.gate {
                None => up,
                Some(gate) => {
                    let gate = self.linear(&at(gate), [d, c.d_mlp], c.mlp_bias)?;
                    Linear::side_by_side(vec![gate, up])
                }
            },
            down: self.linear(&at(layout.down), [c.d_mlp, d], c.mlp_bias)?,
            ln2_post: optional(layout.post_norms.map(|names| names[1]), d)?,
        })
    }

    fn qkv(&self, l: usize) -> Result<Linear, ModelError> {
        let (c, layout) = (self.c, self.layout);
        let (d, heads, d_head) = (c.d_model, c.n_heads, c.d_head);
        let (q, kv) = (heads * d_head, c.n_kv_heads * d_head);
        let read = |name: &str, out| {
            let name = format!("{}.{l}.{name}", layout.layers);
            self.linear(&name, [d, out], c.qkv_bias)
        };
        match layout.qkv {
            QkvNames::Apart(names) => {
                let parts = names.iter().zip([q, kv, kv]);
                let parts = parts.map(|(name, out)| read(name, out));
                Ok(Linear::side_by_side(parts.collect::<Result<_, _>>()?))
            }
            QkvNames::Together(name) => read(name, q + 2 * kv),
            QkvNames::ByHead(name) => {
                let all = read(name, 3 * q)?;
                let sorted = |x: Tensor<2>| {
                    let [n, out] = x.dims();
                    let by_head = x.reshape([n, heads, 3, d_head]);
                    by_head.swap_dims(1, 2).reshape([n, out])
                };
                Ok(Linear {
                    weight: sorted(all.weight),
                    bias: all.bias.map(|b| sorted(b.unsqueeze()).squeeze_dim(0)),
                })
            }
        }
    }

    fn norm(&self, name: &str, width: usize) -> Result<NormWeights, ModelError> {
        let name = format!("{}{name}", self.prefix);
        let vector = |kind: &str| {
            self.from
                .vector(&format!("{name}.{kind}"), width, self.device)
        };
        let weight = vector("weight")?;
        Ok(NormWeights {
            weight: match self.layout.norm_offset == 0.0 {
                true => weight,
                false => weight + self.layout.norm_offset,
            },
            bias: match self.layout.norm_bias {
                true => Some(vector("bias")?),
                false => None,
            },
        })
    }

    fn linear(&self, name: &str, shape: [usize; 2], bias: bool) -> Result<Linear, ModelError> {
        let name = format!("{}{name}", self.prefix);
        let weight = format!("{name}.weight");
        Ok(Linear {
            weight: match self.layout.turned {
                true => self.from.transposed(&weight, shape, self.device)?,
                false => self.from.matrix(&weight, shape, self.device)?,
            },
            bias: match bias {
                true => Some(
                    self.from
                        .vector(&format!("{name}.bias"), shape[1], self.device)?,
                ),
                false => None,
            },
        })
    }
}
