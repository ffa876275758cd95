//! Spearman's rank correlation with average ranks for ties.

/// Spearman's correlation of two lists of equal length; None if one is constant, a value is not a
/// number, or the lengths differ.
pub fn spearman(a: &[f64], b: &[f64]) -> Option<f64> {
    if a.len() != b.len() || a.iter().chain(b).any(|value| value.is_nan()) {
        return None;
    }
    let (a, b) = (average_ranks(a), average_ranks(b));
    // Ranks from 1 to n have the mean (n + 1) / 2, with or without ties.
    let mean = (a.len() as f64 + 1.0) / 2.0;
    let [mut ab, mut aa, mut bb] = [0.0; 3];
    for (a, b) in a.iter().zip(&b) {
        ab += (a - mean) * (b - mean);
        aa += (a - mean) * (a - mean);
        bb += (b - mean) * (b - mean);
    }
    (aa > 0.0 && bb > 0.0).then(|| (ab / (aa.sqrt() * bb.sqrt())).clamp(-1.0, 1.0))
}

fn average_ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&i, &j| values[i].total_cmp(&values[j]));
    let mut ranks = vec![0.0; values.len()];
    let mut before = 0;
    // Compared with ==, so that 0 and -0 are a tie.
    for tied in order.chunk_by(|&i, &j| values[i] == values[j]) {
        let rank = before as f64 + (tied.len() as f64 + 1.0) / 2.0;
        tied.iter().for_each(|&i| ranks[i] = rank);
        before += tied.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_correlation_matches_the_formula_for_ranks_without_ties() {
        // 1 − 6 Σ d² / (n (n² − 1)) with d = 1, -1, 0, 2, -2
        let found = spearman(&[0.1, 0.2, 0.3, 0.4, 0.5], &[20.0, 10.0, 30.0, 50.0, 40.0]).unwrap();
        assert!((found - (1.0 - 6.0 * 4.0 / 120.0)).abs() < 1e-15);
    }

    #[test]
    fn ties_have_their_average_rank() {
        assert_eq!(
            average_ranks(&[3.0, 1.0, 3.0, 0.0, -0.0]),
            [4.5, 3.0, 4.5, 1.5, 1.5]
        );
        // Ranks 1 2.5 2.5 4 and 1 2 3 4: Σ = 4.5 over √(4.5 · 5).
        let found = spearman(&[1.0, 2.0, 2.0, 3.0], &[1.0, 2.0, 3.0, 4.0]).unwrap();
        assert!((found - 4.5 / 22.5f64.sqrt()).abs() < 1e-15);
    }

    #[test]
    fn only_the_order_of_values_matters() {
        let a: Vec<f64> = (0..50).map(|i| f64::from((i * 17) % 50)).collect();
        let cubed: Vec<f64> = a.iter().map(|x| x * x * x).collect();
        assert!((spearman(&a, &cubed).unwrap() - 1.0).abs() < 1e-15);
        let negated: Vec<f64> = a.iter().map(|x| -x).collect();
        assert!((spearman(&a, &negated).unwrap() + 1.0).abs() < 1e-15);
    }

    #[test]
    fn a_constant_list_has_no_correlation() {
        assert_eq!(spearman(&[1.0, 1.0], &[1.0, 2.0]), None);
        assert_eq!(spearman(&[1.0, 3.0], &[f64::NAN, 2.0]), None);
        assert_eq!(spearman(&[], &[]), None);
    }
}
