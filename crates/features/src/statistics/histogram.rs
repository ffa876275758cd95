//! A histogram of one latent's activations that is exact and grows with their range only.
//!
//! A bin holds the positive f32 numbers that share their sign, exponent and first bits of the
//! mantissa, so its edges are exact and each octave has 64 bins of equal width. A value differs
//! from any other in its bin by at most 1/64 of itself.

/// Bits of the mantissa that a bin keeps: 2⁶ bins per octave.
const MANTISSA_BITS: u32 = 6;

/// Bits of an f32 that a bin leaves open.
const OPEN_BITS: u32 = f32::MANTISSA_DIGITS - 1 - MANTISSA_BITS;

/// Number of fine bins that make one bin of the table: 8 per octave.
const FINE_PER_COARSE: u32 = 1 << (MANTISSA_BITS - 3);

/// A bin of the histogram that is reported: 8 per octave, only bins that are not empty.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HistogramBin {
    /// Lower edge; an activation equal to it is in the bin.
    pub lower: f32,
    /// Upper edge; an activation equal to it is in the next bin.
    pub upper: f32,
    /// Number of tokens with an activation in the bin.
    pub count: u64,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Histogram {
    first: u32,       // bin of counts[0]
    counts: Vec<u32>, // [range of bins]
}

impl Histogram {
    /// Counts a positive activation.
    #[inline]
    pub(super) fn add(&mut self, value: f32) {
        let bin = value.to_bits() >> OPEN_BITS;
        let at = bin.wrapping_sub(self.first) as usize;
        if at >= self.counts.len() {
            self.widen(bin);
        }
        let count = &mut self.counts[(bin - self.first) as usize];
        *count = count.saturating_add(1);
    }

    /// Makes room for `bin`.
    #[cold]
    fn widen(&mut self, bin: u32) {
        if self.counts.is_empty() {
            self.first = bin;
        }
        let first = self.first.min(bin);
        let end = (self.first + self.counts.len() as u32).max(bin + 1);
        let mut counts = vec![0; (end - first) as usize];
        let old = (self.first - first) as usize;
        counts[old..old + self.counts.len()].copy_from_slice(&self.counts);
        (self.first, self.counts) = (first, counts);
    }

    /// The `q` quantile by linear interpolation within its bin: at most 1/64 of its value away
    /// from an order statistic next to it. 0 if nothing was counted.
    pub(super) fn quantile(&self, q: f64) -> f32 {
        let count: u64 = self.counts.iter().map(|&n| u64::from(n)).sum();
        let place = q * count.saturating_sub(1) as f64; // between order statistics, from 0
        let mut before = 0;
        for (at, &n) in self.counts.iter().enumerate().filter(|(_, n)| **n > 0) {
            if place < (before + u64::from(n)) as f64 {
                let (lower, upper) = edges(self.first + at as u32, 1);
                // The n values of the bin are taken to lie evenly in it.
                let share = ((place - before as f64 + 0.5) / f64::from(n)).min(1.0);
                let (lower, upper) = (f64::from(lower), f64::from(upper));
                return (lower + (upper - lower) * share) as f32;
            }
            before += u64::from(n);
        }
        0.0
    }

    /// The bins of the table, ascending.
    pub(super) fn bins(&self) -> Vec<HistogramBin> {
        let mut bins: Vec<HistogramBin> = vec![];
        for (at, &n) in self.counts.iter().enumerate().filter(|(_, n)| **n > 0) {
            let bin = (self.first + at as u32) / FINE_PER_COARSE * FINE_PER_COARSE;
            let (lower, upper) = edges(bin, FINE_PER_COARSE);
            match bins.last_mut() {
                Some(last) if last.lower == lower => last.count += u64::from(n),
                _ => bins.push(HistogramBin {
                    lower,
                    upper,
                    count: u64::from(n),
                }),
            }
        }
        bins
    }
}

/// Edges of so many fine bins from `bin` on; the last bin of all ends at infinity.
fn edges(bin: u32, width: u32) -> (f32, f32) {
    let edge = |bin: u32| f32::from_bits((bin << OPEN_BITS).min(f32::INFINITY.to_bits()));
    (edge(bin), edge(bin + width))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Positive numbers over six octaves.
    fn values(n: usize) -> Vec<f32> {
        let angle = |i: usize| ((i * 7919) % n) as f64 / n as f64;
        (0..n)
            .map(|i| (8.0 * angle(i) - 3.0).exp() as f32)
            .collect()
    }

    #[test]
    fn each_bin_counts_the_activations_between_its_edges() {
        let values = values(5000);
        let mut histogram = Histogram::default();
        values.iter().for_each(|v| histogram.add(*v));
        let bins = histogram.bins();
        assert!(bins.len() > 50 && bins.is_sorted_by(|a, b| a.upper <= b.lower));
        for bin in &bins {
            let inside = values
                .iter()
                .filter(|v| bin.lower <= **v && **v < bin.upper);
            assert_eq!(bin.count, inside.count() as u64);
            assert!(f64::from(bin.upper / bin.lower) <= 1.0 + 1.0 / 8.0 + 1e-6);
        }
        assert_eq!(bins.iter().map(|b| b.count).sum::<u64>(), 5000);
    }

    #[test]
    fn quantiles_are_within_a_sixty_fourth() {
        for n in [1, 2, 3, 100, 4999] {
            let mut values = values(n);
            let mut histogram = Histogram::default();
            values.iter().for_each(|v| histogram.add(*v));
            values.sort_unstable_by(f32::total_cmp);
            for q in [0.0, 0.25, 0.5, 0.9, 0.99, 1.0] {
                let place = q * (n - 1) as f64;
                let near = [place.floor(), place.ceil()].map(|at| f64::from(values[at as usize]));
                let got = f64::from(histogram.quantile(q));
                let slack = 1.0 / 64.0;
                assert!(
                    got >= near[0] * (1.0 - slack) && got <= near[1] * (1.0 + slack),
                    "{n} {q}"
                );
            }
        }
        assert_eq!(Histogram::default().quantile(0.5), 0.0);
    }

    #[test]
    fn the_smallest_and_largest_numbers_have_bins() {
        let mut histogram = Histogram::default();
        for value in [f32::from_bits(1), f32::MAX, 1.0] {
            histogram.add(value);
        }
        let bins = histogram.bins();
        assert_eq!(bins.len(), 3);
        assert_eq!((bins[0].lower, bins[2].upper), (0.0, f32::INFINITY));
        assert!(bins[1].lower == 1.0 && bins[1].upper == 1.125);
    }
}
