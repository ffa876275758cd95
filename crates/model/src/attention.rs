//! Causal softmax attention over one pass's queries and all keys so far: windows, packed documents, soft caps, and the
//! cache of keys and values that generation goes on from.

use crate::config::ModelConfig;
use crate::hook::{BlockHook, HookPoint};
use crate::run::Hooks;
use burn::tensor::module::attention;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Bool, Device, Tensor, TensorData, activation};
use std::collections::HashMap;

/// Keys (turned) and values of the positions so far, a layer each, `[batch, n_kv_heads, pos, d_head]`.
#[derive(Default)]
pub(crate) struct Cache {
    pub layers: Vec<[Tensor<4>; 2]>,
    /// Positions held.
    pub len: usize,
}

impl Cache {
    /// Appends a layer's keys and values and returns all of them.
    fn extend(&mut self, l: usize, new: [Tensor<4>; 2]) -> [Tensor<4>; 2] {
        if l == self.layers.len() {
            self.layers.push(new);
        } else {
            let [k, v] = new;
            let [past_k, past_v] = self.layers[l].clone();
            self.layers[l] = [
                Tensor::cat(vec![past_k, k], 2),
                Tensor::cat(vec![past_v, v], 2),
            ];
        }
        self.layers[l].clone()
    }
}

/// Where the tokens of one pass stand.
pub(crate) struct Places {
    pub batch: usize,
    pub pos: usize,
    /// Positions before the first, held in a cache.
    pub offset: usize,
    /// Document numbers, `[batch, pos]` row by row.
    pub segments: Option<Vec<i64>>,
    masks: HashMap<(bool, Option<usize>), Tensor<4, Bool>>,
}

impl Places {
    pub fn new(batch: usize, pos: usize, offset: usize, segments: Option<Vec<i64>>) -> Self {
        Self {
            batch,
            pos,
            offset,
            segments,
            masks: HashMap::new(),
        }
    }

    /// Rows of positions: one that all sequences share, or one a sequence.
    pub fn rows(&self) -> usize {
        match self.segments {
            Some(_) => self.batch,
            None => 1,
        }
    }

    /// The position of each token in its document, `[rows, pos]`.
    pub fn positions(&self) -> Vec<usize> {
        let Some(segments) = &self.segments else {
            return (self.offset..self.offset + self.pos).collect();
        };
        let mut positions = Vec::with_capacity(segments.len());
        for row in segments.chunks(self.pos) {
            let mut start = 0;
            for (i, segment) in row.iter().enumerate() {
                if i > 0 && *segment != row[i - 1] {
                    start = i;
                }
                positions.push(i - start);
            }
        }
        positions
    }

    /// What queries must not see, `[1 | batch, 1, pos, keys]`; `None` where that is the future alone and whoever asks
    /// leaves that out anyway.
    fn mask(
        &mut self,
        window: Option<usize>,
        causal_anyway: bool,
        device: &Device,
    ) -> Option<Tensor<4, Bool>> {
        let keys = self.offset + self.pos;
        let window = window.filter(|w| *w < keys);
        if causal_anyway && window.is_none() && self.segments.is_none() {
            return None;
        }
        let (rows, pos, offset) = (self.rows(), self.pos, self.offset);
        let segments = self.segments.as_ref();
        let mask = self
            .masks
            .entry((device.is_autodiff(), window))
            .or_insert_with(|| {
                let mut hidden = Vec::with_capacity(rows * pos * keys);
                for row in 0..rows {
                    for q in 0..pos {
                        let at = offset + q;
                        let first = window.map_or(0, |w| (at + 1).saturating_sub(w));
                        hidden.extend((0..keys).map(|k| {
                            let apart = segments
                                .is_some_and(|s| s[row * pos + q] != s[row * pos + k.min(pos - 1)]);
                            k > at || k < first || apart
                        }));
                    }
                }
                Tensor::from_data(TensorData::new(hidden, [rows, 1, pos, keys]), device)
            });
        Some(mask.clone())
    }
}

/// Attention of all heads of layer `l`, before `W_O`. Queries `[n, n_heads * d_head]` and keys are turned already; query
/// head `h` reads key-value head `h / (n_heads / n_kv_heads)`. `None` once everything asked for has been captured.
pub(crate) fn attend(
    c: &ModelConfig,
    l: usize,
    [q, k, v]: [Tensor<2>; 3],
    places: &mut Places,
    cache: Option<&mut Cache>,
    hooks: &mut Hooks<'_>,
) -> Option<Tensor<2>> {
    let (batch, pos) = (places.batch, places.pos);
    let split = |x: Tensor<2>, n: usize| x.reshape([batch, pos, n, c.d_head]).swap_dims(1, 2); // [batch, n, pos, d_head]
    let (q, k, v) = (
        split(q, c.n_heads),
        split(k, c.n_kv_heads),
        split(v, c.n_kv_heads),
    );
    let [k, v] = match cache {
        Some(cache) => cache.extend(l, [k, v]),
        None => [k, v],
    };
    let at = |hook| HookPoint::Block(l, hook);
    let seen = hooks.wants(at(BlockHook::AttnScores)) || hooks.wants(at(BlockHook::Pattern));
    let device = q.device();
    let window = c.layers[l].window;
    let z = if device == Device::flex() && !seen {
        let options = AttentionModuleOptions {
            scale: Some(c.attn_scale),
            softcap: c.attn_softcap,
            is_causal: true,
        };
        let mask = places.mask(window, true, &device);
        attention(q, k, v, mask, None, options)
    } else {
        // Burn's fused attention on GPUs may multiply in half precision; composed, it stays in f32.
        let keys = k.dims()[2];
        let group = c.n_heads / c.n_kv_heads;
        let shared = |x: Tensor<4>| match group {
            1 => x,
            _ => x
                .reshape([batch, c.n_kv_heads, 1, keys, c.d_head])
                .expand([batch, c.n_kv_heads, group, keys, c.d_head])
                .reshape([batch, c.n_heads, keys, c.d_head]),
        };
        let mut scores = q.matmul(shared(k).swap_dims(2, 3)) * c.attn_scale; // [batch, n_heads, pos, keys]
        if let Some(cap) = c.attn_softcap {
            scores = soft_cap(scores, cap);
        }
        let mask = places
            .mask(window, false, &device)
            .expect("the future is hidden");
        let mask = mask.expand([batch, c.n_heads, pos, keys]);
        let scores = scores.mask_fill(mask, f32::NEG_INFINITY);
        let scores = visit_square(hooks, at(BlockHook::AttnScores), scores)?;
        let pattern = visit_square(
            hooks,
            at(BlockHook::Pattern),
            activation::softmax(scores, 3),
        )?;
        pattern.matmul(shared(v))
    };
    Some(
        z.swap_dims(1, 2)
            .reshape([batch * pos, c.n_heads * c.d_head]),
    )
}

/// `cap · tanh(x / cap)`.
pub(crate) fn soft_cap<const D: usize>(x: Tensor<D>, cap: f64) -> Tensor<D> {
    (x / cap).tanh() * cap
}

/// A hook point of all heads' `[batch, n_heads, pos, keys]`: there a query's row holds one head after another.
fn visit_square(hooks: &mut Hooks<'_>, at: HookPoint, x: Tensor<4>) -> Option<Tensor<4>> {
    let [batch, heads, pos, keys] = x.dims();
    if !hooks.wants(at) {
        return Some(x);
    }
    let rows = x.swap_dims(1, 2).reshape([batch * pos, heads * keys]);
    let rows = hooks.visit(at, Some(heads), rows)?;
    Some(rows.reshape([batch, pos, heads, keys]).swap_dims(1, 2))
}
