//! Causal softmax attention over one pass's queries and all keys so far: windows, packed documents,
//! soft caps, and the cache of keys and values that generation goes on from.

use crate::config::ModelConfig;
use crate::hook::{BlockHook, HookPoint};
use crate::run::Hooks;
use burn::tensor::{Bool, Device, Tensor, TensorData, activation};
use lapidary_kernels::{CausalAttention, causal_attention, fused_on};
use std::collections::HashMap;
use std::sync::Arc;

/// Keys (turned) and values of the positions so far, a layer each,
/// `[batch, pos, n_kv_heads * d_head]`.
#[derive(Default)]
pub(crate) struct Cache {
    pub layers: Vec<[Tensor<3>; 2]>,
    /// Positions held.
    pub len: usize,
}

impl Cache {
    /// Appends a layer's keys and values and returns all of them.
    fn extend(&mut self, l: usize, new: [Tensor<3>; 2]) -> [Tensor<3>; 2] {
        if l == self.layers.len() {
            self.layers.push(new);
        } else {
            let [k, v] = new;
            let [past_k, past_v] = self.layers[l].clone();
            self.layers[l] = [
                Tensor::cat(vec![past_k, k], 1),
                Tensor::cat(vec![past_v, v], 1),
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
    firsts: HashMap<Option<usize>, Option<Arc<[u32]>>>,
}

impl Places {
    pub fn new(batch: usize, pos: usize, offset: usize, segments: Option<Vec<i64>>) -> Self {
        Self {
            batch,
            pos,
            offset,
            segments,
            masks: HashMap::new(),
            firsts: HashMap::new(),
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

    /// The first key that each query sees, `[rows, pos]`; `None` where that is the first of all.
    /// The last is itself.
    fn first(&mut self, window: Option<usize>) -> Option<Arc<[u32]>> {
        let keys = self.offset + self.pos;
        let window = window.filter(|w| *w < keys);
        if window.is_none() && self.segments.is_none() {
            return None;
        }
        if let Some(known) = self.firsts.get(&window) {
            return known.clone();
        }
        let positions = self.positions(); // in their documents
        let first = positions.iter().enumerate().map(|(i, position)| {
            let at = self.offset + i % self.pos;
            let seen = window.map_or(position + 1, |w| w.min(position + 1));
            (at + 1 - seen) as u32
        });
        let first: Option<Arc<[u32]>> = Some(first.collect());
        self.firsts.insert(window, first.clone());
        first
    }

    /// What queries must not see, `[1 | batch, 1, pos, keys]`.
    fn mask(&mut self, window: Option<usize>, device: &Device) -> Tensor<4, Bool> {
        let first = self.first(window);
        let (rows, pos, keys) = (self.rows(), self.pos, self.offset + self.pos);
        let offset = self.offset;
        let mask = self.masks.entry((device.is_autodiff(), window));
        let mask = mask.or_insert_with(|| {
            let mut hidden = Vec::with_capacity(rows * pos * keys);
            for row in 0..rows {
                for q in 0..pos {
                    let first = first.as_ref().map_or(0, |f| f[row * pos + q] as usize);
                    hidden.extend((0..keys).map(|k| k < first || k > offset + q));
                }
            }
            Tensor::from_data(TensorData::new(hidden, [rows, 1, pos, keys]), device)
        });
        mask.clone()
    }
}

/// Attention of all heads of layer `l`, before `W_O`. Queries `[n, n_heads * d_head]` and keys are
/// turned already; query head `h` reads key-value head `h / (n_heads / n_kv_heads)`. `None` once
/// everything asked for has been captured.
pub(crate) fn attend(
    c: &ModelConfig,
    l: usize,
    [q, k, v]: [Tensor<2>; 3],
    places: &mut Places,
    cache: Option<&mut Cache>,
    hooks: &mut Hooks<'_>,
) -> Option<Tensor<2>> {
    let (batch, pos) = (places.batch, places.pos);
    let [k, v] = match cache {
        None => [k, v],
        Some(cache) => {
            let width = k.dims()[1];
            let all = cache.extend(l, [k, v].map(|x| x.reshape([batch, pos, width])));
            all.map(|x| {
                let [_, keys, _] = x.dims();
                x.reshape([batch * keys, width])
            })
        }
    };
    let at = |hook| HookPoint::Block(l, hook);
    let seen = hooks.wants(at(BlockHook::AttnScores)) || hooks.wants(at(BlockHook::Pattern));
    let device = q.device();
    let window = c.layers[l].window;
    if fused_on(&device) && !seen {
        let how = CausalAttention {
            batch,
            d_head: c.d_head,
            scale: c.attn_scale as f32,
            soft_cap: c.attn_softcap.map(|cap| cap as f32),
            first: places.first(window),
        };
        return Some(causal_attention(q, k, v, how));
    }
    // Burn's fused attention on GPUs may multiply in half precision; composed, it stays in f32.
    let keys = k.dims()[0] / batch;
    let group = c.n_heads / c.n_kv_heads;
    // [batch, n_heads, pos, d_head]
    let q = q.reshape([batch, pos, c.n_heads, c.d_head]).swap_dims(1, 2);
    let shared = |x: Tensor<2>| {
        let x = x
            .reshape([batch, keys, c.n_kv_heads, c.d_head])
            .swap_dims(1, 2);
        match group {
            1 => x,
            _ => x
                .reshape([batch, c.n_kv_heads, 1, keys, c.d_head])
                .expand([batch, c.n_kv_heads, group, keys, c.d_head])
                .reshape([batch, c.n_heads, keys, c.d_head]),
        }
    };
    // [batch, n_heads, pos, keys]
    let mut scores = q.matmul(shared(k).swap_dims(2, 3)) * c.attn_scale;
    if let Some(cap) = c.attn_softcap {
        scores = soft_cap(scores, cap);
    }
    let mask = places.mask(window, &device);
    let mask = mask.expand([batch, c.n_heads, pos, keys]);
    let scores = scores.mask_fill(mask, f32::NEG_INFINITY);
    let scores = visit_square(hooks, at(BlockHook::AttnScores), scores)?;
    let mut pattern = activation::softmax(scores, 3);
    if hooks.rules().frozen_patterns {
        pattern = pattern.detach();
    }
    let pattern = visit_square(hooks, at(BlockHook::Pattern), pattern)?;
    let z = pattern.matmul(shared(v)).swap_dims(1, 2);
    Some(z.reshape([batch * pos, c.n_heads * c.d_head]))
}

/// `cap · tanh(x / cap)`.
pub(crate) fn soft_cap<const D: usize>(x: Tensor<D>, cap: f64) -> Tensor<D> {
    (x / cap).tanh() * cap
}

/// A hook point of all heads' `[batch, n_heads, pos, keys]`: there a query's row holds one head
/// after another.
fn visit_square(hooks: &mut Hooks<'_>, at: HookPoint, x: Tensor<4>) -> Option<Tensor<4>> {
    let [batch, heads, pos, keys] = x.dims();
    if !hooks.wants(at) {
        return Some(x);
    }
    let rows = x.swap_dims(1, 2).reshape([batch * pos, heads * keys]);
    let rows = hooks.visit(at, Some(heads), rows)?;
    Some(rows.reshape([batch, pos, heads, keys]).swap_dims(1, 2))
}
