//! Codes start at activations or at the centres of their clusters.

use burn::tensor::{Device, Tensor, TensorData};
use lapidary_codebook::{k_means, rows_as_codes};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn host(data: &Tensor<2>) -> Vec<f32> {
    data.to_data().try_to_vec().unwrap()
}

/// A normal number.
fn one(rng: &mut ChaCha8Rng) -> f32 {
    (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0
}

/// Rows around a few centres.
fn clusters(centres: usize, each: usize, d: usize) -> (Vec<f32>, Tensor<2>) {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let middle: Vec<f32> = (0..centres * d).map(|_| 10.0 * one(&mut rng)).collect();
    let mut rows = vec![];
    for _ in 0..each {
        for centre in middle.chunks(d) {
            rows.extend(centre.iter().map(|c| c + 0.1 * one(&mut rng)));
        }
    }
    let data = TensorData::new(rows, [centres * each, d]);
    (middle, Tensor::from_data(data, &Device::flex()))
}

#[test]
fn each_code_of_k_means_is_the_mean_of_the_rows_that_are_nearest_to_it() {
    let (d, n_codes) = (5, 6);
    let (_, data) = clusters(6, 40, d);
    let found = k_means(&data, n_codes, 30, &mut ChaCha8Rng::seed_from_u64(0)).unwrap();
    let (codes, rows) = (host(&found), host(&data));
    let distance = |a: &[f32], b: &[f32]| -> f64 {
        let parts = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2));
        parts.sum()
    };
    let mut sums = vec![vec![0.0f64; d]; n_codes];
    let mut counts = vec![0.0f64; n_codes];
    for row in rows.chunks(d) {
        let near = |code: &usize| distance(row, &codes[code * d..][..d]);
        let code = (0..n_codes).min_by(|a, b| near(a).total_cmp(&near(b)));
        let code = code.unwrap();
        counts[code] += 1.0;
        let pairs = sums[code].iter_mut().zip(row);
        pairs.for_each(|(s, v)| *s += f64::from(*v));
    }
    for (code, found) in codes.chunks(d).enumerate() {
        assert!(counts[code] > 0.0, "code {code}");
        for (sum, value) in sums[code].iter().zip(found) {
            let far = (sum / counts[code] - f64::from(*value)).abs();
            assert!(far < 1e-4, "code {code}: {far}");
        }
    }
}

#[test]
fn more_codes_than_activations_are_refused() {
    let (_, data) = clusters(2, 2, 3);
    let error = rows_as_codes(&data, 5, &mut ChaCha8Rng::seed_from_u64(0));
    let error = error.unwrap_err().to_string();
    assert!(error.contains("found 5, expected at most 4"), "{error}");
}
