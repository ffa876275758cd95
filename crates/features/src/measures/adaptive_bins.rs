//! Bins with equally many distinct values each (Chelombiev, Houghton and O'Donnell 2019).
//!
//! The saturated low value has a bin of its own, number 0. The other distinct values, ascending,
//! are cut at every (distinct / bins)-th one. The greatest value belongs to the last bin. Only the
//! order of the values decides, so a monotone rescaling above the saturated value changes nothing.

pub(super) struct AdaptiveBins {
    low: f32,
    starts: Vec<f32>, // ascending, the first value of bins 1, 2, …
}

impl AdaptiveBins {
    /// At most `bins` bins over the values above `low`; the values are lent and reordered.
    pub(super) fn new(values: &mut Vec<f32>, low: f32, bins: usize) -> Self {
        values.retain(|&value| value > low);
        values.sort_unstable_by(f32::total_cmp);
        values.dedup();
        let distinct = values.len();
        let bins = bins.min(distinct);
        let starts = (0..bins).map(|bin| values[bin * distinct / bins]).collect();
        AdaptiveBins { low, starts }
    }

    /// The bin of a value: 0 if saturated, otherwise from 1.
    pub(super) fn bin(&self, value: f32) -> u32 {
        if value <= self.low {
            0
        } else {
            self.starts.partition_point(|&start| start <= value).max(1) as u32
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bin_holds_the_same_number_of_distinct_values() {
        // 1 comes five times but is one distinct value.
        let values = [0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 0.0];
        let bins = AdaptiveBins::new(&mut values.to_vec(), 0.0, 3);
        let found: Vec<u32> = values.iter().map(|&value| bins.bin(value)).collect();
        assert_eq!(found, [0, 1, 1, 1, 1, 1, 1, 2, 2, 3, 3, 0]);
    }

    #[test]
    fn fewer_distinct_values_than_bins_get_one_bin_each() {
        let bins = AdaptiveBins::new(&mut vec![-1.0, 0.5, 2.0], 0.0, 30);
        assert_eq!([-1.0, 0.0, 0.5, 2.0].map(|v| bins.bin(v)), [0, 0, 1, 2]);
        let none = AdaptiveBins::new(&mut vec![0.0], 0.0, 30);
        assert_eq!(none.bin(0.0), 0);
    }
}
