//! Bars of equal width and shares of tokens, from a histogram with bins of any width.
//!
//! Within a bin the activations are taken to lie evenly. SAEDashboard shows 50 bars and sorts
//! weaker contexts into five intervals of equal width, and so does this.

use crate::statistics::HistogramBin;

/// Number of bars.
const BARS: usize = 50;

/// Number of intervals between 0 and the highest activation.
const INTERVALS: usize = 5;

/// Part of the activation range that a context stands for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct ActivationBin {
    /// Lower end; -1 for the strongest contexts.
    pub(super) min: f32,
    /// Upper end.
    pub(super) max: f32,
    /// Share of all tokens whose activation is between the ends; -1 for the strongest contexts.
    pub(super) contains: f32,
}

/// How the activations of one latent are distributed.
pub(super) struct Distribution {
    bins: Vec<(f64, f64, u64)>, // (lower, upper, count)
    lowest: f64,
    highest: f64,
    total: u64,
    density: f64,
}

impl Distribution {
    /// Bins that are empty or have an edge that means nothing are left out. No activation is above
    /// `max_activation`, which ends the last bin where its own edge is infinite. `density` is the
    /// share of all tokens that are in the histogram.
    pub(super) fn new(histogram: &[HistogramBin], max_activation: f32, density: f64) -> Self {
        let known =
            |bin: &&HistogramBin| bin.count > 0 && bin.lower.is_finite() && bin.upper >= bin.lower;
        let bins = histogram.iter().filter(known).map(|bin| {
            let mut upper = bin.upper;
            if max_activation >= bin.lower {
                upper = upper.min(max_activation);
            }
            if !upper.is_finite() {
                upper = bin.lower;
            }
            (f64::from(bin.lower), f64::from(upper), bin.count)
        });
        let bins: Vec<_> = bins.collect();
        let lowest = bins.iter().map(|bin| bin.0).fold(f64::INFINITY, f64::min);
        let highest = bins.iter().map(|bin| bin.1).fold(0.0, f64::max);
        let total = bins.iter().fold(0u64, |sum, bin| sum.saturating_add(bin.2));
        Distribution {
            bins,
            lowest,
            highest,
            total,
            density,
        }
    }

    /// Number of activations up to `x`.
    fn below(&self, x: f64) -> f64 {
        let inside = |&(lower, upper, count): &(f64, f64, u64)| {
            if x >= upper {
                count as f64
            } else if x <= lower {
                0.0
            } else {
                count as f64 * (x - lower) / (upper - lower)
            }
        };
        self.bins.iter().map(inside).sum()
    }

    /// The middle and the height of each bar, ascending. Heights are whole and add up to the counts
    /// of the histogram. One bar if all activations are equal, none if there are no activations.
    pub(super) fn bars(&self) -> (Vec<f32>, Vec<u64>) {
        if self.total == 0 {
            return (vec![], vec![]);
        }
        if self.lowest >= self.highest {
            return (vec![self.highest as f32], vec![self.total]);
        }
        let width = (self.highest - self.lowest) / BARS as f64;
        let middle = |bar: usize| (self.lowest + width * (bar as f64 + 0.5)) as f32;
        let mut before = 0;
        let heights = (1..=BARS).map(|bar| {
            // Rounding what lies below an edge, not what lies between two, keeps the sum.
            let below = match bar {
                BARS => self.total,
                _ => self.below(self.lowest + width * bar as f64).round() as u64,
            };
            let height = below.saturating_sub(before);
            before = before.max(below);
            height
        });
        let heights = heights.collect();
        ((0..BARS).map(middle).collect(), heights)
    }

    /// The interval of an activation; none if the distribution is not known. The lowest interval
    /// contains the tokens on which the latent does not fire.
    pub(super) fn interval(&self, activation: f32) -> Option<ActivationBin> {
        if self.total == 0 || self.highest <= 0.0 {
            return None;
        }
        let edge = |i: usize| self.highest * i as f64 / INTERVALS as f64;
        let below = |i: &usize| f64::from(activation) < edge(i + 1);
        let at = (0..INTERVALS).find(below).unwrap_or(INTERVALS - 1);
        let firings = self.below(edge(at + 1)) - self.below(edge(at));
        let silent = if at == 0 { 1.0 - self.density } else { 0.0 };
        Some(ActivationBin {
            min: edge(at) as f32,
            max: edge(at + 1) as f32,
            contains: (firings / self.total as f64 * self.density + silent) as f32,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bin(lower: f32, upper: f32, count: u64) -> HistogramBin {
        HistogramBin {
            lower,
            upper,
            count,
        }
    }

    #[test]
    fn bars_have_equal_widths_and_keep_every_count() {
        // 0.5 to 10.5 in bins whose widths double or so; every bar of 0.2 holds a known share.
        let bins = [bin(0.5, 2.5, 100), bin(2.5, 10.5, 80)];
        let (values, heights) = Distribution::new(&bins, 10.5, 0.1).bars();
        assert_eq!((values.len(), heights.len()), (50, 50));
        assert!((values[0] - 0.6).abs() < 1e-6 && (values[49] - 10.4).abs() < 1e-6);
        assert!(heights[..10].iter().all(|h| *h == 10));
        assert!(heights[10..].iter().all(|h| *h == 2));
        let odd = [bin(0.3, 0.7, 17), bin(0.9, 1.0, 3), bin(2.0, 2.25, 1)];
        let (_, heights) = Distribution::new(&odd, 2.1, 0.1).bars();
        assert_eq!(heights.iter().sum::<u64>(), 21);
        assert_eq!(heights[49] + heights[48] + heights[47] + heights[46], 1);
    }

    #[test]
    fn the_last_bar_ends_at_the_highest_activation() {
        let bins = [bin(1.0, 2.0, 10), bin(2.0, f32::INFINITY, 10)];
        let (values, heights) = Distribution::new(&bins, 3.0, 0.1).bars();
        assert!((values[49] - 2.98).abs() < 1e-5, "{}", values[49]);
        assert_eq!(heights.iter().sum::<u64>(), 20);
        for max in [f32::NAN, f32::INFINITY] {
            let (values, heights) = Distribution::new(&bins, max, 0.1).bars();
            assert!(values.iter().all(|v| v.is_finite()));
            assert_eq!(heights.iter().sum::<u64>(), 20);
        }
    }

    #[test]
    fn equal_activations_are_one_bar_and_no_activations_none() {
        let one = Distribution::new(&[bin(1.0, 1.125, 7)], 1.0, 0.1);
        assert_eq!(one.bars(), (vec![1.0], vec![7]));
        for histogram in [vec![], vec![bin(f32::NAN, 1.0, 3)], vec![bin(1.0, 2.0, 0)]] {
            let none = Distribution::new(&histogram, 0.0, 0.0);
            assert_eq!(none.bars(), (vec![], vec![]));
            assert_eq!(none.interval(1.0), None);
        }
    }

    #[test]
    fn intervals_are_fifths_and_their_shares_add_up_to_all_tokens() {
        let bins = [bin(0.0, 1.0, 60), bin(1.0, 5.0, 40)];
        let distribution = Distribution::new(&bins, 5.0, 0.25);
        let of = |activation| distribution.interval(activation).unwrap();
        let lowest = of(0.5);
        assert_eq!((lowest.min, lowest.max), (0.0, 1.0));
        assert!((lowest.contains - (0.75 + 0.6 * 0.25)).abs() < 1e-6);
        // An activation on an edge is in the interval above, but for the highest.
        assert_eq!((of(1.0).min, of(1.0).max), (1.0, 2.0));
        assert_eq!((of(5.0).min, of(5.0).max), (4.0, 5.0));
        assert!((of(3.0).contains - 0.1 * 0.25).abs() < 1e-6);
        let sum: f32 = (0..5).map(|i| of(i as f32 + 0.5).contains).sum();
        assert!((sum - 1.0).abs() < 1e-6);
    }
}
