//! How much of a representation each of several known features takes (Lampinen, Chan, Hermann 2024,
//! "Learned feature representations are biased by complexity, learning order, position, and more"):
//! the share of its variance that the feature alone explains.

use super::rows::Rows;
use crate::error::EvaluationError;

/// Of each feature R² = 1 - E|W f - φ|² / E|φ|², φ the representation less its mean and f the
/// feature less its own; W by least squares on the training rows, R² on the others. Of independent
/// features the shares add up.
///
/// `features` is one list a feature, with a value for each row; the first `train` rows of
/// `representation` are for training.
///
/// # Errors
/// There are not as many values as rows, too few rows on either side, or a feature that is the same
/// in all training rows.
pub fn feature_shares(
    features: &[Vec<f64>],
    representation: &Rows,
    train: usize,
) -> Result<Vec<f64>, EvaluationError> {
    let n = representation.len();
    if train < 2 || train >= n {
        return Err(EvaluationError::input(
            "rows to train on",
            train,
            format!("2 to {}", n.saturating_sub(1)),
        ));
    }
    if let Some(values) = features.iter().find(|f| f.len() != n) {
        return Err(EvaluationError::input(
            "values of a feature",
            values.len(),
            format!("{n}, one per row"),
        ));
    }
    let mean = weighted_sum(representation, train, |_| 1.0 / train as f64);
    features
        .iter()
        .map(|f| share(f, representation, train, &mean))
        .collect()
}

/// Sum of the first `train` rows, each times its factor.
fn weighted_sum(rows: &Rows, train: usize, factor: impl Fn(usize) -> f64) -> Vec<f64> {
    let mut sum = vec![0.0; rows.columns()];
    for i in 0..train {
        let factor = factor(i);
        for (j, v) in rows.row(i) {
            sum[*j as usize] += factor * f64::from(*v);
        }
    }
    sum
}

fn share(f: &[f64], rows: &Rows, train: usize, mean: &[f64]) -> Result<f64, EvaluationError> {
    let average = f[..train].iter().sum::<f64>() / train as f64;
    let power: f64 = f[..train].iter().map(|v| (v - average).powi(2)).sum();
    if power <= 1e-12 {
        return Err(EvaluationError::input(
            "values of a feature in the training rows",
            format!("{average} alone"),
            "different ones",
        ));
    }
    let w = weighted_sum(rows, train, |i| (f[i] - average) / power);
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let (mean_mean, mean_w, w_w) = (dot(mean, mean), dot(mean, &w), dot(&w, &w));
    let (mut error, mut whole) = (0.0, 0.0);
    for (i, value) in f.iter().enumerate().skip(train) {
        let g = value - average;
        let square: f64 = rows.row(i).iter().map(|(_, v)| f64::from(*v).powi(2)).sum();
        let (on_mean, on_w) = (rows.dot(i, mean), rows.dot(i, &w));
        let centred = square - 2.0 * on_mean + mean_mean;
        whole += centred;
        // |φ - g W|² with φ less its mean.
        error += centred - 2.0 * g * (on_w - mean_w) + g * g * w_w;
    }
    Ok(1.0 - error / whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numbers::numbers;

    /// A linear code with gains 3, 2 and 1 of independent bits: shares 9/14, 4/14 and 1/14.
    #[test]
    fn shares_of_a_linear_code_are_its_squared_gains() {
        let (n, d) = (40_000, 6);
        let bits: Vec<Vec<f64>> = (0..3)
            .map(|f| {
                numbers(n, 70 + f)
                    .iter()
                    .map(|v| if *v > 0.0 { 1.0 } else { 0.0 })
                    .collect()
            })
            .collect();
        let gains = [3.0, 2.0, 1.0];
        // The features' directions are the axes 0, 2 and 5; there is a mean too.
        let mut values = [4.0f32, -1.0, 0.0, 2.0, 0.0, 0.0].repeat(n);
        for (f, at) in [0, 2, 5].into_iter().enumerate() {
            for (row, bit) in values.chunks_exact_mut(d).zip(&bits[f]) {
                row[at] += (gains[f] * bit) as f32;
            }
        }
        let rows = Rows::dense(&values, d);
        let shares = feature_shares(&bits, &rows, n / 2).unwrap();
        for (share, gain) in shares.iter().zip(gains) {
            assert!((share - gain * gain / 14.0).abs() < 0.01, "{shares:?}");
        }
        assert!((shares.iter().sum::<f64>() - 1.0).abs() < 0.02);
        assert!(feature_shares(&[vec![1.0; n]], &rows, n / 2).is_err());
        assert!(feature_shares(&[vec![1.0; 3]], &rows, n / 2).is_err());
    }
}
