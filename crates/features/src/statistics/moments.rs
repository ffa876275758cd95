//! Count, mean, spread, maximum and quantiles of one latent's activations over the tokens on which
//! it fires.
//!
//! Mean and standard deviation come from sums in f64, shifted by the first activation so that
//! nothing cancels. Quantiles are exact while the latent has fired at most as often as activations
//! are kept, and come from a histogram of fine bins afterwards.

use super::histogram::{Histogram, HistogramBin};

/// The quantiles that are reported, in this order.
pub const QUANTILES: [f64; 5] = [0.25, 0.5, 0.75, 0.9, 0.99];

#[derive(Debug, Clone, Default)]
pub(super) struct Moments {
    count: u64,
    shift: f64,
    sum: f64,         // of (value - shift)
    sum_squares: f64, // of (value - shift)²
    max: f32,
    kept: Vec<f32>, // all activations, or none if they are too many
    histogram: Histogram,
}

impl Moments {
    #[inline]
    pub(super) fn add(&mut self, value: f32, capacity: usize) {
        if self.count == 0 {
            self.shift = f64::from(value);
            self.max = value;
        }
        self.count += 1;
        let shifted = f64::from(value) - self.shift;
        self.sum += shifted;
        self.sum_squares += shifted * shifted;
        self.max = self.max.max(value);
        self.histogram.add(value);
        if self.count <= capacity as u64 {
            self.kept.push(value);
        } else if !self.kept.is_empty() {
            self.kept = Vec::new();
        }
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn max(&self) -> f32 {
        self.max
    }

    /// Mean over the firing tokens; 0 for a latent that never fired.
    pub(super) fn mean(&self) -> f64 {
        if self.count == 0 {
            0.0
        } else {
            self.shift + self.sum / self.count as f64
        }
    }

    /// Population standard deviation over the firing tokens; 0 for a latent that never fired.
    pub(super) fn std(&self) -> f64 {
        if self.count == 0 {
            return 0.0;
        }
        let n = self.count as f64;
        let mean = self.sum / n;
        (self.sum_squares / n - mean * mean).max(0.0).sqrt()
    }

    pub(super) fn quantiles_exact(&self) -> bool {
        self.count == self.kept.len() as u64
    }

    /// Number of tokens by activation.
    pub(super) fn histogram(&self) -> Vec<HistogramBin> {
        self.histogram.bins()
    }

    /// [`QUANTILES`], linearly interpolated between order statistics (numpy's default) if they are
    /// exact; 0 if it never fired.
    pub(super) fn quantiles(mut self) -> [f32; 5] {
        if !self.quantiles_exact() {
            return QUANTILES.map(|q| self.histogram.quantile(q).min(self.max));
        }
        self.kept.sort_unstable_by(f32::total_cmp);
        QUANTILES.map(|q| quantile_of_sorted(&self.kept, q))
    }
}

/// The `q` quantile of ascending values, linearly interpolated; 0 if there are none.
pub(super) fn quantile_of_sorted(sorted: &[f32], q: f64) -> f32 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return 0.0;
    };
    let place = q * last as f64;
    let below = place.floor() as usize;
    let (low, high) = (
        f64::from(sorted[below]),
        f64::from(sorted[(below + 1).min(last)]),
    );
    (low + (high - low) * (place - below as f64)) as f32
}

/// SplitMix64's finalizer over two words: the only source of chance in this crate.
#[inline]
pub(crate) fn hash(stream: u64, counter: u64) -> u64 {
    let mut z = stream ^ counter.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_interpolate_like_numpy() {
        // numpy.quantile([1, 2, 4, 8], [.25, .5, .75, .9, .99])
        let sorted = [1.0, 2.0, 4.0, 8.0];
        let expected = [1.75, 3.0, 5.0, 6.8, 7.88];
        for (q, want) in QUANTILES.into_iter().zip(expected) {
            assert!((quantile_of_sorted(&sorted, q) - want).abs() < 1e-6, "{q}");
        }
    }

    #[test]
    fn a_large_offset_does_not_spoil_the_standard_deviation() {
        let mut moments = Moments::default();
        for i in 0..1000u32 {
            moments.add(10_000.0 + (i % 2) as f32, 16);
        }
        assert!((moments.std() - 0.5).abs() < 1e-9);
        assert!((moments.mean() - 10_000.5).abs() < 1e-9);
    }

    #[test]
    fn quantiles_of_many_activations_are_within_a_sixty_fourth() {
        let mut moments = Moments::default();
        for i in 0..100_000u32 {
            moments.add((i * 7919 % 100_000) as f32 / 100_000.0 + 1e-6, 1024);
        }
        assert!(!moments.quantiles_exact());
        for (got, want) in moments.quantiles().into_iter().zip(QUANTILES) {
            assert!(
                (f64::from(got) / want - 1.0).abs() < 1.0 / 64.0,
                "{want}: {got}"
            );
        }
    }

    #[test]
    fn quantiles_of_few_activations_are_exact() {
        let mut moments = Moments::default();
        for value in [8.0, 1.0, 4.0, 2.0] {
            moments.add(value, 4);
        }
        assert!(moments.quantiles_exact());
        assert_eq!(moments.clone().quantiles(), [1.75, 3.0, 5.0, 6.8, 7.88]);
        moments.add(1.0, 4);
        assert!(!moments.quantiles_exact());
    }
}
