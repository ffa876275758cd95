//! Share of a representation's variance that each known feature of the input accounts for
//! (Lampinen et al. 2024).
//!
//! Feature f, centred, predicts the centred representation φ by one least-squares direction
//! w = Σ f φ / Σ f². Its share is R² = 1 − Σ‖w f − φ‖² / Σ‖φ‖², on samples that the fit has not
//! seen. For independent features the shares add.

use rayon::prelude::*;

use super::{matrix_rows, unfit};
use crate::FeaturesError;

/// Shares of variance of a representation.
#[derive(Debug, Clone, PartialEq)]
pub struct FeatureShares {
    /// Held-out R² of each feature; about 0 or slightly negative for a feature that does not
    /// matter.
    pub shares: Vec<f64>, // [features]
    /// Mean of ‖φ‖² over the held-out samples, centred by the mean of the others. Multiply by it,
    /// and divide by its final value, to follow shares through training.
    pub variance: f64,
}

/// Fits each feature alone on the samples with `held_out` false and measures its share on the
/// others.
///
/// `representation` is `[samples, d]`, `features` is `[samples, features_per_sample]`, for example
/// 0 and 1, and `held_out` is `[samples]`.
///
/// # Errors
/// If the shapes do not fit, a value is not finite, one of the two parts has fewer than two
/// samples, a feature is constant in the fitted part, or the representation is constant in the
/// held-out part.
pub fn feature_shares(
    representation: &[f32],
    d: usize,
    features: &[f32],
    features_per_sample: usize,
    held_out: &[bool],
) -> Result<FeatureShares, FeaturesError> {
    let samples = matrix_rows("representation", representation, d)?;
    let feature_rows = matrix_rows("features", features, features_per_sample)?;
    if feature_rows != samples || held_out.len() != samples {
        return Err(unfit(
            "features",
            format!("{feature_rows} rows and {} held_out marks", held_out.len()),
            format!("one of each per sample, that is {samples}"),
        ));
    }
    let (test, train): (Vec<usize>, Vec<usize>) = (0..samples).partition(|&row| held_out[row]);
    if test.len() < 2 || train.len() < 2 {
        return Err(unfit(
            "held_out",
            format!("{} held out, {} fitted", test.len(), train.len()),
            "at least two of each",
        ));
    }
    let at = |row: usize, j: usize| f64::from(representation[row * d + j]);
    let mean: Vec<f64> = (0..d)
        .map(|j| train.iter().map(|&row| at(row, j)).sum::<f64>() / train.len() as f64)
        .collect();
    let centred = |row: usize, j: usize| at(row, j) - mean[j];
    let total: f64 = test
        .iter()
        .map(|&row| (0..d).map(|j| centred(row, j).powi(2)).sum::<f64>())
        .sum();
    if total == 0.0 {
        return Err(unfit(
            "representation",
            "a constant in the held-out samples",
            "a representation that varies",
        ));
    }
    let shares: Result<Vec<f64>, FeaturesError> = (0..features_per_sample)
        .into_par_iter()
        .map(|feature| {
            let raw = |row: usize| f64::from(features[row * features_per_sample + feature]);
            let first = raw(train[0]);
            if train.iter().all(|&row| raw(row) == first) {
                return Err(unfit(
                    "features",
                    format!("feature {feature} constant in the fitted samples"),
                    "features that vary",
                ));
            }
            let mean = train.iter().map(|&row| raw(row)).sum::<f64>() / train.len() as f64;
            let f = |row: usize| raw(row) - mean;
            let power: f64 = train.iter().map(|&row| f(row).powi(2)).sum();
            let mut direction = vec![0.0; d];
            for &row in &train {
                for (j, w) in direction.iter_mut().enumerate() {
                    *w += f(row) * centred(row, j) / power;
                }
            }
            let error: f64 = test
                .iter()
                .map(|&row| {
                    (0..d)
                        .map(|j| (direction[j] * f(row) - centred(row, j)).powi(2))
                        .sum::<f64>()
                })
                .sum();
            Ok(1.0 - error / total)
        })
        .collect();
    Ok(FeatureShares {
        shares: shares?,
        variance: total / test.len() as f64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn a_linear_code_with_known_gains_has_shares_of_squared_gains() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let gains = [2.0f32, 1.0, 0.5, 0.0];
        let power: f32 = gains.iter().map(|a| a * a).sum();
        // Orthogonal directions in 8 dimensions, with an offset.
        let (mut phi, mut features, mut held_out) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..40_000 {
            let bits = [0; 4].map(|_| rng.random_range(0..2u8));
            let mut row = [3.0f32; 8];
            for (j, (&bit, gain)) in bits.iter().zip(gains).enumerate() {
                let sign = f32::from(bit) * 2.0 - 1.0;
                row[2 * j] += 0.6 * gain * sign;
                row[2 * j + 1] -= 0.8 * gain * sign;
                features.push(f32::from(bit));
            }
            phi.extend(row);
            held_out.push(rng.random_range(0..2) == 0);
        }
        let found = feature_shares(&phi, 8, &features, 4, &held_out).unwrap();
        for (share, gain) in found.shares.iter().zip(gains) {
            assert!(
                (share - f64::from(gain * gain / power)).abs() < 0.01,
                "{found:?}"
            );
        }
        assert!((found.shares.iter().sum::<f64>() - 1.0).abs() < 0.01);
        assert!((found.variance - f64::from(power)).abs() < 0.05);
    }

    #[test]
    fn the_direction_is_fitted_on_the_fitted_samples_only() {
        // The fitted samples give w = 1; held out, f = ∓3 has φ = ∓2: 1 − 2 / 8.
        let held_out = [false, false, true, true];
        let (phi, f) = ([-1.0, 1.0, -2.0, 2.0], [-1.0, 1.0, -3.0, 3.0]);
        let found = feature_shares(&phi, 1, &f, 1, &held_out).unwrap();
        assert_eq!((found.shares[0], found.variance), (0.75, 4.0));
    }

    #[test]
    fn unfit_input_is_refused() {
        let half = [false, false, true, true];
        let varied = [0.0, 1.0, 0.0, 1.0];
        assert!(feature_shares(&varied, 1, &varied, 1, &half).is_ok());
        assert!(feature_shares(&varied, 1, &[1.0, 1.0, 0.0, 1.0], 1, &half).is_err());
        assert!(feature_shares(&varied, 1, &varied, 1, &[false; 4]).is_err());
        assert!(feature_shares(&varied, 1, &varied, 2, &half).is_err());
        assert!(feature_shares(&varied, 3, &varied, 1, &half).is_err());
        assert!(feature_shares(&[1.0; 4], 1, &varied, 1, &half).is_err());
    }
}
