//! Logistic regression with an absolute penalty by SAGA (Defazio, Bach, Lacoste-Julien 2014),
//! which stops where scikit-learn's solver `saga` stops.
//!
//! With a weak penalty that is long before the minimum, so the sequence of rows is scikit-learn's
//! as well.

use super::numpy_random::NumpyRandom;
use crate::probing::logistic::Logistic;
use crate::probing::rows::Rows;

/// Passes over the rows at most.
const PASSES: usize = 1000;

/// The search ends when no weight changed by more than this share of the largest weight.
const CHANGE: f64 = 1e-4;

/// The fit of scikit-learn's `LogisticRegression(C=c, penalty="l1", solver="saga",
/// max_iter=1000, random_state=seed)`.
pub(crate) fn fit(x: &Rows, labels: &[bool], c: f64, seed: u32) -> Logistic {
    let n = x.len();
    let length = |i: usize| {
        x.row(i)
            .iter()
            .map(|(_, v)| f64::from(*v).powi(2))
            .sum::<f64>()
    };
    let longest = (0..n).map(length).fold(0.0, f64::max);
    let rate = 1.0 / (0.5 * (longest + 1.0));
    let shrink = rate / (c * n as f64);

    let mut draws = NumpyRandom::new(seed).integer(1, i32::MAX as u32);
    let mut w = vec![0.0f64; x.columns()];
    let mut before = w.clone();
    let mut gradient_sum = w.clone();
    let (mut bias, mut bias_gradient_sum) = (0.0f64, 0.0f64);
    let mut row_gradients = vec![0.0f64; n];
    let (mut is_seen, mut seen) = (vec![false; n], 0usize);
    for _ in 0..PASSES {
        for _ in 0..n {
            // Marsaglia's xorshift.
            draws ^= draws << 13;
            draws ^= draws >> 17;
            draws ^= draws << 5;
            let i = (draws % (1 << 31)) as usize % n;
            seen += usize::from(!is_seen[i]);
            is_seen[i] = true;

            let row = x.row(i);
            let z = x.dot(i, &w) + bias;
            let away = if labels[i] { -z } else { z };
            let size = 1.0 / (1.0 + (-away).exp());
            let gradient = if labels[i] { -size } else { size };
            let change = gradient - row_gradients[i];
            row_gradients[i] = gradient;
            let jump = change * rate * (1.0 - 1.0 / seen as f64);
            for (j, v) in row {
                let (j, v) = (*j as usize, f64::from(*v));
                w[j] -= v * jump;
                gradient_sum[j] += v * change;
            }
            let average = rate / seen as f64;
            bias_gradient_sum += change;
            bias -= bias_gradient_sum * average + jump;
            for (w, g) in w.iter_mut().zip(&gradient_sum) {
                let moved = *w - g * average;
                *w = (moved - shrink).max(0.0) - (-moved - shrink).max(0.0);
            }
        }
        let (mut largest, mut change) = (0.0f64, 0.0f64);
        for (w, before) in w.iter().zip(&mut before) {
            largest = largest.max(w.abs());
            change = change.max((w - *before).abs());
            *before = *w;
        }
        if change <= CHANGE * largest {
            break;
        }
    }
    Logistic { weights: w, bias }
}
