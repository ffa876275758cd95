//! Cores by hand, and their stability within a text against different texts.

use super::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn config(alpha: f64, beta: f64) -> CoreConfig {
    CoreConfig {
        alpha,
        beta,
        denominator: CoreDenominator::InTokenCores,
    }
}

#[test]
fn a_token_core_has_the_strongest_share_of_positive_activations_and_their_ties() {
    let values = [1.0, 2.0, 3.0, 4.0, 5.0, 0.0, 2.0, 2.0, 2.0, 1.0, -9.0, 0.0];
    let indices = [9, 8, 7, 6, 5, 4, 3, 1, 2, 0, 5, -1];
    let rows = SparseRows::new(&values, &indices, 6, 10).unwrap();
    // numpy.quantile([1, 2, 3, 4, 5], .6) = 3.4
    assert_eq!(token_core(&rows, 0, 0.4).unwrap(), [5, 6]);
    assert_eq!(token_core(&rows, 0, 1.0).unwrap(), [5, 6, 7, 8, 9]);
    assert_eq!(token_core(&rows, 0, 1e-9).unwrap(), [5]);
    // A quantile that is an activation itself includes it: (1 − .75) · 4 = 1.
    assert_eq!(token_core(&rows, 0, 0.75).unwrap(), [5, 6, 7, 8]);
    // Three activations tie at the threshold 2.
    assert_eq!(token_core(&rows, 1, 0.4).unwrap(), [1, 2, 3]);
}

#[test]
fn a_rounding_error_in_the_quantile_moves_no_latent() {
    // (1 − 0.7) · 10 is a little above 3 in f64, and the next activation is far above the third.
    let values: Vec<f32> = (0..11).map(|v| 10f32.powi(2 * v)).collect();
    let indices: Vec<i32> = (0..11).collect();
    let rows = SparseRows::new(&values, &indices, 11, 11).unwrap();
    assert_eq!(
        token_core(&rows, 0, 0.7).unwrap(),
        [3, 4, 5, 6, 7, 8, 9, 10]
    );
}

/// Five tokens with two active latents each; alpha = 1 keeps both.
const INDICES: [i32; 10] = [4, 2, 2, 0, 4, 1, 3, 1, 2, 5];

#[test]
fn a_text_core_ranks_by_tokens_and_ties_go_to_the_lower_latent() {
    let rows = SparseRows::new(&[1.0; 10], &INDICES, 2, 20).unwrap();
    let core = text_core(&rows, 0..5, &config(1.0, 1.0)).unwrap();
    let ranked: Vec<(u32, usize)> = core.ranked.iter().map(|c| (c.latent, c.tokens)).collect();
    assert_eq!(ranked, [(2, 3), (1, 2), (4, 2), (0, 1), (3, 1), (5, 1)]);
    assert_eq!(core.in_token_cores, 6);
    // ⌊.5 · 6⌋ = 3 and ⌊.2 · 20⌋ = 4
    let half = text_core(&rows, 0..5, &config(1.0, 0.5)).unwrap();
    assert_eq!(half.latents(), [1, 2, 4]);
    let of_all = CoreConfig {
        denominator: CoreDenominator::DSae,
        ..config(1.0, 0.2)
    };
    assert_eq!(
        text_core(&rows, 0..5, &of_all).unwrap().latents(),
        [0, 1, 2, 4]
    );
    // A share below one latent still keeps one.
    assert_eq!(
        text_core(&rows, 0..5, &config(1.0, 0.01))
            .unwrap()
            .latents(),
        [2]
    );
    assert_eq!(
        text_core(&rows, 2..2, &config(1.0, 1.0)).unwrap().latents(),
        [0u32; 0]
    );
}

#[test]
fn a_larger_beta_keeps_every_latent_of_a_smaller_one() {
    let text = topical(0, 40, 1);
    let rows = SparseRows::new(&text.0, &text.1, 8, 400).unwrap();
    let mut last = Vec::new();
    for beta in [0.05, 0.1, 0.2, 0.4, 0.8, 1.0] {
        let now = text_core(&rows, 0..40, &config(0.4, beta))
            .unwrap()
            .latents();
        assert!(now.len() > last.len() && last.iter().all(|latent| now.contains(latent)));
        last = now;
    }
}

/// Tokens with 4 of 20 latents of the topic and 4 of 300 common latents.
fn topical(topic: i32, tokens: usize, seed: u64) -> (Vec<f32>, Vec<i32>) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (mut values, mut indices) = (Vec::new(), Vec::new());
    for _ in 0..tokens {
        for j in 0..4 {
            indices.push(300 + 20 * topic + 5 * j + rng.random_range(0..5));
            values.push(rng.random_range(0.5..2.0));
            indices.push(75 * j + rng.random_range(0..75));
            values.push(rng.random_range(0.1..1.0));
        }
    }
    (values, indices)
}

#[test]
fn a_core_is_more_stable_within_a_text_than_across_texts() {
    let config = config(0.4, 0.2);
    let texts: Vec<_> = (0..5).map(|t| topical(t, 264, 10 + t as u64)).collect();
    let rows: Vec<SparseRows<'_>> = texts
        .iter()
        .map(|(values, indices)| SparseRows::new(values, indices, 8, 400).unwrap())
        .collect();
    for i in 0..5 {
        let within = core_stability(&rows[i], 256, 264, &config).unwrap();
        assert!(within.jaccard > 0.8 && within.new < 0.2, "{within:?}");
        let core = text_core(&rows[i], 0..256, &config).unwrap();
        for other in (0..5).filter(|&other| other != i) {
            let other = text_core(&rows[other], 0..256, &config).unwrap();
            assert!(core.jaccard(&other) < within.jaccard);
        }
    }
}

#[test]
fn stability_matches_a_count_by_hand() {
    let rows = SparseRows::new(&[1.0; 10], &INDICES, 2, 20).unwrap();
    // First two tokens: 0, 2, 4; all five: 0 to 5.
    let change = core_stability(&rows, 2, 5, &config(1.0, 1.0)).unwrap();
    assert_eq!((change.jaccard, change.new), (0.5, 0.5));
    let same = core_stability(&rows, 5, 5, &config(1.0, 1.0)).unwrap();
    assert_eq!((same.jaccard, same.new), (1.0, 0.0));
    let none = core_stability(&rows, 0, 0, &config(1.0, 1.0)).unwrap();
    assert_eq!((none.jaccard, none.new), (1.0, 0.0));
}

#[test]
fn impossible_shares_and_ranges_are_refused() {
    let rows = SparseRows::new(&[1.0; 10], &INDICES, 2, 20).unwrap();
    assert!(token_core(&rows, 5, 0.4).is_err());
    assert!(token_core(&rows, usize::MAX, 0.4).is_err());
    assert!(token_core(&rows, 0, 0.0).is_err());
    assert!(text_core(&rows, 0..6, &config(0.4, 0.2)).is_err());
    assert!(text_core(&rows, 0..5, &config(0.4, 1.1)).is_err());
    assert!(text_core(&rows, 0..0, &config(f64::NAN, 0.2)).is_ok());
    assert!(core_stability(&rows, 3, 2, &config(0.4, 0.2)).is_err());
}
