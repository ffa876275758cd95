//! Matchings against planted permutations, brute force, and each other.

use super::super::SimilarityMatrix;
use super::super::correlation::tests::correlate_dense;
use super::super::random::Random;
use super::*;

const EXACT: BipartiteConfig = BipartiteConfig {
    exact_limit: usize::MAX,
    candidates: 1,
    epsilon: 1.0,
};

fn auction_with(candidates: usize) -> BipartiteConfig {
    BipartiteConfig {
        exact_limit: 0,
        candidates,
        epsilon: 1e-6,
    }
}

fn random_matrix(d_a: usize, d_b: usize, seed: u64) -> SimilarityMatrix {
    let mut random = Random::new(seed);
    let values = (0..d_a * d_b)
        .map(|_| 2.0 * random.uniform() - 1.0)
        .collect();
    SimilarityMatrix::new(d_a, d_b, values).unwrap()
}

fn sum(pairs: &[Pair]) -> f64 {
    pairs.iter().map(|pair| pair.similarity).sum()
}

fn assert_one_to_one(similarity: &dyn Similarity, pairs: &[Pair]) {
    assert_eq!(pairs.len(), similarity.d_a().min(similarity.d_b()));
    assert!(pairs.windows(2).all(|two| two[0].a < two[1].a));
    let mut b: Vec<u32> = pairs.iter().map(|pair| pair.b).collect();
    b.sort_unstable();
    b.dedup();
    assert_eq!(b.len(), pairs.len());
    for pair in pairs {
        assert_eq!(
            pair.similarity,
            similarity.similarity(pair.a as usize, pair.b as usize)
        );
    }
}

/// The greatest sum of any one-to-one matching, by trying all.
fn brute_force(similarity: &SimilarityMatrix, row: usize, taken: u32) -> f64 {
    let (d_a, d_b) = (similarity.d_a(), similarity.d_b());
    if row == d_a {
        return 0.0;
    }
    let free = (0..d_b).filter(|b| taken >> b & 1 == 0);
    free.map(|b| similarity.similarity(row, b) + brute_force(similarity, row + 1, taken | 1 << b))
        .fold(f64::NEG_INFINITY, f64::max)
}

/// Activations `[tokens, d]` of units that fire on a third of the tokens.
fn activations(tokens: usize, d: usize, seed: u64) -> Vec<f32> {
    let mut random = Random::new(seed);
    let fires = |random: &mut Random| random.below(3) == 0;
    (0..tokens * d)
        .map(|_| {
            if fires(&mut random) {
                0.5 + random.uniform() as f32
            } else {
                0.0
            }
        })
        .collect()
}

/// B is A with its units permuted and normal noise of standard deviation 0.1 on what fires.
fn permuted_copy(a: &[f32], d: usize, seed: u64) -> (Vec<f32>, Vec<usize>) {
    let mut random = Random::new(seed);
    let place = random.permutation(d); // unit i of A is unit place[i] of B
    let mut b = vec![0.0; a.len()];
    for (entry, &value) in a.iter().enumerate().filter(|&(_, &value)| value > 0.0) {
        b[entry / d * d + place[entry % d]] = value + 0.1 * random.normal() as f32;
    }
    (b, place)
}

#[test]
fn a_permuted_copy_with_noise_is_recovered_exactly() {
    let (tokens, d) = (400, 50);
    let a = activations(tokens, d, 1);
    let (b, place) = permuted_copy(&a, d, 2);
    let correlations = correlate_dense(&a, d, &b, d);
    let semi = semi_match(&correlations);
    let exact = bipartite_match(&correlations, &EXACT).unwrap();
    let sparse = bipartite_match(&correlations, &auction_with(5)).unwrap();
    assert!(sparse.shortfall <= 1e-6 * d as f64 + 1e-12);
    for pairs in [semi, exact.pairs, sparse.pairs] {
        let got: Vec<usize> = pairs.iter().map(|pair| pair.b as usize).collect();
        assert_eq!(got, place);
    }
}

#[test]
fn shuffled_tokens_give_a_null_without_matches() {
    let (tokens, d) = (400, 50);
    let a = activations(tokens, d, 1);
    let (b, _) = permuted_copy(&a, d, 2);
    let order = Random::new(3).permutation(tokens);
    let shuffled: Vec<f32> = order
        .iter()
        .flat_map(|&t| &b[t * d..(t + 1) * d])
        .copied()
        .collect();
    let (observed, null) = (
        correlate_dense(&a, d, &b, d),
        correlate_dense(&a, d, &shuffled, d),
    );
    let report = match_latents(&observed, Some(&null), None, &EXACT).unwrap();
    assert_eq!(report.observed.bipartite_shares, [1.0; 3]);
    let null = report.null.unwrap();
    assert_eq!(null.bipartite_shares, [0.0; 3]);
    // The best of 50 correlations with standard error 1/20 each is near 0.11, never near 0.5.
    assert!(
        null.semi_mean > 0.05 && null.semi_mean < 0.25,
        "{}",
        null.semi_mean
    );
}

#[test]
fn many_to_one_is_at_least_one_to_one_and_a_duplicated_unit_opens_a_gap() {
    let (tokens, d) = (400, 20);
    let mut a = activations(tokens, d, 4);
    let (b, _) = permuted_copy(&a, d, 5);
    let before = match_latents(&correlate_dense(&a, d, &b, d), None, None, &EXACT)
        .unwrap()
        .observed;
    assert_eq!(before.gap, 0.0);
    for row in a.chunks_mut(d) {
        row[d - 1] = row[0]; // two units of A now share a counterpart
    }
    let after = match_latents(&correlate_dense(&a, d, &b, d), None, None, &EXACT)
        .unwrap()
        .observed;
    // One of 20 units loses nearly all of a correlation of .97.
    assert!(after.gap > 0.5 / 20.0, "{}", after.gap);
    assert!((after.semi_mean - after.bipartite_mean - after.gap).abs() < 1e-12);
    for seed in 0..20 {
        let matrix = random_matrix(12, 15, seed);
        let summary = match_latents(&matrix, None, None, &EXACT).unwrap().observed;
        assert!(summary.semi_mean >= summary.bipartite_mean);
    }
}

#[test]
fn the_exact_matching_equals_brute_force() {
    for (d_a, d_b) in [(1, 1), (3, 3), (6, 6), (4, 8), (8, 4)] {
        for seed in 0..10 {
            let matrix = random_matrix(d_a, d_b, seed);
            let got = bipartite_match(&matrix, &EXACT).unwrap();
            assert_one_to_one(&matrix, &got.pairs);
            assert_eq!(got.shortfall, 0.0);
            let want = if d_a <= d_b {
                brute_force(&matrix, 0, 0)
            } else {
                brute_force(&Transposed(&matrix).to_matrix(), 0, 0)
            };
            assert!((sum(&got.pairs) - want).abs() < 1e-12);
        }
    }
}

#[test]
fn the_auction_is_never_further_from_the_optimum_than_it_says() {
    for (d_a, d_b) in [(60, 60), (40, 90), (90, 40), (1, 5)] {
        for candidates in [1, 3, 10, 90] {
            for seed in 0..5 {
                let matrix = random_matrix(d_a, d_b, seed);
                let optimum = sum(&bipartite_match(&matrix, &EXACT).unwrap().pairs);
                let got = bipartite_match(&matrix, &auction_with(candidates)).unwrap();
                assert_one_to_one(&matrix, &got.pairs);
                let lost = optimum - sum(&got.pairs);
                assert!(
                    lost > -1e-9 && lost <= got.shortfall + 1e-9,
                    "{lost} {}",
                    got.shortfall
                );
            }
        }
    }
}

#[test]
fn the_shortfall_of_a_small_example_equals_its_value_by_hand() {
    // Two candidates each. The latents 0 and 2 bid .9 - .1 + .4 = 1.2 for the latents 0 and 1 and
    // keep their outside option of .1. That leaves latent 1 with its outside option of .5, and with
    // latent 2 of B, which is worth .45. Bound: 2 x 1.2 + 2 x .1 + .5; sum: .9 + .45 + .9.
    let values = vec![0.9, 0.1, 0.0, 0.0, 0.5, 0.5, 0.45, 0.0, 0.0, 0.9, 0.0, 0.1];
    let matrix = SimilarityMatrix::new(3, 4, values).unwrap();
    let config = BipartiteConfig {
        epsilon: 0.4,
        ..auction_with(2)
    };
    let got = bipartite_match(&matrix, &config).unwrap();
    assert_eq!(
        got.pairs.iter().map(|pair| pair.b).collect::<Vec<u32>>(),
        [0, 2, 1]
    );
    assert!(
        (got.shortfall - (3.1 - 2.25)).abs() < 1e-12,
        "{}",
        got.shortfall
    );
}

#[test]
fn the_auction_reaches_the_optimum_when_the_candidates_suffice() {
    // With more latents in B than in A, ten candidates are enough for everyone.
    for (d_a, d_b) in [(100, 400), (400, 100)] {
        for seed in 0..5 {
            let matrix = random_matrix(d_a, d_b, seed);
            let optimum = sum(&bipartite_match(&matrix, &EXACT).unwrap().pairs);
            let got = bipartite_match(&matrix, &auction_with(10)).unwrap();
            assert!(optimum - sum(&got.pairs) <= 1e-6 * 100.0);
            assert!(got.shortfall <= 1e-6 * 100.0 + 1e-9, "{}", got.shortfall);
        }
    }
}

#[test]
fn identical_latents_still_get_distinct_matches() {
    let flat = SimilarityMatrix::new(40, 40, vec![0.25; 1600]).unwrap();
    for candidates in [1, 7, 40] {
        let got = bipartite_match(&flat, &auction_with(candidates)).unwrap();
        assert_one_to_one(&flat, &got.pairs);
        assert!(got.shortfall < 1e-4);
    }
}

#[test]
fn what_the_auction_leaves_over_is_matched_exactly_if_it_is_little() {
    let matrix = random_matrix(60, 60, 9);
    let greedy = bipartite_match(&matrix, &auction_with(3)).unwrap();
    let config = BipartiteConfig {
        exact_limit: 59,
        ..auction_with(3)
    };
    let exact = bipartite_match(&matrix, &config).unwrap();
    assert_one_to_one(&matrix, &exact.pairs);
    assert!(exact.shortfall < greedy.shortfall);
}

#[test]
fn ties_go_to_the_lower_latent() {
    let matrix = SimilarityMatrix::new(2, 3, vec![0.1, 0.8, 0.8, 0.3, 0.3, 0.2]).unwrap();
    let got: Vec<u32> = semi_match(&matrix).iter().map(|pair| pair.b).collect();
    assert_eq!(got, [1, 0]);
}

#[test]
fn the_summary_counts_shares_at_the_thresholds_and_only_counted_latents() {
    let values = vec![0.9, 0.0, 0.0, 0.0, 0.7, 0.0, 0.0, 0.0, 0.5, 0.4, 0.0, 0.0];
    let matrix = SimilarityMatrix::new(4, 3, values).unwrap();
    let all = match_latents(&matrix, None, None, &EXACT).unwrap().observed;
    assert_eq!((all.latents, all.matched), (4, 3));
    assert_eq!(all.bipartite_sorted, [0.9, 0.7, 0.5]);
    assert_eq!(all.semi_sorted, [0.9, 0.7, 0.5, 0.4]);
    assert_eq!(
        all.bipartite_shares,
        [1.0, 2.0 / 3.0, 1.0 / 3.0],
        "of the matched ones"
    );
    assert_eq!(all.gap, 0.0);
    let counted = [true, true, true, false];
    let some = match_latents(&matrix, None, Some(&counted), &EXACT)
        .unwrap()
        .observed;
    assert_eq!((some.latents, some.matched), (3, 3));
    assert_eq!(some.semi_sorted, [0.9, 0.7, 0.5]);
    assert!((some.semi_mean - 0.7).abs() < 1e-12);
}

#[test]
fn wrong_sizes_and_settings_are_refused() {
    let (small, large) = (random_matrix(2, 2, 0), random_matrix(3, 2, 0));
    assert!(match_latents(&small, Some(&large), None, &EXACT).is_err());
    assert!(match_latents(&small, None, Some(&[true]), &EXACT).is_err());
    assert!(bipartite_match(&small, &auction_with(0)).is_err());
    for epsilon in [0.0, 1e-13, -1.0, f64::NAN, f64::INFINITY] {
        let config = BipartiteConfig {
            epsilon,
            ..auction_with(2)
        };
        assert!(bipartite_match(&small, &config).is_err());
    }
}

#[test]
fn an_empty_dictionary_has_no_matches() {
    for (d_a, d_b) in [(0, 0), (0, 3), (3, 0)] {
        let empty = SimilarityMatrix::new(d_a, d_b, vec![]).unwrap();
        for config in [EXACT, auction_with(2)] {
            let summary = match_latents(&empty, None, None, &config).unwrap().observed;
            assert_eq!((summary.latents, summary.matched), (d_a, 0));
            assert_eq!((summary.semi_mean, summary.gap), (0.0, 0.0));
        }
    }
}
