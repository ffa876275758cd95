use burn::tensor::{Device, Tensor};
use lapidary_kernels::{BatchTopK, encode_batch_topk};

use crate::reference::{Matrix, assert_close, devices, floats, ints, pre_activations, state};

/// The kept values as a dense `[n, F]` matrix, and the smallest.
fn expected(pre: &[Vec<f64>], k: usize) -> (Vec<f64>, f64) {
    let latents = pre[0].len();
    let flat: Vec<f64> = pre.concat();
    let mut order: Vec<usize> = (0..flat.len()).filter(|&at| flat[at] > 0.0).collect();
    order.sort_by(|&a, &b| flat[b].total_cmp(&flat[a]).then(a.cmp(&b)));
    order.truncate(pre.len() * k);
    let mut dense = vec![0.0; pre.len() * latents];
    for &at in &order {
        dense[at] = flat[at];
    }
    (dense, order.last().map_or(0.0, |&at| flat[at]))
}

/// Codes as a dense matrix; each index may occur once a row.
fn dense(codes: &BatchTopK, latents: usize) -> Vec<f32> {
    let [n, width] = codes.codes.values.dims();
    let (values, indices) = (
        floats(codes.codes.values.clone()),
        ints(codes.codes.indices.clone()),
    );
    let mut dense = vec![f32::NAN; n * latents];
    for (at, (&value, &latent)) in values.iter().zip(&indices).enumerate() {
        let slot = &mut dense[at / width * latents + latent as usize];
        assert!(slot.is_nan(), "latent {latent} occurs twice in a row");
        *slot = value;
    }
    dense
        .iter()
        .map(|&value| if value.is_nan() { 0.0 } else { value })
        .collect()
}

#[test]
fn the_batch_keeps_its_largest_positive_values_ties_included() {
    for device in devices() {
        for [n, d, latents, k] in [
            [1, 2, 3, 1],
            [9, 4, 60, 3],
            [40, 3, 200, 2],
            [6, 2, 5, 5],
            [20, 5, 1300, 30],
        ] {
            let x = Matrix::integers(1, n, d, 4);
            let (w_enc, b_enc) = (
                Matrix::integers(2, latents, d, 3),
                Matrix::integers(3, 1, latents, 2),
            );
            let (kept, threshold) = expected(&pre_activations(&x, &w_enc, &b_enc), k);
            let found = encode_batch_topk(
                x.on(&device),
                w_enc.on(&device),
                b_enc.vector_on(&device),
                k,
                state(),
            );
            assert_close(&dense(&found, latents), &kept, 0.0);
            assert_eq!(f64::from(found.threshold), threshold);
            let [_, width] = found.codes.values.dims();
            for row in floats(found.codes.values).chunks_exact(width) {
                assert!(row.is_sorted_by(|a, b| a >= b));
            }
        }
    }
}

#[test]
fn one_loud_row_may_take_the_whole_batch() {
    // Row 2 outshouts the others, with far more latents than a row's first candidates.
    for device in devices() {
        let (n, latents, k) = (16, 900, 50);
        let mut x = Matrix::integers(4, n, 1, 0);
        x.numbers[2] = 1.0;
        let mut w_enc = Matrix::integers(5, latents, 1, 0);
        for (latent, w) in w_enc.numbers.iter_mut().enumerate() {
            *w = 1.0 + latent as f32;
        }
        let b_enc = Matrix::integers(6, 1, latents, 0);
        let found = encode_batch_topk(
            x.on(&device),
            w_enc.on(&device),
            b_enc.vector_on(&device),
            k,
            state(),
        );
        assert_eq!(found.codes.values.dims(), [n, n * k]);
        assert_eq!(found.threshold, (latents - n * k + 1) as f32);
        let values = floats(found.codes.values.clone());
        assert!(
            values[2 * n * k..][..n * k]
                .iter()
                .all(|&value| value > 0.0)
        );
        let (kept, _) = expected(&pre_activations(&x, &w_enc, &b_enc), k);
        assert_close(&dense(&found, latents), &kept, 0.0);
    }
}

#[test]
fn a_batch_with_nothing_positive_keeps_nothing() {
    for device in devices() {
        for n in [0, 3] {
            let found = encode_batch_topk(
                Tensor::ones([n, 2], &device),
                Tensor::ones([5, 2], &device) * -1.0,
                Tensor::zeros([5], &device),
                2,
                state(),
            );
            assert_eq!(found.codes.values.dims(), [n, 1]);
            assert_eq!(found.threshold, 0.0);
            assert!(floats(found.codes.values).iter().all(|&value| value == 0.0));
        }
    }
}

#[test]
fn gradients_flow_through_the_kept_values_only() {
    for device in devices() {
        let (n, d, latents, k) = (11, 4, 70, 3);
        let x = Matrix::integers(7, n, d, 3);
        let (w_enc, b_enc) = (
            Matrix::integers(8, latents, d, 3),
            Matrix::integers(9, 1, latents, 3),
        );
        let tracked = device.clone().autodiff();
        let tx = x.on(&tracked).require_grad();
        let tw = w_enc.on(&tracked).require_grad();
        let tb = b_enc.vector_on(&tracked).require_grad();
        let found = encode_batch_topk(tx.clone(), tw.clone(), tb.clone(), k, state());
        let grads = (found.codes.values * 2.0).sum().backward();

        let (kept, _) = expected(&pre_activations(&x, &w_enc, &b_enc), k);
        let mut dx = vec![0.0; n * d];
        let mut dw = vec![0.0; latents * d];
        let mut db = vec![0.0; latents];
        for row in 0..n {
            for latent in (0..latents).filter(|latent| kept[row * latents + latent] > 0.0) {
                db[latent] += 2.0;
                for column in 0..d {
                    dx[row * d + column] += 2.0 * w_enc.at(latent, column);
                    dw[latent * d + column] += 2.0 * x.at(row, column);
                }
            }
        }
        assert_close(&floats(tx.grad(&grads).unwrap()), &dx, 0.0);
        assert_close(&floats(tw.grad(&grads).unwrap()), &dw, 0.0);
        assert_close(&floats(tb.grad(&grads).unwrap()), &db, 0.0);
    }
}

#[test]
fn two_runs_give_the_same_bits() {
    for device in devices() {
        let run = |device: &Device| {
            let found = encode_batch_topk(
                Matrix::uniform(10, 50, 16).on(device),
                Matrix::uniform(11, 400, 16).on(device),
                Matrix::uniform(12, 1, 400).vector_on(device),
                6,
                state(),
            );
            let bits: Vec<u32> = floats(found.codes.values)
                .into_iter()
                .map(f32::to_bits)
                .collect();
            (bits, ints(found.codes.indices), found.threshold.to_bits())
        };
        assert!(
            run(&device) == run(&device),
            "two runs differ on {device:?}"
        );
    }
}
