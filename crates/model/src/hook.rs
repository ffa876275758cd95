//! The places in a transformer where an activation can be read or replaced, in TransformerLens's
//! spelling (`transformer_lens/hook_points.py` and `components/`).

use crate::ModelError;
use std::fmt;
use std::str::FromStr;

/// A named place in the forward pass. `Ord` follows the order of computation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HookPoint {
    /// `hook_embed`: token embeddings, `[batch, pos, d_model]`.
    Embed,
    /// `hook_pos_embed`: learned position embeddings (GPT-2), `[batch, pos, d_model]`.
    PosEmbed,
    /// `blocks.{layer}.…`: a place inside one layer.
    Block(usize, BlockHook),
    /// `ln_final.hook_scale`: what the last residual stream is divided by, `[batch, pos, 1]`.
    FinalNormScale,
    /// `ln_final.hook_normalized`: the last residual stream, normalized, before the norm's weight
    /// and bias, `[batch, pos, d_model]`.
    FinalNorm,
    /// `logits`: `[batch, pos, d_vocab]`.
    Logits,
}

/// A place inside one layer, in the order of computation. Heads lie side by side: a value is
/// `[batch, pos, heads * …]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BlockHook {
    /// `hook_resid_pre`: the residual stream entering the layer.
    ResidPre,
    /// `hook_attn_in`: the residual stream as each query head alone reads it, for its query, key
    /// and value, `n_heads * d_model` wide.
    AttnIn,
    /// `hook_q_input`: the same for its query alone, `n_heads * d_model` wide.
    QInput,
    /// `hook_k_input`: as each key head alone reads it, `n_kv_heads * d_model` wide.
    KInput,
    /// `hook_v_input`: as each value head alone reads it, `n_kv_heads * d_model` wide.
    VInput,
    /// `ln1.hook_scale`: what attention's input is divided by, 1 wide.
    Ln1Scale,
    /// `ln1.hook_normalized`: attention's input, normalized, before the norm's weight and bias.
    Ln1,
    /// `attn.hook_in`: what attention reads: its input, normalized, the norm's weight and bias
    /// applied.
    AttnHookIn,
    /// `attn.hook_q`: queries before their norm and rotary embedding, `n_heads * d_head` wide.
    Q,
    /// `attn.hook_k`: keys before their norm and rotary embedding, `n_kv_heads * d_head` wide.
    K,
    /// `attn.hook_v`: values, `n_kv_heads * d_head` wide.
    V,
    /// `attn.hook_rot_q`: queries after rotary embedding, `n_heads * d_head` wide.
    RotQ,
    /// `attn.hook_rot_k`: keys after rotary embedding, `n_kv_heads * d_head` wide.
    RotK,
    /// `attn.hook_attn_scores`: scores before the softmax, −∞ where a query may not look; a row is
    /// a query, `n_heads * pos` wide.
    AttnScores,
    /// `attn.hook_pattern`: attention weights; a row is a query, `n_heads * pos` wide.
    Pattern,
    /// `attn.hook_z`: the heads' outputs before `W_O`, `n_heads * d_head` wide.
    Z,
    /// `attn.hook_result`: what each head adds to the residual stream, without `b_O`,
    /// `n_heads * d_model` wide.
    Result,
    /// `attn.hook_out`: what attention writes, before the norm of it where the model has one
    /// (Gemma).
    AttnHookOut,
    /// `ln1_post.hook_scale`: what attention's output is divided by (Gemma), 1 wide.
    Ln1PostScale,
    /// `ln1_post.hook_normalized`: attention's output, normalized, before the norm's weight
    /// (Gemma).
    Ln1Post,
    /// `hook_attn_out`: what attention adds to the residual stream.
    AttnOut,
    /// `hook_resid_mid`: the residual stream between attention and MLP.
    ResidMid,
    /// `hook_mlp_in`: the residual stream as the MLP alone reads it, before its norm.
    MlpIn,
    /// `ln2.hook_scale`: what the MLP's input is divided by, 1 wide.
    Ln2Scale,
    /// `ln2.hook_normalized`: the MLP's input, normalized, before the norm's weight and bias.
    Ln2,
    /// `mlp.hook_in`: what the MLP reads: its input, normalized, the norm's weight and bias
    /// applied.
    MlpHookIn,
    /// `mlp.hook_pre`: the (gate's) pre-activation, `d_mlp` wide.
    MlpPre,
    /// `mlp.hook_pre_linear`: the linear branch of a gated MLP, `d_mlp` wide.
    MlpPreLinear,
    /// `mlp.hook_post`: what `W_out` reads, `d_mlp` wide.
    MlpPost,
    /// `mlp.hook_out`: what the MLP writes, before the norm of it where the model has one (Gemma).
    MlpHookOut,
    /// `ln2_post.hook_scale`: what the MLP's output is divided by (Gemma), 1 wide.
    Ln2PostScale,
    /// `ln2_post.hook_normalized`: the MLP's output, normalized, before the norm's weight (Gemma).
    Ln2Post,
    /// `hook_mlp_out`: what the MLP adds to the residual stream.
    MlpOut,
    /// `hook_resid_post`: the residual stream leaving the layer.
    ResidPost,
}

impl BlockHook {
    /// Every place inside a layer with its spelling after `blocks.{layer}.`.
    pub const ALL: [(Self, &'static str); 34] = [
        (Self::ResidPre, "hook_resid_pre"),
        (Self::AttnIn, "hook_attn_in"),
        (Self::QInput, "hook_q_input"),
        (Self::KInput, "hook_k_input"),
        (Self::VInput, "hook_v_input"),
        (Self::Ln1Scale, "ln1.hook_scale"),
        (Self::Ln1, "ln1.hook_normalized"),
        (Self::AttnHookIn, "attn.hook_in"),
        (Self::Q, "attn.hook_q"),
        (Self::K, "attn.hook_k"),
        (Self::V, "attn.hook_v"),
        (Self::RotQ, "attn.hook_rot_q"),
        (Self::RotK, "attn.hook_rot_k"),
        (Self::AttnScores, "attn.hook_attn_scores"),
        (Self::Pattern, "attn.hook_pattern"),
        (Self::Z, "attn.hook_z"),
        (Self::Result, "attn.hook_result"),
        (Self::AttnHookOut, "attn.hook_out"),
        (Self::Ln1PostScale, "ln1_post.hook_scale"),
        (Self::Ln1Post, "ln1_post.hook_normalized"),
        (Self::AttnOut, "hook_attn_out"),
        (Self::ResidMid, "hook_resid_mid"),
        (Self::MlpIn, "hook_mlp_in"),
        (Self::Ln2Scale, "ln2.hook_scale"),
        (Self::Ln2, "ln2.hook_normalized"),
        (Self::MlpHookIn, "mlp.hook_in"),
        (Self::MlpPre, "mlp.hook_pre"),
        (Self::MlpPreLinear, "mlp.hook_pre_linear"),
        (Self::MlpPost, "mlp.hook_post"),
        (Self::MlpHookOut, "mlp.hook_out"),
        (Self::Ln2PostScale, "ln2_post.hook_scale"),
        (Self::Ln2Post, "ln2_post.hook_normalized"),
        (Self::MlpOut, "hook_mlp_out"),
        (Self::ResidPost, "hook_resid_post"),
    ];

    /// Spellings of TransformerLens's bridge for the same values.
    const ALIASES: [(Self, &'static str); 12] = [
        (Self::ResidPre, "hook_in"),
        (Self::AttnHookIn, "ln1.hook_out"),
        (Self::Q, "attn.q.hook_out"),
        (Self::K, "attn.k.hook_out"),
        (Self::V, "attn.v.hook_out"),
        (Self::Z, "attn.o.hook_in"),
        (Self::AttnOut, "ln1_post.hook_out"),
        (Self::MlpHookIn, "ln2.hook_out"),
        (Self::MlpPre, "mlp.gate.hook_out"),
        (Self::MlpPost, "mlp.out.hook_in"),
        (Self::MlpOut, "ln2_post.hook_out"),
        (Self::ResidPost, "hook_out"),
    ];
}

const OUTER: [(HookPoint, &str); 5] = [
    (HookPoint::Embed, "hook_embed"),
    (HookPoint::PosEmbed, "hook_pos_embed"),
    (HookPoint::FinalNormScale, "ln_final.hook_scale"),
    (HookPoint::FinalNorm, "ln_final.hook_normalized"),
    (HookPoint::Logits, "logits"),
];

/// Spellings of TransformerLens's bridge for the same values.
const OUTER_ALIASES: [(HookPoint, &str); 4] = [
    (HookPoint::Embed, "embed.hook_out"),
    (HookPoint::PosEmbed, "pos_embed.hook_out"),
    (HookPoint::Logits, "unembed.hook_out"),
    (HookPoint::Logits, "hook_unembed"),
];

impl HookPoint {
    /// The layer that this place belongs to, if it is inside one.
    pub fn layer(&self) -> Option<usize> {
        match self {
            Self::Block(layer, _) => Some(*layer),
            _ => None,
        }
    }
}

impl fmt::Display for HookPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::Block(layer, hook) = self {
            let (_, name) = BlockHook::ALL
                .iter()
                .find(|(h, _)| h == hook)
                .expect("every hook has a spelling");
            return write!(f, "blocks.{layer}.{name}");
        }
        let (_, name) = OUTER
            .iter()
            .find(|(h, _)| h == self)
            .expect("every hook has a spelling");
        f.write_str(name)
    }
}

impl FromStr for HookPoint {
    type Err = ModelError;

    fn from_str(text: &str) -> Result<Self, ModelError> {
        let mut outer = OUTER.iter().chain(&OUTER_ALIASES);
        if let Some((hook, _)) = outer.find(|(_, name)| *name == text) {
            return Ok(*hook);
        }
        let block = text
            .strip_prefix("blocks.")
            .and_then(|rest| rest.split_once('.'));
        if let Some((layer, name)) = block
            && let Ok(number) = layer.parse::<usize>()
            // One point has one spelling: neither `+1` nor `01`.
            && number.to_string() == layer
        {
            let layer = number;
            let mut all = BlockHook::ALL.iter().chain(&BlockHook::ALIASES);
            if let Some((hook, _)) = all.find(|(_, n)| *n == name) {
                return Ok(Self::Block(layer, *hook));
            }
            let closest = closest(name, BlockHook::ALL.iter().map(|(_, n)| *n));
            return Err(ModelError::HookPoint {
                found: text.into(),
                closest: closest.map(|n| format!("blocks.{layer}.{n}")),
            });
        }
        let names = OUTER.iter().map(|(_, n)| *n);
        Err(ModelError::HookPoint {
            found: text.into(),
            closest: closest(text, names).map(String::from),
        })
    }
}

fn closest<'a>(found: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    names
        .map(|name| (strsim::jaro_winkler(found, name), name))
        .filter(|(score, _)| *score > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_reads_back() {
        let inner = BlockHook::ALL.iter().map(|(h, _)| HookPoint::Block(11, *h));
        for hook in inner.chain(OUTER.iter().map(|(h, _)| *h)) {
            assert_eq!(hook.to_string().parse::<HookPoint>().unwrap(), hook);
        }
    }

    #[test]
    fn a_misspelt_point_names_the_likely_one() {
        let error = "blocks.3.hook_resid_pots"
            .parse::<HookPoint>()
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("did you mean `blocks.3.hook_resid_post`"),
            "{error}"
        );
        for text in [
            "model.layers.3",
            "blocks.01.hook_resid_post",
            "blocks.+1.hook_resid_post",
        ] {
            assert!(text.parse::<HookPoint>().is_err(), "{text}");
        }
        assert!("blocks.-1.hook_resid_post".parse::<HookPoint>().is_err());
    }
}
