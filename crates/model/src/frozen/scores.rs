//! What the score of a head is made of: its query and its key.

use super::FrozenModel;
use crate::rotary::Rotary;
use crate::weights::{Linear, NormWeights};
use burn::tensor::{Tensor, TensorData};

/// A query or a key of a head as a function of the residual stream that enters its layer.
pub struct ScoreSide {
    /// `[d_head, d_model]`
    pub directions: Tensor<2>,
    /// What is added to the product with each of them, `[d_head]`.
    pub constants: Vec<f64>,
}

impl FrozenModel<'_> {
    /// How the query of a head at a position depends on the residual stream that enters its layer,
    /// and how the key that it meets at another position does. The product of both, as they are on
    /// the prompt, is the score before the softmax and before a soft cap.
    ///
    /// # Panics
    /// There is no such layer, head or position.
    pub fn score_sides(&self, l: usize, head: usize, [query, key]: [usize; 2]) -> [ScoreSide; 2] {
        let c = self.model.config();
        let layer = &self.model.weights().layers[l];
        let [q, k, _] = layer.q_k_v(c.n_heads * c.d_head);
        let kv = head / (c.n_heads / c.n_kv_heads);
        let raw = self.layers[l].unnormalized.as_ref();
        let side = |all: Linear, head, position, norm: &Option<NormWeights>, raw, scale| {
            let columns = head * c.d_head..(head + 1) * c.d_head;
            let part = all.columns(columns.clone());
            let norm = norm.as_ref().zip(raw);
            let norm = norm.map(|(norm, raw): (&NormWeights, &Tensor<2>)| {
                let raw = raw.clone().narrow(0, position, 1);
                let raw = raw.narrow(1, columns.start, c.d_head);
                let scale = (raw.square().mean_dim(1) + c.norm_eps).sqrt(); // [1, 1]
                norm.weight.clone() / scale.squeeze_dim::<1>(0)
            });
            self.score_side(l, &part, position, norm, scale)
        };
        let [of_q, of_k] = match raw {
            Some([q, k]) => [Some(q), Some(k)],
            None => [None, None],
        };
        [
            side(q, head, query, &layer.q_norm, of_q, c.attn_scale),
            side(k, kv, key, &layer.k_norm, of_k, 1.0),
        ]
    }

    /// One side: a projection `[d_model, d_head]`, what its head's norm multiplies it with,
    /// rotation, and a factor.
    fn score_side(
        &self,
        l: usize,
        projection: &Linear,
        position: usize,
        norm: Option<Tensor<1>>,
        factor: f64,
    ) -> ScoreSide {
        let c = self.model.config();
        let ln1 = &self.model.weights().layers[l].ln1;
        let (d, width) = (c.d_model, c.d_head);
        let rows = projection.weight.clone().transpose(); // [width, d]
        let mut constants = Tensor::zeros([width, 1], &rows.device());
        if let Some(bias) = &ln1.bias {
            constants = constants + rows.clone().matmul(bias.clone().reshape([d, 1]));
        }
        if let Some(bias) = &projection.bias {
            constants = constants + bias.clone().reshape([width, 1]);
        }
        let scale = self.layers[l].ln1.clone().narrow(0, position, 1);
        let rows = self.through_norm(ln1, &scale, rows.reshape([1, width, d]));
        let mut both = Tensor::cat(vec![rows.reshape([width, d]), constants], 1) * factor;
        if let Some(norm) = norm {
            both = both * norm.reshape([width, 1]);
        }
        if let Some(rope) = &c.layers[l].rope {
            let one = |i: usize| {
                if i.is_multiple_of(width + 1) {
                    1.0f32
                } else {
                    0.0
                }
            };
            let eye: Vec<f32> = (0..width * width).map(one).collect();
            let eye = TensorData::new(eye, [1, width * width]);
            let eye = Tensor::<2>::from_data(eye, &both.device());
            // Row i is where the i-th unit vector goes.
            let turned = Rotary::new(rope, &[position], 1).apply(eye, width);
            both = turned.reshape([width, width]).transpose().matmul(both);
        }
        let constants = both.clone().narrow(1, d, 1).into_data();
        ScoreSide {
            directions: both.narrow(1, 0, d),
            constants: constants.iter::<f64>().collect(),
        }
    }
}
