//! The best one-to-one matching (Kuhn 1955, "The Hungarian method"; in the form with potentials).

// Why not the crate `pathfinding`: it is hardly faster, and needs gains that are scaled to
// integers.

/// For each row of `gain` `[n, m]`, its column in the matching with the largest sum of gains.
///
/// n ≤ m, and no column is given twice. It takes about n² m steps.
///
/// # Panics
/// There are more rows than columns, or a gain is not finite.
#[must_use]
pub fn best_matching(gain: &[Vec<f64>]) -> Vec<usize> {
    let n = gain.len();
    let m = gain.first().map_or(0, Vec::len);
    assert!(n <= m || n == 0, "more rows than columns");
    let finite = gain.iter().flatten().all(|g| g.is_finite());
    assert!(finite, "a gain that is not finite"); // no column would be the next
    let (mut u, mut v) = (vec![0.0; n + 1], vec![0.0; m + 1]);
    let mut row_of = vec![0; m + 1]; // of each column, counted from 1
    for row in 1..=n {
        row_of[0] = row;
        let mut column = 0;
        let (mut least, mut from) = (vec![f64::INFINITY; m + 1], vec![0; m + 1]);
        let mut used = vec![false; m + 1];
        while row_of[column] != 0 {
            used[column] = true;
            let at = row_of[column];
            let (mut step, mut next) = (f64::INFINITY, 0);
            for j in (1..=m).filter(|j| !used[*j]) {
                let left = -gain[at - 1][j - 1] - u[at] - v[j];
                if left < least[j] {
                    (least[j], from[j]) = (left, column);
                }
                if least[j] < step {
                    (step, next) = (least[j], j);
                }
            }
            for j in 0..=m {
                if used[j] {
                    u[row_of[j]] += step;
                    v[j] -= step;
                } else {
                    least[j] -= step;
                }
            }
            column = next;
        }
        while column != 0 {
            row_of[column] = row_of[from[column]];
            column = from[column];
        }
    }
    let mut columns = vec![0; n];
    for j in 1..=m {
        if row_of[j] > 0 {
            columns[row_of[j] - 1] = j - 1;
        }
    }
    columns
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
            let found = best_matching(&gain);
            let mut sorted = found.clone();
            sorted.sort_unstable();
            sorted.dedup();
            assert_eq!(sorted.len(), n);
            let sum: f64 = found.iter().enumerate().map(|(i, j)| gain[i][*j]).sum();
            assert!((sum - most(&gain, 0, 0)).abs() < 1e-9);
        }
        assert!(best_matching(&[]).is_empty());
    }
}
