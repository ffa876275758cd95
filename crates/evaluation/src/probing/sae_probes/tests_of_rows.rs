//! Splits and folds against the rows that sae-probes 0.4.2 draws, with numpy 2.4.6 and
//! scikit-learn 1.9.1.

use super::folds::folds;
use super::*;

/// Labels in no simple order, in an even number of rows as many positive as negative.
pub(super) fn labels(n: u64) -> Vec<bool> {
    let mut labels: Vec<bool> = (0..n).map(|k| (k * k / 3 + k) % 2 == 1).collect();
    let mut surplus = labels.iter().filter(|l| **l).count() as i64 - n as i64 / 2;
    if n % 2 == 1 {
        return labels;
    }
    for label in labels.iter_mut().rev() {
        if surplus > 0 && *label {
            (*label, surplus) = (false, surplus - 1);
        } else if surplus < 0 && !*label {
            (*label, surplus) = (true, surplus + 1);
        }
    }
    labels
}

/// A number that tells orders of rows apart.
fn digest(rows: &[usize]) -> u64 {
    rows.iter()
        .fold(0u128, |r, x| (r * 1_000_003 + *x as u128 + 1) % (1 << 61)) as u64
}

#[test]
fn sizes_of_the_smallest_and_the_largest_data_sets_are_the_packages() {
    for (n, train, test) in [(728, 628, 99), (5000, 1024, 3975)] {
        let split = split(&labels(n), Setting::Normal, 42).unwrap();
        assert_eq!((split.train.len(), split.test.len()), (train, test));
        let positive = split.train_labels.iter().filter(|l| **l).count();
        assert_eq!(positive, train / 2);
    }
    let sizes = [
        2, 3, 4, 5, 7, 10, 14, 20, 28, 38, 53, 74, 103, 143, 198, 275, 382, 531, 737, 1024,
    ];
    assert_eq!(train_sizes(), sizes);
    assert_eq!(usable_train_sizes(728).last(), Some(&531));
    let fractions = class_fractions();
    assert_eq!(
        (fractions[7], fractions[9]),
        (0.399_999_999_999_999_97, 0.499_999_999_999_999_94)
    );
    assert_eq!(
        (fractions[0], fractions[2], fractions[18]),
        (0.05, 0.15, 0.95)
    );
}

#[test]
fn rows_are_those_that_the_package_draws() {
    let normal = [
        (728, 42, 175837283838953079, 1013168472353247852),
        (728, 1, 2074973016911856849, 623425688687417123),
        (1000, 42, 1379156744985730454, 736679729699846817),
        (1000, 1, 1536231558390186073, 1557754700385281523),
        (5000, 42, 1975250587779191505, 517876461720636223),
        (5000, 1, 1828318055639534171, 1597857291756350633),
    ];
    for (n, seed, train, test) in normal {
        let found = split(&labels(n), Setting::Normal, seed).unwrap();
        assert_eq!(
            (digest(&found.train), digest(&found.test)),
            (train, test),
            "{n} {seed}"
        );
        assert!(
            found
                .train
                .iter()
                .zip(&found.train_labels)
                .all(|(i, l)| labels(n)[*i] == *l)
        );
    }
    let scarce = [
        (728, [23, 690, 290, 50, 441], 2122208823618827821),
        (1000, [562, 806, 110, 542, 949], 971687424199560569),
        (5000, [4640, 1597, 1672, 4739, 2171], 2004502083609455575),
    ];
    for (n, train, test) in scarce {
        let setting = Setting::Scarcity { num_train: 5 };
        let found = split(&labels(n), setting, 42).unwrap();
        assert_eq!(
            (found.train.as_slice(), digest(&found.test)),
            (&train[..], test)
        );
    }
    let imbalanced = [
        (728, 0, 236329868904305484, 2274637385449101680),
        (728, 2, 1382198175978668682, 1133587845976453400),
        (728, 10, 1768907282878192903, 1705732163424485113),
        (728, 18, 981920879004596712, 1260299957470747913),
        (1000, 10, 2198165781674094360, 1759536376118060107),
        (5000, 0, 898205846609868894, 1630542415153668007),
        (5000, 10, 1969299526181379928, 1380952901675624075),
        (5000, 18, 963580517344379099, 2253635770300724701),
    ];
    for (n, i, train, test) in imbalanced {
        let setting = Setting::Imbalance {
            frac: class_fractions()[i],
        };
        let found = split(&labels(n), setting, 42).unwrap();
        assert_eq!(
            (digest(&found.train), digest(&found.test)),
            (train, test),
            "{n} {i}"
        );
    }
}

#[test]
fn flipped_labels_are_those_that_the_package_flips() {
    for (n, flipped) in [
        (728, 78954955371414855),
        (1000, 707177847685530064),
        (5000, 643380349721077283),
    ] {
        let setting = Setting::LabelNoise { corrupt_frac: 0.2 };
        let (noisy, clean) = (
            split(&labels(n), setting, 1),
            split(&labels(n), Setting::Normal, 1),
        );
        let (noisy, clean) = (noisy.unwrap(), clean.unwrap());
        let (a, b) = (&noisy.train_labels, &clean.train_labels);
        let differ = (0..a.len()).filter(|i| a[*i] != b[*i]).count();
        assert_eq!(differ, a.len() / 5);
        let positive: Vec<usize> = (0..a.len()).filter(|i| a[*i]).collect();
        assert_eq!(digest(&positive), flipped, "{n}");
        assert_eq!(
            (noisy.train, noisy.test_labels),
            (clean.train, clean.test_labels)
        );
    }
}

#[test]
fn folds_are_those_of_scikit_learn() {
    for (n, digested) in [
        (13, 1168881873766320531),
        (14, 1627827897017532339),
        (74, 440531329237977435),
        (127, 2164346460763363794),
    ] {
        let labels = labels(n);
        let mut fold = vec![0; labels.len()];
        let found = folds(&labels, 42);
        assert_eq!(found.len(), 6 - usize::from(n == 13), "{n}"); // one lacks a class
        for (number, (fit, validation)) in found.iter().enumerate() {
            assert_eq!(fit.len() + validation.len(), labels.len());
            validation.iter().for_each(|i| fold[*i] = number);
        }
        if n > 13 {
            assert_eq!(digest(&fold), digested, "{n}");
        }
    }
    // Leave two out: only pairs of both classes.
    let found = folds(&[true, true, false, true, false], 42);
    let pairs: Vec<Vec<usize>> = found.into_iter().map(|(_, v)| v).collect();
    assert_eq!(pairs, [[0, 2], [0, 4], [1, 2], [1, 4], [2, 3], [3, 4]]);
    // One fold, the last rows.
    let sizes = |n| {
        folds(&labels(n), 42)
            .iter()
            .map(|(f, v)| (f.len(), v.len(), v[0]))
            .collect()
    };
    let sizes: [Vec<_>; 4] = [3, 128, 283, 1024].map(sizes);
    assert_eq!(
        sizes,
        [
            vec![],
            vec![(103, 25, 103)],
            vec![(227, 56, 227)],
            vec![(924, 100, 924)]
        ]
    );
}
