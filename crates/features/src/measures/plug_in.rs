//! Plug-in entropies of counted outcomes, in bits, and their bias (Miller 1955).

/// Labels renumbered from 0 in ascending order, with the number of samples of each.
pub(super) struct Classes {
    pub(super) of_row: Vec<u32>,   // [rows], below counts.len()
    pub(super) counts: Vec<usize>, // [classes], each at least 1
    pub(super) labels: Vec<u32>,   // [classes], ascending
}

impl Classes {
    pub(super) fn new(labels: &[u32]) -> Self {
        let mut distinct = labels.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        let mut counts = vec![0; distinct.len()];
        let of_row = labels
            .iter()
            .map(|label| {
                let class = distinct.partition_point(|other| other < label);
                counts[class] += 1;
                class as u32
            })
            .collect();
        Classes {
            of_row,
            counts,
            labels: distinct,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.counts.len()
    }

    /// Plug-in entropy of the label in bits.
    pub(super) fn entropy(&self) -> f64 {
        entropy_of_counts(self.counts.iter().copied())
    }
}

/// `count · log2(count)`, 0 for 0.
pub(super) fn count_log_count(count: usize) -> f64 {
    if count == 0 {
        0.0
    } else {
        let count = count as f64;
        count * count.log2()
    }
}

/// Plug-in entropy in bits: log2 n − Σ c log2 c / n.
pub(super) fn entropy_of_counts(counts: impl Iterator<Item = usize>) -> f64 {
    let (mut n, mut sum) = (0usize, 0.0);
    for count in counts {
        n += count;
        sum += count_log_count(count);
    }
    if n == 0 {
        return 0.0;
    }
    // A single outcome gives -0.0 or a rounding error without the maximum.
    ((n as f64).log2() - sum / n as f64).max(0.0)
}

/// The first-order bias of plug-in mutual information in bits, from the numbers of occupied cells:
/// (cells − rows − columns + 1) / (2 n ln 2).
pub(super) fn miller_madow_bias(joint: usize, rows: usize, columns: usize, n: usize) -> f64 {
    let cells = joint as f64 - rows as f64 - columns as f64 + 1.0;
    cells / (2.0 * n as f64 * std::f64::consts::LN_2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entropies_match_closed_forms() {
        assert!((entropy_of_counts([7, 7, 7, 7].into_iter()) - 2.0).abs() < 1e-15);
        assert_eq!(entropy_of_counts([9].into_iter()), 0.0);
        // H(1/4) = 2 − (3/4) log2 3
        let quarter = entropy_of_counts([1, 3].into_iter());
        assert!((quarter - (2.0 - 0.75 * 3f64.log2())).abs() < 1e-15);
    }

    #[test]
    fn labels_are_renumbered_in_ascending_order() {
        let classes = Classes::new(&[900, 4, 900, 17]);
        assert_eq!(classes.of_row, [2, 0, 2, 1]);
        assert_eq!(classes.counts, [1, 1, 2]);
        assert_eq!(classes.labels, [4, 17, 900]);
    }

    #[test]
    fn with_all_cells_occupied_the_bias_is_the_chi_square_one() {
        let bias = miller_madow_bias(5 * 4, 5, 4, 1000);
        assert!((bias - 4.0 * 3.0 / (2000.0 * std::f64::consts::LN_2)).abs() < 1e-15);
    }
}
