//! How many units of A it takes to predict a unit of B: sparse linear prediction, the LASSO
//! (Li et al. 2015, "Convergent Learning"; Friedman et al. 2010 for coordinate descent).
//!
//! All units are standardized to mean 0 and variance 1. For unit b of B and n tokens, the weights
//! minimize `1/(2n) ‖Z_A w - z_b‖² + λ ‖w‖₁`. This needs only correlations, no second pass over
//! data: with G the correlations among A and r those of A with b, the objective is
//! `1/2 - r·w + 1/2 wᵀGw + λ ‖w‖₁`.

use rayon::prelude::*;

use serde::Serialize;

use crate::FeaturesError;

use super::correlation::Correlations;
use super::similarity::{Neighbour, Similarity, strongest};

/// How to predict.
#[derive(Debug, Clone, PartialEq)]
pub struct PredictionConfig {
    /// The penalties λ, each positive. A decreasing order is fastest.
    pub lambdas: Vec<f64>,
    /// Each unit is predicted from this many units of A, those with the greatest absolute
    /// correlation.
    pub candidates: usize,
    /// Coordinate descent stops when no weight changes by more in a sweep.
    pub tolerance: f64,
    /// Most sweeps for one λ.
    pub max_sweeps: usize,
}

impl Default for PredictionConfig {
    /// λ = 10^-1, 10^-1.2, … 10^-2.8; 64 candidates; tolerance 1e-8; at most 10,000 sweeps.
    fn default() -> Self {
        PredictionConfig {
            lambdas: (0..10)
                .map(|i| 10f64.powf(-1.0 - 0.2 * f64::from(i)))
                .collect(),
            candidates: 64,
            tolerance: 1e-8,
            max_sweeps: 10_000,
        }
    }
}

/// The prediction of one unit for one λ.
#[derive(Debug, Clone, PartialEq)]
pub struct UnitPrediction {
    /// The penalty λ.
    pub lambda: f64,
    /// Units of A with a weight that is not 0, ascending, and their weights on standardized units.
    pub weights: Vec<(u32, f64)>,
    /// Mean squared error on the standardized unit, 1 - R².
    pub error: f64,
    /// False if the sweeps were used up first.
    pub converged: bool,
}

/// All predictions for one λ together.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PredictionPoint {
    /// The penalty λ.
    pub lambda: f64,
    /// Mean number of weights that are not 0.
    pub mean_nonzeros: f64,
    /// Mean of [`UnitPrediction::error`].
    pub mean_error: f64,
    /// Units for which the sweeps were used up.
    pub unconverged: usize,
}

/// Error against sparsity over all units of B.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PredictionCurve {
    /// One entry per λ.
    pub points: Vec<PredictionPoint>,
    /// Units of B that were predicted.
    pub units: usize,
    /// Units of B that never fire or are constant, which cannot be standardized.
    pub constant_units: usize,
}

/// Predicts unit `b` for every λ.
///
/// `among_a` holds the correlations of A with itself. `b_with_a` holds those of the units to
/// predict (rows) with A (columns), see [`Correlations::transpose`]. Both are of the same tokens.
///
/// # Errors
/// If sizes disagree, `b` is not a unit, a λ or the tolerance is not positive and finite, or
/// `candidates` or `max_sweeps` is 0.
pub fn predict_unit(
    among_a: &Correlations,
    b_with_a: &Correlations,
    b: usize,
    config: &PredictionConfig,
) -> Result<Vec<UnitPrediction>, FeaturesError> {
    check(among_a, b_with_a, config)?;
    if b >= b_with_a.d_a() {
        return Err(FeaturesError::Input {
            field: "b",
            found: b.to_string(),
            expected: format!("a unit below {}", b_with_a.d_a()),
        });
    }
    Ok(predict(among_a, b_with_a, b, config))
}

/// Predicts every unit of B that is not constant; arguments as in [`predict_unit`].
///
/// # Errors
/// As [`predict_unit`].
pub fn predict_units(
    among_a: &Correlations,
    b_with_a: &Correlations,
    config: &PredictionConfig,
) -> Result<PredictionCurve, FeaturesError> {
    check(among_a, b_with_a, config)?;
    let all = b_with_a.d_a();
    let units: Vec<usize> = (0..all).filter(|&b| b_with_a.varies_a(b)).collect();
    // Counts, errors and convergence per unit and λ, summed in order afterwards.
    let paths: Vec<Vec<(usize, f64, bool)>> = units
        .par_iter()
        .map(|&b| {
            let path = predict(among_a, b_with_a, b, config);
            path.iter()
                .map(|p| (p.weights.len(), p.error, p.converged))
                .collect()
        })
        .collect();
    let n = units.len().max(1) as f64;
    let point = |(at, &lambda): (usize, &f64)| {
        let of_lambda = || paths.iter().map(move |path| path[at]);
        PredictionPoint {
            lambda,
            mean_nonzeros: of_lambda().map(|(count, _, _)| count).sum::<usize>() as f64 / n,
            mean_error: of_lambda().map(|(_, error, _)| error).sum::<f64>() / n,
            unconverged: of_lambda().filter(|&(_, _, converged)| !converged).count(),
        }
    };
    Ok(PredictionCurve {
        points: config.lambdas.iter().enumerate().map(point).collect(),
        units: units.len(),
        constant_units: all - units.len(),
    })
}

fn check(
    among_a: &Correlations,
    b_with_a: &Correlations,
    config: &PredictionConfig,
) -> Result<(), FeaturesError> {
    let wrong = |field, found: String, expected: String| {
        Err(FeaturesError::Input {
            field,
            found,
            expected,
        })
    };
    let d_a = among_a.d_a();
    if among_a.d_b() != d_a {
        let found = format!("{d_a} x {}", among_a.d_b());
        return wrong("among_a", found, "A with itself".to_owned());
    }
    if b_with_a.d_b() != d_a {
        let found = format!("{} columns", b_with_a.d_b());
        return wrong("b_with_a", found, format!("{d_a} columns, the units of A"));
    }
    if b_with_a.tokens() != among_a.tokens() {
        let found = format!("{} tokens", b_with_a.tokens());
        return wrong("b_with_a", found, format!("{} tokens", among_a.tokens()));
    }
    let positive = |value: f64| value > 0.0 && value.is_finite();
    if let Some(lambda) = config.lambdas.iter().find(|&&lambda| !positive(lambda)) {
        return wrong("lambdas", lambda.to_string(), "positive numbers".to_owned());
    }
    if !positive(config.tolerance) {
        let found = config.tolerance.to_string();
        return wrong("tolerance", found, "a positive number".to_owned());
    }
    for (field, value) in [
        ("candidates", config.candidates),
        ("max_sweeps", config.max_sweeps),
    ] {
        if value == 0 {
            return wrong(field, "0".to_owned(), "at least 1".to_owned());
        }
    }
    Ok(())
}

fn predict(
    among_a: &Correlations,
    b_with_a: &Correlations,
    b: usize,
    config: &PredictionConfig,
) -> Vec<UnitPrediction> {
    let mut row = vec![0.0; b_with_a.d_b()];
    b_with_a.fill_rows(b, &mut row);
    let mut candidates = strongest(row.into_iter().enumerate(), config.candidates, f64::abs);
    candidates.sort_unstable_by_key(|candidate| candidate.latent);
    let mut descent = Descent::new(among_a, candidates);
    let path = config.lambdas.iter().map(|&lambda| {
        let converged = descent.minimize(lambda, config);
        descent.prediction(lambda, converged)
    });
    path.collect()
}

/// Coordinate descent for one unit; the weights of one λ are the start for the next.
struct Descent<'a> {
    among_a: &'a Correlations,
    candidates: Vec<Neighbour>,
    weights: Vec<f64>,
    gradient: Vec<f64>, // r - G w
    // Columns of G, computed when the weight first leaves 0: few ever do.
    columns: Vec<Option<Vec<f64>>>,
}

impl<'a> Descent<'a> {
    fn new(among_a: &'a Correlations, candidates: Vec<Neighbour>) -> Self {
        Descent {
            among_a,
            weights: vec![0.0; candidates.len()],
            gradient: candidates.iter().map(|c| c.similarity).collect(),
            columns: vec![None; candidates.len()],
            candidates,
        }
    }

    /// True if it converged.
    fn minimize(&mut self, lambda: f64, config: &PredictionConfig) -> bool {
        for _ in 0..config.max_sweeps {
            let mut largest = 0.0f64;
            for at in 0..self.weights.len() {
                // The diagonal of G is 1, so the minimum along one weight is a soft threshold.
                let old = self.weights[at];
                let new = soft_threshold(self.gradient[at] + old, lambda);
                if new != old {
                    largest = largest.max((new - old).abs());
                    self.change(at, new);
                }
            }
            if largest <= config.tolerance {
                return true;
            }
        }
        false
    }

    fn change(&mut self, at: usize, new: f64) {
        let (candidates, among_a) = (&self.candidates, self.among_a);
        let column = self.columns[at].get_or_insert_with(|| {
            let unit = candidates[at].latent as usize;
            let mut column: Vec<f64> = candidates
                .iter()
                .map(|other| among_a.correlation(other.latent as usize, unit))
                .collect();
            column[at] = 1.0;
            column
        });
        let step = new - self.weights[at];
        self.weights[at] = new;
        for (gradient, correlation) in self.gradient.iter_mut().zip(column) {
            *gradient -= step * *correlation;
        }
    }

    fn prediction(&self, lambda: f64, converged: bool) -> UnitPrediction {
        // 1 - 2 r·w + wᵀGw with Gw = r - gradient.
        let mut error = 1.0;
        let mut weights = Vec::new();
        for (at, &weight) in self.weights.iter().enumerate().filter(|&(_, &w)| w != 0.0) {
            error -= weight * (self.candidates[at].similarity + self.gradient[at]);
            weights.push((self.candidates[at].latent, weight));
        }
        UnitPrediction {
            lambda,
            weights,
            error,
            converged,
        }
    }
}

/// Moves `value` towards 0 by `lambda`, at most to 0.
fn soft_threshold(value: f64, lambda: f64) -> f64 {
    if value > lambda {
        value - lambda
    } else if value < -lambda {
        value + lambda
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests;
