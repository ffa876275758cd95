//! Standard: ReLU latents (Bricken et al. 2023, "Towards monosemanticity"). The encoder is
//! JumpReLU's, with threshold 0.

use burn::tensor::Tensor;
use lapidary_io::Fields;
use lapidary_kernels::{SparseCodes, encode_threshold};

use crate::architectures::{Architecture, Rule};
use crate::error::CoderError;
use crate::weights::Weights;

pub(crate) struct Standard;

impl Rule for Standard {
    fn architecture(&self) -> Architecture {
        Architecture::Standard
    }

    fn encode(&self, weights: &Weights, x: Tensor<2>) -> SparseCodes {
        positive(weights, x)
    }

    fn crosses_layers(&self) -> bool {
        true
    }

    fn read_parameters(&self, _: &Fields, _: [usize; 3]) -> Result<Architecture, CoderError> {
        Ok(Architecture::Standard)
    }
}

/// The positive pre-activations of `x`, from which `b_dec` is already subtracted where it must be.
pub(crate) fn positive(weights: &Weights, x: Tensor<2>) -> SparseCodes {
    let b_enc = weights.the_vector("b_enc");
    let threshold = b_enc.zeros_like();
    encode_threshold(x, weights.encoder(), b_enc, threshold)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coder::{Coder, SparseCoder};
    use crate::weights::Weights;
    use burn::tensor::{Device, TensorData};

    const D: usize = 4;
    const F: usize = 6;

    fn numbers(n: usize, seed: u32) -> Vec<f32> {
        (0..n as u32)
            .map(|i| ((i * 37 + seed * 11) % 64) as f32 / 16.0 - 2.0)
            .collect()
    }

    fn matrix(rows: usize, columns: usize, seed: u32) -> Tensor<2> {
        let values = TensorData::new(numbers(rows * columns, seed), [rows, columns]);
        Tensor::from_data(values, &Device::flex())
    }

    fn host(t: Tensor<2>) -> Vec<f32> {
        t.try_into_vec_as().unwrap()
    }

    #[test]
    fn standard_codes_are_as_wide_as_the_densest_row() {
        let coder = SparseCoder {
            architecture: Architecture::Standard,
            apply_b_dec_to_input: true,
            weights: Weights::new([
                ("w_enc", matrix(F, D, 1).into()),
                ("b_enc", matrix(1, F, 2).squeeze_dim::<1>(0).into()),
                ("w_dec", matrix(F, D, 3).into()),
                ("b_dec", matrix(1, D, 4).squeeze_dim::<1>(0).into()),
            ]),
        };
        let x = matrix(9, D, 8);
        let codes = coder.encode(x.clone());
        let pre = (x - coder.b_dec().unsqueeze()).matmul(coder.w_enc().transpose())
            + coder.b_enc().unsqueeze();
        let active = host(pre.greater_elem(0.0).float().sum_dim(1));
        assert_eq!(
            codes.values.dims()[1] as f32,
            active.iter().copied().fold(0.0, f32::max)
        );
        let found = host(codes.values.greater_elem(0.0).float().sum_dim(1));
        assert_eq!(found, active);
        let none = coder.encode(Tensor::zeros([0, D], &Device::flex()));
        assert_eq!(none.values.dims()[0], 0);
    }
}
