//! A transformer on one prompt whose attention patterns and norms' divisors are constants: between
//! its MLPs it is linear then, and what one place of the residual stream adds to another is exact.
//!
//! Values at the residual stream of several gradients stand as `[pos, n, d_model]`: gradients of
//! one position side by side.

use crate::ModelError;
use crate::config::{ModelConfig, Norm};
use crate::hook::{BlockHook, HookPoint};
use crate::language_model::LanguageModel;
use crate::run::HookedRun;
use crate::weights::NormWeights;
use burn::tensor::{Bool, Tensor, TensorData};
use std::collections::BTreeMap;

mod scores;

pub use scores::ScoreSide;

/// How attention weights are made: a block of sources at a time, with the queries from its first
/// source on.
#[derive(Clone, Copy)]
struct Blocks {
    /// Weights of a layer that are kept for all later calls, if there are no more; else they are
    /// made again each time from queries and keys.
    kept: usize,
    /// Sources in a block.
    length: usize,
}

const BLOCKS: Blocks = Blocks {
    kept: 8 << 20,
    length: 256,
};

/// A model frozen on one prompt.
pub struct FrozenModel<'m> {
    model: &'m LanguageModel,
    layers: Vec<FrozenLayer>,
    /// What the last residual stream is divided by, `[pos, 1]`.
    final_scale: Tensor<2>,
    /// The last position, normalized, before the norm's weight, `[1, d_model]`.
    last: Tensor<2>,
    captured: BTreeMap<HookPoint, Tensor<2>>,
    pos: usize,
    blocks: Blocks,
}

struct FrozenLayer {
    /// Turned, `[n_heads, pos, d_head]`.
    queries: Tensor<3>,
    /// Turned, `[n_kv_heads, pos, d_head]`.
    keys: Tensor<3>,
    /// The logarithm of each softmax's denominator, `[n_heads, pos, 1]`.
    denominators: Tensor<3>,
    /// The weights, block by block, if they are few: `[n_kv_heads, group * queries, sources]`.
    pattern: Vec<Tensor<3>>,
    /// What the norms divide by, `[pos, 1]`.
    ln1: Tensor<2>,
    ln2: Tensor<2>,
    ln1_post: Option<Tensor<2>>,
    ln2_post: Option<Tensor<2>>,
    /// Queries and keys before the norms of heads, if there are such norms.
    unnormalized: Option<[Tensor<2>; 2]>,
}

/// The direction of the residual stream that a logit reads at the last position.
pub struct LogitDirections {
    /// `W_U[token] − mean over the vocabulary of W_U`, through the frozen final norm,
    /// `[n, d_model]`.
    pub directions: Tensor<2>,
    /// What the final norm's bias and the unembedding's bias add, in the same way.
    pub constants: Vec<f64>,
    /// The logits, each less the mean of all, without a soft cap.
    pub values: Vec<f64>,
}

impl LanguageModel {
    /// Runs the model on one prompt and freezes it there; `capture` are hook points whose values
    /// are kept as well.
    ///
    /// ```
    /// # fn main() -> Result<(), lapidary_model::ModelError> {
    /// use burn::tensor::{Device, Tensor};
    /// use lapidary_model::LanguageModel;
    ///
    /// let model = LanguageModel::load("embedded", &Device::flex())?;
    /// let tokens = model.tokenizer()?.encode("The Congress of the United States")?;
    /// let frozen = model.frozen(&tokens, &[])?;
    /// // What the stream that enters layer 3 adds, through attention, to its first dimension
    /// // after attention at the last position.
    /// let (pos, d) = (tokens.len(), model.config().d_model);
    /// let mut gradient = vec![0.0; pos * d];
    /// gradient[(pos - 1) * d] = 1.0;
    /// let gradient = Tensor::<1>::from_floats(&gradient[..], model.device()).reshape([pos, 1, d]);
    /// assert_eq!(frozen.through_attention(3, gradient).dims(), [pos, 1, d]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The prompt is empty, longer than the context, or has a token outside the vocabulary; a hook
    /// point does not exist; the model has no unembedding.
    pub fn frozen(
        &self,
        tokens: &[u32],
        capture: &[HookPoint],
    ) -> Result<FrozenModel<'_>, ModelError> {
        FrozenModel::new(self, tokens, capture, BLOCKS)
    }
}

impl<'m> FrozenModel<'m> {
    fn new(
        model: &'m LanguageModel,
        tokens: &[u32],
        capture: &[HookPoint],
        blocks: Blocks,
    ) -> Result<Self, ModelError> {
        model.check_head()?;
        let c = model.config();
        let mut points: Vec<HookPoint> = capture.to_vec();
        points.extend([HookPoint::FinalNormScale, HookPoint::FinalNorm]);
        for l in 0..c.n_layers() {
            let own = places(c, l).map(|hook| HookPoint::Block(l, hook));
            points.extend(own);
        }
        let run = HookedRun {
            capture: &points,
            ..Default::default()
        };
        let pos = tokens.len();
        let mut captured = model.run(model.tokens(&[tokens])?, &run)?.captured;
        let mut take = |at: HookPoint| {
            let keep = capture.contains(&at);
            let value = match keep {
                true => captured.get(&at).cloned(),
                false => captured.remove(&at),
            };
            let value = value.expect("asked for");
            let width = value.dims()[2];
            value.reshape([pos, width])
        };
        let layers = (0..c.n_layers()).map(|l| FrozenLayer::new(c, l, pos, blocks, &mut take));
        let layers: Vec<FrozenLayer> = layers.collect();
        let final_scale = take(HookPoint::FinalNormScale);
        let last = take(HookPoint::FinalNorm).narrow(0, pos - 1, 1);
        let captured = captured.into_iter().map(|(at, value)| {
            let width = value.dims()[2];
            (at, value.reshape([pos, width]))
        });
        Ok(Self {
            model,
            layers,
            final_scale,
            last,
            captured: captured.collect(),
            pos,
            blocks,
        })
    }

    /// The model.
    pub fn model(&self) -> &'m LanguageModel {
        self.model
    }

    /// Number of tokens.
    pub fn pos(&self) -> usize {
        self.pos
    }

    /// The value at a hook point that was to be kept, `[pos, width]`; what was kept is gone then.
    pub fn take(&mut self, at: HookPoint) -> Option<Tensor<2>> {
        self.captured.remove(&at)
    }

    /// The same, which stays kept.
    pub fn kept(&self, at: HookPoint) -> Option<Tensor<2>> {
        self.captured.get(&at).cloned()
    }

    /// The logits after the last token, `[d_vocab]`.
    pub fn logits(&self) -> Tensor<1> {
        self.model.unembed(self.last.clone()).squeeze_dim(0)
    }

    /// What the logits of tokens, each less the mean of all, read of the last residual stream at
    /// the last position. A soft cap of the logits is left out.
    pub fn logit_directions(&self, tokens: &[u32]) -> LogitDirections {
        let w = self.model.weights();
        let unembed = w.unembed.as_ref().unwrap_or(&w.embed); // [d_vocab, d_model]
        let ids: Vec<i32> = tokens.iter().map(|t| *t as i32).collect();
        let ids = Tensor::from_data(TensorData::new(ids, [tokens.len()]), self.model.device());
        let mean = unembed.clone().mean_dim(0);
        let rows = unembed.clone().select(0, ids) - mean; // [n, d_model]
        let mut constants = vec![0.0; tokens.len()];
        if let Some(bias) = &w.final_norm.bias {
            let products = (rows.clone() * bias.clone().unsqueeze()).sum_dim(1);
            let products = products.into_data();
            for (constant, product) in constants.iter_mut().zip(products.iter::<f64>()) {
                *constant += product;
            }
        }
        if let Some(bias) = &w.unembed_bias {
            let bias: Vec<f64> = bias.clone().into_data().iter::<f64>().collect();
            let mean = bias.iter().sum::<f64>() / bias.len() as f64;
            for (constant, token) in constants.iter_mut().zip(tokens) {
                *constant += bias[*token as usize] - mean;
            }
        }
        let scale = self.final_scale.clone().narrow(0, self.pos - 1, 1);
        let [n, d] = rows.dims();
        let last = self.last.clone() * w.final_norm.weight.clone().unsqueeze();
        let products = (rows.clone() * last).sum_dim(1).into_data();
        let values = products.iter::<f64>().zip(&constants);
        let values = values.map(|(product, constant)| product + constant);
        let values = values.collect();
        let rows = self.through_norm(&w.final_norm, &scale, rows.reshape([1, n, d]));
        LogitDirections {
            directions: rows.reshape([n, d]),
            constants,
            values,
        }
    }

    /// The gradients at the residual stream of gradients at a place where an MLP or its replacement
    /// reads: `hook_resid_mid`, `hook_mlp_in`, `ln2.hook_normalized` or `mlp.hook_in` of a layer.
    /// `gradients` are `[n, d_model]`, one at each of `positions`; `None` for other places.
    pub fn to_stream(
        &self,
        at: HookPoint,
        gradients: Tensor<2>,
        positions: &[usize],
    ) -> Option<Tensor<2>> {
        let HookPoint::Block(l, hook) = at else {
            return None;
        };
        let norm = &self.model.weights().layers[l].ln2;
        let weighted = match hook {
            BlockHook::ResidMid | BlockHook::MlpIn => return Some(gradients),
            BlockHook::Ln2 => gradients,
            BlockHook::MlpHookIn => gradients * norm.weight.clone().unsqueeze(),
            _ => return None,
        };
        let [n, d] = weighted.dims();
        let positions: Vec<i32> = positions.iter().map(|p| *p as i32).collect();
        let positions = Tensor::from_data(TensorData::new(positions, [n]), self.model.device());
        let scale = self.layers[l].ln2.clone().select(0, positions); // [n, 1]
        let divided = self.divided(&scale, weighted.reshape([n, 1, d]));
        Some(divided.reshape([n, d]))
    }

    /// What is added to the value at such a place whatever the residual stream is, `[d_model]`.
    pub fn constant_read(&self, at: HookPoint) -> Option<Tensor<1>> {
        match at {
            HookPoint::Block(l, BlockHook::MlpHookIn) => {
                self.model.weights().layers[l].ln2.bias.clone()
            }
            _ => None,
        }
    }

    /// The gradient at `hook_mlp_out` or `mlp.hook_out` of a layer, of a gradient at the residual
    /// stream after it, `[pos, n, d_model]` for the first positions; `None` for other places.
    pub fn mlp_gradient(&self, at: HookPoint, gradient: Tensor<3>) -> Option<Tensor<3>> {
        self.written_gradient(at, gradient, 0)
    }

    /// The same of gradients at one position, `[n, d_model]`.
    pub fn mlp_gradient_at(
        &self,
        at: HookPoint,
        gradients: Tensor<2>,
        position: usize,
    ) -> Option<Tensor<2>> {
        let [n, d] = gradients.dims();
        let gradients = gradients.reshape([1, n, d]);
        let found = self.written_gradient(at, gradients, position)?;
        Some(found.reshape([n, d]))
    }

    /// The same of gradients at the positions from `first` on.
    fn written_gradient(
        &self,
        at: HookPoint,
        gradient: Tensor<3>,
        first: usize,
    ) -> Option<Tensor<3>> {
        let HookPoint::Block(l, hook) = at else {
            return None;
        };
        let norm = self.model.weights().layers[l].ln2_post.as_ref();
        match hook {
            BlockHook::MlpOut => Some(gradient),
            BlockHook::MlpHookOut => Some(match (norm, &self.layers[l].ln2_post) {
                (Some(norm), Some(scale)) => {
                    let scale = scale.clone().narrow(0, first, gradient.dims()[0]);
                    self.through_norm(norm, &scale, gradient)
                }
                _ => gradient,
            }),
            _ => None,
        }
    }

    /// What the norm after an MLP adds to the stream whatever the MLP writes at `mlp.hook_out`,
    /// `[d_model]`.
    pub fn constant_written(&self, at: HookPoint) -> Option<Tensor<1>> {
        match at {
            HookPoint::Block(l, BlockHook::MlpHookOut) => {
                let norm = self.model.weights().layers[l].ln2_post.as_ref()?;
                norm.bias.clone()
            }
            _ => None,
        }
    }

    /// The gradient at the residual stream that attention of layer `l` reads, of a gradient at the
    /// stream that it writes to, `[pos, n, d_model]` for the first positions: what goes through the
    /// heads' values. What goes past attention is not in it.
    pub fn through_attention(&self, l: usize, gradient: Tensor<3>) -> Tensor<3> {
        let c = self.model.config();
        let (layer, frozen) = (&self.model.weights().layers[l], &self.layers[l]);
        let [pos, n, d] = gradient.dims();
        let (kv, group, width) = (c.n_kv_heads, c.n_heads / c.n_kv_heads, c.d_head);
        let written = self.before_post_norm(l, gradient);
        let z = written
            .reshape([pos * n, d])
            .matmul(layer.o.weight.clone().transpose());
        let z = z
            .reshape([pos, n, kv, group, width])
            .permute([2, 3, 0, 1, 4]);
        let z = z.reshape([kv, group, pos, n * width]);
        let length = self.blocks.length;
        let values = (0..pos.div_ceil(length)).map(|block| {
            let start = block * length;
            let later = z.clone().narrow(2, start, pos - start);
            let later = later.reshape([kv, group * (pos - start), n * width]);
            let pattern = self.pattern(l, block, pos);
            pattern.swap_dims(1, 2).matmul(later) // [kv, sources, n * width]
        });
        let values = Tensor::cat(values.collect(), 1);
        let values = values.reshape([kv, pos, n, width]).permute([1, 2, 0, 3]);
        let values = values.reshape([pos * n, kv * width]);
        let [_, _, w_v] = layer.q_k_v(c.n_heads * width);
        let read = values.matmul(w_v.weight.transpose()).reshape([pos, n, d]);
        let scale = frozen.ln1.clone().narrow(0, 0, pos);
        self.through_norm(&layer.ln1, &scale, read)
    }

    /// The same of one gradient at one position, apart for each head and each position that it
    /// looks at: `[n_heads, position + 1, d_model]`. Heads that share values share what they read.
    ///
    /// # Panics
    /// The gradient, `[d_model]`, has another width.
    pub fn through_heads(&self, l: usize, gradient: Tensor<1>, position: usize) -> Tensor<3> {
        let c = self.model.config();
        let (layer, frozen) = (&self.model.weights().layers[l], &self.layers[l]);
        let (heads, sources) = (c.n_heads, position + 1);
        let (d, width) = (c.d_model, c.d_head);
        let gradient = gradient.reshape([1, 1, d]);
        let written = match (&layer.ln1_post, &frozen.ln1_post) {
            (Some(norm), Some(scale)) => {
                let scale = scale.clone().narrow(0, position, 1);
                self.through_norm(norm, &scale, gradient)
            }
            _ => gradient,
        };
        let w_o = layer.o.weight.clone(); // [heads * width, d]
        let z = w_o.matmul(written.reshape([d, 1]));
        let read = (self.value_weights(l)).matmul(z.reshape([heads, width, 1])); // [heads, d, 1]
        let scores = frozen.scores(c, l, position..sources, 0..sources);
        let denominators = frozen.denominators.clone().narrow(1, position, 1);
        let scores = scores.reshape([heads, 1, sources]);
        let pattern = (scores - denominators).exp().reshape([heads, sources, 1]);
        let read = pattern.matmul(read.reshape([heads, 1, d])); // [heads, sources, d]
        let read = read.swap_dims(0, 1); // [sources, heads, d]
        let scale = frozen.ln1.clone().narrow(0, 0, sources);
        self.through_norm(&layer.ln1, &scale, read).swap_dims(0, 1)
    }

    /// As [`Self::through_attention`], of one gradient, apart for each head: `[pos, 1, d_model]` to
    /// `[pos, n_heads, d_model]`.
    pub fn through_each_head(&self, l: usize, gradient: Tensor<3>) -> Tensor<3> {
        let c = self.model.config();
        let layer = &self.model.weights().layers[l];
        let [pos, _, d] = gradient.dims();
        let (heads, width) = (c.n_heads, c.d_head);
        let written = self.before_post_norm(l, gradient).reshape([pos, d]);
        let z = written.matmul(layer.o.weight.clone().transpose());
        let z = z.reshape([pos, heads, width]).swap_dims(0, 1); // [heads, pos, width]
        let length = self.blocks.length;
        let values = (0..pos.div_ceil(length)).map(|block| {
            let start = block * length;
            let later = z.clone().narrow(1, start, pos - start);
            let pattern = self.pattern(l, block, pos);
            let sources = pattern.dims()[2];
            let pattern = pattern.reshape([heads, pos - start, sources]);
            pattern.swap_dims(1, 2).matmul(later) // [heads, sources, width]
        });
        let values = Tensor::cat(values.collect(), 1);
        let read = values.matmul(self.value_weights(l).swap_dims(1, 2)); // [heads, pos, d]
        let scale = self.layers[l].ln1.clone();
        self.through_norm(&layer.ln1, &scale, read.swap_dims(0, 1))
    }

    /// `W_V` of each head, `[n_heads, d_model, d_head]`.
    fn value_weights(&self, l: usize) -> Tensor<3> {
        let c = self.model.config();
        let (d, group, width) = (c.d_model, c.n_heads / c.n_kv_heads, c.d_head);
        let [_, _, w_v] = self.model.weights().layers[l].q_k_v(c.n_heads * width);
        let w_v = w_v.weight.reshape([d, c.n_kv_heads, 1, width]);
        let w_v = w_v.expand([d, c.n_kv_heads, group, width]);
        w_v.reshape([d, c.n_heads, width]).swap_dims(0, 1)
    }

    /// What attention of layer `l` adds to the stream whatever it reads, `[pos, d_model]` or
    /// `[1, d_model]`: biases, since the weights of a pattern sum to 1.
    pub fn attention_constant(&self, l: usize) -> Option<Tensor<2>> {
        let c = self.model.config();
        let (layer, frozen) = (&self.model.weights().layers[l], &self.layers[l]);
        let [_, _, v] = layer.q_k_v(c.n_heads * c.d_head);
        let mut values = v.bias; // [n_kv_heads * d_head]
        if let Some(bias) = &layer.ln1.bias {
            let read = bias
                .clone()
                .unsqueeze::<2>()
                .matmul(v.weight)
                .squeeze_dim(0);
            values = Some(match values {
                Some(values) => values + read,
                None => read,
            });
        }
        let written = values.map(|values| {
            let group = c.n_heads / c.n_kv_heads;
            let heads = values.reshape([c.n_kv_heads, 1, c.d_head]);
            let heads = heads.expand([c.n_kv_heads, group, c.d_head]);
            let heads = heads.reshape([1, c.n_heads * c.d_head]);
            heads.matmul(layer.o.weight.clone())
        });
        let bias = layer.o.bias.clone().map(Tensor::unsqueeze::<2>);
        let sum = match (written, bias) {
            (Some(a), Some(b)) => Some(a + b),
            (a, b) => a.or(b),
        };
        let (Some(norm), Some(scale)) = (&layer.ln1_post, &frozen.ln1_post) else {
            return sum;
        };
        let normalized = sum.map(|sum| {
            let sum = match c.norm {
                Norm::Layer => sum.clone() - sum.mean_dim(1),
                Norm::Rms => sum,
            };
            let sum = sum.expand([self.pos, c.d_model]) / scale.clone();
            sum * norm.weight.clone().unsqueeze()
        });
        let bias = norm.bias.clone().map(Tensor::unsqueeze::<2>);
        match (normalized, bias) {
            (Some(a), Some(b)) => Some(a + b),
            (a, b) => a.or(b),
        }
    }

    /// The gradient at what the heads write, of one at the stream.
    fn before_post_norm(&self, l: usize, gradient: Tensor<3>) -> Tensor<3> {
        let norm = self.model.weights().layers[l].ln1_post.as_ref();
        match (norm, &self.layers[l].ln1_post) {
            (Some(norm), Some(scale)) => {
                let scale = scale.clone().narrow(0, 0, gradient.dims()[0]);
                self.through_norm(norm, &scale, gradient)
            }
            _ => gradient,
        }
    }

    /// The gradient before a frozen norm of one after it, `[pos, n, d_model]`, with scales
    /// `[pos, 1]`.
    fn through_norm(
        &self,
        norm: &NormWeights,
        scale: &Tensor<2>,
        gradient: Tensor<3>,
    ) -> Tensor<3> {
        self.divided(scale, gradient * norm.weight.clone().unsqueeze())
    }

    /// The same of a norm without its weight.
    fn divided(&self, scale: &Tensor<2>, gradient: Tensor<3>) -> Tensor<3> {
        let pos = gradient.dims()[0];
        let gradient = match self.model.config().norm {
            Norm::Layer => gradient.clone() - gradient.mean_dim(2),
            Norm::Rms => gradient,
        };
        gradient / scale.clone().narrow(0, 0, pos).reshape([pos, 1, 1])
    }

    /// Attention weights on the sources of a block before `pos`, of the queries from its first
    /// source to `pos`, `[n_kv_heads, group * queries, sources]`.
    fn pattern(&self, l: usize, block: usize, pos: usize) -> Tensor<3> {
        let c = self.model.config();
        let (kv, group) = (c.n_kv_heads, c.n_heads / c.n_kv_heads);
        let start = block * self.blocks.length;
        let sources = self.blocks.length.min(pos - start);
        let Some(kept) = self.layers[l].pattern.get(block) else {
            return self.layers[l].weights(c, l, start..start + sources, pos);
        };
        if pos == self.pos {
            return kept.clone();
        }
        let [_, _, all] = kept.dims();
        let kept = kept.clone().reshape([kv, group, self.pos - start, all]);
        let kept = kept.narrow(2, 0, pos - start).narrow(3, 0, sources);
        kept.reshape([kv, group * (pos - start), sources])
    }
}

/// Where queries and keys are as scores take them.
fn turned(c: &ModelConfig, l: usize) -> [BlockHook; 2] {
    match c.layers[l].rope {
        Some(_) => [BlockHook::RotQ, BlockHook::RotK],
        None => [BlockHook::Q, BlockHook::K],
    }
}

/// What a frozen layer keeps.
fn places(c: &ModelConfig, l: usize) -> impl Iterator<Item = BlockHook> + use<> {
    let [queries, keys] = turned(c, l);
    let norms = [BlockHook::Ln1Scale, BlockHook::Ln2Scale];
    let post = [BlockHook::Ln1PostScale, BlockHook::Ln2PostScale];
    let post = post.into_iter().filter({
        let post_norms = c.post_norms;
        move |_| post_norms
    });
    let raw = [BlockHook::Q, BlockHook::K].into_iter();
    let raw = raw.filter({
        let qk_norm = c.qk_norm;
        move |_| qk_norm
    });
    [queries, keys]
        .into_iter()
        .chain(norms)
        .chain(post)
        .chain(raw)
}

impl FrozenLayer {
    fn new(
        c: &ModelConfig,
        l: usize,
        pos: usize,
        blocks: Blocks,
        take: &mut impl FnMut(HookPoint) -> Tensor<2>,
    ) -> Self {
        let mut of = |hook| take(HookPoint::Block(l, hook));
        let heads = |x: Tensor<2>, heads: usize| {
            x.reshape([pos, heads, c.d_head]).swap_dims(0, 1) // [heads, pos, d_head]
        };
        let [at_queries, at_keys] = turned(c, l);
        let queries = heads(of(at_queries), c.n_heads) * c.attn_scale;
        let keys = heads(of(at_keys), c.n_kv_heads);
        let mut layer = Self {
            denominators: Tensor::zeros([c.n_heads, pos, 1], &queries.device()),
            queries,
            keys,
            pattern: vec![],
            ln1: of(BlockHook::Ln1Scale),
            ln2: of(BlockHook::Ln2Scale),
            ln1_post: c.post_norms.then(|| of(BlockHook::Ln1PostScale)),
            ln2_post: c.post_norms.then(|| of(BlockHook::Ln2PostScale)),
            unnormalized: c.qk_norm.then(|| [BlockHook::Q, BlockHook::K].map(&mut of)),
        };
        layer.denominators = layer.denominators(c, l, pos, blocks.length);
        if c.n_heads * pos * pos <= blocks.kept {
            let starts = (0..pos).step_by(blocks.length);
            let of = |start| layer.weights(c, l, start..pos.min(start + blocks.length), pos);
            layer.pattern = starts.map(of).collect();
        }
        layer
    }

    /// The logarithm of the sum of exponentials of each query's scores, `[n_heads, pos, 1]`.
    fn denominators(&self, c: &ModelConfig, l: usize, pos: usize, block: usize) -> Tensor<3> {
        let mut parts = vec![];
        for start in (0..pos).step_by(block) {
            let queries = start..pos.min(start + block);
            let scores = self.scores(c, l, queries.clone(), 0..queries.end);
            let highest = scores.clone().max_dim(2);
            let sum = (scores - highest.clone()).exp().sum_dim(2);
            let part = sum.log() + highest; // [n_kv_heads, group * queries, 1]
            let group = c.n_heads / c.n_kv_heads;
            parts.push(part.reshape([c.n_kv_heads * group, queries.len(), 1]));
        }
        Tensor::cat(parts, 1)
    }

    /// Attention weights of the queries from the first source to `pos` on these sources.
    fn weights(
        &self,
        c: &ModelConfig,
        l: usize,
        sources: std::ops::Range<usize>,
        pos: usize,
    ) -> Tensor<3> {
        let queries = sources.start..pos;
        let scores = self.scores(c, l, queries.clone(), sources);
        let group = c.n_heads / c.n_kv_heads;
        let of = (self.denominators.clone()).narrow(1, queries.start, queries.len());
        let of = of.reshape([c.n_kv_heads, group * queries.len(), 1]);
        (scores - of).exp()
    }

    /// Scores as the softmax takes them, `[n_kv_heads, group * queries, sources]`; −∞ where a query
    /// does not look.
    fn scores(
        &self,
        c: &ModelConfig,
        l: usize,
        queries: std::ops::Range<usize>,
        sources: std::ops::Range<usize>,
    ) -> Tensor<3> {
        let (kv, group) = (c.n_kv_heads, c.n_heads / c.n_kv_heads);
        let (n, m) = (queries.len(), sources.len());
        let q = self.queries.clone().narrow(1, queries.start, n);
        let q = q.reshape([kv, group * n, c.d_head]);
        let k = self.keys.clone().narrow(1, sources.start, m);
        let mut scores = q.matmul(k.swap_dims(1, 2));
        if let Some(cap) = c.attn_softcap {
            scores = crate::attention::soft_cap(scores, cap);
        }
        let window = c.layers[l].window.unwrap_or(usize::MAX);
        let hidden = queries.flat_map(|q| {
            let sources = sources.clone();
            sources.map(move |s| s > q || q - s >= window)
        });
        let hidden = TensorData::new(hidden.collect::<Vec<bool>>(), [1, 1, n, m]);
        let hidden = Tensor::<4, Bool>::from_data(hidden, &scores.device());
        let scores = scores.reshape([kv, group, n, m]);
        let scores = scores.mask_fill(hidden.expand([kv, group, n, m]), f32::NEG_INFINITY);
        scores.reshape([kv, group * n, m])
    }
}

#[cfg(test)]
mod tests;
