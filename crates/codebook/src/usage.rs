//! How often codes are chosen, and new places for codes that never are.

use crate::Codebook;
use crate::init::normal;
use burn::tensor::{Int, Tensor, TensorData};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// A replaced code is an input plus normal noise of this share of the input's norm.
const NOISE: f32 = 1e-4;

/// How often each code of a codebook was chosen, the codes of its first group first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodeUsage {
    n_codes: usize,
    counts: Vec<u64>,
}

impl CodeUsage {
    /// No code was chosen yet.
    pub fn new(groups: usize, n_codes: usize) -> Self {
        Self {
            n_codes,
            counts: vec![0; groups * n_codes],
        }
    }

    /// The same with counts that were kept.
    ///
    /// # Panics
    /// When there are not as many counts as codes.
    pub fn from_counts(n_codes: usize, counts: Vec<u64>) -> Self {
        assert!(counts.len().is_multiple_of(n_codes), "counts of all codes");
        Self { n_codes, counts }
    }

    /// Counts the codes chosen in a group, `[n, k]`; −1 is no code.
    pub fn add(&mut self, group: usize, chosen: &Tensor<2, Int>) {
        let codes: Vec<i32> = chosen.to_data().iter::<i32>().collect();
        self.add_numbers(group, &codes);
    }

    /// The same for codes that are numbers already.
    pub fn add_numbers(&mut self, group: usize, codes: &[i32]) {
        let first = group * self.n_codes;
        for code in codes {
            if let Ok(code) = usize::try_from(*code) {
                self.counts[first + code] += 1;
            }
        }
    }

    /// How often each code was chosen, `[groups * n_codes]`.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Forgets all counts.
    pub fn reset(&mut self) {
        self.counts.fill(0);
    }

    /// The share of codes that were never chosen.
    pub fn frac_dead(&self) -> f64 {
        let dead = self.counts.iter().filter(|count| **count == 0).count();
        dead as f64 / self.counts.len().max(1) as f64
    }

    /// The perplexity of the use of each group's codes: `exp(−Σ p ln p)`, where `p` is a code's
    /// share of all choices. From 1 (one code does everything) to `n_codes`.
    pub fn perplexities(&self) -> Vec<f64> {
        let of = |counts: &[u64]| {
            let sum = counts.iter().sum::<u64>().max(1) as f64;
            let parts = counts.iter().filter(|c| **c > 0).map(|c| *c as f64 / sum);
            (-parts.map(|p| p * p.ln()).sum::<f64>()).exp()
        };
        self.counts.chunks(self.n_codes).map(of).collect()
    }
}

/// Moves each code that `usage` never saw chosen to a random input of its group, `inputs`
/// `[n, groups * d]`, plus noise of 1e-4 of the input's norm, all divided by `k` if codes are
/// summed. Returns the new codes `[groups * n_codes, d]` and the numbers of those that moved;
/// `None` if all were chosen or there are no inputs.
pub fn replace_dead(
    codebook: &Codebook,
    inputs: &Tensor<2>,
    usage: &CodeUsage,
    rng: &mut ChaCha8Rng,
) -> Option<(Tensor<2>, Vec<usize>)> {
    let dead: Vec<usize> = usage
        .counts
        .iter()
        .enumerate()
        .filter(|(_, count)| **count == 0)
        .map(|(code, _)| code)
        .collect();
    let [n, width] = inputs.dims();
    if dead.is_empty() || n == 0 {
        return None;
    }
    let (codes, part) = (codebook.codes(), codebook.options().part());
    let [rows, d] = codes.dims();
    let mut values: Vec<f32> = codes.to_data().iter::<f32>().collect();
    let inputs: Vec<f32> = inputs.to_data().iter::<f32>().collect();
    for code in &dead {
        let first = rng.random_range(0..n) * width + code / usage.n_codes * d;
        let input = &inputs[first..][..d];
        let norm = input.iter().map(|v| v * v).sum::<f32>().sqrt();
        for (value, input) in values[code * d..][..d].iter_mut().zip(input) {
            *value = part * (input + NOISE * norm * normal(rng));
        }
    }
    let codes = Tensor::from_data(TensorData::new(values, [rows, d]), &codes.device());
    Some((codes, dead))
}
