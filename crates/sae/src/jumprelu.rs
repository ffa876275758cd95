//! JumpReLU at inference: a latent is active, with its pre-activation as value, where that is above its threshold
//! (Rajamanoharan et al. 2024, arXiv 2407.14435). Standard coders are the case of threshold 0.

use burn::tensor::{Int, Tensor, TensorData};
use lapidary_kernels::{SparseCodes, encode_topk};

use crate::coder::SparseCoder;

/// Exactly the active latents of `x` `[n, d_in]`, centred, descending by value.
///
/// The number of active latents differs from row to row, so this takes the top k with k doubling until the last
/// place of every row is inactive.
pub(crate) fn encode(coder: &SparseCoder, x: Tensor<2>) -> SparseCodes {
    let thresholds: Option<Vec<f32>> = coder
        .threshold
        .as_ref()
        .map(|t| t.try_to_vec_as().expect("a device returns what it holds"));
    let least = thresholds
        .as_ref()
        .map_or(0.0, |t| t.iter().copied().fold(f32::INFINITY, f32::min))
        .max(0.0);
    let d_sae = coder.d_sae();
    let n = x.dims()[0];
    let mut k = coder.k.clamp(1, d_sae);
    let codes = loop {
        let codes = encode_topk(x.clone(), coder.w_enc.clone(), coder.b_enc.clone(), k);
        if n == 0 || k == d_sae {
            break codes;
        }
        let last: f32 = codes
            .values
            .clone()
            .slice([0..n, k - 1..k])
            .max()
            .into_scalar();
        if last <= least {
            break codes;
        }
        k = (2 * k).min(d_sae);
    };
    match thresholds {
        Some(t) if t.iter().any(|v| *v != least) => own_thresholds(codes, &t),
        _ if n == 0 => codes,
        _ => {
            let inactive = codes.values.clone().lower_equal_elem(least);
            let fullest: i32 = inactive
                .clone()
                .bool_not()
                .int()
                .sum_dim(1)
                .max()
                .into_scalar();
            let width = usize::try_from(fullest).map_or(1, |w| w.clamp(1, k));
            SparseCodes {
                values: codes
                    .values
                    .mask_fill(inactive, 0.0)
                    .slice([0..n, 0..width]),
                indices: codes.indices.slice([0..n, 0..width]),
            }
        }
    }
}

/// Keeps what is above its own latent's threshold, moved to the front of its row.
fn own_thresholds(codes: SparseCodes, thresholds: &[f32]) -> SparseCodes {
    let device = codes.values.device();
    let [n, k] = codes.values.dims();
    let held = "a device returns what it holds";
    let values: Vec<f32> = codes.values.try_into_vec_as().expect(held);
    let indices: Vec<i32> = codes.indices.try_into_vec_as().expect(held);
    let mut kept_values = vec![0.0f32; n * k];
    let mut kept_indices = vec![0i32; n * k];
    for row in 0..n {
        let places = row * k..(row + 1) * k;
        let (active, rest): (Vec<usize>, Vec<usize>) = places
            .clone()
            .partition(|&p| values[p] > thresholds[indices[p] as usize].max(0.0));
        for (to, &from) in places.clone().zip(active.iter().chain(&rest)) {
            kept_indices[to] = indices[from];
        }
        for (to, &from) in places.zip(&active) {
            kept_values[to] = values[from];
        }
    }
    SparseCodes {
        values: Tensor::from_data(TensorData::new(kept_values, [n, k]), &device),
        indices: Tensor::<2, Int>::from_data(TensorData::new(kept_indices, [n, k]), &device),
    }
}
