//! A sample of a model's weights, small however large the model, by which one model is told from
//! another.

use crate::LanguageModel;
use crate::hook::{BlockHook, HookPoint};
use crate::weights::{NormWeights, Param};
use burn::tensor::{Int, Tensor, TensorData};

/// Rows of a matrix that are looked at.
const ROWS: usize = 16;

impl LanguageModel {
    /// Hands over shape and sample of each weight on which values at `hooks` depend, in forward
    /// order: 16 rows of a matrix, evenly spaced, first and last among them, and the whole of a
    /// vector, as f32 in the machine's order of bytes. Weights of later layers are left out.
    pub fn sample_weights(&self, hooks: &[HookPoint], with: &mut dyn FnMut(&[u8])) {
        let layers = |hook: &HookPoint| match hook {
            HookPoint::Embed | HookPoint::PosEmbed => Some(0),
            HookPoint::Block(layer, BlockHook::ResidPre) => Some(*layer),
            HookPoint::Block(layer, _) => Some(layer + 1),
            _ => None,
        };
        let needed: Option<Vec<usize>> = hooks.iter().map(layers).collect();
        let mut weights = self.weights().clone(); // handles, not numbers
        let count = weights.layers.len();
        let needed = needed.map(|layers| layers.into_iter().max().unwrap_or(0));
        weights.layers.truncate(needed.unwrap_or(count));
        let mut sum = |shape: &[usize], values: Tensor<2>| {
            for size in shape {
                with(&(*size as u64).to_le_bytes());
            }
            with(values.into_data().as_bytes());
        };
        if needed.is_some() {
            // What only comes behind the layers.
            weights.final_norm = NormWeights {
                weight: Tensor::zeros([1], self.device()),
                bias: None,
            };
            weights.unembed = None;
            weights.unembed_bias = None;
        }
        weights.each(&mut |param| match param {
            Param::Vector(vector) => sum(&vector.dims(), vector.clone().unsqueeze()),
            Param::Matrix(matrix) => {
                let [rows, width] = matrix.dims();
                let n = ROWS.min(rows);
                let row = |i: usize| (i * (rows - 1) / (n - 1).max(1)) as i32;
                let index = TensorData::new((0..n).map(row).collect::<Vec<_>>(), [n]);
                let index = Tensor::<1, Int>::from_data(index, self.device());
                sum(&[rows, width], matrix.clone().select(0, index));
            }
        });
    }
}
