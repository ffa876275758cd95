//! Decoder rows of norm 1: the gradient loses its part along each row, and after Adam's step the
//! rows are scaled back (Bricken et al. 2023). On the CPU each is one parallel pass in place,
//! because the decoder is large and a chain of tensor operations would go over it seven times.

use burn::tensor::{Device, Tensor};
use rayon::prelude::*;

/// Rows that one task takes at least.
const ROWS: usize = 16;
/// Partial sums of a dot product: fixed, so that the result does not depend on the machine's
/// vectors.
const LANES: usize = 16;

/// `grad` without its component along each of `rows` (norm 1), and `rows` back. A step along a row
/// would be undone by scaling back, and would mislead Adam's moments.
pub(crate) fn remove_parallel(grad: Tensor<2>, rows: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
    if rows.device() != Device::flex() {
        let along = (grad.clone() * rows.clone()).sum_dim(1); // [d_sae, 1]
        return (grad - rows.clone() * along, rows);
    }
    let width = rows.dims()[1];
    let (mut grad, rows) = (grad.into_data(), rows.into_data());
    let row_values = rows.as_slice::<f32>().expect("weights are f32");
    grad.as_mut_slice::<f32>()
        .expect("gradients are f32")
        .par_chunks_exact_mut(width)
        .zip(row_values.par_chunks_exact(width))
        .with_min_len(ROWS)
        .for_each(|(grad, row)| {
            let along = dot(grad, row);
            for (g, r) in grad.iter_mut().zip(row) {
                *g -= along * r;
            }
        });
    let device = Device::flex();
    (
        Tensor::from_data(grad, &device),
        Tensor::from_data(rows, &device),
    )
}

/// `rows`, each of norm 1; a row of zeros stays.
pub(crate) fn unit_rows(rows: Tensor<2>) -> Tensor<2> {
    if rows.device() != Device::flex() {
        let norms = rows.clone().square().sum_dim(1).sqrt().clamp_min(1e-12); // [d_sae, 1]
        return rows / norms;
    }
    let width = rows.dims()[1];
    let mut rows = rows.into_data();
    rows.as_mut_slice::<f32>()
        .expect("weights are f32")
        .par_chunks_exact_mut(width)
        .with_min_len(ROWS)
        .for_each(|row| {
            let factor = 1.0 / dot(row, row).sqrt().max(1e-12);
            row.iter_mut().for_each(|v| *v *= factor);
        });
    Tensor::from_data(rows, &Device::flex())
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for ((s, a), b) in sums.iter_mut().zip(a).zip(b) {
            *s += a * b;
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::TensorData;

    #[test]
    fn what_is_left_of_the_gradient_is_orthogonal_and_rows_have_norm_1() {
        let (f, d) = (37, 19);
        let numbers = |seed: usize| -> Vec<f32> {
            (0..f * d)
                .map(|i| ((i * 7919 + seed) % 101) as f32 / 50.0 - 1.0)
                .collect()
        };
        let tensor =
            |v: Vec<f32>| Tensor::<2>::from_data(TensorData::new(v, [f, d]), &Device::flex());
        let rows = unit_rows(tensor(numbers(3)));
        let unit: Vec<f32> = rows.try_to_vec_as().unwrap();
        let start = numbers(8);
        let (left, same) = remove_parallel(tensor(start.clone()), rows);
        let left: Vec<f32> = left.try_into_vec_as().unwrap();
        assert_eq!(same.try_into_vec_as::<f32>().unwrap(), unit);
        for i in 0..f {
            let r = i * d..(i + 1) * d;
            let product = |a: &[f32], b: &[f32]| {
                a.iter()
                    .zip(b)
                    .map(|(a, b)| f64::from(*a) * f64::from(*b))
                    .sum::<f64>()
            };
            let (row, before, after) = (&unit[r.clone()], &start[r.clone()], &left[r]);
            assert!((product(row, row) - 1.0).abs() < 1e-6);
            assert!(product(after, row).abs() < 1e-6);
            // Pythagoras: only the parallel part is gone.
            let parallel = product(before, row).powi(2);
            assert!((product(before, before) - parallel - product(after, after)).abs() < 1e-5);
        }
    }
}
