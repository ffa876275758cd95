//! How often latents fire: a histogram of densities, and shares of latents above one.

use serde::{Deserialize, Serialize};

/// log10 of the lowest edge of a [`DensityHistogram`]; rarer latents are counted in the first bin.
const LOWEST: i32 = -7;

/// Bins a decade.
const BINS: i32 = 4;

/// Latents by the logarithm of the share of tokens on which they fire. The edges are the same for
/// every dictionary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DensityHistogram {
    /// log10 of the density at the bins' edges, ascending, one more than there are bins: -7 to 0 by
    /// quarters.
    pub log10_edges: Vec<f64>,
    /// Latents in each bin, the lower edge included; what fires on every token is in the last.
    pub latents: Vec<u64>,
    /// Latents that never fired, which no bin counts.
    pub never: u64,
}

impl DensityHistogram {
    /// Of densities 0 to 1.
    #[must_use]
    pub fn new(densities: &[f64]) -> Self {
        let bins = (-LOWEST * BINS) as usize;
        let mut histogram = Self {
            log10_edges: (0..=bins)
                .map(|i| f64::from(LOWEST) + i as f64 / f64::from(BINS))
                .collect(),
            latents: vec![0; bins],
            never: 0,
        };
        for density in densities {
            if *density > 0.0 {
                let place = (density.log10() - f64::from(LOWEST)) * f64::from(BINS);
                histogram.latents[(place.max(0.0) as usize).min(bins - 1)] += 1;
            } else {
                histogram.never += 1;
            }
        }
        histogram
    }
}

/// Share of latents whose density is above `limit`.
pub(crate) fn share_above(densities: &[f64], limit: f64) -> f64 {
    densities.iter().filter(|d| **d > limit).count() as f64 / densities.len() as f64
}

/// Of all firings the share by latents whose density is above `limit`; 0 if nothing fired.
pub(crate) fn firings_above(densities: &[f64], limit: f64) -> f64 {
    let total: f64 = densities.iter().sum();
    if total == 0.0 {
        return 0.0;
    }
    let above = densities.iter().filter(|d| **d > limit);
    above.fold(0.0, |sum, d| sum + d) / total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latents_are_counted_by_quarters_of_a_decade() {
        let h = DensityHistogram::new(&[0.0, 1.0, 0.5, 0.1, 0.099, 1e-6, 1e-9]);
        assert_eq!(h.log10_edges.len(), 29);
        assert_eq!((h.log10_edges[0], h.log10_edges[28]), (-7.0, 0.0));
        assert_eq!(h.never, 1);
        // 1 is in the last bin, 0.5 in [-0.5, -0.25), 0.1 in [-1, -0.75), 0.099 below it.
        assert_eq!(
            (h.latents[27], h.latents[26], h.latents[24], h.latents[23]),
            (1, 1, 1, 1)
        );
        assert_eq!((h.latents[4], h.latents[0]), (1, 1));
        assert_eq!(h.latents.iter().sum::<u64>(), 6);
    }

    #[test]
    fn frequent_latents_are_counted_and_weighed() {
        let densities = [0.2, 0.05, 0.01, 0.0];
        assert_eq!(share_above(&densities, 0.01), 0.5);
        assert_eq!(share_above(&densities, 0.1), 0.25);
        assert!((firings_above(&densities, 0.1) - 0.2 / 0.26).abs() < 1e-12);
        assert_eq!(firings_above(&[0.0, 0.0], 0.1), 0.0);
    }
}
