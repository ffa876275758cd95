//! The published figures, exact fractions of small cases, and simulation.

use super::*;

#[test]
fn sizes_beyond_exact_arithmetic_are_refused_at_once() {
    for (d_sae, k) in [
        (u64::MAX, 32),
        (u64::MAX, u64::MAX / 2),
        (200_000_000, 100_000_000),
    ] {
        assert!(CodeChance::new(d_sae, k).is_err(), "{d_sae} {k}");
    }
    let largest = CodeChance::new(1 << 32, 64).unwrap();
    assert_eq!(largest.smallest_theta(1e-6).unwrap(), Some(1)); // 64² / 2³² = 9.5e-7
}

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn close(found: f64, expected: f64, relative: f64) {
    assert!(
        (found / expected - 1.0).abs() < relative,
        "found {found}, expected {expected}"
    );
}

#[test]
fn unions_match_the_published_figures() {
    close(1.0 / union_false_member(1024, 2, 20).unwrap(), 680.0, 1e-3);
    close(
        1.0 / union_false_member(1024, 20, 20).unwrap(),
        5.449e9,
        2e-4,
    );
    close(
        1.0 / union_false_member(1024, 20, 40).unwrap(),
        182_409.0,
        1e-5,
    );
}

#[test]
fn false_matches_match_the_published_figures() {
    close(1.0 / false_match(600, 10, 40, 10).unwrap(), 1.823e12, 3e-4);
    close(1.0 / false_match(600, 10, 40, 8).unwrap(), 1.268e8, 4e-4);
    close(false_match(2048, 24, 40, 12).unwrap(), 1.177e-15, 5e-4);
    close(false_match(60, 10, 12, 5).unwrap(), 0.020_561, 3e-5);
}

/// C(n, r) without logarithms.
fn choose(n: u64, r: u64) -> f64 {
    (0..r).map(|i| (n - i) as f64 / (i + 1) as f64).product()
}

#[test]
fn small_cases_match_sums_of_binomial_coefficients() {
    close(
        ln_overlap_sets(12, 5, 4, 2).unwrap().exp(),
        choose(5, 2) * choose(7, 2),
        1e-13,
    );
    assert_eq!(ln_overlap_sets(12, 5, 4, 5).unwrap(), f64::NEG_INFINITY);
    assert_eq!(ln_overlap_sets(12, 11, 4, 2).unwrap(), f64::NEG_INFINITY);
    // All overlap sets together are all codes.
    let all: f64 = (0..=4)
        .map(|b| ln_overlap_sets(12, 5, 4, b).unwrap().exp())
        .sum();
    close(all, choose(12, 4), 1e-13);
    // 10 bits lose 4; of 6 stored bits at least 4 must be left of the 6 kept.
    let expected = (2..=3)
        .map(|b| choose(6, b) * choose(4, 6 - b))
        .sum::<f64>()
        / choose(10, 6);
    close(false_negative(10, 6, 4, 0.4).unwrap(), expected, 1e-13);
    assert_eq!(false_negative(10, 6, 0, 0.4).unwrap(), 0.0);
    close(false_negative(10, 6, 7, 0.4).unwrap(), 1.0, 1e-12);
    assert_eq!(false_match(12, 5, 4, 0).unwrap(), 1.0);
    assert_eq!(false_match(12, 5, 4, 5).unwrap(), 0.0);
    // Overlap is forced where stored and active bits do not fit side by side.
    close(false_match(10, 8, 7, 5).unwrap(), 1.0, 1e-12);
}

fn random_code(rng: &mut ChaCha8Rng, n: usize, w: usize) -> Vec<usize> {
    let mut bits: Vec<usize> = (0..n).collect();
    for i in 0..w {
        bits.swap(i, rng.random_range(i..n));
    }
    bits.truncate(w);
    bits
}

#[test]
fn simulated_codes_miss_and_match_as_often_as_computed() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let (n, w, m, theta, draws) = (200, 10, 12, 7, 40_000);
    let (mut matches, mut misses) = (0, 0);
    for _ in 0..draws {
        let mut union = vec![false; n];
        for _ in 0..m {
            random_code(&mut rng, n, w)
                .into_iter()
                .for_each(|bit| union[bit] = true);
        }
        let code = random_code(&mut rng, n, w);
        matches += usize::from(code.iter().filter(|&&bit| union[bit]).count() >= theta);
        // The first 6 bits of a code are stored; 4 of its 10 bits are lost.
        let kept = random_code(&mut rng, 10, 6);
        misses += usize::from(kept.iter().filter(|&&bit| bit < 6).count() < 4);
    }
    let share = |count: usize| count as f64 / draws as f64;
    // One expected union size stands for all sizes, hence the wider tolerance.
    let matched = union_false_match(200, 10, 12, 7).unwrap();
    close(share(matches), matched, 0.08);
    close(share(misses), false_negative(10, 6, 4, 0.4).unwrap(), 0.02);
}

#[test]
fn a_union_of_one_code_is_that_code() {
    for theta in 1..10 {
        close(
            union_false_match(200, 10, 1, theta).unwrap(),
            false_match(200, 10, 10, theta).unwrap(),
            1e-9,
        );
    }
    assert_eq!(union_false_match(200, 10, 0, 3).unwrap(), 0.0);
    assert_eq!(union_false_member(10, 10, 0).unwrap(), 0.0);
    assert_eq!(union_false_member(10, 10, 3).unwrap(), 1.0);
}

#[test]
fn overlap_of_random_topk_codes_has_the_mean_k_squared_over_d_sae() {
    let chance = CodeChance::new(16_384, 64).unwrap();
    assert_eq!(chance.expected_overlap(), 0.25);
    // A mean is the sum of the tail probabilities.
    let mean: f64 = (1..=64).map(|theta| chance.overlap_at_least(theta)).sum();
    close(mean, 0.25, 1e-10);
    // Equal codes: 1 / C(16384, 64), below the smallest f64.
    let dense = CodeChance::new(1 << 20, 200).unwrap();
    assert_eq!(dense.overlap_at_least(200), 0.0);
    let product: f64 = (0..200)
        .map(|i| f64::from(i + 1).ln() - f64::from((1 << 20) - i).ln())
        .sum();
    close(dense.ln_overlap_at_least(200), product, 1e-10);
}

#[test]
fn thresholds_and_union_sizes_are_the_first_that_meet_the_level() {
    let chance = CodeChance::new(4096, 32).unwrap();
    for level in [0.5, 1e-3, 1e-9, 1e-30] {
        let theta = chance.smallest_theta(level).unwrap().unwrap();
        assert!(chance.overlap_at_least(theta) < level);
        assert!(chance.overlap_at_least(theta - 1) >= level);
    }
    assert_eq!(chance.smallest_theta(1e-200).unwrap(), None);
    for (theta, level) in [(32, 1e-6), (32, 0.5), (16, 1e-6), (20, 0.01)] {
        let codes = chance.largest_union(theta, level).unwrap();
        let chance_of = |codes| union_false_match(4096, 32, codes, theta).unwrap();
        assert!(chance_of(codes) <= level && chance_of(codes + 1) > level);
    }
    // Solved for M: (1 − (1 − w/n)^M)^w = level.
    let solved = (1.0 - 1e-6f64.powf(1.0 / 32.0)).ln() / (1.0 - 32.0f64 / 4096.0).ln();
    assert_eq!(chance.largest_union(32, 1e-6).unwrap(), solved as u64);
    assert_eq!(chance.largest_union(1, 1e-3).unwrap(), 0);
}

#[test]
fn the_chance_of_a_false_member_grows_with_the_union() {
    for theta in [3, 6, 9, 10] {
        let mut last = 0.0;
        for codes in 0..400 {
            let now = union_false_match(200, 10, codes, theta).unwrap();
            assert!(
                now >= last - 1e-12 && now <= 1.0,
                "{theta} {codes}: {last} {now}"
            );
            last = now;
        }
    }
}

#[test]
fn impossible_sizes_are_refused() {
    assert!(false_match(10, 11, 3, 1).is_err());
    assert!(false_match(10, 3, 11, 1).is_err());
    assert!(false_negative(10, 11, 1, 0.1).is_err());
    assert!(false_negative(10, 5, 1, 1.5).is_err());
    assert!(union_false_member(0, 0, 1).is_err());
    assert!(union_false_match(10, 3, 1, 4).is_err());
    assert!(CodeChance::new(10, 0).is_err());
    assert!(CodeChance::new(10, 11).is_err());
    let chance = CodeChance::new(10, 3).unwrap();
    assert!(chance.smallest_theta(0.0).is_err());
    assert!(chance.largest_union(0, 0.5).is_err());
    assert!(chance.largest_union(4, 0.5).is_err());
}
