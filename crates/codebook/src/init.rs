//! Where codes start: normal numbers, activations, or the centres of their clusters (Lloyd 1982).

use crate::{Assignment, CodebookError, nearest_codes};
use burn::tensor::{Device, Tensor, TensorData};
use lapidary_kernels::EncoderState;
use rand::Rng;
use rand::seq::index::sample;
use rand_chacha::ChaCha8Rng;

/// Rows that are assigned at a time.
const ROWS_AT_ONCE: usize = 4096;

/// A draw from the standard normal distribution (Box & Muller 1958).
pub(crate) fn normal(rng: &mut ChaCha8Rng) -> f32 {
    let (u, v): (f64, f64) = (rng.random(), rng.random());
    ((-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
}

/// Codes with standard normal entries, `[n_codes, d]`.
pub fn normal_codes(n_codes: usize, d: usize, rng: &mut ChaCha8Rng, device: &Device) -> Tensor<2> {
    let values: Vec<f32> = (0..n_codes * d).map(|_| normal(rng)).collect();
    Tensor::from_data(TensorData::new(values, [n_codes, d]), device)
}

/// Codes that are rows of `data` `[n, d]`, no row twice.
///
/// # Errors
/// When there are fewer rows than codes.
pub fn rows_as_codes(
    data: &Tensor<2>,
    n_codes: usize,
    rng: &mut ChaCha8Rng,
) -> Result<Tensor<2>, CodebookError> {
    let [n, d] = data.dims();
    check_rows(n, n_codes)?;
    let rows = host(data);
    let mut chosen = Vec::with_capacity(n_codes * d);
    for row in sample(rng, n, n_codes) {
        chosen.extend_from_slice(&rows[row * d..][..d]);
    }
    let chosen = TensorData::new(chosen, [n_codes, d]);
    Ok(Tensor::from_data(chosen, &data.device()))
}

/// Centres of clusters of `data` `[n, d]`: `rounds` rounds of Lloyd's algorithm from random rows.
/// A cluster that gets no row starts again at the row that is farthest from its centre.
///
/// # Errors
/// When there are fewer rows than codes.
pub fn k_means(
    data: &Tensor<2>,
    n_codes: usize,
    rounds: usize,
    rng: &mut ChaCha8Rng,
) -> Result<Tensor<2>, CodebookError> {
    let [n, d] = data.dims();
    let mut centres = rows_as_codes(data, n_codes, rng)?;
    let rows = host(data);
    let state = EncoderState::default();
    for _ in 0..rounds {
        let mut sums = vec![0.0f64; n_codes * d];
        let mut counts = vec![0u64; n_codes];
        let mut far: Vec<(f64, usize)> = Vec::with_capacity(n);
        for start in (0..n).step_by(ROWS_AT_ONCE) {
            let some = data.clone().narrow(0, start, ROWS_AT_ONCE.min(n - start));
            let near = nearest_codes(some, centres.clone(), 1, Assignment::Euclidean, &state);
            let (codes, scores) = (near.indices.into_data(), near.values.into_data());
            let pairs = codes.iter::<i64>().zip(scores.iter::<f32>());
            for (i, (code, score)) in pairs.enumerate() {
                let row = &rows[(start + i) * d..][..d];
                let code = code as usize;
                counts[code] += 1;
                let sum = &mut sums[code * d..][..d];
                sum.iter_mut()
                    .zip(row)
                    .for_each(|(s, v)| *s += f64::from(*v));
                let square: f64 = row.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
                far.push((square - 2.0 * f64::from(score), start + i));
            }
        }
        far.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let mut far = far.into_iter();
        let mut next = Vec::with_capacity(n_codes * d);
        for code in 0..n_codes {
            match counts[code] {
                0 => {
                    let (_, row) = far.next().unwrap_or((0.0, 0));
                    next.extend_from_slice(&rows[row * d..][..d]);
                }
                count => {
                    let sum = &sums[code * d..][..d];
                    next.extend(sum.iter().map(|s| (s / count as f64) as f32));
                }
            }
        }
        centres = Tensor::from_data(TensorData::new(next, [n_codes, d]), &data.device());
    }
    Ok(centres)
}

fn check_rows(rows: usize, n_codes: usize) -> Result<(), CodebookError> {
    match rows < n_codes {
        false => Ok(()),
        true => Err(CodebookError::value(
            "n_codes",
            n_codes,
            format!("at most {rows}, the number of activations that codes are made from"),
        )),
    }
}

pub(crate) fn host(data: &Tensor<2>) -> Vec<f32> {
    data.to_data().iter::<f32>().collect()
}
