//! Tests of codebooks against independent sources: brute force, finite differences, closed forms.

#![allow(clippy::unwrap_used)]

mod config;
mod dead_codes;
mod gradients;
mod key_value;
mod machine;
mod nearest;
mod observation;
mod resume;
mod start;
mod text;
mod tokfsm;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Normal numbers.
fn normal(n: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut draw = || -> f32 { (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0 };
    (0..n).map(|_| draw()).collect()
}
