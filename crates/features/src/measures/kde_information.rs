//! Bounds on the information of a layer with Gaussian noise added, by pairwise distances
//! (Kolchinsky and Tracey 2017; adaptive noise: Chelombiev, Houghton and O'Donnell 2019).
//!
//! The layer plus noise N(0, σ²) is a mixture of N Gaussians, one per sample. Its entropy minus
//! the entropy of the noise is bracketed by
//! −(1/N) Σ_i ln[(1/N) Σ_j exp(−‖t_i − t_j‖² / (c σ²))], from below with c = 8 (Bhattacharyya
//! distance) and from above with c = 2 (Kullback–Leibler divergence).

use std::f64::consts::LN_2;

use rayon::prelude::*;

use super::plug_in::Classes;
use super::{check_labels, matrix_rows, unfit};
use crate::FeaturesError;

/// Information by one of the two pairwise estimators, in bits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KdeEstimate {
    /// I(X;T), between 0 and log2(samples).
    pub information_xt: f64,
    /// I(T;Y) with this estimator for H(T) and for H(T|Y): the usual estimate, not a bound.
    pub information_ty: f64,
}

/// Information of a noisy layer, in bits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KdeInformation {
    /// Bhattacharyya estimator: a lower bound of I(X;T).
    pub lower: KdeEstimate,
    /// Kullback–Leibler estimator: an upper bound of I(X;T).
    pub upper: KdeEstimate,
    /// Lower bound of I(T;Y): lower bound of H(T), upper bound of H(T|Y); at least 0.
    pub information_ty_at_least: f64,
    /// Upper bound of I(T;Y): upper bound of H(T), lower bound of H(T|Y); at most H(Y).
    pub information_ty_at_most: f64,
    /// The variance of the noise.
    pub noise_variance: f64,
}

/// The noise variance (`relative_std` · max|value|)².
///
/// Information that is estimated with it does not depend on the scale of a layer's activations.
///
/// # Errors
/// If a value is not finite, all values are 0, or `relative_std` is not positive.
pub fn adaptive_noise_variance(values: &[f32], relative_std: f64) -> Result<f64, FeaturesError> {
    matrix_rows("values", values, 1)?;
    let max = values.iter().fold(0f32, |max, value| max.max(value.abs()));
    if max == 0.0 {
        return Err(unfit("values", "no value but 0", "an active unit"));
    }
    if !(relative_std > 0.0 && relative_std.is_finite()) {
        return Err(unfit("relative_std", relative_std, "a positive number"));
    }
    Ok((relative_std * f64::from(max)).powi(2))
}

/// Bounds of I(X;T) and I(T;Y) for a layer `values` `[samples, units]` with labels `[samples]`.
///
/// Time is O(samples² · units), memory O(samples).
///
/// # Errors
/// If the shapes do not fit, a value is not finite, there is no sample, or the variance is not
/// positive.
pub fn kde_information(
    values: &[f32],
    units: usize,
    labels: &[u32],
    noise_variance: f64,
) -> Result<KdeInformation, FeaturesError> {
    let samples = matrix_rows("values", values, units)?;
    check_labels(labels, samples)?;
    if !(noise_variance > 0.0 && noise_variance.is_finite()) {
        return Err(unfit("noise_variance", noise_variance, "a positive number"));
    }
    let classes = Classes::new(labels);
    let n = samples as f64;
    let per_row: Vec<[f64; 4]> = (0..samples)
        .into_par_iter()
        .map(|i| {
            let row = &values[i * units..(i + 1) * units];
            let class = classes.of_row[i];
            let [mut lower, mut upper, mut class_lower, mut class_upper] = [0.0; 4];
            for (other, &other_class) in values.chunks_exact(units).zip(&classes.of_row) {
                let near = (-squared_distance(row, other) / (8.0 * noise_variance)).exp();
                let nearer = near.powi(4); // the same with 2 for 8
                lower += near;
                upper += nearer;
                if other_class == class {
                    class_lower += near;
                    class_upper += nearer;
                }
            }
            // Each sum holds the sample itself, so it is at least 1.
            let in_class = classes.counts[class as usize] as f64;
            [
                -(lower / n).ln(),
                -(upper / n).ln(),
                -(class_lower / in_class).ln(),
                -(class_upper / in_class).ln(),
            ]
        })
        .collect();
    let mean = |which: usize| {
        let sum: f64 = per_row.iter().map(|row| row[which]).sum();
        (sum / n / LN_2).max(0.0)
    };
    let [lower, upper, lower_given_y, upper_given_y] = [mean(0), mean(1), mean(2), mean(3)];
    // True bounds cannot cross; rounding must not make them.
    let entropy_y = classes.entropy();
    let at_least = (lower - upper_given_y).clamp(0.0, entropy_y);
    let at_most = (upper - lower_given_y).min(entropy_y).max(at_least);
    Ok(KdeInformation {
        lower: KdeEstimate {
            information_xt: lower,
            information_ty: lower - lower_given_y,
        },
        upper: KdeEstimate {
            information_xt: upper,
            information_ty: upper - upper_given_y,
        },
        information_ty_at_least: at_least,
        information_ty_at_most: at_most,
        noise_variance,
    })
}

fn squared_distance(a: &[f32], b: &[f32]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    /// h(mixture) − h(noise) in bits, by the trapezoid rule.
    fn exact_information(centres: &[f64], sigma: f64) -> f64 {
        let density = |x: f64| {
            let sum: f64 = centres
                .iter()
                .map(|c| (-(x - c).powi(2) / (2.0 * sigma * sigma)).exp())
                .sum();
            sum / (centres.len() as f64 * sigma * (2.0 * std::f64::consts::PI).sqrt())
        };
        let step = sigma / 50.0;
        let low = centres.iter().copied().fold(f64::INFINITY, f64::min) - 10.0 * sigma;
        let high = centres.iter().copied().fold(f64::NEG_INFINITY, f64::max) + 10.0 * sigma;
        let mut entropy = 0.0;
        for i in 0..=((high - low) / step) as usize {
            let p = density(low + i as f64 * step);
            if p > 0.0 {
                entropy -= p * p.ln() * step;
            }
        }
        let noise = 0.5 * (2.0 * std::f64::consts::PI * std::f64::consts::E * sigma * sigma).ln();
        (entropy - noise) / LN_2
    }

    #[test]
    fn the_bounds_bracket_the_information_found_by_integration() {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let values: Vec<f32> = (0..60).map(|_| rng.random_range(0.0..1.0)).collect();
        let labels: Vec<u32> = values
            .iter()
            .map(|&v| u32::from(v + rng.random_range(-0.2..0.2) > 0.4))
            .collect();
        let centres: Vec<f64> = values.iter().map(|&v| f64::from(v)).collect();
        for sigma in [0.003, 0.03, 0.3] {
            let found = kde_information(&values, 1, &labels, sigma * sigma).unwrap();
            let xt = exact_information(&centres, sigma);
            assert!(found.lower.information_xt <= xt && xt <= found.upper.information_xt);
            let mut ty = xt;
            for class in [0, 1] {
                let of_class: Vec<f64> = centres
                    .iter()
                    .zip(&labels)
                    .filter(|&(_, &label)| label == class)
                    .map(|(&c, _)| c)
                    .collect();
                let share = of_class.len() as f64 / centres.len() as f64;
                ty -= share * exact_information(&of_class, sigma);
            }
            assert!(found.information_ty_at_least <= ty + 1e-6, "{found:?} {ty}");
            assert!(ty <= found.information_ty_at_most + 1e-6, "{found:?} {ty}");
            // The brackets are not trivial in the middle.
            assert!(sigma != 0.03 || found.upper.information_xt - xt < 1.0);
        }
    }

    #[test]
    fn the_lower_estimate_is_never_above_the_upper() {
        let mut rng = ChaCha8Rng::seed_from_u64(6);
        let values: Vec<f32> = (0..200 * 8).map(|_| rng.random_range(0.0..1.0)).collect();
        let labels: Vec<u32> = (0..200).map(|i| i % 3).collect();
        for variance in [1e-8, 1e-3, 0.01, 0.1, 1.0, 1e6] {
            let found = kde_information(&values, 8, &labels, variance).unwrap();
            assert!(found.lower.information_xt <= found.upper.information_xt);
            assert!(found.information_ty_at_least <= found.information_ty_at_most);
            assert!(found.upper.information_xt <= 200f64.log2() + 1e-12);
        }
    }

    #[test]
    fn two_samples_match_the_formula_written_out() {
        // Squared distance 9 + 16 and variance 5: exponents −25 / 40 and −25 / 10.
        let found = kde_information(&[0.0, 0.0, 3.0, 4.0], 2, &[0, 1], 5.0).unwrap();
        let bits = |exponent: f64| -((1.0 + exponent.exp()) / 2.0).log2();
        assert!((found.lower.information_xt - bits(-0.625)).abs() < 1e-12);
        assert!((found.upper.information_xt - bits(-2.5)).abs() < 1e-12);
        // Each class is a single sample, so that the label says all that the input says.
        assert_eq!(found.lower.information_ty, found.lower.information_xt);
    }

    #[test]
    fn far_apart_samples_carry_log2_n_bits_and_equal_samples_none() {
        let far: Vec<f32> = (0..16).map(|i| 1000.0 * i as f32).collect();
        let labels: Vec<u32> = (0..16).map(|i| i % 4).collect();
        let found = kde_information(&far, 1, &labels, 1.0).unwrap();
        for estimate in [found.lower, found.upper] {
            assert!((estimate.information_xt - 4.0).abs() < 1e-12);
            assert!((estimate.information_ty - 2.0).abs() < 1e-12);
        }
        let equal = kde_information(&[3.0; 16], 1, &labels, 1.0).unwrap();
        assert_eq!(equal.upper.information_xt, 0.0);
        assert_eq!(equal.information_ty_at_most, 0.0);
    }

    #[test]
    fn with_adaptive_noise_the_scale_does_not_matter() {
        let values: Vec<f32> = (0..64).map(|i| ((i * 37) % 64) as f32 / 64.0).collect();
        let labels: Vec<u32> = (0..64).map(|i| i / 32).collect();
        let scaled: Vec<f32> = values.iter().map(|v| 256.0 * v).collect();
        let information = |values: &[f32]| {
            let variance = adaptive_noise_variance(values, 0.1).unwrap();
            kde_information(values, 1, &labels, variance).unwrap()
        };
        let (a, b) = (information(&values), information(&scaled));
        assert!((a.upper.information_xt - b.upper.information_xt).abs() < 1e-12);
        assert!((a.lower.information_ty - b.lower.information_ty).abs() < 1e-12);
        assert!(adaptive_noise_variance(&[0.0; 4], 0.1).is_err());
        assert!(kde_information(&values, 1, &labels, 0.0).is_err());
    }
}
