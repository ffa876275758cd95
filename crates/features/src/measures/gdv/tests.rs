//! GDV against published bounds, closed forms and the definition written out.

use super::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Sum of 12 uniform draws less 6: mean 0, variance 1, close to normal.
fn normal(rng: &mut ChaCha8Rng) -> f32 {
    (0..12).map(|_| rng.random_range(0.0f32..1.0)).sum::<f32>() - 6.0
}

/// `per_class` points per centre, with normal noise.
fn blobs(centres: &[Vec<f32>], sizes: &[usize], noise: f32, seed: u64) -> (Vec<f32>, Vec<u32>) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (mut values, mut labels) = (Vec::new(), Vec::new());
    for (label, (centre, &size)) in centres.iter().zip(sizes).enumerate() {
        for _ in 0..size {
            values.extend(centre.iter().map(|c| c + noise * normal(&mut rng)));
            labels.push(label as u32);
        }
    }
    (values, labels)
}

fn one_hot(classes: usize) -> Vec<Vec<f32>> {
    (0..classes)
        .map(|class| {
            (0..classes)
                .map(|j| f32::from(u8::from(j == class)))
                .collect()
        })
        .collect()
}

fn written_out(values: &[f32], d: usize, labels: &[u32]) -> f64 {
    let n = labels.len();
    let mut s = vec![0.0; n * d];
    for j in 0..d {
        let column: Vec<f64> = (0..n).map(|i| f64::from(values[i * d + j])).collect();
        let mean = column.iter().sum::<f64>() / n as f64;
        let var = column.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n as f64;
        for i in 0..n {
            s[i * d + j] = 0.5 * (column[i] - mean) / var.sqrt();
        }
    }
    let distance = |i: usize, j: usize| -> f64 {
        (0..d)
            .map(|c| (s[i * d + c] - s[j * d + c]).powi(2))
            .sum::<f64>()
            .sqrt()
    };
    let mut names = labels.to_vec();
    names.sort_unstable();
    names.dedup();
    let mean_between = |a: u32, b: u32| {
        let (mut sum, mut pairs) = (0.0, 0.0);
        for i in 0..n {
            for j in 0..n {
                if i != j && labels[i] == a && labels[j] == b {
                    sum += distance(i, j);
                    pairs += 1.0;
                }
            }
        }
        sum / pairs
    };
    let classes = names.len() as f64;
    let within: f64 = names.iter().map(|&a| mean_between(a, a)).sum::<f64>() / classes;
    let mut between = 0.0;
    for (i, &a) in names.iter().enumerate() {
        for &b in &names[i + 1..] {
            between += mean_between(a, b);
        }
    }
    (within - 2.0 / (classes * (classes - 1.0)) * between) / (d as f64).sqrt()
}

#[test]
fn two_tight_classes_have_minus_one() {
    let (values, labels) = blobs(&[vec![0.0; 20], vec![5.0; 20]], &[100, 100], 1e-3, 1);
    let found = gdv(&values, 20, &labels).unwrap();
    assert_eq!(found.bound, -1.0);
    assert!((found.value + 0.9997).abs() < 2e-4, "{found:?}");
}

#[test]
fn classes_at_the_corners_of_a_simplex_reach_the_bound() {
    for (classes, bound) in [(2, -1.0), (3, -0.866), (4, -0.816), (400, -0.708)] {
        let (values, labels) = blobs(&one_hot(classes), &vec![2; classes], 0.0, 1);
        let found = gdv(&values, classes, &labels).unwrap();
        assert!((found.bound - bound).abs() < 5e-4, "{found:?}");
        assert!((found.value - found.bound).abs() < 1e-9, "{found:?}");
        assert!((found.ratio - 1.0).abs() < 1e-9);
        assert!((found.class_size_bound - found.bound).abs() < 1e-9);
    }
}

#[test]
fn four_tight_classes_at_random_centres_have_about_the_bound() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let centres: Vec<Vec<f32>> = (0..4)
        .map(|_| (0..20).map(|_| normal(&mut rng)).collect())
        .collect();
    let (values, labels) = blobs(&centres, &[50; 4], 1e-3, 4);
    let found = gdv(&values, 20, &labels).unwrap();
    assert!((found.value + 0.814).abs() < 0.01, "{found:?}");
    assert!(found.value > found.bound);
}

#[test]
fn labels_at_random_have_about_zero() {
    let (values, labels) = blobs(&vec![vec![0.0; 20]; 2], &[100, 100], 1.0, 5);
    assert!(gdv(&values, 20, &labels).unwrap().value.abs() < 0.002);
}

#[test]
fn the_value_matches_the_definition_and_ignores_offset_scale_and_order() {
    let centres = [vec![0.0; 7], vec![0.7; 7], vec![-0.4; 7]];
    let (mut values, labels) = blobs(&centres, &[20, 33, 11], 0.5, 6);
    let found = gdv(&values, 7, &labels).unwrap();
    assert!((found.value - written_out(&values, 7, &labels)).abs() < 1e-12);
    assert!(found.value < -0.05 && found.value > found.class_size_bound);
    let reversed: Vec<f32> = values.chunks_exact(7).rev().flatten().copied().collect();
    let back: Vec<u32> = labels.iter().rev().copied().collect();
    assert!((gdv(&reversed, 7, &back).unwrap().value - found.value).abs() < 1e-12);
    for row in values.chunks_exact_mut(7) {
        for (j, value) in row.iter_mut().enumerate() {
            *value = *value * (j as f32 + 0.25) - 3.0;
        }
    }
    assert!((gdv(&values, 7, &labels).unwrap().value - found.value).abs() < 1e-6);
}

#[test]
fn constant_dimensions_are_dropped_and_counted() {
    let (values, labels) = blobs(&[vec![0.0; 3], vec![1.0; 3]], &[30, 30], 0.3, 7);
    let wider: Vec<f32> = values
        .chunks_exact(3)
        .flat_map(|row| [row[0], 0.1, row[1], row[2], -7.3])
        .collect();
    let (narrow, wide) = (
        gdv(&values, 3, &labels).unwrap(),
        gdv(&wider, 5, &labels).unwrap(),
    );
    assert_eq!(wide.value, narrow.value);
    assert_eq!((narrow.dropped_dimensions, wide.dropped_dimensions), (0, 2));
}

#[test]
fn classes_of_unequal_size_can_pass_the_bound_for_equal_sizes() {
    // Shares .1 and .9: the distance of the halved z-scores is 1 / (2 √.09).
    let (values, labels) = blobs(&[vec![0.0], vec![1.0]], &[10, 90], 0.0, 8);
    let found = gdv(&values, 1, &labels).unwrap();
    assert!((found.value + 1.0 / 0.6).abs() < 1e-12, "{found:?}");
    assert!((found.class_size_bound - found.value).abs() < 1e-12);
    assert!(found.ratio > 1.0);
}

#[test]
fn the_result_is_the_same_for_any_number_of_threads() {
    let (values, labels) = blobs(&one_hot(5), &[30; 5], 0.4, 9);
    let with = |threads| {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap()
            .install(|| gdv(&values, 5, &labels).unwrap())
    };
    assert_eq!(with(1), with(3));
}

#[test]
fn unfit_input_is_refused() {
    assert!(gdv(&[1.0; 4], 2, &[0, 0]).is_err());
    assert!(gdv(&[1.0, 2.0, 3.0], 1, &[0, 0, 1]).is_err());
    assert!(gdv(&[1.0; 4], 1, &[0, 0, 1, 1]).is_err());
    assert!(gdv(&[1.0; 4], 3, &[0, 0, 1, 1]).is_err());
    assert!(gdv(&[1.0, f32::NAN, 0.0, 0.0], 1, &[0, 0, 1, 1]).is_err());
}
