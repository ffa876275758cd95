//! The shape of a small model that is trained from scratch, and its random weights.

use crate::config::{Activation, Family, LayerConfig, ModelConfig, Norm};
use crate::rotary::{Rope, RopeScaling};
use crate::weights::{Layer, Linear, NormWeights, Weights};
use burn::tensor::{Device, Tensor};
use rand::Rng;

/// The sizes of a small Llama-family model: RMS norms, rotary positions, a gated SiLU MLP, no
/// biases, the unembedding tied to the embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct SmallModel {
    /// Number of tokens in the vocabulary.
    pub d_vocab: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Number of layers.
    pub n_layers: usize,
    /// Heads a layer; `d_model / n_heads` is even.
    pub n_heads: usize,
    /// Width of the MLP's hidden layer.
    pub d_mlp: usize,
    /// Longest sequence, in tokens.
    pub n_ctx: usize,
    /// Beginning-of-sequence token.
    pub bos: Option<u32>,
    /// Tokens that end a sequence.
    pub eos: Vec<u32>,
}

impl SmallModel {
    /// The whole configuration.
    pub fn config(&self) -> ModelConfig {
        let d_head = self.d_model / self.n_heads;
        let rope = Rope {
            theta: 10000.0,
            dims: d_head,
            scaling: RopeScaling::None,
        };
        let layer = LayerConfig {
            window: None,
            rope: Some(rope),
        };
        ModelConfig {
            family: Family::Llama,
            d_model: self.d_model,
            n_heads: self.n_heads,
            n_kv_heads: self.n_heads,
            d_head,
            d_mlp: self.d_mlp,
            d_vocab: self.d_vocab,
            n_ctx: self.n_ctx,
            norm: Norm::Rms,
            norm_eps: 1e-5,
            parallel: false,
            post_norms: false,
            qk_norm: false,
            gated: true,
            learned_positions: false,
            embed_scale: 1.0,
            attn_scale: (d_head as f64).powf(-0.5),
            attn_softcap: None,
            logit_softcap: None,
            layers: vec![layer; self.n_layers],
            activation: Activation::Silu,
            qkv_bias: false,
            o_bias: false,
            mlp_bias: false,
            tied: true,
            bos: self.bos,
            eos: self.eos.clone(),
            pad: None,
        }
    }
}

/// Normal weights of standard deviation 0.02, those that write to the residual stream scaled down
/// by √(2 layers) (GPT-2's recipe); norms start at one.
pub(super) fn random_weights(
    c: &ModelConfig,
    normal: &mut dyn FnMut([usize; 2], f64) -> Tensor<2>,
    device: &Device,
) -> Weights {
    let embed = normal([c.d_vocab, c.d_model], 0.02);
    let ones = || NormWeights {
        weight: Tensor::ones([c.d_model], device),
        bias: None,
    };
    let residual = 0.02 / (2.0 * c.n_layers() as f64).sqrt();
    let mut linear = |shape, std| Linear {
        weight: normal(shape, std),
        bias: None,
    };
    let heads = c.n_heads * c.d_head;
    let layers = (0..c.n_layers()).map(|_| Layer {
        ln1: ones(),
        qkv: Linear::side_by_side((0..3).map(|_| linear([c.d_model, heads], 0.02)).collect()),
        q_norm: None,
        k_norm: None,
        o: linear([heads, c.d_model], residual),
        ln1_post: None,
        ln2: ones(),
        up: Linear::side_by_side((0..2).map(|_| linear([c.d_model, c.d_mlp], 0.02)).collect()),
        down: linear([c.d_mlp, c.d_model], residual),
        ln2_post: None,
    });
    Weights {
        embed,
        positions: None,
        layers: layers.collect(),
        final_norm: ones(),
        unembed: None,
        unembed_bias: None,
        headless: false,
    }
}

/// A draw from the standard normal distribution (Box & Muller 1958).
pub(super) fn standard_normal(rng: &mut impl Rng) -> f64 {
    let (u, v): (f64, f64) = (rng.random(), rng.random());
    (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}
