//! Per-latent information against closed forms and dense counting.

use super::super::{EbabConfig, ebab};
use super::*;
use rand::Rng;

fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

#[test]
fn a_latent_that_is_a_noisy_copy_of_the_label_has_the_information_of_the_channel() {
    let mut rng = rng(1);
    let (mut values, mut indices, mut labels) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..100_000 {
        let sent = rng.random_range(0..2u32);
        let fires = (sent == 1) != (rng.random_range(0.0..1.0) < 0.1);
        labels.push(sent);
        values.push(1.0);
        indices.push(if fires { 1 } else { -1 });
    }
    let rows = SparseRows::new(&values, &indices, 1, 3).unwrap();
    let config = LatentInformationConfig {
        permutations: 1,
        ..LatentInformationConfig::default()
    };
    let table = latent_information(&rows, &labels, &config).unwrap();
    assert!((table.latents[1].information - 0.531_004).abs() < 0.02);
    assert!((table.label_entropy - 1.0).abs() < 0.001);
    // Permuted labels leave only the bias, about 1 / (2 n ln 2).
    assert!(table.latents[1].permuted_information.unwrap() < 1e-4);
    // A latent that never fires says nothing.
    assert_eq!(table.latents[0].information, 0.0);
    assert_eq!(
        (table.latents[0].bins, table.latents[0].firing_count),
        (1, 0)
    );
    assert_eq!(table.latents[0].miller_madow_bias, 0.0);
}

/// Random codes whose first latents depend on the label.
fn random_codes(n: usize, d_sae: usize, k: usize, classes: u32) -> (Vec<f32>, Vec<i32>, Vec<u32>) {
    let mut rng = rng(2);
    let (mut values, mut indices, mut labels) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..n {
        let label = rng.random_range(0..classes);
        labels.push(100 + 3 * label);
        let start = rng.random_range(0..d_sae);
        for j in 0..k {
            indices.push(((start + j * (label as usize + 1)) % d_sae) as i32);
            values.push(rng.random_range(-0.5f32..1.0) + 0.2 * label as f32);
        }
    }
    (values, indices, labels)
}

#[test]
fn each_latent_matches_the_dense_estimate_on_its_own_column() {
    let (n, d_sae, k) = (500, 11, 3);
    let (values, indices, labels) = random_codes(n, d_sae, k, 4);
    let rows = SparseRows::new(&values, &indices, k, d_sae).unwrap();
    for bins in [1, 4, 30] {
        let config = LatentInformationConfig {
            bins,
            ..LatentInformationConfig::default()
        };
        let table = latent_information(&rows, &labels, &config).unwrap();
        for (latent, found) in table.latents.iter().enumerate() {
            let column: Vec<f32> = (0..n)
                .map(|row| {
                    rows.active(row)
                        .find(|e| e.0 == latent)
                        .map_or(0.0, |e| e.1)
                })
                .collect();
            let dense = ebab(
                &column,
                1,
                &labels,
                &EbabConfig {
                    bins,
                    saturated_low: 0.0,
                },
            )
            .unwrap();
            assert!((found.information - dense.information_ty).abs() < 1e-12);
            assert!((found.miller_madow_bias - dense.information_ty_bias).abs() < 1e-12);
            assert_eq!(found.bins, dense.distinct_codes);
            assert_eq!(
                found.firing_count,
                column.iter().filter(|&&v| v > 0.0).count()
            );
            assert!(found.information <= table.label_entropy);
        }
    }
}

#[test]
fn for_labels_at_random_the_information_is_about_its_reported_bias() {
    let mut rng = rng(3);
    let (n, k, d_sae) = (4000, 8, 16);
    let (mut values, mut indices) = (Vec::new(), Vec::new());
    for _ in 0..n {
        // Half of the latents fire on each row.
        let odd = rng.random_range(0..2);
        for j in 0..k as i32 {
            indices.push(2 * j + odd);
            values.push(rng.random_range(0.1..1.0));
        }
    }
    let labels: Vec<u32> = (0..n).map(|_| rng.random_range(0..5)).collect();
    let rows = SparseRows::new(&values, &indices, k, d_sae).unwrap();
    let config = LatentInformationConfig {
        bins: 9,
        permutations: 8,
        seed: 4,
    };
    let table = latent_information(&rows, &labels, &config).unwrap();
    let mean = |of: fn(&LatentInformation) -> f64| {
        table.latents.iter().map(of).sum::<f64>() / d_sae as f64
    };
    // (10 − 1)(5 − 1) / (2 · 4000 · ln 2) bits; one estimate has standard deviation 0.0015.
    let expected = 36.0 / (8000.0 * std::f64::consts::LN_2);
    assert!((mean(|l| l.miller_madow_bias) - expected).abs() < 1e-12);
    assert!((mean(|l| l.information) / expected - 1.0).abs() < 0.25);
    assert!((mean(|l| l.permuted_information.unwrap()) / expected - 1.0).abs() < 0.1);
}

#[test]
fn permuted_labels_show_the_chance_level_of_a_rare_latent() {
    // Latent 0 fires on 40 of 4000 rows, each with its own value; 20 classes, all at random.
    let mut rng = rng(5);
    let n = 4000;
    let indices: Vec<i32> = (0..n)
        .map(|row| if row % 100 == 0 { 0 } else { -1 })
        .collect();
    let values: Vec<f32> = (0..n).map(|row| 1.0 + row as f32).collect();
    let labels: Vec<u32> = (0..n).map(|_| rng.random_range(0..20)).collect();
    let rows = SparseRows::new(&values, &indices, 1, 1).unwrap();
    let config = LatentInformationConfig {
        bins: 30,
        permutations: 20,
        seed: 0,
    };
    let rare = latent_information(&rows, &labels, &config).unwrap().latents[0];
    let chance = rare.permuted_information.unwrap();
    assert!((rare.information - chance).abs() < 0.2 * chance, "{rare:?}");
    // The first-order bias is far off here.
    assert!(rare.miller_madow_bias < 0.2 * chance, "{rare:?}");
}

#[test]
fn the_result_is_the_same_for_any_number_of_threads() {
    let (values, indices, labels) = random_codes(2000, 64, 5, 7);
    let rows = SparseRows::new(&values, &indices, 5, 64).unwrap();
    let config = LatentInformationConfig {
        bins: 6,
        permutations: 2,
        seed: 9,
    };
    let with = |threads| {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap()
            .install(|| latent_information(&rows, &labels, &config).unwrap())
    };
    assert_eq!(with(1), with(3));
}

#[test]
fn unfit_input_is_refused() {
    let rows = SparseRows::new(&[1.0; 4], &[0; 4], 1, 2).unwrap();
    let config = LatentInformationConfig::default();
    assert!(latent_information(&rows, &[0; 3], &config).is_err());
    let none = LatentInformationConfig { bins: 0, ..config };
    assert!(latent_information(&rows, &[0; 4], &none).is_err());
    let empty = SparseRows::new(&[], &[], 1, 2).unwrap();
    assert!(latent_information(&empty, &[], &config).is_err());
}
