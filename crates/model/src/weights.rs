//! The weights of a decoder-only transformer on a device, all in f32. Matrices are `[in, out]`.

use burn::tensor::Tensor;
use std::ops::Range;

/// Every weight, in forward order.
#[derive(Debug, Clone)]
pub struct Weights {
    /// `W_E`, `[d_vocab, d_model]`.
    pub embed: Tensor<2>,
    /// `W_pos`, `[n_ctx, d_model]`, where positions are learned.
    pub positions: Option<Tensor<2>>,
    /// The layers.
    pub layers: Vec<Layer>,
    /// The norm before the unembedding.
    pub final_norm: NormWeights,
    /// The unembedding's transpose, `[d_vocab, d_model]`; `None` when tied to `embed`.
    pub unembed: Option<Tensor<2>>,
    /// Added to the logits, `[d_vocab]` (Phi).
    pub unembed_bias: Option<Tensor<1>>,
    /// Whether there is no unembedding at all: the checkpoint is one of the bare model.
    pub headless: bool,
}

/// One layer's weights.
#[derive(Debug, Clone)]
pub struct Layer {
    /// The norm before attention.
    pub ln1: NormWeights,
    /// Queries, keys and values side by side, `[d_model, (n_heads + 2 * n_kv_heads) * d_head]`: one
    /// product makes all.
    pub qkv: Linear,
    /// Normalizes each head's query, weight `[d_head]`.
    pub q_norm: Option<NormWeights>,
    /// Normalizes each head's key, weight `[d_head]`.
    pub k_norm: Option<NormWeights>,
    /// Heads back to the residual stream, `[n_heads * d_head, d_model]`.
    pub o: Linear,
    /// The norm of what attention writes.
    pub ln1_post: Option<NormWeights>,
    /// The norm before the MLP.
    pub ln2: NormWeights,
    /// Into the MLP, `[d_model, d_mlp]`; of a gated one the gate and the linear branch side by
    /// side, `[d_model, 2 * d_mlp]`.
    pub up: Linear,
    /// Out of the MLP, `[d_mlp, d_model]`.
    pub down: Linear,
    /// The norm of what the MLP writes.
    pub ln2_post: Option<NormWeights>,
}

/// A norm's weight and, for LayerNorm, its bias, both `[d_model]`.
#[derive(Debug, Clone)]
pub struct NormWeights {
    /// Multiplies the normalized value.
    pub weight: Tensor<1>,
    /// Is added after it.
    pub bias: Option<Tensor<1>>,
}

/// x W + b.
#[derive(Debug, Clone)]
pub struct Linear {
    /// `[in, out]`.
    pub weight: Tensor<2>,
    /// `[out]`.
    pub bias: Option<Tensor<1>>,
}

impl Linear {
    /// `[n, in]` to `[n, out]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let y = x.matmul(self.weight.clone());
        match &self.bias {
            Some(bias) => y + bias.clone().unsqueeze(),
            None => y,
        }
    }

    /// Some of the columns, which share the memory of all.
    pub fn columns(&self, columns: Range<usize>) -> Self {
        let (start, width) = (columns.start, columns.len());
        Self {
            weight: self.weight.clone().narrow(1, start, width),
            bias: self.bias.clone().map(|bias| bias.narrow(0, start, width)),
        }
    }

    /// Matrices of one input side by side; either all have biases or none has.
    pub fn side_by_side(parts: Vec<Self>) -> Self {
        let (weights, biases): (Vec<_>, Vec<_>) = parts
            .into_iter()
            .map(|part| (part.weight, part.bias))
            .unzip();
        let biases: Option<Vec<_>> = biases.into_iter().collect();
        Self {
            weight: Tensor::cat(weights, 1),
            bias: biases.map(|biases| Tensor::cat(biases, 0)),
        }
    }
}

impl Layer {
    /// Queries, keys and values apart, with `n_heads * d_head` columns of the first.
    pub fn q_k_v(&self, q: usize) -> [Linear; 3] {
        let all = self.qkv.weight.dims()[1];
        let kv = (all - q) / 2;
        [0..q, q..q + kv, q + kv..all].map(|columns| self.qkv.columns(columns))
    }
}

/// A weight on its way through [`Weights::each`].
pub enum Param<'a> {
    /// A bias or a norm's weight.
    Vector(&'a mut Tensor<1>),
    /// A matrix.
    Matrix(&'a mut Tensor<2>),
}

impl Weights {
    /// Visits every weight in forward order, always the same one.
    pub fn each(&mut self, visit: &mut dyn FnMut(Param<'_>)) {
        fn linear(l: &mut Linear, visit: &mut dyn FnMut(Param<'_>)) {
            visit(Param::Matrix(&mut l.weight));
            if let Some(bias) = &mut l.bias {
                visit(Param::Vector(bias));
            }
        }
        fn norm(n: &mut NormWeights, visit: &mut dyn FnMut(Param<'_>)) {
            visit(Param::Vector(&mut n.weight));
            if let Some(bias) = &mut n.bias {
                visit(Param::Vector(bias));
            }
        }
        visit(Param::Matrix(&mut self.embed));
        if let Some(positions) = &mut self.positions {
            visit(Param::Matrix(positions));
        }
        for layer in &mut self.layers {
            norm(&mut layer.ln1, visit);
            linear(&mut layer.qkv, visit);
            linear(&mut layer.o, visit);
            for n in [&mut layer.q_norm, &mut layer.k_norm, &mut layer.ln1_post] {
                n.iter_mut().for_each(|n| norm(n, visit));
            }
            norm(&mut layer.ln2, visit);
            linear(&mut layer.up, visit);
            linear(&mut layer.down, visit);
            layer.ln2_post.iter_mut().for_each(|n| norm(n, visit));
        }
        norm(&mut self.final_norm, visit);
        if let Some(unembed) = &mut self.unembed {
            visit(Param::Matrix(unembed));
        }
        if let Some(bias) = &mut self.unembed_bias {
            visit(Param::Vector(bias));
        }
    }
}
