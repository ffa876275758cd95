//! How a gradient moves a weight: Adam (Kingma, Ba 2015), signum (Bernstein et al. 2018, "signSGD:
//! compressed optimisation for non-convex problems", arXiv 1802.04434: the sign of the mean
//! gradient) or Muon (Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural
//! networks": the mean gradient of a matrix with its singular values made about 1; biases go by
//! Adam).

use burn::tensor::Tensor;
use lapidary_kernels::AdamStep;

use crate::keys::Optimizer;

/// Coefficients of Muon's Newton-Schulz iteration, and how often it runs: singular values end
/// between about 0.7 and 1.2.
const NEWTON_SCHULZ: [f32; 3] = [3.4445, -4.775, 2.0315];
const ROUNDS: usize = 5;

impl Optimizer {
    /// Adam's step for a weight of so many dimensions: one that moves nothing but the moments where
    /// the weight goes another way.
    pub(crate) fn adam<const D: usize>(self, adam: &AdamStep) -> AdamStep {
        match self.moves::<D>() {
            true => AdamStep { lr: 0.0, ..*adam },
            false => *adam,
        }
    }

    /// Whether [`Optimizer::step`] moves weights of so many dimensions.
    pub(crate) fn moves<const D: usize>(self) -> bool {
        match self {
            Self::Adam => false,
            Self::Signum => true,
            Self::Muon => D == 2,
        }
    }

    /// What to take from a weight whose mean gradient is `mean`.
    pub(crate) fn step<const D: usize>(self, mean: Tensor<D>, lr: f64) -> Tensor<D> {
        match self {
            Self::Muon => {
                let dims = mean.dims();
                let [rows, columns] = [dims[0], dims[D - 1]];
                let factor = (rows as f64 / columns as f64).max(1.0).sqrt();
                let matrix = orthogonal(mean.reshape([rows, columns]));
                matrix.reshape(dims) * (lr * factor)
            }
            _ => mean.sign() * lr,
        }
    }
}

/// `m` with singular values of about 1.
fn orthogonal(m: Tensor<2>) -> Tensor<2> {
    let [rows, columns] = m.dims();
    let tall = rows > columns;
    let m = if tall { m.transpose() } else { m };
    let norm = m.clone().square().sum().sqrt().clamp_min(1e-12);
    let mut x = m / norm.unsqueeze::<2>();
    let [a, b, c] = NEWTON_SCHULZ;
    for _ in 0..ROUNDS {
        let gram = x.clone().matmul(x.clone().transpose());
        let change = gram.clone() * b + gram.clone().matmul(gram) * c;
        x = x.clone() * a + change.matmul(x);
    }
    if tall { x.transpose() } else { x }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, TensorData};

    #[test]
    fn muon_makes_singular_values_alike_and_keeps_their_directions() {
        // Singular vectors are axes, so singular values can be read off.
        let device = Device::flex();
        for (rows, columns) in [(3, 5), (5, 3)] {
            let mut values = vec![0.0f32; rows * columns];
            for (i, s) in [8.0, -1.0, 0.05].into_iter().enumerate() {
                values[i * columns + i] = s;
            }
            let m = Tensor::<2>::from_data(TensorData::new(values, [rows, columns]), &device);
            let found: Vec<f32> = orthogonal(m).into_data().iter::<f32>().collect();
            for (i, v) in found.iter().enumerate() {
                let (row, column) = (i / columns, i % columns);
                match (row == column, row) {
                    (true, 1) => assert!((-1.3..-0.6).contains(v), "{found:?}"),
                    (true, 0 | 2) => assert!((0.6..1.3).contains(v), "{found:?}"),
                    _ => assert!(v.abs() < 1e-6, "{found:?}"),
                }
            }
        }
    }

    #[test]
    fn signum_goes_by_signs_and_muon_by_the_shape() {
        let device = Device::flex();
        let mean = Tensor::<2>::from_data([[0.3f32, -2.0, 0.0], [1e-9, -1e-9, 5.0]], &device);
        let step = Optimizer::Signum.step(mean.clone(), 0.5).into_data();
        let step: Vec<f32> = step.iter::<f32>().collect();
        assert_eq!(step, [0.5, -0.5, 0.0, 0.5, -0.5, 0.5]);
        // Twice as many rows as columns: the root of 2 on top.
        let tall = Tensor::<2>::from_data([[1.0f32], [0.0]], &device);
        let step: Vec<f32> = Optimizer::Muon
            .step(tall, 1.0)
            .into_data()
            .iter::<f32>()
            .collect();
        // One singular value, so the iteration is that of a number.
        let [a, b, c] = NEWTON_SCHULZ.map(f64::from);
        let value = (0..ROUNDS).fold(1.0f64, |x, _| a * x + b * x.powi(3) + c * x.powi(5));
        assert!((0.6..1.3).contains(&value), "{value}");
        let expected = value * 2.0f64.sqrt();
        assert!(
            (f64::from(step[0]) - expected).abs() < 1e-5 && step[1] == 0.0,
            "{step:?}, expected {expected}"
        );
        assert!(Optimizer::Muon.moves::<2>() && !Optimizer::Muon.moves::<1>());
    }
}
