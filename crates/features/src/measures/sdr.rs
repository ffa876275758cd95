//! Chance of overlaps, false matches and false members of sparse binary codes (Ahmad and Hawkins
//! 2016).
//!
//! A code has `a` of `n` bits on, drawn uniformly. A detector stores `s` bits and matches a code
//! that has at least `theta` of them on. Sums run in logarithms of f64, so that probabilities far
//! below 1e-300 keep their exponent in the `ln_` functions.

use super::log_gamma::{ln_choose, ln_sum};
use super::unfit;
use crate::FeaturesError;

/// The largest dictionary, and the largest code, whose chances are computed.
const MOST_LATENTS: u64 = 1 << 32;
const MOST_ACTIVE: u64 = 1 << 20;

/// ln of the number of codes with `a` of `n` bits on that share exactly `b` bits with a given code
/// of `x` bits: ln[C(x, b) C(n − x, a − b)]; minus infinity if there is none.
///
/// # Errors
/// If `x` or `a` exceeds `n`.
pub fn ln_overlap_sets(n: u64, x: u64, a: u64, b: u64) -> Result<f64, FeaturesError> {
    at_most("x", x, "n", n)?;
    at_most("a", a, "n", n)?;
    if b > a {
        return Ok(f64::NEG_INFINITY);
    }
    Ok(ln_choose(x as f64, b) + ln_choose((n - x) as f64, a - b))
}

/// Probability that a random code matches a detector of `s` bits at threshold `theta`.
///
/// # Errors
/// If `s` or `a` exceeds `n`.
pub fn false_match(n: u64, s: u64, a: u64, theta: u64) -> Result<f64, FeaturesError> {
    Ok(ln_false_match(n, s, a, theta)?.exp().min(1.0))
}

/// ln of [`false_match`]; minus infinity if no code can match.
///
/// # Errors
/// If `s` or `a` exceeds `n`.
pub fn ln_false_match(n: u64, s: u64, a: u64, theta: u64) -> Result<f64, FeaturesError> {
    at_most("s", s, "n", n)?;
    at_most("a", a, "n", n)?;
    Ok(ln_overlap_at_least(n, s as f64, a, theta))
}

/// ln P(a random code with `a` of `n` bits shares at least `theta` bits with `s` given bits), where
/// `s` may be an expected number of bits.
fn ln_overlap_at_least(n: u64, s: f64, a: u64, theta: u64) -> f64 {
    if theta == 0 {
        return 0.0;
    }
    let all = ln_choose(n as f64, a);
    let most = a.min(s.ceil() as u64);
    let terms: Vec<f64> = (theta..=most)
        .map(|b| ln_choose(s, b) + ln_choose(n as f64 - s, a - b) - all)
        .collect();
    ln_sum(&terms).min(0.0)
}

/// Probability that a detector of `s` of a code's `a` bits misses the code after a share `noise`
/// of the `a` bits was lost at random: `a` − round(`noise` · `a`) of them are left.
///
/// # Errors
/// If `s` exceeds `a` or `noise` is not between 0 and 1.
pub fn false_negative(a: u64, s: u64, theta: u64, noise: f64) -> Result<f64, FeaturesError> {
    at_most("s", s, "a", a)?;
    if !(0.0..=1.0).contains(&noise) {
        return Err(unfit("noise", noise, "a share between 0 and 1"));
    }
    let kept = a - (noise * a as f64).round() as u64;
    let all = ln_choose(a as f64, kept);
    let terms: Vec<f64> = (0..theta.min(s + 1).min(kept + 1))
        .map(|b| ln_choose(s as f64, b) + ln_choose((a - s) as f64, kept - b) - all)
        .collect();
    Ok(ln_sum(&terms).exp().min(1.0))
}

/// Expected number of bits that are on in the union of `m` random codes with `w` of `n` bits on:
/// n (1 − (1 − w/n)^m).
///
/// # Errors
/// If `n` is 0 or `w` exceeds it.
pub fn union_on_bits(n: u64, w: u64, m: u64) -> Result<f64, FeaturesError> {
    Ok(n as f64 * union_density(n, w, m)?)
}

/// Probability that all bits of a random code are on in the union of `m` other random codes:
/// (1 − (1 − w/n)^m)^w.
///
/// # Errors
/// If `n` is 0 or `w` exceeds it.
pub fn union_false_member(n: u64, w: u64, m: u64) -> Result<f64, FeaturesError> {
    Ok((w as f64 * ln_or_zero(w, union_density(n, w, m)?)).exp())
}

/// Probability that a random code shares at least `theta` bits with the union of `m` other random
/// codes.
///
/// For `theta` = `w` this is [`union_false_member`]; below, the union is taken to have its expected
/// number of bits ([`union_on_bits`]).
///
/// # Errors
/// If `n` is 0, `w` exceeds it, or `theta` exceeds `w`.
pub fn union_false_match(n: u64, w: u64, m: u64, theta: u64) -> Result<f64, FeaturesError> {
    at_most("theta", theta, "w", w)?;
    if theta == w {
        return union_false_member(n, w, m);
    }
    Ok(ln_overlap_at_least(n, union_on_bits(n, w, m)?, w, theta).exp())
}

/// Share of bits that are on in the union of `m` random codes.
fn union_density(n: u64, w: u64, m: u64) -> Result<f64, FeaturesError> {
    if n == 0 {
        return Err(unfit("n", 0, "at least one bit"));
    }
    at_most("w", w, "n", n)?;
    if m == 0 {
        return Ok(0.0); // 0 · ln 0 below, if w = n
    }
    Ok(-(m as f64 * (-(w as f64) / n as f64).ln_1p()).exp_m1())
}

/// ln(share), but 0 for a code without bits, whose power is 1 for any share.
fn ln_or_zero(w: u64, share: f64) -> f64 {
    if w == 0 { 0.0 } else { share.ln() }
}

fn at_most(field: &'static str, value: u64, name: &str, limit: u64) -> Result<(), FeaturesError> {
    if value > limit {
        return Err(unfit(field, value, format!("at most {name} = {limit}")));
    }
    Ok(())
}

/// Chance level of top-k codes: `k` of `d_sae` latents, drawn uniformly and independently.
///
/// Real codes are not uniform: frequent latents raise overlaps above these figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CodeChance {
    d_sae: u64,
    k: u64,
}

impl CodeChance {
    /// Codes with `k` of `d_sae` latents active.
    ///
    /// # Errors
    /// If `k` is 0 or exceeds `d_sae`.
    pub fn new(d_sae: u64, k: u64) -> Result<Self, FeaturesError> {
        if k == 0 {
            return Err(unfit("k", 0, "at least one active latent"));
        }
        at_most("k", k, "d_sae", d_sae)?;
        // Beyond, differences of logarithms of factorials lose their digits.
        at_most("d_sae", d_sae, "the largest size", MOST_LATENTS)?;
        at_most("k", k, "the largest code", MOST_ACTIVE)?;
        Ok(CodeChance { d_sae, k })
    }

    /// Expected number of latents that two codes share: k² / d_sae.
    pub fn expected_overlap(&self) -> f64 {
        self.k as f64 * self.k as f64 / self.d_sae as f64
    }

    /// Probability that two codes share at least `theta` latents.
    pub fn overlap_at_least(&self, theta: u64) -> f64 {
        self.ln_overlap_at_least(theta).exp()
    }

    /// ln of [`CodeChance::overlap_at_least`]; minus infinity above k.
    pub fn ln_overlap_at_least(&self, theta: u64) -> f64 {
        ln_overlap_at_least(self.d_sae, self.k as f64, self.k, theta)
    }

    /// The smallest overlap that two codes reach by chance with a probability below `level`; None
    /// if even equal codes are not that unlikely.
    ///
    /// # Errors
    /// If `level` is not between 0 and 1.
    pub fn smallest_theta(&self, level: f64) -> Result<Option<u64>, FeaturesError> {
        let ln_level = ln_level(level)?;
        // The probability falls with theta.
        let (mut low, mut high) = (0, self.k + 1);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.ln_overlap_at_least(middle) < ln_level {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        Ok((low <= self.k).then_some(low))
    }

    /// The largest number of codes whose union has a random code as a false member, at threshold
    /// `theta`, with a probability of at most `level` ([`union_false_match`]); 0 if even one code
    /// is too many.
    ///
    /// # Errors
    /// If `level` is not between 0 and 1, or `theta` is 0 or above k.
    pub fn largest_union(&self, theta: u64, level: f64) -> Result<u64, FeaturesError> {
        ln_level(level)?;
        if theta == 0 {
            return Err(unfit("theta", 0, "at least one shared latent"));
        }
        let fits = |codes: u64| -> Result<bool, FeaturesError> {
            Ok(union_false_match(self.d_sae, self.k, codes, theta)? <= level)
        };
        // The probability grows with the number of codes, to 1.
        let mut too_many = 1;
        while too_many < u64::MAX / 2 && fits(too_many)? {
            too_many *= 2;
        }
        let mut fitting = too_many / 2;
        while too_many - fitting > 1 {
            let middle = fitting + (too_many - fitting) / 2;
            if fits(middle)? {
                fitting = middle;
            } else {
                too_many = middle;
            }
        }
        Ok(fitting)
    }
}

fn ln_level(level: f64) -> Result<f64, FeaturesError> {
    if level > 0.0 && level < 1.0 {
        Ok(level.ln())
    } else {
        Err(unfit("level", level, "a probability between 0 and 1"))
    }
}

#[cfg(test)]
mod tests;
