//! How good a ranking is: against a known circuit, against exact effects, and by the circuits that
//! it picks.

/// Area under the ROC curve: the chance that one of the true ones has a higher score than one of
/// the others; ties count half. `None` if all or none are true.
#[must_use]
pub fn auc(scores: &[f64], truth: &[bool]) -> Option<f64> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*a].total_cmp(&scores[*b]));
    let (mut wins, mut others_below) = (0.0, 0.0);
    for tied in order.chunk_by(|a, b| scores[*a] == scores[*b]) {
        let positives = tied.iter().filter(|i| truth[**i]).count() as f64;
        let negatives = tied.len() as f64 - positives;
        wins += positives * (others_below + negatives / 2.0);
        others_below += negatives;
    }
    let pairs = others_below * (scores.len() as f64 - others_below);
    (pairs > 0.0).then(|| wins / pairs)
}

/// Pearson's correlation; `None` if one of the two is constant.
#[must_use]
pub fn correlation(a: &[f64], b: &[f64]) -> Option<f64> {
    let n = a.len() as f64;
    let mean = |x: &[f64]| x.iter().sum::<f64>() / n;
    let (mean_a, mean_b) = (mean(a), mean(b));
    let products = |x: &[f64], mx: f64, y: &[f64], my: f64| {
        let pairs = x.iter().zip(y);
        pairs.map(|(x, y)| (x - mx) * (y - my)).sum::<f64>()
    };
    let of_both = products(a, mean_a, b, mean_b);
    let spread = (products(a, mean_a, a, mean_a) * products(b, mean_b, b, mean_b)).sqrt();
    (spread > 0.0).then(|| of_both / spread)
}

/// The sizes of circuits at which the MIB benchmark measures faithfulness, as parts of all
/// (Mueller et al. 2025, arXiv 2504.13151).
pub const CIRCUIT_SIZES: [f64; 10] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0];

/// The integrated circuit performance ratio (CPR) and model distance (CMD) of MIB: the areas under
/// faithfulness f and under |1 − f|, over the sizes of circuits, by trapezoids.
#[must_use]
pub fn circuit_areas(sizes: &[f64], faithfulness: &[f64]) -> [f64; 2] {
    let area = |of: &dyn Fn(f64) -> f64| {
        let points: Vec<(f64, f64)> = sizes
            .iter()
            .copied()
            .zip(faithfulness.iter().map(|f| of(*f)))
            .collect();
        let pairs = points.windows(2);
        pairs
            .map(|p| (p[1].0 - p[0].0) * (p[0].1 + p[1].1) / 2.0)
            .sum()
    };
    [area(&|f| f), area(&|f| (1.0 - f).abs())]
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    /// The area equals the Mann-Whitney statistic, ties included.
    #[test]
    fn auc_is_the_share_of_pairs_in_the_right_order() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for _ in 0..50 {
            let scores: Vec<f64> = (0..40)
                .map(|_| f64::from(rng.random_range(0..12)))
                .collect();
            let truth: Vec<bool> = (0..40).map(|_| rng.random_bool(0.3)).collect();
            let (mut wins, mut pairs) = (0.0, 0.0);
            for (a, _) in scores.iter().zip(&truth).filter(|(_, t)| **t) {
                for (b, _) in scores.iter().zip(&truth).filter(|(_, t)| !**t) {
                    pairs += 1.0;
                    wins += match a.total_cmp(b) {
                        std::cmp::Ordering::Greater => 1.0,
                        std::cmp::Ordering::Equal => 0.5,
                        std::cmp::Ordering::Less => 0.0,
                    };
                }
            }
            assert!((auc(&scores, &truth).unwrap() - wins / pairs).abs() < 1e-12);
        }
        assert_eq!(auc(&[1.0, 2.0], &[true, true]), None);
        assert_eq!(auc(&[1.0, 1.0], &[true, false]), Some(0.5));
    }

    #[test]
    fn correlation_of_a_line_is_one_and_of_a_constant_none() {
        let a = [1.0, 2.0, 4.0];
        assert!((correlation(&a, &a.map(|x| 3.0 * x - 1.0)).unwrap() - 1.0).abs() < 1e-12);
        assert!((correlation(&a, &a.map(|x| -x)).unwrap() + 1.0).abs() < 1e-12);
        assert_eq!(correlation(&a, &[2.0; 3]), None);
    }

    /// The figures that MIB's own code gives for these two curves.
    #[test]
    fn areas_are_those_of_mib() {
        let close = |found: [f64; 2], expected: [f64; 2]| {
            let pairs = found.iter().zip(expected);
            pairs.for_each(|(f, e)| assert!((f - e).abs() < 1e-9, "{found:?}"));
        };
        let line = circuit_areas(&CIRCUIT_SIZES, &CIRCUIT_SIZES);
        close(line, [0.499_999_5, 0.499_000_5]);
        let steep = CIRCUIT_SIZES.map(|k| (10.0 * k).min(1.0));
        close(
            circuit_areas(&CIRCUIT_SIZES, &steep),
            [0.949_995, 0.049_005],
        );
    }
}
