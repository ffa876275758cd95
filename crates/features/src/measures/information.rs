//! Information between inputs, a layer and labels by entropy-based adaptive binning (EBAB;
//! Chelombiev, Houghton and O'Donnell 2019).

use std::collections::HashMap;

use super::adaptive_bins::AdaptiveBins;
use super::plug_in::{Classes, entropy_of_counts, miller_madow_bias};
use super::{check_labels, matrix_rows, unfit};
use crate::FeaturesError;

/// How to bin a layer's activations.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EbabConfig {
    /// Number of bins for the values above `saturated_low`.
    pub bins: usize,
    /// Values up to this one share bin 0: 0 for ReLU, -1 for tanh, negative infinity for an
    /// activation that does not saturate.
    pub saturated_low: f32,
}

impl Default for EbabConfig {
    /// 30 bins for a ReLU-like layer.
    fn default() -> Self {
        EbabConfig {
            bins: 30,
            saturated_low: 0.0,
        }
    }
}

/// Plug-in information of a binned layer T, in bits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EbabInformation {
    /// H(T), where an outcome of T is the tuple of all units' bins.
    pub entropy_t: f64,
    /// I(X;T); equal to H(T), since T is a function of the input.
    pub information_xt: f64,
    /// I(T;Y).
    pub information_ty: f64,
    /// First-order bias of I(T;Y), not subtracted.
    pub information_ty_bias: f64,
    /// H(Y).
    pub entropy_y: f64,
    /// Number of distinct outcomes of T. Near the number of samples, H(T) is close to its ceiling
    /// log2(samples) and says nothing about the layer.
    pub distinct_codes: usize,
    /// Number of samples.
    pub samples: usize,
}

/// Estimates H(T), I(X;T) and I(T;Y) of a layer with few units.
///
/// `values` is `[samples, units]` and `labels` is `[samples]`. The bins are common to all units.
/// With many units almost every sample has its own code; use
/// [`latent_information`](super::latent_information) for a dictionary.
///
/// # Errors
/// If the shapes do not fit, a value is not finite, there is no sample or no bin, or
/// `saturated_low` is not a number.
pub fn ebab(
    values: &[f32],
    units: usize,
    labels: &[u32],
    config: &EbabConfig,
) -> Result<EbabInformation, FeaturesError> {
    let samples = matrix_rows("values", values, units)?;
    check_labels(labels, samples)?;
    if config.bins == 0 {
        return Err(unfit("bins", 0, "at least one bin"));
    }
    if config.saturated_low.is_nan() {
        return Err(unfit("saturated_low", "NaN", "a number"));
    }
    let bins = AdaptiveBins::new(&mut values.to_vec(), config.saturated_low, config.bins);
    let binned: Vec<u32> = values.iter().map(|&value| bins.bin(value)).collect();
    // Outcomes are numbered by first occurrence, so that sums do not depend on the hash map.
    let mut number = HashMap::new();
    let mut code_counts = Vec::new();
    let classes = Classes::new(labels);
    let mut joint: Vec<(usize, u32)> = Vec::with_capacity(samples);
    for (code, &class) in binned.chunks_exact(units).zip(&classes.of_row) {
        let next = number.len();
        let outcome = *number.entry(code).or_insert(next);
        if outcome == code_counts.len() {
            code_counts.push(0);
        }
        code_counts[outcome] += 1;
        joint.push((outcome, class));
    }
    joint.sort_unstable();
    let joint_counts: Vec<usize> = joint.chunk_by(|a, b| a == b).map(<[_]>::len).collect();
    let distinct_codes = code_counts.len();
    let entropy_t = entropy_of_counts(code_counts.into_iter());
    let entropy_y = classes.entropy();
    let entropy_joint = entropy_of_counts(joint_counts.iter().copied());
    Ok(EbabInformation {
        entropy_t,
        information_xt: entropy_t,
        information_ty: (entropy_t + entropy_y - entropy_joint).max(0.0),
        information_ty_bias: miller_madow_bias(
            joint_counts.len(),
            distinct_codes,
            classes.len(),
            samples,
        ),
        entropy_y,
        distinct_codes,
        samples,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn a_binary_symmetric_channel_has_its_known_information() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let (mut values, mut labels) = (Vec::new(), Vec::new());
        for _ in 0..100_000 {
            let sent = rng.random_range(0..2u32);
            let flipped = u32::from(rng.random_range(0.0..1.0) < 0.1);
            labels.push(sent);
            values.push((sent ^ flipped) as f32);
        }
        let found = ebab(&values, 1, &labels, &EbabConfig::default()).unwrap();
        // 1 − H(0.1)
        assert!((found.information_ty - 0.531_004).abs() < 0.02, "{found:?}");
        assert!((found.entropy_t - 1.0).abs() < 0.001);
        assert_eq!(found.information_xt, found.entropy_t);
    }

    #[test]
    fn monotone_rescaling_of_positive_activations_changes_nothing() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let values: Vec<f32> = (0..6000)
            .map(|_| rng.random_range(-1.0f32..1.0).max(0.0))
            .collect();
        let labels: Vec<u32> = values
            .chunks_exact(3)
            .map(|row| u32::from(row[0] > row[1]))
            .collect();
        let config = EbabConfig {
            bins: 5,
            ..EbabConfig::default()
        };
        let plain = ebab(&values, 3, &labels, &config).unwrap();
        for scale in [|x: f32| 1000.0 * x, |x: f32| x.sqrt(), |x: f32| x.exp_m1()] {
            let rescaled: Vec<f32> = values.iter().map(|&x| scale(x)).collect();
            assert_eq!(ebab(&rescaled, 3, &labels, &config).unwrap(), plain);
        }
        assert!(plain.information_ty > 0.3);
    }

    #[test]
    fn information_equals_entropy_minus_conditional_entropy_counted_by_hand() {
        // Two units with values 1, 2; codes a=(1,1) b=(1,2) c=(2,2).
        let values = [1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 1.0, 1.0];
        let labels = [7, 7, 9, 9];
        let found = ebab(&values, 2, &labels, &EbabConfig::default()).unwrap();
        // Codes a b c a: H(T) = 1.5; label 7 has a b: 1 bit; label 9 has c a: 1 bit.
        assert!((found.entropy_t - 1.5).abs() < 1e-15);
        assert!((found.information_ty - 0.5).abs() < 1e-15);
        assert_eq!((found.distinct_codes, found.samples), (3, 4));
    }

    #[test]
    fn with_many_units_the_entropy_is_at_its_ceiling() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let values: Vec<f32> = (0..256 * 64).map(|_| rng.random_range(0.0..1.0)).collect();
        let labels: Vec<u32> = (0..256).map(|i| i % 2).collect();
        let found = ebab(&values, 64, &labels, &EbabConfig::default()).unwrap();
        assert_eq!(found.distinct_codes, 256);
        assert_eq!(found.entropy_t, 8.0);
    }

    #[test]
    fn unfit_input_is_refused() {
        let config = EbabConfig::default();
        assert!(ebab(&[1.0; 3], 2, &[0], &config).is_err());
        assert!(ebab(&[1.0; 4], 2, &[0], &config).is_err());
        assert!(ebab(&[], 2, &[], &config).is_err());
        assert!(ebab(&[f32::INFINITY], 1, &[0], &config).is_err());
        assert!(ebab(&[1.0], 1, &[0], &EbabConfig { bins: 0, ..config }).is_err());
    }
}
