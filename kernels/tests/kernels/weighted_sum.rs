use burn::tensor::Tensor;
use lapidary_kernels::weighted_sum;

use crate::reference::{Matrix, assert_close, devices, floats};

#[test]
fn sums_are_those_of_the_definition() {
    for device in devices() {
        for [count, d] in [
            [1, 1],
            [3, 5],
            [64, 7],
            [65, 256],
            [130, 257],
            [5000, 33],
            [9000, 3],
        ] {
            let weights = Matrix::uniform(1, 1, count);
            let rows = Matrix::uniform(2, count, d);
            let expected: Vec<f64> = (0..d)
                .map(|j| (0..count).map(|f| weights.at(0, f) * rows.at(f, j)).sum())
                .collect();
            let found = weighted_sum(weights.vector_on(&device), rows.on(&device));
            assert_eq!(found.dims(), [d]);
            assert_close(&floats(found), &expected, 1e-5);
        }
    }
}

#[test]
fn no_rows_sum_to_zeros() {
    for device in devices() {
        let found = weighted_sum(Tensor::zeros([0], &device), Tensor::zeros([0, 3], &device));
        assert_eq!(floats(found), [0.0; 3]);
    }
}

#[test]
#[should_panic(expected = "2 weights were given for 3 rows")]
fn weights_that_do_not_match_are_refused() {
    let device = burn::tensor::Device::flex();
    weighted_sum(Tensor::zeros([2], &device), Tensor::zeros([3, 4], &device));
}
