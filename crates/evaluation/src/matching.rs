//! The best one-to-one matching (Kuhn 1955, "The Hungarian method").

use ordered_float::OrderedFloat;
use pathfinding::prelude::{Matrix, kuhn_munkres};

/// For each of `n` rows, its column of `m` in the matching with the largest sum of gains;
/// `gain((row, column))` is the gain of a pair.
///
/// n ≤ m, and no column is given twice. It takes about n² m steps.
///
/// # Panics
/// There are more rows than columns, or a gain is not finite.
#[must_use]
pub fn best_matching(n: usize, m: usize, gain: impl Fn((usize, usize)) -> f64) -> Vec<usize> {
    assert!(n <= m || n == 0, "more rows than columns");
    if n == 0 {
        return Vec::new();
    }
    let gain = Matrix::from_fn(n, m, |place| {
        let gain = gain(place);
        assert!(gain.is_finite(), "a gain that is not finite"); // `kuhn_munkres` might not end
        OrderedFloat(gain)
    });
    kuhn_munkres(&gain).1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numbers::numbers;

    /// The most that rows from `row` on can gain with the columns that are left.
    fn most(gain: &[Vec<f64>], row: usize, taken: u32) -> f64 {
        if row == gain.len() {
            return 0.0;
        }
        let free = (0..gain[row].len()).filter(|j| taken >> j & 1 == 0);
        free.map(|j| gain[row][j] + most(gain, row + 1, taken | 1 << j))
            .fold(f64::MIN, f64::max)
    }

    #[test]
    fn no_other_matching_gains_more() {
        for (n, m, seed) in [(1, 1, 1), (4, 4, 2), (5, 7, 3), (6, 6, 4), (3, 8, 5)] {
            let values = numbers(n * m, seed);
            let gain: Vec<Vec<f64>> = values
                .chunks(m)
                .map(|row| row.iter().map(|v| f64::from(*v)).collect())
                .collect();
            let found = best_matching(n, m, |(i, j)| gain[i][j]);
            let mut sorted = found.clone();
            sorted.sort_unstable();
            sorted.dedup();
            assert_eq!(sorted.len(), n);
            let sum: f64 = found.iter().enumerate().map(|(i, j)| gain[i][*j]).sum();
            assert!((sum - most(&gain, 0, 0)).abs() < 1e-9);
        }
        assert!(best_matching(0, 0, |_| 0.0).is_empty());
    }
}
