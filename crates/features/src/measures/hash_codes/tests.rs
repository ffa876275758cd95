//! Codes as hashes against brute force over sets.

use std::collections::BTreeSet;

use super::*;

fn codes(lists: &[&[u32]], d_sae: usize) -> SupportCodes {
    let mut offsets = vec![0];
    let mut indices = Vec::new();
    for list in lists {
        indices.extend_from_slice(list);
        offsets.push(indices.len());
    }
    SupportCodes::new(offsets, indices, d_sae).unwrap()
}

/// Random codes of varying size, some empty and some equal.
fn random_codes(samples: usize, d_sae: u32, seed: u64) -> (SupportCodes, Vec<u32>) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let lists: Vec<Vec<u32>> = (0..samples)
        .map(|_| {
            let size = rng.random_range(0..5);
            let set: BTreeSet<u32> = (0..size).map(|_| rng.random_range(0..d_sae)).collect();
            set.into_iter().collect()
        })
        .collect();
    let labels = lists
        .iter()
        .map(|list| list.first().map_or(9, |first| first % 3))
        .collect();
    let lists: Vec<&[u32]> = lists.iter().map(Vec::as_slice).collect();
    (codes(&lists, d_sae as usize), labels)
}

#[test]
fn redundancy_counts_samples_that_share_their_code() {
    let shared = codes(&[&[1, 2], &[3], &[1, 2], &[], &[2], &[]], 4);
    assert_eq!(redundancy_ratio(&shared).unwrap(), 4.0 / 6.0);
    let distinct = codes(&[&[1], &[2], &[1, 2]], 4);
    assert_eq!(redundancy_ratio(&distinct).unwrap(), 0.0);
    assert!(redundancy_ratio(&codes(&[], 4)).is_err());
}

#[test]
fn nearest_neighbours_match_a_full_sort_of_jaccard_similarities() {
    let (codes, labels) = random_codes(120, 12, 1);
    let sets: Vec<BTreeSet<u32>> = (0..codes.len())
        .map(|i| codes.code(i).iter().copied().collect())
        .collect();
    for neighbours in [1, 2, 5, 119] {
        let mut correct = 0;
        for i in 0..sets.len() {
            let mut others: Vec<(f64, usize)> = (0..sets.len())
                .filter(|&j| j != i)
                .map(|j| {
                    let union = sets[i].union(&sets[j]).count();
                    let shared = sets[i].intersection(&sets[j]).count();
                    let similarity = if union == 0 {
                        1.0
                    } else {
                        shared as f64 / union as f64
                    };
                    (-similarity, j)
                })
                .collect();
            others.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            let near: Vec<u32> = others[..neighbours].iter().map(|o| labels[o.1]).collect();
            let votes = |label: u32| near.iter().filter(|&&l| l == label).count();
            // max_by_key keeps the last of equals, so the order is reversed.
            let winner = near.iter().rev().max_by_key(|&&l| votes(l)).unwrap();
            correct += usize::from(*winner == labels[i]);
        }
        assert_eq!(
            knn_accuracy(&codes, &labels, neighbours).unwrap(),
            correct as f64 / sets.len() as f64
        );
    }
}

#[test]
fn equally_similar_neighbours_go_to_the_lower_index() {
    // Samples 1 and 2 are equally near to 0, and 0 and 3 to each of them.
    let tied = codes(&[&[0, 1], &[0, 2], &[1, 3], &[7]], 8);
    // 0 → 1, 1 → 0, 2 → 0, 3 → 0 (all at similarity 0).
    assert_eq!(knn_accuracy(&tied, &[5, 5, 6, 5], 1).unwrap(), 3.0 / 4.0);
    assert_eq!(knn_accuracy(&tied, &[5, 6, 5, 6], 1).unwrap(), 1.0 / 4.0);
    assert!(knn_accuracy(&tied, &[5, 6, 5, 6], 0).is_err());
    assert!(knn_accuracy(&tied, &[5, 6, 5, 6], 4).is_err());
    assert!(knn_accuracy(&tied, &[5, 6, 5], 1).is_err());
}

#[test]
fn the_accuracy_is_the_same_for_any_number_of_threads() {
    let (codes, labels) = random_codes(200, 12, 2);
    let with = |threads| {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap()
            .install(|| knn_accuracy(&codes, &labels, 5).unwrap())
    };
    assert_eq!(with(1), with(3));
}

#[test]
fn codes_of_similar_inputs_overlap_more() {
    // Inputs are windows on a ring; the code is the window itself, so overlap follows similarity.
    let (samples, d, width) = (64, 64, 8);
    let (mut inputs, mut values, mut indices) = (Vec::new(), Vec::new(), Vec::new());
    for i in 0..samples {
        let mut row = vec![0.0f32; d];
        for j in 0..width {
            row[(i + j) % d] = 1.0;
            values.push(1.0);
            indices.push(((i + j) % d) as i32);
        }
        inputs.extend(row);
    }
    let rows = crate::SparseRows::new(&values, &indices, width, d).unwrap();
    let codes = SupportCodes::from_rows(&rows);
    let pairs = sample_pairs(samples, 2000, 3).unwrap();
    assert!(
        pairs
            .iter()
            .all(|&(a, b)| a != b && a < samples && b < samples)
    );
    assert_eq!(pairs, sample_pairs(samples, 2000, 3).unwrap());
    let cosines = input_cosines(&inputs, d, &pairs).unwrap();
    let same = overlap_spearman(&codes, &pairs, &cosines).unwrap().unwrap();
    assert!((same - 1.0).abs() < 1e-12);
    let opposite: Vec<f64> = cosines.iter().map(|c| -c).collect();
    let found = overlap_spearman(&codes, &pairs, &opposite)
        .unwrap()
        .unwrap();
    assert!((found + 1.0).abs() < 1e-12);
    let shuffled: Vec<f64> = (0..2000).map(|i| ((i * 7919) % 2000) as f64).collect();
    assert!(
        overlap_spearman(&codes, &pairs, &shuffled)
            .unwrap()
            .unwrap()
            .abs()
            < 0.1
    );
    assert_eq!(
        overlap_spearman(&codes, &pairs, &[0.5; 2000]).unwrap(),
        None
    );
}

#[test]
fn sampled_pairs_cover_all_ordered_pairs_alike() {
    let mut counts = [[0i32; 3]; 3];
    for (a, b) in sample_pairs(3, 6000, 1).unwrap() {
        counts[a][b] += 1;
    }
    for (a, row) in counts.iter().enumerate() {
        for (b, &count) in row.iter().enumerate() {
            // Each of six pairs 1000 times, with a standard deviation of 29.
            let expected = if a == b { 0 } else { 1000 };
            assert!((count - expected).abs() < 150, "{counts:?}");
        }
    }
}

#[test]
fn cosines_match_a_computation_by_hand_and_unfit_pairs_are_refused() {
    let inputs = [3.0, 4.0, 4.0, 3.0, 0.0, 0.0];
    let found = input_cosines(&inputs, 2, &[(0, 1), (0, 2)]).unwrap();
    assert!((found[0] - 0.96).abs() < 1e-15);
    assert_eq!(found[1], 0.0);
    assert!(input_cosines(&inputs, 2, &[(0, 3)]).is_err());
    assert!(input_cosines(&inputs, 4, &[]).is_err());
    assert!(sample_pairs(1, 4, 0).is_err());
    let two = codes(&[&[1], &[2]], 4);
    assert!(overlap_spearman(&two, &[(0, 2)], &[0.5]).is_err());
    assert!(overlap_spearman(&two, &[(0, 1)], &[]).is_err());
    assert!(overlap_spearman(&two, &[(0, 1)], &[f64::NAN]).is_err());
}
