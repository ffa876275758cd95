//! What a changed activation does to the model's next-token distributions: cross-entropy and KL
//! divergence.

use burn::tensor::{Int, Tensor, activation::log_softmax};
use lapidary_coder::host;

use crate::error::EvaluationError;

/// Running sums over what the model predicts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Predictions {
    pub(crate) cross_entropy: [f64; 3],
    pub(crate) cross_entropy_tokens: u64,
    pub(crate) divergence: [f64; 2],
    pub(crate) divergence_tokens: u64,
}

pub(crate) fn log_probabilities(logits: Option<Tensor<3>>) -> Result<Tensor<3>, EvaluationError> {
    let logits = logits
        .ok_or_else(|| EvaluationError::input("logits", "nothing", "what the model predicts"))?;
    Ok(log_softmax(logits, 2))
}

/// Sum over counted positions, the last of each block excepted, of -log p(next token).
pub(crate) fn cross_entropy(
    log_p: &Tensor<3>,
    tokens: &Tensor<2, Int>,
    counts: &[bool],
) -> Result<f64, EvaluationError> {
    let [b, t, v] = log_p.dims();
    if t < 2 {
        return Ok(0.0);
    }
    let next = tokens.clone().slice([0..b, 1..t]).reshape([b, t - 1, 1]);
    let picked = log_p.clone().slice([0..b, 0..t - 1, 0..v]).gather(2, next); // [b, t - 1, 1]
    let picked = host(&picked)?;
    Ok(picked
        .chunks_exact(t - 1)
        .zip(counts.chunks_exact(t))
        .flat_map(|(values, counts)| values.iter().zip(counts))
        .filter(|(_, c)| **c)
        .map(|(v, _)| -f64::from(*v))
        .sum())
}

/// Sum over counted positions of KL(p ‖ q).
pub(crate) fn divergence(
    log_p: &Tensor<3>,
    log_q: Tensor<3>,
    counts: &[bool],
) -> Result<f64, EvaluationError> {
    let each = (log_p.clone().exp() * (log_p.clone() - log_q)).sum_dim(2); // [b, t, 1]
    Ok(host(&each)?
        .iter()
        .zip(counts)
        .filter(|(_, c)| **c)
        .map(|(v, _)| f64::from(*v))
        .sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numbers::numbers;
    use burn::tensor::TensorData;

    #[test]
    fn cross_entropy_and_divergence_equal_sums_over_the_vocabulary() {
        let device = burn::tensor::Device::flex();
        let (b, t, v) = (2, 3, 4);
        let logits = |seed| numbers(b * t * v, seed);
        let tensor = |l: &[f32]| {
            log_softmax(
                Tensor::<3>::from_data(TensorData::new(l.to_vec(), [b, t, v]), &device),
                2,
            )
        };
        let tokens = [[1i32, 3, 0], [2, 2, 1]];
        let counts = [true, true, true, false, true, true];
        let (l, q) = (logits(1), logits(2));
        let log_p = |l: &[f32], at: usize| -> Vec<f64> {
            let row: Vec<f64> = l[at * v..(at + 1) * v]
                .iter()
                .map(|x| f64::from(*x))
                .collect();
            let z = row.iter().map(|x| x.exp()).sum::<f64>().ln();
            row.iter().map(|x| x - z).collect()
        };
        let ints = Tensor::<2, Int>::from_ints(tokens, &device);
        let found = cross_entropy(&tensor(&l), &ints, &counts).unwrap();
        // Positions (0,0) -> 3, (0,1) -> 0, (1,1) -> 1; (1,0) is special, the last of each block
        // predicts nothing.
        let expected = -log_p(&l, 0)[3] - log_p(&l, 1)[0] - log_p(&l, 4)[1];
        assert!((found - expected).abs() < 1e-5);
        let found = divergence(&tensor(&l), tensor(&q), &counts).unwrap();
        let expected: f64 = (0..6)
            .filter(|at| counts[*at])
            .map(|at| {
                log_p(&l, at)
                    .iter()
                    .zip(log_p(&q, at))
                    .map(|(p, q)| p.exp() * (p - q))
                    .sum::<f64>()
            })
            .sum();
        assert!((found - expected).abs() < 1e-5);
    }
}
