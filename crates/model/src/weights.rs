//! The weights of a decoder-only transformer on a device, all in f32. Matrices are `[in, out]`.

use burn::tensor::Tensor;

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
}

/// One layer's weights.
#[derive(Debug, Clone)]
pub struct Layer {
    /// The norm before attention.
    pub ln1: NormWeights,
    /// Queries, `[d_model, n_heads * d_head]`.
    pub q: Linear,
    /// Keys, `[d_model, n_kv_heads * d_head]`.
    pub k: Linear,
    /// Values, `[d_model, n_kv_heads * d_head]`.
    pub v: Linear,
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
    /// The gate of a gated MLP, `[d_model, d_mlp]`.
    pub gate: Option<Linear>,
    /// Into the MLP, `[d_model, d_mlp]`.
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
            for l in [&mut layer.q, &mut layer.k, &mut layer.v, &mut layer.o] {
                linear(l, visit);
            }
            for n in [&mut layer.q_norm, &mut layer.k_norm, &mut layer.ln1_post] {
                n.iter_mut().for_each(|n| norm(n, visit));
            }
            norm(&mut layer.ln2, visit);
            for l in layer
                .gate
                .iter_mut()
                .chain([&mut layer.up, &mut layer.down])
            {
                linear(l, visit);
            }
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
