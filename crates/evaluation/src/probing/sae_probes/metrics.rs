//! Test metrics of a probe: ROC AUC, accuracy and weighted F1, as scikit-learn defines them.

/// Area under the ROC curve: the share of pairs of a positive and a negative row in which the
/// positive row has the higher score. A tie counts one half. None if there is one class only.
///
/// It is summed in the order in which scikit-learn and numpy sum it. Different values of C often
/// have equal areas, and which of them is the largest then hangs on the last bit.
#[must_use]
pub fn auc(scores: &[f64], labels: &[bool]) -> Option<f64> {
    if scores.iter().any(|s| s.is_nan()) {
        return None;
    }
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_unstable_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    // False and true positives at each threshold, from the highest score down.
    let mut curve: Vec<[f64; 2]> = Vec::new();
    let mut counts = [0.0; 2];
    for equal in order.chunk_by(|a, b| scores[*a] == scores[*b]) {
        for i in equal {
            counts[usize::from(labels[*i])] += 1.0;
        }
        curve.push(counts);
    }
    if counts[0] == 0.0 || counts[1] == 0.0 {
        return None;
    }
    // Points inside a straight piece of the curve are left out.
    let bends = |i: usize| {
        let is_end = i == 0 || i + 1 == curve.len();
        is_end || (0..2).any(|s| curve[i + 1][s] - curve[i][s] != curve[i][s] - curve[i - 1][s])
    };
    let corners = (0..curve.len()).filter(|i| bends(*i)).map(|i| curve[i]);
    let mut last = [0.0; 2];
    let areas = corners.map(|corner| {
        let next = [corner[0] / counts[0], corner[1] / counts[1]];
        let area = (next[0] - last[0]) * (next[1] + last[1]) / 2.0;
        last = next;
        area
    });
    Some(numpy_sum(&areas.collect::<Vec<_>>()))
}

/// Sum of `values` in the order of numpy's pairwise summation.
pub(crate) fn numpy_sum(values: &[f64]) -> f64 {
    if values.len() < 8 {
        return values.iter().sum();
    }
    if values.len() > 128 {
        let half = values.len() / 2;
        let (first, second) = values.split_at(half - half % 8);
        return numpy_sum(first) + numpy_sum(second);
    }
    let mut lanes = [0.0; 8];
    let eights = values.chunks_exact(8);
    let rest = eights.remainder();
    for eight in eights {
        lanes.iter_mut().zip(eight).for_each(|(l, v)| *l += v);
    }
    let [a, b, c, d, e, f, g, h] = lanes;
    let lanes = ((a + b) + (c + d)) + ((e + f) + (g + h));
    rest.iter().fold(lanes, |sum, v| sum + v)
}

/// Share of rows whose label is predicted.
#[must_use]
pub fn accuracy(predicted: &[bool], labels: &[bool]) -> f64 {
    let right = predicted.iter().zip(labels).filter(|(p, l)| p == l).count();
    right as f64 / labels.len() as f64
}

/// Mean of the F1 scores of both classes, each weighted by its number of rows. F1 is 0 where
/// there is nothing to divide by.
#[must_use]
pub fn weighted_f1(predicted: &[bool], labels: &[bool]) -> f64 {
    let of_class = |class: bool| {
        let is = |p: &&bool| **p == class;
        let have = labels.iter().filter(is).count() as f64;
        let found = predicted.iter().filter(is).count() as f64;
        let both = predicted.iter().zip(labels);
        let both = both.filter(|(p, l)| **p == class && **l == class).count() as f64;
        if have + found == 0.0 {
            0.0
        } else {
            have * 2.0 * both / (have + found)
        }
    };
    (of_class(true) + of_class(false)) / labels.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numbers::numbers;

    #[test]
    fn auc_with_ties_is_the_share_of_pairs_won() {
        for (levels, seed) in [(3.0, 1), (10.0, 2), (1e6, 3)] {
            let scores: Vec<f64> = numbers(90, seed)
                .iter()
                .map(|v| (f64::from(*v) * levels).round())
                .collect();
            let labels: Vec<bool> = numbers(90, seed + 9).iter().map(|v| *v > 0.3).collect();
            let (mut won, mut pairs) = (0.0, 0.0);
            for (s, _) in scores.iter().zip(&labels).filter(|(_, l)| **l) {
                for (t, _) in scores.iter().zip(&labels).filter(|(_, l)| !**l) {
                    pairs += 1.0;
                    won += if s > t {
                        1.0
                    } else if s == t {
                        0.5
                    } else {
                        0.0
                    };
                }
            }
            let found = auc(&scores, &labels).unwrap();
            assert!((found - won / pairs).abs() < 1e-12, "{found}");
        }
        assert_eq!(auc(&[1.0, -0.0, 0.0], &[true, true, false]), Some(0.75));
        assert_eq!(auc(&[1.0, 2.0], &[true, true]), None);
    }

    /// Printed by scikit-learn 1.9.1.
    #[test]
    fn auc_is_that_of_scikit_learn_to_the_last_bit() {
        for (n, levels, seed, expected) in [
            (90, 3.0, 1, 0.5829831932773109),
            (90, 10.0, 2, 0.4864433811802233),
            (90, 1e6, 3, 0.4642857142857143),
            (500, 3.0, 1, 0.5096122205095343),
            (500, 10.0, 2, 0.48437614142742347),
            (500, 1e6, 3, 0.500539145498577),
        ] {
            let scores = numbers(n, seed)
                .into_iter()
                .map(|v| (f64::from(v) * levels).round());
            let labels: Vec<bool> = numbers(n, seed + 9).iter().map(|v| *v > 0.3).collect();
            assert_eq!(
                auc(&scores.collect::<Vec<_>>(), &labels),
                Some(expected),
                "{n} {levels}"
            );
        }
    }

    /// Printed by scikit-learn 1.9.1.
    #[test]
    fn accuracy_and_f1_are_those_of_scikit_learn() {
        let labels = [true, true, true, false, false, true, false];
        let predicted = [true, false, true, true, false, true, false];
        assert!((accuracy(&predicted, &labels) - 0.714_285_714_285_714_3).abs() < 1e-12);
        assert!((weighted_f1(&predicted, &labels) - 0.714_285_714_285_714_3).abs() < 1e-12);
        let predicted = [true; 7];
        assert!((weighted_f1(&predicted, &labels) - 0.415_584_415_584_415_6).abs() < 1e-12);
    }
}
