//! Latents whose decoder rows point in nearly the same direction.

use burn::tensor::Tensor;
use lapidary_kernels::{EncoderState, encode_topk};

/// Decoder rows that are compared with all others at once.
const ROWS: usize = 4096;

/// For each row of `w_dec` `[d_sae, d]` the `n` other rows with the highest cosines with it, as
/// (latent, cosine), highest first, of equal ones the lower latent first. The cosine with a row of
/// zeros is 0.
///
/// This is the TopK encoder's search, with the rows as inputs and as encoder: exact, and without
/// the matrix of all cosines.
///
/// `on_progress` is given the number of rows that are done.
pub fn nearest_latents(
    w_dec: &Tensor<2>,
    n: usize,
    on_progress: &mut dyn FnMut(usize),
) -> Vec<Vec<(u32, f32)>> {
    let [d_sae, _] = w_dec.dims();
    if d_sae < 2 || n == 0 {
        return vec![vec![]; d_sae];
    }
    // Divided by the largest magnitude first, so that no square vanishes or overflows.
    let largest = w_dec.clone().abs().max_dim(1); // [d_sae, 1]
    let rows = w_dec.clone() / largest.clamp_min(f32::MIN_POSITIVE);
    let norms = rows.clone().square().sum_dim(1).sqrt();
    let rows = rows / norms.clamp_min(f32::MIN_POSITIVE);
    let none = Tensor::<1>::zeros([d_sae], &w_dec.device());
    let state = EncoderState::default();
    let mut nearest = Vec::with_capacity(d_sae);
    for first in (0..d_sae).step_by(ROWS) {
        let some = rows.clone().narrow(0, first, ROWS.min(d_sae - first));
        // One more, since a row is mostly the nearest one of itself.
        let found = encode_topk(some, rows.clone(), none.clone(), n + 1, &state);
        let k = found.values.dims()[1];
        let cosines: Vec<f32> = found.values.into_data().iter::<f32>().collect();
        let latents: Vec<i64> = found.indices.into_data().iter::<i64>().collect();
        let of_rows = latents.chunks_exact(k).zip(cosines.chunks_exact(k));
        nearest.extend(of_rows.zip(first..).map(|((latents, cosines), own)| {
            let found = latents.iter().zip(cosines);
            let found = found.map(|(latent, cosine)| (*latent as u32, *cosine));
            let others =
                found.filter(|(latent, cosine)| *latent as usize != own && cosine.is_finite());
            others.take(n).collect()
        }));
        on_progress(nearest.len());
    }
    nearest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comparison::DecoderCosines;
    use burn::tensor::{Device, TensorData};

    fn nearest(rows: &[f32], d: usize, n: usize) -> Vec<Vec<(u32, f32)>> {
        let data = TensorData::new(rows.to_vec(), [rows.len() / d, d]);
        nearest_latents(&Tensor::from_data(data, &Device::flex()), n, &mut |_| {})
    }

    #[test]
    fn the_nearest_latents_are_those_with_the_highest_cosines() {
        let (d, latents) = (11, 40);
        let decoder: Vec<f32> = (0..latents * d)
            .map(|i| ((i * 7919 % 101) as f32 - 50.0) / 17.0)
            .collect();
        let cosines = DecoderCosines::new(&decoder, &decoder, d).unwrap();
        for (latent, found) in nearest(&decoder, d, 6).iter().enumerate() {
            let mut expected: Vec<(f64, usize)> = (0..latents)
                .filter(|other| *other != latent)
                .map(|other| (cosines.cosine(latent, other), other))
                .collect();
            expected.sort_by(|a, b| b.0.total_cmp(&a.0));
            assert_eq!(found.len(), 6);
            for ((other, cosine), expected) in found.iter().zip(expected) {
                assert_eq!(*other as usize, expected.1);
                assert!((f64::from(*cosine) - expected.0).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn equal_rows_and_rows_of_zeros_have_neighbours_other_than_themselves() {
        let found = nearest(&[0.0, 0.0, 3.0, 4.0, 6.0, 8.0, 3.0, 4.0, 30.0, 40.0], 2, 3);
        let latents = |row: usize| found[row].iter().map(|n| n.0).collect::<Vec<u32>>();
        assert_eq!(latents(0), [1, 2, 3]);
        assert_eq!(latents(1), [2, 3, 4]);
        assert_eq!(latents(4), [1, 2, 3]);
        assert!(
            found[4]
                .iter()
                .all(|(_, cosine)| (cosine - 1.0).abs() < 1e-6)
        );
        // Fewer latents than are asked for, and none.
        assert_eq!(
            nearest(&[1.0, 0.0, 0.0, 1.0], 2, 5),
            [vec![(1, 0.0)], vec![(0, 0.0)]]
        );
        assert_eq!(nearest(&[1.0, 2.0], 2, 5), [vec![]]);
    }

    #[test]
    fn rows_of_any_norm_have_cosines() {
        let wave = |at: usize| ((at * 37 % 101) as f32 - 50.0) / 7.0;
        let scales = [1.0, 1e-25, 1e30, 1e-40, 3.0];
        let rows: Vec<f32> = (0..5 * 6).map(|at| wave(at) * scales[at / 6]).collect();
        let plain: Vec<f32> = (0..5 * 6).map(wave).collect();
        let (found, expected) = (nearest(&rows, 6, 4), nearest(&plain, 6, 4));
        for (found, expected) in found.iter().zip(&expected) {
            for ((latent, cosine), (other, of_plain)) in found.iter().zip(expected) {
                assert_eq!(latent, other);
                // The row of norm 1e-40 is made of subnormal numbers.
                assert!((cosine - of_plain).abs() < 1e-3, "{cosine} {of_plain}");
            }
        }
    }
}
