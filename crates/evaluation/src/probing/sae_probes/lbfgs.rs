//! Logistic regression with a squared penalty by L-BFGS (Liu, Nocedal 1989), which stops where
//! scikit-learn's default solver stops.
//!
//! That solver ends far from the minimum when the penalty is weak and the classes are separable.
//! Which C validation prefers depends on it. To get the package's AUC, this solver takes the same
//! steps, up to rounding.

use std::collections::VecDeque;

use super::line_search::{LineSearch, Next};
use super::matrix::Matrix;
use crate::probing::logistic::Logistic;

/// Pairs of steps and gradient changes that are remembered.
const MEMORY: usize = 10;

/// Steps at most.
const STEPS: usize = 1000;

/// Losses that one line search computes at most.
const TRIES: usize = 50;

/// The search ends where no slope is steeper.
const STEEPEST: f64 = 1e-4;

/// The search ends where the loss falls by less.
const FALL: f64 = 64.0 * f64::EPSILON;

/// A step, the change of the gradient along it, and their product.
type Pair = (Vec<f64>, Vec<f64>, f64);

struct Problem<'a> {
    x: &'a Matrix<'a>,
    labels: &'a [bool],
    /// Weight of the penalty, per sample.
    penalty: f64,
}

impl Problem<'_> {
    /// Mean loss with penalty and its gradient. The last entry of `w` is the bias.
    fn evaluate(&self, w: &[f64]) -> (f64, Vec<f64>) {
        let Some((bias, w)) = w.split_last() else {
            return (0.0, Vec::new());
        };
        let n = self.labels.len() as f64;
        let (mut loss, mut residuals) = (0.0, Vec::with_capacity(self.labels.len()));
        for (z, label) in self.x.times(w).into_iter().zip(self.labels) {
            let away = if *label { -(z + bias) } else { z + bias };
            // log(1 + exp(away)), and its slope.
            loss += away.max(0.0) + (-away.abs()).exp().ln_1p();
            let size = 1.0 / (1.0 + (-away).exp());
            residuals.push(if *label { -size } else { size } / n);
        }
        let loss = loss / n + 0.5 * self.penalty * dot(w, w);
        let mut gradient = self.x.transposed_times(&residuals);
        add(&mut gradient, self.penalty, w);
        gradient.push(residuals.iter().sum());
        (loss, gradient)
    }
}

/// The fit of scikit-learn's `LogisticRegression(C=c, max_iter=1000)`.
pub(crate) fn fit(x: &Matrix, columns: usize, labels: &[bool], c: f64) -> Logistic {
    let problem = Problem {
        x,
        labels,
        penalty: 1.0 / (c * labels.len() as f64),
    };
    let mut w = vec![0.0; columns + 1];
    let (mut loss, mut gradient) = problem.evaluate(&w);
    let mut memory: VecDeque<Pair> = VecDeque::new();
    let mut steps = 0;
    while steps < STEPS && gradient.iter().any(|g| g.abs() > STEEPEST) {
        let direction = downhill(&gradient, &memory);
        let slope = dot(&gradient, &direction);
        let first = if steps == 0 {
            (1.0 / dot(&direction, &direction).sqrt()).min(1e10)
        } else {
            1.0
        };
        let Some((step, next_loss, next_gradient)) =
            search(&problem, &w, loss, &direction, slope, first)
        else {
            // Start anew from the steepest descent, once.
            if memory.is_empty() {
                break;
            }
            memory.clear();
            continue;
        };
        steps += 1;
        let moved: Vec<f64> = direction.iter().map(|d| step * d).collect();
        w.iter_mut().zip(&moved).for_each(|(w, m)| *w += m);
        let change: Vec<f64> = next_gradient
            .iter()
            .zip(&gradient)
            .map(|(a, b)| a - b)
            .collect();
        let is_last = loss - next_loss <= FALL * loss.abs().max(next_loss.abs()).max(1.0);
        (loss, gradient) = (next_loss, next_gradient);
        if is_last {
            break;
        }
        let curvature = dot(&moved, &change);
        if curvature > -f64::EPSILON * slope * step {
            if memory.len() == MEMORY {
                memory.pop_front();
            }
            memory.push_back((moved, change, curvature));
        }
    }
    let bias = w.pop().unwrap_or_default();
    Logistic { weights: w, bias }
}

/// A good step along the direction, with loss and gradient there.
fn search(
    problem: &Problem,
    w: &[f64],
    loss: f64,
    direction: &[f64],
    slope: f64,
    first: f64,
) -> Option<(f64, f64, Vec<f64>)> {
    if slope >= 0.0 {
        return None;
    }
    let mut line = LineSearch::new(loss, slope, first);
    let mut step = first;
    for _ in 0..TRIES {
        let there: Vec<f64> = w.iter().zip(direction).map(|(w, d)| w + step * d).collect();
        let (loss, gradient) = problem.evaluate(&there);
        match line.next(step, loss, dot(&gradient, direction)) {
            Next::Accept => return Some((step, loss, gradient)),
            Next::Try(next) => step = next,
        }
    }
    None
}

/// Minus the gradient times the inverse Hessian that the remembered pairs imply.
fn downhill(gradient: &[f64], memory: &VecDeque<Pair>) -> Vec<f64> {
    let mut direction: Vec<f64> = gradient.iter().map(|g| -g).collect();
    let mut factors = Vec::with_capacity(memory.len());
    for (step, change, curvature) in memory.iter().rev() {
        let factor = dot(step, &direction) / curvature;
        add(&mut direction, -factor, change);
        factors.push(factor);
    }
    if let Some((_, change, curvature)) = memory.back() {
        let scale = curvature / dot(change, change);
        direction.iter_mut().for_each(|d| *d *= scale);
    }
    for ((step, change, curvature), factor) in memory.iter().zip(factors.into_iter().rev()) {
        let back = dot(change, &direction) / curvature;
        add(&mut direction, factor - back, step);
    }
    direction
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(to: &mut [f64], factor: f64, of: &[f64]) {
    to.iter_mut().zip(of).for_each(|(t, v)| *t += factor * v);
}
