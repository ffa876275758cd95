//! Generalized discrimination value: how well labelled classes separate in a representation
//! (Schilling et al. 2021).
//!
//! Each dimension is z-scored over all samples and halved. With D dimensions and L classes,
//! GDV = (1/√D) [mean over classes of the mean distance within the class − mean over pairs of
//! classes of the mean distance between the two]. It is 0 for classes that do not separate and
//! negative for classes that do. It does not change under translation and scaling of dimensions.

use rayon::prelude::*;

use super::plug_in::Classes;
use super::{check_labels, matrix_rows, unfit};
use crate::FeaturesError;

/// Separation of classes in a representation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gdv {
    /// The generalized discrimination value.
    pub value: f64,
    /// The least value that L classes of equal size can have: −√(L / (2 (L − 1))), which is −1 for
    /// two classes.
    pub bound: f64,
    /// `value` / `bound`: 1 for perfect separation of classes of equal size.
    pub ratio: f64,
    /// A lower bound of `value` for the class sizes at hand; equal to `bound` if they are equal.
    /// Where it is below `bound`, `ratio` can exceed 1.
    pub class_size_bound: f64,
    /// Number of classes.
    pub classes: usize,
    /// Number of dimensions that were dropped because they are constant.
    pub dropped_dimensions: usize,
}

/// Computes the GDV of `values` `[samples, d]` with `labels` `[samples]`, exactly.
///
/// Time is O(samples² · d); for many samples, pass a sample of them.
///
/// # Errors
/// If the shapes do not fit, a value is not finite, there are fewer than two classes, a class has
/// a single sample, or all dimensions are constant.
pub fn gdv(values: &[f32], d: usize, labels: &[u32]) -> Result<Gdv, FeaturesError> {
    let samples = matrix_rows("values", values, d)?;
    check_labels(labels, samples)?;
    let classes = Classes::new(labels);
    let count = classes.len();
    if count < 2 {
        return Err(unfit("labels", "one class", "at least two classes"));
    }
    if let Some(single) = classes.counts.iter().position(|&count| count < 2) {
        return Err(unfit(
            "labels",
            format!("one sample of label {}", classes.labels[single]),
            "at least two samples per class",
        ));
    }
    // Rows in order of class, so that each class is one run.
    let mut order: Vec<usize> = (0..samples).collect();
    order.sort_by_key(|&row| classes.of_row[row]);
    let (points, kept) = half_z_scores(values, d, &order);
    if kept == 0 {
        return Err(unfit(
            "values",
            "constant dimensions only",
            "at least one dimension that varies",
        ));
    }
    let mut starts = vec![0];
    for &size in &classes.counts {
        starts.push(starts[starts.len() - 1] + size);
    }
    let pairs_of_classes = (count * (count - 1) / 2) as f64;
    let size = |class: usize| classes.counts[class] as f64;
    // The value is linear in the distances: each row adds its distances to later rows.
    let per_row: Vec<f64> = (0..samples)
        .into_par_iter()
        .map(|i| {
            let row = &points[i * kept..(i + 1) * kept];
            let class = classes.of_row[order[i]] as usize;
            let distances = |from: usize, to: usize| -> f64 {
                points[from * kept..to * kept]
                    .chunks_exact(kept)
                    .map(|other| squared_distance(row, other).sqrt())
                    .sum()
            };
            let pairs = size(class) * (size(class) - 1.0) / 2.0;
            let within = distances(i + 1, starts[class + 1]) / (pairs * count as f64);
            let between: f64 = (class + 1..count)
                .map(|other| {
                    distances(starts[other], starts[other + 1]) / (size(class) * size(other))
                })
                .sum();
            within - between / pairs_of_classes
        })
        .collect();
    let value = per_row.iter().sum::<f64>() / (kept as f64).sqrt();
    let bound = -(count as f64 / (2.0 * (count as f64 - 1.0))).sqrt();
    Ok(Gdv {
        value,
        bound,
        ratio: value / bound,
        class_size_bound: class_size_bound(&classes),
        classes: count,
        dropped_dimensions: d - kept,
    })
}

/// −√(Σ over pairs of classes of 1 / (p q)) / (L (L − 1)), with p and q the shares of the two
/// classes: the Cauchy–Schwarz inequality between the mean distances and the total variance.
fn class_size_bound(classes: &Classes) -> f64 {
    let n = classes.of_row.len() as f64;
    let inverse = |class: usize| n / classes.counts[class] as f64;
    let count = classes.len();
    let sum: f64 = (0..count)
        .map(|a| inverse(a) * (a + 1..count).map(inverse).sum::<f64>())
        .sum();
    -sum.sqrt() / (count * (count - 1)) as f64
}

/// The rows in the given order, each dimension z-scored and halved, without constant dimensions.
fn half_z_scores(values: &[f32], d: usize, order: &[usize]) -> (Vec<f64>, usize) {
    let n = order.len() as f64;
    let mut mean = vec![0.0; d];
    let mut low = vec![f32::INFINITY; d];
    let mut high = vec![f32::NEG_INFINITY; d];
    for row in values.chunks_exact(d) {
        for (j, &value) in row.iter().enumerate() {
            mean[j] += f64::from(value);
            low[j] = low[j].min(value);
            high[j] = high[j].max(value);
        }
    }
    mean.iter_mut().for_each(|mean| *mean /= n);
    let mut variance = vec![0.0; d];
    for row in values.chunks_exact(d) {
        for (j, &value) in row.iter().enumerate() {
            variance[j] += (f64::from(value) - mean[j]).powi(2) / n;
        }
    }
    let kept: Vec<usize> = (0..d).filter(|&j| low[j] < high[j]).collect();
    let mut points = Vec::with_capacity(order.len() * kept.len());
    for &row in order {
        let row = &values[row * d..(row + 1) * d];
        points.extend(
            kept.iter()
                .map(|&j| 0.5 * (f64::from(row[j]) - mean[j]) / variance[j].sqrt()),
        );
    }
    (points, kept.len())
}

/// In four partial sums, which the compiler can keep in one vector register.
fn squared_distance(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 4];
    let (head_a, tail_a) = a.as_chunks::<4>();
    let (head_b, tail_b) = b.as_chunks::<4>();
    for (a, b) in head_a.iter().zip(head_b) {
        for lane in 0..4 {
            sums[lane] += (a[lane] - b[lane]) * (a[lane] - b[lane]);
        }
    }
    let tail: f64 = tail_a
        .iter()
        .zip(tail_b)
        .map(|(a, b)| (a - b).powi(2))
        .sum();
    sums.iter().sum::<f64>() + tail
}

#[cfg(test)]
mod tests;
