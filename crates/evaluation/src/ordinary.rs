//! Figures without outliers: tokens such as attention sinks, whose norms are so large that a few of
//! them have most of the variance.

use lapidary_activations::DEFAULT_NORM_MULTIPLE;

use crate::codes::HostCodes;
use crate::reconstruction::ReconstructionSums;

/// Running sums over the tokens that are no outliers. A token is an outlier if its norm at one of
/// the dictionary's hook points is more than [`DEFAULT_NORM_MULTIPLE`] times the median norm of the
/// tokens that went through the model first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ordinary {
    /// One a hook point, from the first tokens on.
    limits: Vec<f32>,
    pub(crate) reconstruction: ReconstructionSums,
    active: u64,
    tokens: u64,
}

impl Ordinary {
    /// Which of the tokens that count are no outliers, by their `norms` at each hook point.
    pub(crate) fn select(&mut self, norms: &[Vec<f32>], counts: &[bool]) -> Vec<bool> {
        if self.limits.is_empty() && counts.contains(&true) {
            self.limits = norms.iter().map(|of_hook| limit(of_hook, counts)).collect();
        }
        let within = |i: usize| {
            let mut hooks = norms.iter().zip(&self.limits);
            hooks.all(|(of_hook, limit)| of_hook[i] <= *limit)
        };
        let counts = counts.iter().enumerate();
        counts.map(|(i, counts)| *counts && within(i)).collect()
    }

    /// Takes in the codes of tokens, of which those with `ordinary` count.
    pub(crate) fn count(&mut self, codes: &HostCodes, ordinary: &[bool]) {
        for (row, _) in ordinary.iter().enumerate().filter(|(_, o)| **o) {
            let latents = &codes.indices[row * codes.k..(row + 1) * codes.k];
            self.active += latents.iter().filter(|latent| **latent >= 0).count() as u64;
            self.tokens += 1;
        }
    }

    /// Active latents per token.
    pub(crate) fn l0(&self) -> f64 {
        self.active as f64 / self.tokens as f64
    }
}

fn limit(norms: &[f32], counts: &[bool]) -> f32 {
    let counted = norms.iter().zip(counts).filter(|(_, counts)| **counts);
    let mut norms: Vec<f32> = counted.map(|(norm, _)| *norm).collect();
    norms.sort_by(f32::total_cmp);
    norms[norms.len() / 2] * DEFAULT_NORM_MULTIPLE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_an_outlier_if_its_norm_is_one_at_any_hook_point() {
        let mut ordinary = Ordinary::default();
        assert_eq!(ordinary.select(&[vec![7.0]], &[false]), [false]);
        let first = [vec![1.0, 2.0, 3.0, 900.0], vec![1.0, 1.0, 11.0, 1.0]];
        let counts = [true, true, true, false];
        assert_eq!(ordinary.select(&first, &counts), [true, true, false, false]);
        // The limits are those of the first tokens: 20 and 10.
        let later = [vec![20.0, 21.0], vec![10.0, 10.0]];
        assert_eq!(ordinary.select(&later, &[true, true]), [true, false]);
    }

    #[test]
    fn outliers_latents_are_not_counted() {
        let mut ordinary = Ordinary::default();
        let codes = HostCodes::new(vec![1.0, 0.0, 2.0, 3.0], vec![4, 0, 1, 2], 2);
        ordinary.count(&codes, &[true, false]);
        assert!((ordinary.l0() - 1.0).abs() < 1e-12);
    }
}
