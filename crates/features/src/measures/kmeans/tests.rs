//! k-means on planted clusters, and one step against dense vectors.

use super::*;

/// Each class has 10 latents of its own; a sample has 6 of them and 2 of all others.
fn planted(classes: usize, per_class: usize, seed: u64) -> (SupportCodes, Vec<u32>) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let d_sae = classes * 10 + 40;
    let (mut offsets, mut indices, mut labels) = (vec![0], Vec::new(), Vec::new());
    for sample in 0..classes * per_class {
        let class = sample % classes;
        let mut own: Vec<u32> = (0..10).map(|j| (class * 10 + j) as u32).collect();
        own.shuffle(&mut rng);
        let mut others: Vec<u32> = (classes * 10..d_sae).map(|j| j as u32).collect();
        others.shuffle(&mut rng);
        let mut code = [&own[..6], &others[..2]].concat();
        code.sort_unstable();
        indices.extend(code);
        offsets.push(indices.len());
        labels.push(50 + class as u32);
    }
    (SupportCodes::new(offsets, indices, d_sae).unwrap(), labels)
}

#[test]
fn planted_classes_are_found() {
    let (codes, labels) = planted(6, 60, 1);
    let found = kmeans_accuracy(&codes, &labels, &KMeansConfig::default()).unwrap();
    assert_eq!((found.train, found.test), (1.0, 1.0));
}

#[test]
fn labels_at_random_are_classified_at_chance() {
    let (codes, labels) = planted(4, 200, 2);
    let mut shuffled = labels.clone();
    shuffled.shuffle(&mut ChaCha8Rng::seed_from_u64(7));
    let found = kmeans_accuracy(&codes, &shuffled, &KMeansConfig::default()).unwrap();
    // 400 samples at 1/4 have a standard deviation of 0.022.
    assert!((found.test - 0.25).abs() < 0.09, "{found:?}");
}

#[test]
fn one_class_and_equal_codes_are_no_special_case() {
    let (codes, labels) = planted(2, 10, 3);
    let one = kmeans_accuracy(&codes, &vec![4; labels.len()], &KMeansConfig::default()).unwrap();
    assert_eq!((one.train, one.test), (1.0, 1.0));
    // Three classes but a single code: all samples get the majority of the train half.
    let equal = SupportCodes::new(vec![0, 1, 2, 3, 4, 5, 6], vec![0; 6], 1).unwrap();
    let found = kmeans_accuracy(&equal, &[1, 1, 1, 1, 2, 3], &KMeansConfig::default()).unwrap();
    assert!((found.train + found.test - 4.0 / 3.0).abs() < 1e-12);
    assert_eq!(found.inertia, 0.0);
}

#[test]
fn assignments_and_inertia_match_dense_vectors() {
    let (codes, labels) = planted(3, 20, 4);
    let samples: Vec<usize> = (0..codes.len()).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let mut centroids = Centroids::spread(&codes, &samples, 3, &mut rng);
    let by_label: Vec<(usize, f64)> = labels.iter().map(|l| (*l as usize - 50, 0.0)).collect();
    centroids.update(&codes, &samples, &by_label);
    let dense: Vec<Vec<f64>> = samples
        .iter()
        .map(|&sample| {
            let mut row = vec![0.0; codes.d_sae()];
            codes
                .code(sample)
                .iter()
                .for_each(|&l| row[l as usize] = 1.0);
            row
        })
        .collect();
    let mut means = vec![vec![0.0; codes.d_sae()]; 3];
    for (row, near) in dense.iter().zip(&by_label) {
        for (mean, x) in means[near.0].iter_mut().zip(row) {
            *mean += x / 20.0;
        }
    }
    for (row, found) in dense.iter().zip(centroids.assign(&codes, &samples)) {
        let distances: Vec<f64> = means
            .iter()
            .map(|mean| mean.iter().zip(row).map(|(a, b)| (a - b).powi(2)).sum())
            .collect();
        let least = distances.iter().copied().fold(f64::INFINITY, f64::min);
        assert!((distances[found.0] - least).abs() < 1e-12);
        assert!((found.1 - least).abs() < 1e-12);
    }
}

#[test]
fn the_result_depends_on_the_seed_but_not_on_threads() {
    let (codes, mut labels) = planted(5, 30, 6);
    labels.rotate_left(3);
    let with = |threads, seed| {
        let config = KMeansConfig {
            restarts: 1,
            seed,
            ..KMeansConfig::default()
        };
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap()
            .install(|| kmeans_accuracy(&codes, &labels, &config).unwrap())
    };
    assert_eq!(with(1, 1), with(3, 1));
    assert!((2..6).any(|seed| with(1, seed).inertia != with(1, 1).inertia));
}

#[test]
fn unfit_input_is_refused() {
    let (codes, labels) = planted(2, 2, 7);
    let config = KMeansConfig::default();
    assert!(kmeans_accuracy(&codes, &labels[1..], &config).is_err());
    let none = KMeansConfig {
        restarts: 0,
        ..config
    };
    assert!(kmeans_accuracy(&codes, &labels, &none).is_err());
    let single = SupportCodes::new(vec![0, 0], vec![], 3).unwrap();
    assert!(kmeans_accuracy(&single, &[0], &config).is_err());
}
