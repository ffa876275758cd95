//! One decoder-only transformer for every family: the forward pass, with hook points read and replaced on the way.
//! Inside, activations are `[batch * pos, width]`; at hook points they are `[batch, pos, width]`.

use crate::config::{Activation, ModelConfig, Norm};
use crate::hook::{BlockHook, HookPoint};
use crate::weights::{Layer, NormWeights, Weights};
use burn::tensor::module::{attention, attention_fallback};
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Device, Int, Tensor, TensorData, activation};
use std::collections::BTreeMap;

/// What a forward pass should read and change.
#[derive(Default, Clone, Copy)]
pub struct HookedRun<'a> {
    /// The hook points to return. The pass stops after the last of them, unless logits are asked for.
    pub capture: &'a [HookPoint],
    /// One hook point whose value a function replaces, `[batch, pos, width]` in and out. What is captured there is the
    /// replacement.
    pub replace: Option<(HookPoint, Replacement<'a>)>,
    /// Whether to go on to the logits and return them.
    pub logits: bool,
}

/// A function of the value at a hook point.
pub type Replacement<'a> = &'a dyn Fn(Tensor<3>) -> Tensor<3>;

/// What a forward pass returns.
#[derive(Debug)]
pub struct RunOutput {
    /// The values at the hook points asked for, `[batch, pos, width]`.
    pub captured: BTreeMap<HookPoint, Tensor<3>>,
    /// `[batch, pos, d_vocab]`, if asked for.
    pub logits: Option<Tensor<3>>,
}

/// Reads, replaces and counts down: the pass is over when nothing asked for is still to come.
struct Hooks<'a> {
    run: &'a HookedRun<'a>,
    last: Option<HookPoint>,
    shape: [usize; 2],
    captured: BTreeMap<HookPoint, Tensor<3>>,
}

impl Hooks<'_> {
    fn wanted(&self, at: HookPoint) -> bool {
        self.run.capture.contains(&at) || self.run.replace.is_some_and(|(point, _)| point == at)
    }

    fn visit(&mut self, at: HookPoint, value: Tensor<2>) -> Tensor<2> {
        if !self.wanted(at) {
            return value;
        }
        let [rows, width] = value.dims();
        let mut value = value.reshape([self.shape[0], self.shape[1], width]);
        if let Some((point, replace)) = self.run.replace
            && point == at
        {
            value = replace(value);
        }
        if self.run.capture.contains(&at) {
            self.captured.insert(at, value.clone());
        }
        value.reshape([rows, width])
    }

    fn over(&self, at: HookPoint) -> bool {
        self.last.is_some_and(|last| last <= at)
    }

    fn finish(self) -> RunOutput {
        RunOutput {
            captured: self.captured,
            logits: None,
        }
    }
}

/// Runs the transformer over `tokens`, `[batch, pos]`. Token ids and hook points are the caller's to check.
pub fn forward(
    c: &ModelConfig,
    w: &Weights,
    tokens: Tensor<2, Int>,
    run: &HookedRun<'_>,
) -> RunOutput {
    let [batch, pos] = tokens.dims();
    let last = if run.logits {
        None
    } else {
        Some(
            run.capture
                .iter()
                .max()
                .copied()
                .unwrap_or(HookPoint::Embed),
        )
    };
    let mut hooks = Hooks {
        run,
        last,
        shape: [batch, pos],
        captured: BTreeMap::new(),
    };

    let embedded = w.embed.clone().select(0, tokens.reshape([batch * pos])); // [n, d_model]
    let mut resid = hooks.visit(HookPoint::Embed, embedded);
    if hooks.over(HookPoint::Embed) {
        return hooks.finish();
    }
    if let Some(table) = &w.positions {
        let positions = table.clone().narrow(0, 0, pos); // [pos, d_model]
        let positions = positions.repeat(&[batch, 1]); // [n, d_model]
        resid = resid + hooks.visit(HookPoint::PosEmbed, positions);
        if hooks.over(HookPoint::PosEmbed) {
            return hooks.finish();
        }
    }
    let rotary = c
        .rope_theta
        .map(|theta| Rotary::new(theta, c.d_head, pos, &resid.device()));
    for (l, layer) in w.layers.iter().enumerate() {
        match block(c, layer, l, resid, rotary.as_ref(), &mut hooks) {
            Some(next) => resid = next,
            None => return hooks.finish(),
        }
    }
    let normalized = hooks.visit(HookPoint::FinalNorm, normalize(c, resid));
    if hooks.over(HookPoint::FinalNorm) {
        return hooks.finish();
    }
    let logits = hooks.visit(HookPoint::Logits, unembed(w, normalized)); // [n, d_vocab]
    let mut output = hooks.finish();
    output.logits = run.logits.then(|| logits.reshape([batch, pos, c.d_vocab]));
    output
}

/// Logits, `[n, d_vocab]`, of values at `ln_final.hook_normalized`, `[n, d_model]`.
pub(crate) fn unembed(w: &Weights, normalized: Tensor<2>) -> Tensor<2> {
    let unembed = w.unembed.as_ref().unwrap_or(&w.embed).clone(); // [d_vocab, d_model]
    rescale(&w.final_norm, normalized).matmul(unembed.transpose())
}

/// One layer; `None` once everything asked for has been captured.
fn block(
    c: &ModelConfig,
    layer: &Layer,
    l: usize,
    resid: Tensor<2>,
    rotary: Option<&Rotary>,
    hooks: &mut Hooks<'_>,
) -> Option<Tensor<2>> {
    let at = |hook| HookPoint::Block(l, hook);
    let resid = hooks.visit(at(BlockHook::ResidPre), resid);
    if hooks.over(at(BlockHook::ResidPre)) {
        return None;
    }
    let x = hooks.visit(at(BlockHook::Ln1), normalize(c, resid.clone()));
    if hooks.over(at(BlockHook::Ln1)) {
        return None;
    }
    let x = rescale(&layer.ln1, x);
    let q = hooks.visit(at(BlockHook::Q), layer.q.forward(x.clone())); // [n, n_heads * d_head]
    let k = hooks.visit(at(BlockHook::K), layer.k.forward(x.clone())); // [n, n_kv_heads * d_head]
    let v = hooks.visit(at(BlockHook::V), layer.v.forward(x));
    if hooks.over(at(BlockHook::V)) {
        return None;
    }
    let z = hooks.visit(at(BlockHook::Z), attend(c, q, k, v, hooks.shape, rotary)); // [n, n_heads * d_head]
    if hooks.over(at(BlockHook::Z)) {
        return None;
    }
    let attn_out = hooks.visit(at(BlockHook::AttnOut), layer.o.forward(z));
    let resid = hooks.visit(at(BlockHook::ResidMid), resid + attn_out);
    if hooks.over(at(BlockHook::ResidMid)) {
        return None;
    }
    let x = hooks.visit(at(BlockHook::Ln2), normalize(c, resid.clone()));
    if hooks.over(at(BlockHook::Ln2)) {
        return None;
    }
    let x = rescale(&layer.ln2, x);
    let post = match &layer.gate {
        Some(gate) => {
            let pre = hooks.visit(at(BlockHook::MlpPre), gate.forward(x.clone())); // [n, d_mlp]
            let linear = hooks.visit(at(BlockHook::MlpPreLinear), layer.up.forward(x));
            activate(c.activation, pre) * linear
        }
        None => activate(
            c.activation,
            hooks.visit(at(BlockHook::MlpPre), layer.up.forward(x)),
        ),
    };
    let post = hooks.visit(at(BlockHook::MlpPost), post);
    if hooks.over(at(BlockHook::MlpPost)) {
        return None;
    }
    let mlp_out = hooks.visit(at(BlockHook::MlpOut), layer.down.forward(post));
    let resid = hooks.visit(at(BlockHook::ResidPost), resid + mlp_out);
    if hooks.over(at(BlockHook::ResidPost)) {
        None
    } else {
        Some(resid)
    }
}

fn activate(kind: Activation, x: Tensor<2>) -> Tensor<2> {
    match kind {
        Activation::GeluTanh => activation::gelu_approximate(x),
        Activation::Gelu => activation::gelu(x),
        Activation::Silu => activation::silu(x),
        Activation::Relu => activation::relu(x),
    }
}

/// Normalizes the rows of `x`, `[n, d_model]`; the norm's weight and bias come after.
fn normalize(c: &ModelConfig, x: Tensor<2>) -> Tensor<2> {
    let x = match c.norm {
        Norm::Layer => x.clone() - x.mean_dim(1),
        Norm::Rms => x,
    };
    let scale = (x.clone().square().mean_dim(1) + c.norm_eps).sqrt().recip(); // [n, 1]
    x * scale
}

/// Applies a norm's weight and bias to normalized rows, `[n, d_model]`.
fn rescale(w: &NormWeights, x: Tensor<2>) -> Tensor<2> {
    let x = x * w.weight.clone().unsqueeze();
    match &w.bias {
        Some(bias) => x + bias.clone().unsqueeze(),
        None => x,
    }
}

/// Causal softmax attention of all heads. Query head `h` reads key-value head `h / (n_heads / n_kv_heads)`.
fn attend(
    c: &ModelConfig,
    q: Tensor<2>,
    k: Tensor<2>,
    v: Tensor<2>,
    [batch, pos]: [usize; 2],
    rotary: Option<&Rotary>,
) -> Tensor<2> {
    let heads = |x: Tensor<2>, n: usize| x.reshape([batch, pos, n, c.d_head]).swap_dims(1, 2); // [batch, n, pos, d_head]
    let (mut q, mut k, v) = (
        heads(q, c.n_heads),
        heads(k, c.n_kv_heads),
        heads(v, c.n_kv_heads),
    );
    if let Some(rotary) = rotary {
        q = rotary.apply(q);
        k = rotary.apply(k);
    }
    let group = c.n_heads / c.n_kv_heads;
    let shared = |x: Tensor<4>| {
        if group == 1 {
            return x;
        }
        let x = x.reshape([batch, c.n_kv_heads, 1, pos, c.d_head]);
        x.expand([batch, c.n_kv_heads, group, pos, c.d_head])
            .reshape([batch, c.n_heads, pos, c.d_head])
    };
    let (k, v) = (shared(k), shared(v));
    let options = AttentionModuleOptions {
        is_causal: true,
        ..Default::default()
    };
    // Burn's fused attention on GPUs may multiply in half precision; the composed one stays in f32.
    let z = if q.device() == Device::flex() {
        attention(q, k, v, None, None, options)
    } else {
        attention_fallback(q, k, v, None, None, options)
    };
    z.swap_dims(1, 2)
        .reshape([batch * pos, c.n_heads * c.d_head])
}

/// Rotary position embedding (Su et al. 2021) in the half-split layout that Hugging Face checkpoints use.
struct Rotary {
    cos: Tensor<4>, // [1, 1, pos, d_head]
    sin: Tensor<4>, // [1, 1, pos, d_head], its first half negated
}

impl Rotary {
    fn new(theta: f64, d_head: usize, pos: usize, device: &Device) -> Self {
        let half = d_head / 2;
        // Frequencies in f32, as the reference implementations have them.
        let frequency: Vec<f32> = (0..half)
            .map(|i| theta.powf(-2.0 * i as f64 / d_head as f64) as f32)
            .collect();
        let (mut cos, mut sin) = (
            Vec::with_capacity(pos * d_head),
            Vec::with_capacity(pos * d_head),
        );
        for p in 0..pos {
            let angles = || frequency.iter().map(move |f| p as f32 * f);
            cos.extend(angles().chain(angles()).map(f32::cos));
            sin.extend(angles().map(|a| -a.sin()).chain(angles().map(f32::sin)));
        }
        let tensor =
            |values| Tensor::from_data(TensorData::new(values, [1, 1, pos, d_head]), device);
        Self {
            cos: tensor(cos),
            sin: tensor(sin),
        }
    }

    fn apply(&self, x: Tensor<4>) -> Tensor<4> {
        let half = x.dims()[3] / 2;
        let swapped = Tensor::cat(
            vec![
                x.clone().narrow(3, half, half),
                x.clone().narrow(3, 0, half),
            ],
            3,
        );
        x * self.cos.clone() + swapped * self.sin.clone()
    }
}
