use burn::tensor::{Device, Tensor, TensorData};
use lapidary_kernels::{SparseCodes, encode_threshold, encode_topk};

use crate::reference::{
    Matrix, assert_gradients, devices, floats, ints, pre_activations, random_shapes, ranked, state,
};

fn inputs(seed: u64, [n, d, latents]: [usize; 3]) -> [Matrix; 4] {
    [
        Matrix::integers(seed, n, d, 3),
        Matrix::integers(seed + 1, latents, d, 3),
        Matrix::integers(seed + 2, 1, latents, 3),
        Matrix::integers(seed + 3, 1, latents, 9),
    ]
}

fn encode([x, w_enc, b_enc, threshold]: &[Matrix; 4], device: &Device) -> SparseCodes {
    encode_threshold(
        x.on(device),
        w_enc.on(device),
        b_enc.vector_on(device),
        threshold.vector_on(device),
    )
}

/// The latents that are active in each row, best first.
fn expected([x, w_enc, b_enc, threshold]: &[Matrix; 4]) -> Vec<Vec<(i32, f64)>> {
    let of_row = |pre: &Vec<f64>| {
        let active = ranked(pre)
            .into_iter()
            .filter(|&latent| pre[latent] > threshold.at(0, latent).max(0.0));
        active.map(|latent| (latent as i32, pre[latent])).collect()
    };
    pre_activations(x, w_enc, b_enc)
        .iter()
        .map(of_row)
        .collect()
}

#[test]
fn exactly_the_latents_above_their_thresholds_are_active() {
    for device in devices() {
        for (seed, [n, d, latents, _]) in (0..).zip(random_shapes(31)) {
            let inputs = inputs(100 + 10 * seed, [n, d, latents]);
            let expected = expected(&inputs);
            let codes = encode(&inputs, &device);
            let width = expected.iter().map(Vec::len).max().unwrap_or(0).max(1);
            let what = format!("{n} x {d}, {latents} latents on {device:?}");
            assert_eq!(codes.values.dims(), [n, width], "{what}");
            let (values, indices) = (floats(codes.values), ints(codes.indices));
            for (row, expected) in expected.iter().enumerate() {
                let places = row * width..(row + 1) * width;
                let found: Vec<(i32, f64)> = indices[places.clone()]
                    .iter()
                    .copied()
                    .zip(values[places.clone()].iter().map(|v| f64::from(*v)))
                    .collect();
                let (active, rest) = found.split_at(expected.len());
                assert_eq!(active, expected, "row {row} of {what}");
                assert!(rest.iter().all(|(_, value)| *value == 0.0), "{what}");
                let mut distinct = indices[places].to_vec();
                distinct.sort_unstable();
                distinct.dedup();
                assert_eq!(distinct.len(), width, "row {row} of {what}");
                assert!(distinct.iter().all(|l| (0..latents as i32).contains(l)));
            }
        }
    }
}

#[test]
fn tiles_of_different_widths_become_one() {
    // Rows that no latent likes, then rows that many like: more rows than one tile of scores holds
    // on a GPU.
    let (n, latents) = (2100, 16_384);
    for device in devices() {
        let mut x = vec![-1.0f32; n];
        x[n - 1] = 5.0;
        x[7] = 1.0;
        let w_enc: Vec<f32> = (0..latents)
            .map(|l| if l % 100 == 3 { 1.0 } else { 0.0 })
            .collect();
        let threshold: Vec<f32> = (0..latents)
            .map(|l| if l < 8000 { 0.5 } else { 2.0 })
            .collect();
        let codes = encode_threshold(
            Tensor::from_data(TensorData::new(x, [n, 1]), &device),
            Tensor::from_data(TensorData::new(w_enc, [latents, 1]), &device),
            Tensor::zeros([latents], &device),
            Tensor::from_data(TensorData::new(threshold, [latents]), &device),
        );
        let width = codes.values.dims()[1];
        assert_eq!(width, 164, "{device:?}");
        let (values, indices) = (floats(codes.values), ints(codes.indices));
        let sum = |row: usize| values[row * width..][..width].iter().sum::<f32>();
        assert_eq!([sum(0), sum(7), sum(n - 1)], [0.0, 80.0, 5.0 * 164.0]);
        let mut of_7 = indices[7 * width..][..width].to_vec();
        assert_eq!(of_7[..3], [3, 103, 203]);
        of_7.sort_unstable();
        of_7.dedup();
        assert_eq!(of_7.len(), width, "{device:?}");
    }
}

#[test]
fn nothing_exceeds_nan_or_infinity_and_no_threshold_is_below_zero() {
    for device in devices() {
        let pre = [1.0, 1.0, 1.0, -1.0, f32::NAN, 0.0, f32::INFINITY, -0.0];
        let threshold = [
            f32::NAN,
            f32::INFINITY,
            -5.0,
            -5.0,
            0.0,
            0.0,
            1.0,
            f32::NEG_INFINITY,
        ];
        let codes = encode_threshold(
            Tensor::zeros([1, 2], &device),
            Tensor::zeros([8, 2], &device),
            Tensor::from_floats(pre, &device),
            Tensor::from_floats(threshold, &device),
        );
        assert_eq!(ints(codes.indices), [6, 2], "{device:?}");
        assert_eq!(floats(codes.values), [f32::INFINITY, 1.0]);
    }
}

#[test]
fn no_rows_and_no_active_latents_are_codes_too() {
    for device in devices() {
        let none = encode(&inputs(1, [0, 3, 6]), &device);
        assert_eq!(none.values.dims(), [0, 1]);
        let zeros = encode_threshold(
            Tensor::ones([3, 2], &device),
            Tensor::ones([5, 2], &device),
            Tensor::zeros([5], &device),
            Tensor::full([5], 2.0, &device),
        );
        assert_eq!(floats(zeros.values), [0.0; 3]);
        assert_eq!(zeros.indices.dims(), [3, 1]);
    }
}

#[test]
fn active_values_are_those_of_topk_to_the_bit() {
    for device in devices() {
        let (x, w_enc) = (Matrix::uniform(40, 90, 70), Matrix::uniform(41, 500, 70));
        let b_enc = Matrix::uniform(42, 1, 500);
        let [x, w_enc] = [x, w_enc].map(|m| m.on(&device));
        let b_enc = b_enc.vector_on(&device);
        let all = encode_topk(x.clone(), w_enc.clone(), b_enc.clone(), 500, state());
        let threshold = Tensor::full([500], 2.5, &device);
        let codes = encode_threshold(x, w_enc, b_enc, threshold);
        let width = codes.values.dims()[1];
        let (all_values, all_indices) = (floats(all.values), ints(all.indices));
        let (values, indices) = (floats(codes.values), ints(codes.indices));
        for row in 0..90 {
            let active = all_values[row * 500..].iter().take_while(|v| **v > 2.5);
            let active = active.count();
            assert!(active > 0);
            assert_eq!(
                values[row * width..][..active],
                all_values[row * 500..][..active]
            );
            assert_eq!(
                indices[row * width..][..active],
                all_indices[row * 500..][..active]
            );
        }
    }
}

#[test]
fn gradients_match_finite_differences() {
    let (n, d, latents) = (3, 4, 12);
    let tracked = Device::flex().autodiff();
    let at = [
        Matrix::uniform(50, n, d),
        Matrix::uniform(51, latents, d),
        Matrix::uniform(52, 1, latents),
        Matrix::integers(53, 1, latents, 0),
    ];
    let loss = |inputs: &[Matrix; 4]| -> f64 {
        let active = expected(inputs);
        active
            .iter()
            .flatten()
            .map(|(_, value)| value.powi(3))
            .sum()
    };
    let tx = at[0].on(&tracked).require_grad();
    let tw = at[1].on(&tracked).require_grad();
    let tb = at[2].vector_on(&tracked).require_grad();
    let threshold = at[3].vector_on(&tracked);
    let codes = encode_threshold(tx.clone(), tw.clone(), tb.clone(), threshold);
    let grads = codes.values.powi_scalar(3).sum().backward();
    let found = [
        floats(tx.grad(&grads).unwrap()),
        floats(tw.grad(&grads).unwrap()),
        floats(tb.grad(&grads).unwrap()),
    ];
    assert_gradients(&found, &at, loss);
}
