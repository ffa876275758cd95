//! Weights by their role, in TransformerLens's names and shapes, and the simplifications that leave
//! the model's predictions as they are (TransformerLens, `weight_processing.py`).

use crate::ModelError;
use crate::config::{ModelConfig, Norm};
use crate::language_model::LanguageModel;
use crate::weights::{Layer, Linear, NormWeights};
use burn::tensor::Tensor;

/// Which simplifications [`LanguageModel::simplified`] makes. The default is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Simplify {
    /// Weights and biases of the norms before attention, MLP and unembedding go into the matrices
    /// that read them; where the norm centres, so do the matrices, whose mean over `d_model` no
    /// centred input can feel.
    pub fold_norms: bool,
    /// What is written to the residual stream loses its mean over `d_model`, which every norm takes
    /// away anyway. Only where norms centre.
    pub center_writing: bool,
    /// The unembedding loses its mean over the vocabulary: logits move by one number a position,
    /// probabilities do not.
    pub center_unembedding: bool,
    /// Biases of values go through `W_O` into attention's output bias: attention weights add up to
    /// 1, so what attention writes stays as it is, and values and heads' outputs lose a constant.
    pub fold_value_biases: bool,
}

/// Takes the mean over a dimension away.
fn centred<const D: usize>(x: Tensor<D>, dimension: usize) -> Tensor<D> {
    x.clone() - x.mean_dim(dimension)
}

impl LanguageModel {
    /// `W_E`, `[d_vocab, d_model]`, Gemma's factor included.
    pub fn w_e(&self) -> Tensor<2> {
        self.weights().embed.clone() * self.config().embed_scale
    }

    /// `W_pos`, `[n_ctx, d_model]`, where positions are learned.
    pub fn w_pos(&self) -> Option<Tensor<2>> {
        self.weights().positions.clone()
    }

    /// `W_U`, `[d_model, d_vocab]`.
    pub fn w_u(&self) -> Tensor<2> {
        self.unembedding()
    }

    /// `b_U`, `[d_vocab]`.
    pub fn b_u(&self) -> Option<Tensor<1>> {
        self.weights().unembed_bias.clone()
    }

    /// `W_Q` of query head `h` of layer `l`, `[d_model, d_head]`.
    ///
    /// # Panics
    /// Like all of these, when there is no such layer or head.
    pub fn w_q(&self, l: usize, h: usize) -> Tensor<2> {
        self.head(l, 0, h).weight
    }

    /// `W_K` of the key head that query head `h` reads, `[d_model, d_head]`.
    pub fn w_k(&self, l: usize, h: usize) -> Tensor<2> {
        self.head(l, 1, h).weight
    }

    /// `W_V` of the value head that query head `h` reads, `[d_model, d_head]`.
    pub fn w_v(&self, l: usize, h: usize) -> Tensor<2> {
        self.head(l, 2, h).weight
    }

    /// `W_O` of head `h`, `[d_head, d_model]`.
    pub fn w_o(&self, l: usize, h: usize) -> Tensor<2> {
        let d_head = self.config().d_head;
        let weight = self.weights().layers[l].o.weight.clone();
        weight.narrow(0, h * d_head, d_head)
    }

    /// `b_Q` of query head `h`, `[d_head]`.
    pub fn b_q(&self, l: usize, h: usize) -> Option<Tensor<1>> {
        self.head(l, 0, h).bias
    }

    /// `b_K` of the key head that query head `h` reads, `[d_head]`.
    pub fn b_k(&self, l: usize, h: usize) -> Option<Tensor<1>> {
        self.head(l, 1, h).bias
    }

    /// `b_V` of the value head that query head `h` reads, `[d_head]`.
    pub fn b_v(&self, l: usize, h: usize) -> Option<Tensor<1>> {
        self.head(l, 2, h).bias
    }

    /// `b_O` of layer `l`, `[d_model]`.
    pub fn b_o(&self, l: usize) -> Option<Tensor<1>> {
        self.weights().layers[l].o.bias.clone()
    }

    /// `W_in` of layer `l`, `[d_model, d_mlp]`: of a gated MLP the linear branch.
    pub fn w_in(&self, l: usize) -> Tensor<2> {
        self.linear_branch(l).weight
    }

    /// `W_gate` of layer `l`, `[d_model, d_mlp]`, of a gated MLP.
    pub fn w_gate(&self, l: usize) -> Option<Tensor<2>> {
        let gate = self.weights().layers[l].up.columns(0..self.config().d_mlp);
        self.config().gated.then_some(gate.weight)
    }

    /// `W_out` of layer `l`, `[d_mlp, d_model]`.
    pub fn w_out(&self, l: usize) -> Tensor<2> {
        self.weights().layers[l].down.weight.clone()
    }

    /// `b_in` of layer `l`, `[d_mlp]`.
    pub fn b_in(&self, l: usize) -> Option<Tensor<1>> {
        self.linear_branch(l).bias
    }

    /// `b_out` of layer `l`, `[d_model]`.
    pub fn b_out(&self, l: usize) -> Option<Tensor<1>> {
        self.weights().layers[l].down.bias.clone()
    }

    fn kv_head(&self, h: usize) -> usize {
        h / (self.config().n_heads / self.config().n_kv_heads)
    }

    /// The part of layer `l`'s queries (0), keys (1) or values (2) that query head `h` has or
    /// reads.
    fn head(&self, l: usize, part: usize, h: usize) -> Linear {
        let c = self.config();
        let head = if part == 0 { h } else { self.kv_head(h) };
        let parts = self.weights().layers[l].q_k_v(c.n_heads * c.d_head);
        parts[part].columns(head * c.d_head..(head + 1) * c.d_head)
    }

    /// The linear branch of layer `l`'s MLP.
    fn linear_branch(&self, l: usize) -> Linear {
        let (up, d_mlp) = (&self.weights().layers[l].up, self.config().d_mlp);
        match self.config().gated {
            true => up.columns(d_mlp..2 * d_mlp),
            false => up.clone(),
        }
    }

    /// The same model with simpler weights, which are copies.
    ///
    /// ```
    /// # fn main() -> Result<(), lapidary_model::ModelError> {
    /// use burn::tensor::Device;
    /// use lapidary_model::{LanguageModel, Simplify};
    ///
    /// let model = LanguageModel::load("embedded", &Device::flex())?;
    /// let model = model.simplified(Simplify { fold_norms: true, ..Default::default() })?;
    /// // Which tokens make head 2 of layer 1 look elsewhere: its QK circuit, low rank, `[d_model, d_model]`.
    /// let qk = model.w_q(1, 2).matmul(model.w_k(1, 2).transpose());
    /// # assert_eq!(qk.dims(), [model.config().d_model; 2]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When a simplification would change what this model predicts: centring what is written where
    /// norms do not centre, or the unembedding before a soft cap.
    pub fn simplified(mut self, simplify: Simplify) -> Result<Self, ModelError> {
        let c = self.config().clone();
        let refused = |what: &'static str, why: &'static str| {
            Err(ModelError::Simplify {
                model: self.name().to_owned(),
                what,
                why,
            })
        };
        if simplify.center_writing && c.norm != Norm::Layer {
            return refused("center_writing", "its norms do not centre");
        }
        if simplify.center_unembedding && c.logit_softcap.is_some() {
            return refused("center_unembedding", "its logits are capped");
        }
        let w = self.weights_mut();
        if w.unembed.is_none() && !w.headless {
            w.unembed = Some(w.embed.clone());
        }
        if simplify.fold_norms {
            for layer in &mut w.layers {
                fold(&layer.ln1, &mut layer.qkv, c.norm);
                fold(&layer.ln2, &mut layer.up, c.norm);
                neutral(&mut layer.ln1);
                neutral(&mut layer.ln2);
            }
            if let Some(unembed) = &mut w.unembed {
                let mut read = Linear {
                    weight: unembed.clone().transpose(),
                    bias: w.unembed_bias.take(),
                };
                fold(&w.final_norm, &mut read, c.norm);
                neutral(&mut w.final_norm);
                *unembed = read.weight.transpose();
                w.unembed_bias = read.bias;
            }
        }
        if simplify.center_writing {
            w.embed = centred(w.embed.clone(), 1);
            w.positions = w.positions.take().map(|table| centred(table, 1));
            for write in w
                .layers
                .iter_mut()
                .flat_map(|layer| [&mut layer.o, &mut layer.down])
            {
                write.weight = centred(write.weight.clone(), 1);
                write.bias = write.bias.take().map(|bias| centred(bias, 0));
            }
        }
        if simplify.center_unembedding {
            w.unembed = w.unembed.take().map(|unembed| centred(unembed, 0));
            w.unembed_bias = w.unembed_bias.take().map(|bias| centred(bias, 0));
        }
        if simplify.fold_value_biases {
            let queries_per_value = c.n_heads / c.n_kv_heads;
            for layer in &mut w.layers {
                fold_values(layer, &c, queries_per_value);
                if simplify.center_writing {
                    layer.o.bias = layer.o.bias.take().map(|bias| centred(bias, 0));
                }
            }
        }
        Ok(self)
    }

    /// The model cut off after its first layers, all of them if it has no more.
    #[must_use]
    pub fn first_layers(mut self, n: usize) -> Self {
        self.cut_layers(n);
        self
    }
}

/// Moves the biases of values into the bias of attention's output.
fn fold_values(layer: &mut Layer, c: &ModelConfig, queries_per_value: usize) {
    let Some(bias) = layer.qkv.bias.clone() else {
        return;
    };
    let values = c.n_kv_heads * c.d_head;
    let before = bias.dims()[0] - values;
    let b_v = bias.clone().narrow(0, before, values);
    // Of each query head the bias of the values that it reads, side by side as `W_O` has its rows.
    let of_heads = b_v
        .clone()
        .reshape([c.n_kv_heads, 1, c.d_head])
        .repeat_dim(1, queries_per_value)
        .reshape([1, c.n_heads * c.d_head]);
    let moved = of_heads.matmul(layer.o.weight.clone());
    let moved = moved.reshape([layer.o.weight.dims()[1]]);
    layer.o.bias = Some(match layer.o.bias.take() {
        Some(bias) => bias + moved,
        None => moved,
    });
    let kept = bias.narrow(0, 0, before);
    layer.qkv.bias = Some(Tensor::cat(vec![kept, b_v.zeros_like()], 0));
}

/// Moves a norm's weight and bias into a matrix that reads what it normalized.
fn fold(norm: &NormWeights, read: &mut Linear, kind: Norm) {
    let [d_model, out] = read.weight.dims();
    if let Some(bias) = &norm.bias {
        let row = bias.clone().reshape([1, d_model]);
        let moved = row.matmul(read.weight.clone()).reshape([out]);
        read.bias = Some(match read.bias.take() {
            Some(bias) => bias + moved,
            None => moved,
        });
    }
    read.weight = read.weight.clone() * norm.weight.clone().reshape([d_model, 1]);
    if kind == Norm::Layer {
        read.weight = centred(read.weight.clone(), 0);
    }
}

fn neutral(norm: &mut NormWeights) {
    norm.weight = norm.weight.ones_like();
    norm.bias = norm.bias.take().map(|bias| bias.zeros_like());
}
