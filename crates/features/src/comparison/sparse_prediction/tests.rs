//! The LASSO against its closed form, its optimality conditions, and dense residuals.

use super::super::correlation::tests::correlate_dense;
use super::super::random::Random;
use super::*;

/// A column of activations with mean 0 and variance 1.
fn standardized(values: &[f32], d: usize, unit: usize) -> Vec<f64> {
    let column: Vec<f64> = values
        .iter()
        .skip(unit)
        .step_by(d)
        .map(|&x| f64::from(x))
        .collect();
    let n = column.len() as f64;
    let mean = column.iter().sum::<f64>() / n;
    let variance = column.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
    column
        .iter()
        .map(|x| (x - mean) / variance.sqrt())
        .collect()
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

/// A: overlapping random units. B: a mixture of two units of A with noise, and a dead unit.
fn mixtures(tokens: usize, d: usize) -> (Vec<f32>, Vec<f32>) {
    let mut random = Random::new(5);
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for _ in 0..tokens {
        let shared = random.uniform() as f32;
        let row: Vec<f32> = (0..d)
            .map(|_| {
                if random.below(2) == 0 {
                    shared + random.uniform() as f32
                } else {
                    0.0
                }
            })
            .collect();
        b.extend([row[0] + 0.5 * row[3] + 0.2 * random.uniform() as f32, 0.0]);
        a.extend(row);
    }
    (a, b)
}

#[test]
fn orthogonal_units_give_the_soft_threshold_of_the_correlation() {
    // All 32 on/off patterns of 5 units once each: uncorrelated by design.
    let d = 5;
    let a: Vec<f32> = (0..32 * d)
        .map(|e| ((e / d) >> (e % d) & 1) as f32 * 2.0)
        .collect();
    let b: Vec<f32> = a
        .chunks(d)
        .map(|row| 2.5 + row[0] + 0.4 * row[1] - 0.3 * row[2] + 0.02 * row[3] * row[4])
        .collect();
    let (among_a, b_with_a) = (
        correlate_dense(&a, d, &a, d),
        correlate_dense(&a, d, &b, 1).transpose(),
    );
    assert!((0..d).all(|i| (0..i).all(|j| among_a.correlation(i, j) == 0.0)));
    let config = PredictionConfig::default();
    for prediction in predict_unit(&among_a, &b_with_a, 0, &config).unwrap() {
        let mut got = vec![0.0; d];
        for (unit, weight) in &prediction.weights {
            got[*unit as usize] = *weight;
        }
        let mut error = 1.0;
        for (unit, got) in got.iter().enumerate() {
            let r = dot(&standardized(&a, d, unit), &standardized(&b, 1, 0)) / 32.0;
            let want = r.signum() * (r.abs() - prediction.lambda).max(0.0);
            assert!((got - want).abs() < 1e-6, "{unit}: {got} {want}");
            error += want * want - 2.0 * want * r;
        }
        assert!((prediction.error - error).abs() < 1e-6);
    }
}

#[test]
fn weights_satisfy_the_optimality_conditions_on_the_raw_data() {
    let (tokens, d) = (500, 12);
    let (a, b) = mixtures(tokens, d);
    let (among_a, b_with_a) = (
        correlate_dense(&a, d, &a, d),
        correlate_dense(&a, d, &b, 2).transpose(),
    );
    let config = PredictionConfig::default();
    let z: Vec<Vec<f64>> = (0..d).map(|unit| standardized(&a, d, unit)).collect();
    let target = standardized(&b, 2, 0);
    let path = predict_unit(&among_a, &b_with_a, 0, &config).unwrap();
    assert!(path[0].weights.len() < path[9].weights.len());
    for prediction in path {
        assert!(prediction.converged);
        let mut residual = target.clone();
        let mut weights = vec![0.0; d];
        for &(unit, weight) in &prediction.weights {
            weights[unit as usize] = weight;
            for (residual, z) in residual.iter_mut().zip(&z[unit as usize]) {
                *residual -= weight * z;
            }
        }
        // Gradient of the smooth part: -λ sign(w) where w is not 0, else at most λ.
        for (z, &weight) in z.iter().zip(&weights) {
            let slope = dot(z, &residual) / tokens as f64;
            if weight == 0.0 {
                assert!(slope.abs() <= prediction.lambda + 1e-6);
            } else {
                assert!((slope - prediction.lambda * weight.signum()).abs() < 1e-6);
            }
        }
        let error = dot(&residual, &residual) / tokens as f64;
        assert!((prediction.error - error).abs() < 1e-6);
    }
}

#[test]
fn the_curve_averages_units_and_leaves_out_dead_ones() {
    let (a, b) = mixtures(500, 12);
    let (among_a, b_with_a) = (
        correlate_dense(&a, 12, &a, 12),
        correlate_dense(&b, 2, &a, 12),
    );
    let config = PredictionConfig::default();
    let curve = predict_units(&among_a, &b_with_a, &config).unwrap();
    let path = predict_unit(&among_a, &b_with_a, 0, &config).unwrap();
    assert_eq!((curve.units, curve.constant_units), (1, 1));
    assert_eq!(curve.points.len(), 10);
    for (point, unit) in curve.points.iter().zip(&path) {
        assert_eq!(point.mean_nonzeros, unit.weights.len() as f64);
        assert_eq!(point.mean_error, unit.error);
        assert_eq!(point.unconverged, 0);
    }
    // A smaller penalty never fits worse.
    assert!(
        curve
            .points
            .windows(2)
            .all(|two| two[1].mean_error <= two[0].mean_error)
    );
    assert!((curve.points[0].lambda - 0.1).abs() < 1e-12);
    assert!((curve.points[9].lambda - 10f64.powf(-2.8)).abs() < 1e-12);
}

#[test]
fn only_the_most_correlated_units_are_candidates() {
    let (a, b) = mixtures(500, 12);
    let (among_a, b_with_a) = (
        correlate_dense(&a, 12, &a, 12),
        correlate_dense(&b, 2, &a, 12),
    );
    let config = PredictionConfig {
        candidates: 2,
        ..PredictionConfig::default()
    };
    for prediction in predict_unit(&among_a, &b_with_a, 0, &config).unwrap() {
        let units: Vec<u32> = prediction.weights.iter().map(|&(unit, _)| unit).collect();
        assert_eq!(units, [0, 3]); // what unit 0 of B is made of
    }
}

#[test]
fn sweeps_that_are_used_up_are_reported() {
    let (a, b) = mixtures(500, 12);
    let (among_a, b_with_a) = (
        correlate_dense(&a, 12, &a, 12),
        correlate_dense(&b, 2, &a, 12),
    );
    let config = PredictionConfig {
        max_sweeps: 1,
        ..PredictionConfig::default()
    };
    let curve = predict_units(&among_a, &b_with_a, &config).unwrap();
    assert_eq!(curve.points[0].unconverged, 1);
}

#[test]
fn wrong_sizes_and_settings_are_refused() {
    let (a, b) = mixtures(50, 12);
    let (among_a, b_with_a) = (
        correlate_dense(&a, 12, &a, 12),
        correlate_dense(&b, 2, &a, 12),
    );
    let good = PredictionConfig::default();
    assert!(predict_unit(&among_a, &b_with_a, 2, &good).is_err());
    assert!(predict_units(&among_a, &b_with_a.transpose(), &good).is_err());
    assert!(predict_units(&b_with_a, &b_with_a, &good).is_err());
    let shorter = correlate_dense(&b[..80], 2, &a[..480], 12);
    assert!(predict_units(&among_a, &shorter, &good).is_err());
    for bad in [
        PredictionConfig {
            lambdas: vec![0.1, 0.0],
            ..good.clone()
        },
        PredictionConfig {
            lambdas: vec![f64::NAN],
            ..good.clone()
        },
        PredictionConfig {
            candidates: 0,
            ..good.clone()
        },
        PredictionConfig {
            tolerance: 0.0,
            ..good.clone()
        },
        PredictionConfig {
            max_sweeps: 0,
            ..good.clone()
        },
    ] {
        assert!(predict_units(&among_a, &b_with_a, &bad).is_err());
    }
}
