//! One decoder-only transformer for every family: the forward pass, with hook points read and
//! changed on the way. Inside, activations are `[batch * pos, width]`; at hook points they are
//! `[batch, pos, width]`.

use crate::attention::{Cache, Places, attend, soft_cap};
use crate::config::{Activation, ModelConfig, Norm};
use crate::hook::{BlockHook, HookPoint};
use crate::rotary::{Rope, Rotary};
use crate::run::{HookedRun, Hooks, RunOutput, Start};
use crate::weights::{Layer, NormWeights, Weights};
use burn::tensor::{Int, Tensor, TensorData, activation};
use lapidary_kernels::{Nonlinearity, RowNorm, activate, fused_on, normalize_rows, wide_product};
use std::collections::BTreeMap;

mod split;

/// Keeps a quotient finite where the divisor is 0.
const TINY: f64 = 1e-6;

/// What a pass needs besides tokens and [`HookedRun`].
#[derive(Default)]
pub(crate) struct Extras<'a> {
    /// Keys and values of the tokens before these; the pass appends its own.
    pub cache: Option<&'a mut Cache>,
    /// Hook points to differentiate at: weights and tokens are on an autodiff device then.
    pub differentiate: &'a [HookPoint],
    /// Whether the pass hands out what the unembedding would read instead of logits.
    pub without_unembedding: bool,
}

/// What a pass comes to: its output, and zeros whose gradients are those of the values at the
/// points to differentiate at.
pub(crate) struct Passed {
    pub output: RunOutput,
    /// What the unembedding reads, `[batch * pos, d_model]`, if the pass was to end there; pos is 1
    /// if only the last logits are asked for.
    pub before_unembedding: Option<Tensor<2>>,
    pub leaves: BTreeMap<HookPoint, Tensor<3>>,
}

/// Runs the transformer over `tokens`, `[batch, pos]`. Token ids, hook points and segments are the
/// caller's to check.
pub(crate) fn forward(
    c: &ModelConfig,
    w: &Weights,
    tokens: Tensor<2, Int>,
    run: &HookedRun<'_>,
    extras: Extras<'_>,
) -> Passed {
    let [batch, pos] = tokens.dims();
    let offset = extras.cache.as_ref().map_or(0, |cache| cache.len);
    let segments = run.segments.as_ref();
    let segments = segments.map(|s| s.clone().into_data().iter::<i64>().collect::<Vec<_>>());
    // Where each sequence is one document, no mask is needed.
    let segments = segments.filter(|s| s.chunks(pos).any(|row| row[0] != row[pos - 1]));
    let mut pass = Pass {
        c,
        hooks: Hooks::new(run, [batch, pos], offset, extras.differentiate),
        places: Places::new(batch, pos, offset, segments),
        cache: extras.cache,
        rotary: vec![],
        fused: fused_on(&w.embed.device()),
    };
    let last = pass.run(w, tokens.reshape([batch * pos]), run.start.as_ref());
    let (last, logit_positions) = match run.last_logits {
        true => {
            pass.hooks.keep_last_position();
            (last.map(|x| last_position(x, [batch, pos])), 1)
        }
        false => (last, pos),
    };
    let (logits, before_unembedding) = match extras.without_unembedding {
        true => (None, last),
        false => (
            last.and_then(|x| pass.hooks.visit(HookPoint::Logits, None, project(c, w, x))),
            None,
        ),
    };
    if let Some(cache) = pass.cache {
        cache.len += pos;
    }
    Passed {
        output: RunOutput {
            captured: pass.hooks.captured,
            logits: logits.map(|logits| logits.reshape([batch, logit_positions, c.d_vocab])),
        },
        before_unembedding,
        leaves: pass.hooks.leaves,
    }
}

/// Logits, `[n, d_vocab]`, of values at `ln_final.hook_normalized`, `[n, d_model]`.
pub(crate) fn unembed(c: &ModelConfig, w: &Weights, normalized: Tensor<2>) -> Tensor<2> {
    project(c, w, rescale(&w.final_norm, normalized))
}

/// Logits, `[n, d_vocab]`, of what the final norm gives, its weight and bias included,
/// `[n, d_model]`.
pub(crate) fn project(c: &ModelConfig, w: &Weights, x: Tensor<2>) -> Tensor<2> {
    let unembed = w.unembed.as_ref().unwrap_or(&w.embed).clone(); // [d_vocab, d_model]
    let logits = match fused_on(&unembed.device()) {
        true => wide_product(x, unembed),
        false => x.matmul(unembed.transpose()),
    };
    let logits = match &w.unembed_bias {
        Some(bias) => logits + bias.clone().unsqueeze(),
        None => logits,
    };
    match c.logit_softcap {
        Some(cap) => soft_cap(logits, cap),
        None => logits,
    }
}

/// Rows of the last position, `[batch, width]`, of those of all, `[batch * pos, width]`.
fn last_position(rows: Tensor<2>, [batch, pos]: [usize; 2]) -> Tensor<2> {
    let width = rows.dims()[1];
    let rows = rows.reshape([batch, pos, width]);
    rows.narrow(1, pos - 1, 1).reshape([batch, width])
}

/// One pass under way. Its parts return `None` once everything asked for has been captured.
struct Pass<'a> {
    c: &'a ModelConfig,
    hooks: Hooks<'a>,
    places: Places,
    cache: Option<&'a mut Cache>,
    /// The embeddings that layers have used so far.
    rotary: Vec<(Rope, Rotary)>,
    /// Whether the kernels that do several things at once work here.
    fused: bool,
}

impl Pass<'_> {
    fn run(
        &mut self,
        w: &Weights,
        tokens: Tensor<1, Int>,
        start: Option<&Start>,
    ) -> Option<Tensor<2>> {
        let (first, mut resid) = match start {
            Some(start) => {
                let [batch, pos, d_model] = start.resid_pre.dims();
                let resid_pre = start.resid_pre.clone().reshape([batch * pos, d_model]);
                let resid_pre = match w.embed.is_autodiff() {
                    true => resid_pre.autodiff(),
                    false => resid_pre,
                };
                (start.layer, resid_pre)
            }
            None => (0, self.embedded(w, tokens)?),
        };
        for (l, layer) in w.layers.iter().enumerate().skip(first) {
            resid = self.block(layer, l, resid)?;
        }
        let points = [HookPoint::FinalNormScale, HookPoint::FinalNorm];
        self.normalize(&w.final_norm, points, resid)
    }

    /// What enters the first block, `[n, d_model]`.
    fn embedded(&mut self, w: &Weights, tokens: Tensor<1, Int>) -> Option<Tensor<2>> {
        let mut embedded = w.embed.clone().select(0, tokens); // [n, d_model]
        if self.c.embed_scale != 1.0 {
            embedded = embedded * self.c.embed_scale;
        }
        let embedded = self.hooks.visit(HookPoint::Embed, None, embedded)?;
        let Some(table) = &w.positions else {
            return Some(embedded);
        };
        let positions = self.positions(table);
        Some(embedded + self.hooks.visit(HookPoint::PosEmbed, None, positions)?)
    }

    /// Position embeddings of all tokens, `[n, d_model]`, from their table `[n_ctx, d_model]`.
    fn positions(&self, table: &Tensor<2>) -> Tensor<2> {
        let index: Vec<i32> = self
            .places
            .positions()
            .into_iter()
            .map(|p| p as i32)
            .collect();
        let index = TensorData::new(index.clone(), [index.len()]);
        let index = Tensor::<1, Int>::from_data(index, &table.device());
        let positions = table.clone().select(0, index);
        match self.places.rows() {
            1 => positions.repeat(&[self.places.batch, 1]),
            _ => positions,
        }
    }

    fn block(&mut self, layer: &Layer, l: usize, resid: Tensor<2>) -> Option<Tensor<2>> {
        let at = |hook| HookPoint::Block(l, hook);
        let resid_pre = self.hooks.visit(at(BlockHook::ResidPre), None, resid)?;
        let attn_out = self.attention(layer, l, resid_pre.clone())?;
        let attn_out = self.hooks.visit(at(BlockHook::AttnOut), None, attn_out)?;
        // One after the other the MLP reads what attention wrote, side by side it does not.
        let (mlp_in, resid) = match self.c.parallel {
            true => (resid_pre.clone(), resid_pre + attn_out),
            false => {
                let mid = resid_pre + attn_out;
                let mid = self.hooks.visit(at(BlockHook::ResidMid), None, mid)?;
                (mid.clone(), mid)
            }
        };
        let mlp_in = self.hooks.visit(at(BlockHook::MlpIn), None, mlp_in)?;
        let mlp_out = self.mlp(layer, l, mlp_in)?;
        let mlp_out = self.hooks.visit(at(BlockHook::MlpOut), None, mlp_out)?;
        self.hooks
            .visit(at(BlockHook::ResidPost), None, resid + mlp_out)
    }

    fn attention(&mut self, layer: &Layer, l: usize, x: Tensor<2>) -> Option<Tensor<2>> {
        let at = |hook| HookPoint::Block(l, hook);
        let c = self.c;
        let (heads, kv_heads) = (Some(c.n_heads), Some(c.n_kv_heads));
        let (q_width, kv_width) = (c.n_heads * c.d_head, c.n_kv_heads * c.d_head);
        let split = split::inputs(self, l, &x)?;
        let points = [BlockHook::Ln1Scale, BlockHook::Ln1].map(at);
        let x = self.normalize(&layer.ln1, points, x)?;
        let x = self.hooks.visit(at(BlockHook::AttnHookIn), None, x)?;
        let qkv = layer.qkv.forward(x); // [n, (n_heads + 2 * n_kv_heads) * d_head]
        let q = qkv.clone().narrow(1, 0, q_width);
        let k = qkv.clone().narrow(1, q_width, kv_width);
        let v = qkv.narrow(1, q_width + kv_width, kv_width);
        let [q, k, v] = split::outputs(self, layer, split, [q, k, v]);
        let mut q = self.hooks.visit(at(BlockHook::Q), heads, q)?;
        let mut k = self.hooks.visit(at(BlockHook::K), kv_heads, k)?;
        let v = self.hooks.visit(at(BlockHook::V), kv_heads, v)?;
        for (x, norm) in [(&mut q, &layer.q_norm), (&mut k, &layer.k_norm)] {
            if let Some(norm) = norm {
                let [n, width] = x.dims();
                let of_heads = x.clone().reshape([n * width / c.d_head, c.d_head]);
                *x = self.plainly_normalized(norm, of_heads).reshape([n, width]);
            }
        }
        if let Some(rope) = &c.layers[l].rope {
            q = self.rotate(rope, q);
            q = self.hooks.visit(at(BlockHook::RotQ), heads, q)?;
            k = self.rotate(rope, k);
            k = self.hooks.visit(at(BlockHook::RotK), kv_heads, k)?;
        }
        let cache = self.cache.as_deref_mut();
        let z = attend(c, l, [q, k, v], &mut self.places, cache, &mut self.hooks)?;
        let z = self.hooks.visit(at(BlockHook::Z), heads, z)?;
        let attn_out = match self.hooks.wants(at(BlockHook::Result)) {
            false => layer.o.forward(z),
            true => {
                let n = z.dims()[0];
                let z = z.reshape([n, c.n_heads, c.d_head]).swap_dims(0, 1); // [n_heads, n, d_head]
                let w_o = layer.o.weight.clone();
                let w_o = w_o.reshape([c.n_heads, c.d_head, c.d_model]);
                let result = z.matmul(w_o).swap_dims(0, 1); // [n, n_heads, d_model]
                let result = result.reshape([n, c.n_heads * c.d_model]);
                let result = self.hooks.visit(at(BlockHook::Result), heads, result)?;
                let sum = result.reshape([n, c.n_heads, c.d_model]).sum_dim(1);
                let sum = sum.reshape([n, c.d_model]);
                match &layer.o.bias {
                    Some(bias) => sum + bias.clone().unsqueeze(),
                    None => sum,
                }
            }
        };
        let at_out = at(BlockHook::AttnHookOut);
        let attn_out = self.hooks.visit(at_out, None, attn_out)?;
        let points = [BlockHook::Ln1PostScale, BlockHook::Ln1Post].map(at);
        self.post_norm(layer.ln1_post.as_ref(), points, attn_out)
    }

    fn mlp(&mut self, layer: &Layer, l: usize, x: Tensor<2>) -> Option<Tensor<2>> {
        let at = |hook| HookPoint::Block(l, hook);
        let points = [BlockHook::Ln2Scale, BlockHook::Ln2].map(at);
        let x = self.normalize(&layer.ln2, points, x)?;
        let x = self.hooks.visit(at(BlockHook::MlpHookIn), None, x)?;
        let up = layer.up.forward(x); // [n, d_mlp], or twice as wide with a gate
        let d_mlp = self.c.d_mlp;
        let pre = match self.c.gated {
            true => up.clone().narrow(1, 0, d_mlp),
            false => up.clone(),
        };
        let pre = self.hooks.visit(at(BlockHook::MlpPre), None, pre)?;
        let linear = match self.c.gated {
            true => {
                let linear = up.narrow(1, d_mlp, d_mlp);
                let at = at(BlockHook::MlpPreLinear);
                Some(self.hooks.visit(at, None, linear)?)
            }
            false => None,
        };
        let post = self.activated(pre, linear);
        let post = self.hooks.visit(at(BlockHook::MlpPost), None, post)?;
        let mlp_out = layer.down.forward(post);
        let at_out = at(BlockHook::MlpHookOut);
        let mlp_out = self.hooks.visit(at_out, None, mlp_out)?;
        let points = [BlockHook::Ln2PostScale, BlockHook::Ln2Post].map(at);
        self.post_norm(layer.ln2_post.as_ref(), points, mlp_out)
    }

    /// Normalizes what attention or MLP writes, where the model does.
    fn post_norm(
        &mut self,
        norm: Option<&NormWeights>,
        [scale, normalized]: [HookPoint; 2],
        x: Tensor<2>,
    ) -> Option<Tensor<2>> {
        let Some(norm) = norm else {
            return Some(x);
        };
        self.normalize(norm, [scale, normalized], x)
    }

    /// Normalizes the rows of `x`, `[n, d_model]`, with hook points for what they are divided by
    /// and what comes out before the norm's weight and bias.
    fn normalize(
        &mut self,
        norm: &NormWeights,
        [at_scale, at]: [HookPoint; 2],
        x: Tensor<2>,
    ) -> Option<Tensor<2>> {
        if !self.hooks.wants(at_scale) && !self.hooks.wants(at) {
            return Some(self.plainly_normalized(norm, x));
        }
        let [x, scale] = self.norm_parts(x);
        let scale = self.hooks.visit(at_scale, None, scale)?;
        let x = self.hooks.visit(at, None, x / scale)?;
        Some(rescale(norm, x))
    }

    /// The same where nobody looks.
    fn plainly_normalized(&self, norm: &NormWeights, x: Tensor<2>) -> Tensor<2> {
        if self.fused {
            let how = RowNorm {
                centred: self.c.norm == Norm::Layer,
                eps: self.c.norm_eps as f32,
            };
            return normalize_rows(x, norm.weight.clone(), norm.bias.clone(), how);
        }
        let [x, scale] = self.norm_parts(x);
        rescale(norm, x / scale)
    }

    /// The rows of `x`, `[n, width]`, centred if the norm centres, and what they are divided by,
    /// `[n, 1]`.
    fn norm_parts(&self, x: Tensor<2>) -> [Tensor<2>; 2] {
        let x = match self.c.norm {
            Norm::Layer => x.clone() - x.mean_dim(1),
            Norm::Rms => x,
        };
        let scale = (x.clone().square().mean_dim(1) + self.c.norm_eps).sqrt();
        match self.hooks.rules().frozen_norms {
            true => [x, scale.detach()],
            false => [x, scale],
        }
    }

    /// The MLP's nonlinearity, times the linear branch of a gated one.
    fn activated(&self, pre: Tensor<2>, linear: Option<Tensor<2>>) -> Tensor<2> {
        let nonlinearity = match self.c.activation {
            Activation::GeluTanh => Some(Nonlinearity::GeluTanh),
            Activation::Silu => Some(Nonlinearity::Silu),
            Activation::Relu => Some(Nonlinearity::Relu),
            Activation::Gelu => None, // Burn's
        };
        if let Some(nonlinearity) = nonlinearity.filter(|_| self.fused) {
            return activate(pre, linear, nonlinearity);
        }
        let rules = self.hooks.rules();
        let mut post = match self.c.activation {
            Activation::GeluTanh => activation::gelu_approximate(pre.clone()),
            Activation::Gelu => activation::gelu(pre.clone()),
            Activation::Silu => activation::silu(pre.clone()),
            Activation::Relu => activation::relu(pre.clone()),
        };
        if rules.linear_activations && self.c.activation != Activation::Relu {
            post = as_multiple(post, pre);
        }
        let Some(linear) = linear else {
            return post;
        };
        let post = post * linear;
        match rules.halved_gates {
            true => post.clone().detach() * 0.5 + post * 0.5,
            false => post,
        }
    }

    /// Turns the heads of `x`, `[n, heads * d_head]`.
    fn rotate(&mut self, rope: &Rope, x: Tensor<2>) -> Tensor<2> {
        let known = self.rotary.iter().position(|(known, _)| known == rope);
        let i = known.unwrap_or_else(|| {
            let places = &self.places;
            let rotary = Rotary::new(rope, &places.positions(), places.rows());
            self.rotary.push((rope.clone(), rotary));
            self.rotary.len() - 1
        });
        self.rotary[i].1.apply(x, self.c.d_head)
    }
}

/// The values `y`, with gradients as if they were `x` times a constant, `y / x`.
fn as_multiple(y: Tensor<2>, x: Tensor<2>) -> Tensor<2> {
    let y = y.detach();
    let tiny = x.ones_like() * TINY;
    let tiny = (tiny.clone()).mask_where(x.clone().detach().lower_elem(0.0), -tiny);
    let multiple = y.clone() / (x.clone().detach() + tiny) * x;
    y + (multiple.clone() - multiple.detach())
}

/// Applies a norm's weight and bias to normalized rows, `[n, width]`.
fn rescale(w: &NormWeights, x: Tensor<2>) -> Tensor<2> {
    let x = x * w.weight.clone().unsqueeze();
    match &w.bias {
        Some(bias) => x + bias.clone().unsqueeze(),
        None => x,
    }
}
