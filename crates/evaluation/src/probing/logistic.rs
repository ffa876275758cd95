//! Logistic regression: with a squared penalty as scikit-learn's `LogisticRegression`, by Newton's
//! method with conjugate gradients (Lin, Weng, Keerthi 2008); with an absolute penalty by Newton's
//! method with coordinate descent (Yuan, Ho, Lin 2012).

use super::descent::{columns_of, descend, steepness};
use super::rows::Rows;
use crate::error::EvaluationError;

/// A linear classifier: positive where w·x + b > 0.
#[derive(Clone, Debug, PartialEq)]
pub struct Logistic {
    /// One weight a column.
    pub weights: Vec<f64>,
    /// The bias.
    pub bias: f64,
}

/// How the two classes weigh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
    /// Every sample the same.
    Samples,
    /// Both classes the same: n / (2 n_class), scikit-learn's "balanced".
    Classes,
    /// Positive samples by negative / positive samples, PyTorch's `pos_weight`.
    Positives,
}

/// Newton steps at most.
const NEWTON: usize = 100;

/// Steps of conjugate gradients in one of Newton's, at most.
const CONJUGATE: usize = 1000;

/// The gradient's largest component at which the search ends, a sample.
const TOLERANCE: f64 = 1e-7;

struct Problem<'a> {
    x: &'a Rows,
    /// 1 or -1.
    y: Vec<f64>,
    /// Weights of the samples.
    s: Vec<f64>,
}

impl<'a> Problem<'a> {
    fn new(x: &'a Rows, labels: &[bool], balance: Balance) -> Result<Self, EvaluationError> {
        if labels.len() != x.len() {
            return Err(EvaluationError::input(
                "labels",
                labels.len(),
                format!("{}, one a sample", x.len()),
            ));
        }
        let positive = labels.iter().filter(|l| **l).count();
        let negative = labels.len() - positive;
        if positive == 0 || negative == 0 {
            return Err(EvaluationError::input(
                "labels to train a probe on",
                "one class alone",
                "two classes",
            ));
        }
        let (p, n, all) = (positive as f64, negative as f64, labels.len() as f64);
        let (of_positive, of_negative) = match balance {
            Balance::Samples => (1.0, 1.0),
            Balance::Classes => (all / (2.0 * p), all / (2.0 * n)),
            Balance::Positives => (n / p, 1.0),
        };
        Ok(Self {
            x,
            y: labels.iter().map(|l| if *l { 1.0 } else { -1.0 }).collect(),
            s: labels
                .iter()
                .map(|l| if *l { of_positive } else { of_negative })
                .collect(),
        })
    }

    /// Sum of weighted losses log(1 + exp(-y z)) at `w`, whose last entry is the bias.
    fn loss(&self, w: &[f64]) -> f64 {
        let (bias, w) = w.split_last().expect("there is a bias");
        let each = (0..self.x.len()).map(|i| {
            let m = self.y[i] * (self.x.dot(i, w) + bias);
            self.s[i] * ((-m.abs()).exp().ln_1p() + (-m).max(0.0))
        });
        each.sum()
    }

    /// The loss's gradient, and each sample's curvature.
    fn gradient(&self, w: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let (bias, weights) = w.split_last().expect("there is a bias");
        let mut gradient = vec![0.0; w.len()];
        let curvature = (0..self.x.len()).map(|i| {
            let p = sigmoid(self.y[i] * (self.x.dot(i, weights) + bias));
            self.add(i, -self.s[i] * self.y[i] * (1.0 - p), &mut gradient);
            self.s[i] * p * (1.0 - p)
        });
        let curvature = curvature.collect();
        (gradient, curvature)
    }

    /// Adds `factor` times a sample, with a 1 for the bias.
    fn add(&self, i: usize, factor: f64, to: &mut [f64]) {
        for (j, v) in self.x.row(i) {
            to[*j as usize] += factor * f64::from(*v);
        }
        if let Some(bias) = to.last_mut() {
            *bias += factor;
        }
    }
}

fn sigmoid(z: f64) -> f64 {
    if z >= 0.0 {
        1.0 / (1.0 + (-z).exp())
    } else {
        let e = z.exp();
        e / (1.0 + e)
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn plus(a: &[f64], factor: f64, b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + factor * b).collect()
}

impl Logistic {
    /// The least of ½|w|² + c Σ sᵢ log(1 + exp(-yᵢ (w·xᵢ + b))): scikit-learn's objective, the bias
    /// free.
    ///
    /// # Errors
    /// The labels are not two classes, or not one a sample.
    pub fn fit(
        x: &Rows,
        labels: &[bool],
        c: f64,
        balance: Balance,
    ) -> Result<Self, EvaluationError> {
        Self::fit_from(x, labels, c, balance, None)
    }

    /// As [`Logistic::fit`], with the search starting at a classifier, of a similar `c` for
    /// example. It shortens the search and leaves the result.
    ///
    /// # Errors
    /// As [`Logistic::fit`], and the classifier's weights are not one per column.
    pub fn fit_from(
        x: &Rows,
        labels: &[bool],
        c: f64,
        balance: Balance,
        start: Option<&Self>,
    ) -> Result<Self, EvaluationError> {
        let problem = Problem::new(x, labels, balance)?;
        let p = x.columns();
        let mut w = from(start, p)?;
        let value = |w: &[f64]| 0.5 * dot(&w[..p], &w[..p]) + c * problem.loss(w);
        let (mut f, mut steepest) = (value(&w), 0.0f64);
        for _ in 0..NEWTON {
            let (mut gradient, mut curvature) = problem.gradient(&w);
            gradient.iter_mut().for_each(|g| *g *= c);
            curvature.iter_mut().for_each(|h| *h *= c);
            gradient.iter_mut().zip(&w[..p]).for_each(|(g, w)| *g += w);
            let worst = gradient.iter().fold(0.0f64, |a, g| a.max(g.abs()));
            if worst <= TOLERANCE * c.max(1e-3) * x.len() as f64 {
                break;
            }
            // The nearer the least value, the more exact a step is worth making (Dembo, Eisenstat,
            // Steihaug 1982).
            steepest = steepest.max(worst);
            let accuracy = (worst / steepest).sqrt().min(0.3);
            let step = newton_step(&problem, &gradient, &curvature, accuracy);
            // Halved until it gains as much as a line with a slope of 1e-4 of the gradient's would.
            let slope = dot(&gradient, &step);
            let mut length = 1.0;
            let (next, lower) = loop {
                let next = plus(&w, length, &step);
                let lower = value(&next);
                if lower <= f + 1e-4 * length * slope || length < 1e-10 {
                    break (next, lower);
                }
                length *= 0.5;
            };
            if lower >= f {
                break; // rounding has the last word
            }
            (w, f) = (next, lower);
        }
        let bias = w.pop().expect("there is a bias");
        Ok(Self { weights: w, bias })
    }

    /// The least of 1/n Σ sᵢ log(1 + exp(-yᵢ (w·xᵢ + b))) + λ Σ |wⱼ|, the bias free.
    ///
    /// # Errors
    /// As [`Logistic::fit`].
    pub fn fit_sparse(
        x: &Rows,
        labels: &[bool],
        lambda: f64,
        balance: Balance,
    ) -> Result<Self, EvaluationError> {
        Self::fit_sparse_from(x, labels, lambda, balance, None)
    }

    /// As [`Logistic::fit_sparse`], with the search starting at a classifier.
    ///
    /// # Errors
    /// As [`Logistic::fit_from`].
    pub fn fit_sparse_from(
        x: &Rows,
        labels: &[bool],
        lambda: f64,
        balance: Balance,
        start: Option<&Self>,
    ) -> Result<Self, EvaluationError> {
        let problem = Problem::new(x, labels, balance)?;
        let (p, n) = (x.columns(), x.len() as f64);
        let columns = columns_of(x);
        let penalty = n * lambda;
        let size = |w: &[f64]| penalty * w[..p].iter().map(|w| w.abs()).sum::<f64>();
        let mut w = from(start, p)?;
        let mut f = problem.loss(&w) + size(&w);
        let mut worst_first = 0.0f64;
        for _ in 0..NEWTON {
            let (gradient, curvature) = problem.gradient(&w);
            let worst = (0..=p).fold(0.0f64, |a, j| {
                let penalty = if j < p { penalty } else { 0.0 };
                a.max(steepness(w[j], gradient[j], penalty).abs())
            });
            if worst <= TOLERANCE * n {
                break;
            }
            worst_first = worst_first.max(worst);
            let accuracy = worst * (worst / worst_first).sqrt().min(0.1);
            let step = descend(&columns, &w, &gradient, &curvature, penalty, accuracy);
            let promised = dot(&gradient, &step) + size(&plus(&w, 1.0, &step)) - size(&w);
            let mut length = 1.0;
            let (next, lower) = loop {
                let next = plus(&w, length, &step);
                let lower = problem.loss(&next) + size(&next);
                if lower <= f + 1e-4 * length * promised || length < 1e-10 {
                    break (next, lower);
                }
                length *= 0.5;
            };
            if lower >= f {
                break; // rounding has the last word
            }
            (w, f) = (next, lower);
        }
        let bias = w.pop().expect("there is a bias");
        Ok(Self { weights: w, bias })
    }

    /// w·x + b of a row.
    #[must_use]
    pub fn score(&self, x: &Rows, row: usize) -> f64 {
        x.dot(row, &self.weights) + self.bias
    }

    /// Share of rows that it classifies as they are labelled.
    #[must_use]
    pub fn accuracy(&self, x: &Rows, labels: &[bool]) -> f64 {
        let right = labels
            .iter()
            .enumerate()
            .filter(|(i, l)| (self.score(x, *i) > 0.0) == **l);
        right.count() as f64 / labels.len() as f64
    }

    /// F1 of the positive class; 0 if there is nothing to divide by.
    #[must_use]
    pub fn f1(&self, x: &Rows, labels: &[bool]) -> f64 {
        let (mut both, mut either) = (0u64, 0u64);
        for (i, label) in labels.iter().enumerate() {
            let found = self.score(x, i) > 0.0;
            both += u64::from(found && *label);
            either += u64::from(found) + u64::from(*label);
        }
        if either == 0 {
            0.0
        } else {
            (2 * both) as f64 / either as f64
        }
    }
}

/// Minus the inverse Hessian times the gradient, to this accuracy: conjugate gradients, scaled by
/// the Hessian's diagonal. The penalty's part of the Hessian is 1, none for the bias.
fn newton_step(problem: &Problem, gradient: &[f64], curvature: &[f64], accuracy: f64) -> Vec<f64> {
    let p = gradient.len() - 1;
    let n = problem.x.len();
    let mut diagonal = vec![1.0; p + 1];
    diagonal[p] = 1e-12 + curvature.iter().sum::<f64>();
    for (i, h) in curvature.iter().enumerate() {
        for (j, v) in problem.x.row(i) {
            diagonal[*j as usize] += h * f64::from(*v).powi(2);
        }
    }
    let scaled = |r: &[f64]| -> Vec<f64> { r.iter().zip(&diagonal).map(|(r, d)| r / d).collect() };
    let hessian = |v: &[f64]| {
        let mut product: Vec<f64> = v[..p].to_vec();
        product.push(0.0);
        for (i, h) in curvature.iter().enumerate().take(n) {
            problem.add(i, h * (problem.x.dot(i, &v[..p]) + v[p]), &mut product);
        }
        product
    };
    let mut step = vec![0.0; p + 1];
    let mut residual: Vec<f64> = gradient.iter().map(|g| -g).collect();
    let mut z = scaled(&residual);
    let mut direction = z.clone();
    let mut rz = dot(&residual, &z);
    let start = rz;
    for _ in 0..CONJUGATE {
        if rz <= accuracy * accuracy * start {
            break;
        }
        let product = hessian(&direction);
        let along = dot(&direction, &product);
        if along <= 0.0 {
            break;
        }
        let length = rz / along;
        step = plus(&step, length, &direction);
        residual = plus(&residual, -length, &product);
        z = scaled(&residual);
        let next = dot(&residual, &z);
        direction = plus(&z, next / rz, &direction);
        rz = next;
    }
    step
}

/// Weights and bias to start at.
fn from(start: Option<&Logistic>, columns: usize) -> Result<Vec<f64>, EvaluationError> {
    let Some(start) = start else {
        return Ok(vec![0.0; columns + 1]);
    };
    if start.weights.len() != columns {
        let found = start.weights.len();
        return Err(EvaluationError::input(
            "weights to start at",
            found,
            columns,
        ));
    }
    Ok(start.weights.iter().copied().chain([start.bias]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numbers::numbers;

    /// 60 samples of 5 columns of different sizes, a fifth of them on the wrong side.
    fn samples() -> (Rows, Vec<bool>) {
        let values = numbers(60 * 5, 11);
        let scaled: Vec<f32> = values
            .iter()
            .enumerate()
            .map(|(i, v)| v * [1.0, 3.0, 0.2, 10.0, 1.0][i % 5])
            .collect();
        let noise = numbers(60, 12);
        let labels = values
            .chunks(5)
            .zip(&noise)
            .map(|(x, e)| x[0] + x[1] - x[3] + 0.8 * e + 0.4 > 0.0);
        let labels = labels.collect();
        (Rows::dense(&scaled, 5), labels)
    }

    /// scikit-learn's LogisticRegression on the same numbers.
    #[test]
    fn weights_are_those_of_scikit_learn() {
        let (x, labels) = samples();
        for (c, balance, weights, bias) in REFERENCE {
            let found = Logistic::fit(&x, &labels, c, balance).unwrap();
            for (found, expected) in found
                .weights
                .iter()
                .chain([&found.bias])
                .zip(weights.iter().chain([&bias]))
            {
                assert!(
                    (found - expected).abs() < 1e-4 * (1.0 + expected.abs()),
                    "{found} {expected}"
                );
            }
        }
    }

    /// Of sklearn 1.9.1 with tol 1e-12.
    const REFERENCE: [(f64, Balance, [f64; 5], f64); 4] = [
        (
            1.0,
            Balance::Samples,
            [1.531732, 0.7138924, 0.2037119, -0.2863122, -0.2335825],
            1.600757,
        ),
        (
            0.01,
            Balance::Samples,
            [0.0546877, 0.1020469, 0.004045928, -0.1226303, -0.002949099],
            1.087467,
        ),
        (
            100.0,
            Balance::Samples,
            [2.410329, 0.9309611, 1.971155, -0.3758766, -0.3045899],
            2.057196,
        ),
        (
            1.0,
            Balance::Classes,
            [1.5422, 0.8033229, 0.2116485, -0.3005886, -0.2948162],
            0.6930798,
        ),
    ];

    /// At the least each weight's slope is λ against its sign, or no steeper where it is 0.
    #[test]
    fn the_sparse_fit_meets_the_conditions_of_a_least_value() {
        let (x, labels) = samples();
        for balance in [Balance::Samples, Balance::Positives] {
            let lambda = 0.05;
            let found = Logistic::fit_sparse(&x, &labels, lambda, balance).unwrap();
            let problem = Problem::new(&x, &labels, balance).unwrap();
            let w: Vec<f64> = found.weights.iter().copied().chain([found.bias]).collect();
            let (gradient, _) = problem.gradient(&w);
            for (g, w) in gradient.iter().zip(&found.weights) {
                let g = g / 60.0;
                if *w == 0.0 {
                    assert!(g.abs() <= lambda + 1e-6);
                } else {
                    assert!((g + lambda * w.signum()).abs() < 1e-6, "{g} {w}");
                }
            }
            assert!((gradient[5] / 60.0).abs() < 1e-6);
            assert!(found.weights.contains(&0.0) && found.weights.iter().any(|w| *w != 0.0));
        }
    }

    #[test]
    fn one_class_alone_is_refused() {
        let (x, _) = samples();
        let error = Logistic::fit(&x, &[true; 60], 1.0, Balance::Samples).unwrap_err();
        assert!(error.to_string().contains("one class alone"));
        let error = Logistic::fit(&x, &[true; 6], 1.0, Balance::Samples).unwrap_err();
        assert!(error.to_string().contains("found 6, expected 60"));
    }
}
