//! Solvers, probes and summaries against numbers that scikit-learn 1.9.1 prints, finite differences
//! and planted latents.

use super::k_sparse::{ProbeFigures, ProbeOf};
use super::matrix::Matrix;
use super::tests_of_rows::labels;
use super::*;
use super::{lbfgs, saga};
use crate::numbers::numbers;
use crate::probing::logistic::{Balance, Logistic};
use crate::probing::rows::Rows;

/// 60 samples of 5 columns of different sizes. With noise a fifth lies on the wrong side.
fn samples(noise: f32) -> (Rows, Vec<bool>) {
    let values = numbers(60 * 5, 11);
    let scales = [1.0, 3.0, 0.2, 10.0, 1.0];
    let scaled: Vec<f32> = values
        .iter()
        .zip(scales.iter().cycle())
        .map(|(v, s)| v * s)
        .collect();
    let labels = values.chunks(5).zip(numbers(60, 12));
    let labels = labels.map(|(x, e)| x[0] + x[1] - x[3] + noise * e + noise / 2.0 > 0.0);
    (Rows::dense(&scaled, 5), labels.collect())
}

fn assert_close(found: &Logistic, weights: [f64; 5], bias: f64, tolerance: f64) {
    for (f, w) in found
        .weights
        .iter()
        .chain([&found.bias])
        .zip(weights.iter().chain([&bias]))
    {
        assert!((f - w).abs() <= tolerance * (0.1 + w.abs()), "{found:?}");
    }
}

/// Most of these fits end before the minimum. scikit-learn's, of the same numbers in double
/// precision, stand for where.
#[test]
fn fits_end_where_those_of_scikit_learn_end() {
    let (x, labels) = samples(0.8);
    let l2 = |c| lbfgs::fit(&Matrix::new(&x), 5, &labels, c);
    let weights = [
        1.53177688,
        0.713863219,
        0.203876859,
        -0.286314147,
        -0.233470959,
    ];
    assert_close(&l2(1.0), weights, 1.60057704, 1e-6);
    let weights = [
        2.43113822,
        0.935417062,
        2.20471874,
        -0.378922408,
        -0.29666576,
    ];
    assert_close(&l2(1e5), weights, 2.07927116, 1e-6);

    let l1 = |c| saga::fit(&x, &labels, c, 42);
    let weights = [0.0, 0.115369059, 0.0, -0.130402365, 0.0];
    assert_close(&l1(0.1), weights, 1.09774386, 1e-6);
    let weights = [
        2.41569929,
        0.933580522,
        1.67100622,
        -0.375171576,
        -0.315243579,
    ];
    assert_close(&l1(100.0), weights, 2.04355662, 1e-6);
    let weights = [2.425397, 0.936537936, 1.75783186, -0.37683759, -0.31855732];
    assert_close(&l1(1e5), weights, 2.05358057, 1e-6);

    // Separable: at the minimum the weights would be in the thousands.
    let (x, labels) = samples(0.0);
    let weights = [
        88.2684494,
        28.4385782,
        -2.91664527,
        -8.53369843,
        -8.50009293,
    ];
    let found = lbfgs::fit(&Matrix::new(&x), 5, &labels, 1e5);
    assert_close(&found, weights, -4.59517349, 1e-6);
    let weights = [
        12.1668328,
        4.18790501,
        -0.583494338,
        -1.17959408,
        -1.21489251,
    ];
    assert_close(&saga::fit(&x, &labels, 1e5, 42), weights, -0.1596409, 1e-6);
}

/// Every finite difference of the objective says that the result is the minimum.
#[test]
fn at_the_minimum_no_weight_can_be_moved_to_lower_the_loss() {
    for (noise, c) in [
        (0.8, 1e5),
        (0.8, 1.0),
        (0.8, 0.01),
        (0.0, 100.0),
        (0.0, 1.0),
    ] {
        let (x, labels) = samples(noise);
        let loss = |w: &[f64]| -> f64 {
            let each = labels.iter().enumerate().map(|(i, l)| {
                let row = x.row(i).iter().map(|(j, v)| f64::from(*v) * w[*j as usize]);
                let z = row.sum::<f64>() + w[5];
                (1.0 + (if *l { -z } else { z }).exp()).ln()
            });
            c * each.sum::<f64>()
        };
        let squares = |w: &[f64]| loss(w) + 0.5 * w[..5].iter().map(|w| w * w).sum::<f64>();
        let sizes = |w: &[f64]| loss(w) + w[..5].iter().map(|w| w.abs()).sum::<f64>();
        let l2 = Logistic::fit(&x, &labels, c, Balance::Samples).unwrap();
        let lambda = 1.0 / (c * 60.0);
        let l1 = Logistic::fit_sparse(&x, &labels, lambda, Balance::Samples).unwrap();
        type Objective<'a> = &'a dyn Fn(&[f64]) -> f64;
        for (objective, found) in [(&squares as Objective, &l2), (&sizes as Objective, &l1)] {
            let w: Vec<f64> = found.weights.iter().copied().chain([found.bias]).collect();
            let least = objective(&w);
            for j in 0..6 {
                let h = 1e-5 * (1.0 + w[j].abs());
                let moved = |by: f64| {
                    let mut w = w.clone();
                    w[j] += by;
                    objective(&w)
                };
                let (up, down) = ((moved(h) - least) / h, (least - moved(-h)) / h);
                let scale = 1e-4 * (1.0 + c + least);
                assert!(
                    up >= -scale && down <= scale,
                    "{noise} {c} {j}: {down} {up}"
                );
            }
        }
    }
}

#[test]
fn a_start_near_the_result_leaves_the_result() {
    let (x, labels) = samples(0.8);
    let fit = |c: f64, start: Option<&Logistic>| {
        let l2 = Logistic::fit_from(&x, &labels, c, Balance::Samples, start).unwrap();
        let lambda = 1.0 / (c * 60.0);
        let l1 = Logistic::fit_sparse_from(&x, &labels, lambda, Balance::Samples, start).unwrap();
        [l2, l1]
    };
    let (cold, near) = (fit(10.0, None), fit(1.0, None));
    for i in 0..2 {
        let warm = &fit(10.0, Some(&near[i]))[i];
        for (a, b) in warm.weights.iter().zip(&cold[i].weights) {
            assert!((a - b).abs() < 1e-5, "{a} {b}");
        }
    }
    let wrong = Logistic {
        weights: vec![0.0; 3],
        bias: 0.0,
    };
    let error = Logistic::fit_from(&x, &labels, 1.0, Balance::Samples, Some(&wrong)).unwrap_err();
    assert!(error.to_string().contains("found 3, expected 5"));
}

/// Latents that fire at random, save latent 3, which fires in positive rows only.
fn planted(n: u64) -> (Rows, Vec<bool>) {
    let labels = labels(n);
    let random = numbers(n as usize * 40, 5);
    let mut rows = Rows::new(40);
    for (i, label) in labels.iter().enumerate() {
        let noise = &random[i * 40..(i + 1) * 40];
        let entries = noise.iter().enumerate().map(|(j, v)| {
            let fires = if j == 3 { *label } else { *v > 0.6 };
            (
                j as u32,
                if fires {
                    (v.abs() + 0.1) * (1 + j) as f32
                } else {
                    0.0
                },
            )
        });
        rows.push(entries);
    }
    (rows, labels)
}

fn config(ks: &[usize], reg_type: RegType, solver: Solver) -> KSparseConfig {
    KSparseConfig {
        ks: Some(ks.to_vec()),
        reg_type,
        solver,
        ..KSparseConfig::default()
    }
}

#[test]
fn a_planted_latent_is_chosen_first_and_tells_the_class() {
    let (latents, labels) = planted(728);
    for reg_type in [RegType::L1, RegType::L2] {
        for solver in [Solver::ScikitLearn, Solver::Minimum] {
            let config = config(&[1, 4], reg_type, solver);
            let found = k_sparse_probes("planted", &latents, &labels, &config).unwrap();
            assert_eq!(found[0].indices, [3]);
            // Many values of C are perfect on the validation rows. The largest wins.
            assert_eq!(
                (found[0].metrics.val_auc, found[0].metrics.c),
                (Some(1.0), 1e5)
            );
            for figures in found {
                assert_eq!((figures.num_train, figures.num_test), (628, 99));
                assert!(figures.metrics.test_auc.unwrap() > 0.99, "{figures:?}");
                let metrics = figures.metrics;
                assert!(
                    metrics.test_acc > 0.9 && metrics.test_f1 > 0.9,
                    "{metrics:?}"
                );
            }
        }
    }
    let found = baseline_probe(
        "planted",
        &latents,
        &labels,
        Setting::Normal,
        Solver::ScikitLearn,
        42,
    );
    assert!(found.unwrap().metrics.test_auc.unwrap() > 0.95);
}

#[test]
fn scaling_a_latent_leaves_the_selection() {
    let (latents, labels) = planted(728);
    let chosen = selected(&latents, &labels, 12, true);
    for factor in [0.01, 100.0] {
        let mut scaled = Rows::new(40);
        for i in 0..latents.len() {
            let one = u32::from(chosen[5] as u16);
            let row = latents.row(i).iter();
            scaled.push(row.map(|(j, v)| (*j, if *j == one { factor * v } else { *v })));
        }
        assert_eq!(selected(&scaled, &labels, 12, true), chosen);
        assert_ne!(
            selected(&scaled, &labels, 12, false),
            selected(&latents, &labels, 12, false)
        );
    }
}

#[test]
fn shuffled_labels_cannot_be_told() {
    let (latents, _) = planted(5000);
    let random = numbers(5000, 77);
    let mut order: Vec<usize> = (0..5000).collect();
    order.sort_by(|a, b| random[*a].total_cmp(&random[*b]));
    let mut labels = vec![false; 5000];
    order[..2500].iter().for_each(|i| labels[*i] = true);
    let config = config(&[1, 16, 32], RegType::L1, Solver::ScikitLearn);
    for figures in k_sparse_probes("shuffled", &latents, &labels, &config).unwrap() {
        let auc = figures.metrics.test_auc.unwrap();
        assert!((auc - 0.5).abs() < 0.05, "{auc}");
    }
}

#[test]
fn binarized_latents_are_probed_by_whether_they_fire() {
    let (latents, labels) = planted(728);
    let latents = latents.select(&[0, 1, 2, 4, 5, 6, 7, 8, 9]); // without the planted one
    let mut one = config(&[4], RegType::L2, Solver::ScikitLearn);
    let values = k_sparse_probes("d", &latents, &labels, &one).unwrap();
    one.binarize = true;
    let fires = k_sparse_probes("d", &latents, &labels, &one).unwrap();
    assert_eq!(values[0].indices, fires[0].indices);
    assert_ne!(values[0].metrics, fires[0].metrics);
    one.setting = Setting::Scarcity { num_train: 20 };
    let error = k_sparse_probes("d", &latents, &labels, &one).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("found scarcity, expected normal"),
        "{error}"
    );
}

#[test]
fn few_training_rows_are_probed_as_well() {
    let (latents, labels) = planted(728);
    for num_train in [2, 3, 4, 5, 12, 13, 20, 143] {
        let mut config = config(&[16], RegType::L1, Solver::ScikitLearn);
        config.setting = Setting::Scarcity { num_train };
        let found = k_sparse_probes("d", &latents, &labels, &config)
            .unwrap()
            .remove(0);
        assert_eq!(
            (found.num_train, found.num_test),
            (num_train, 728 - num_train - 1)
        );
        assert!(found.metrics.val_auc.is_some());
        assert!(num_train > 3 || found.metrics.c == 1.0);
    }
}

/// With one positive row in a hundred, the last rows of training are all negative. The package's
/// validation AUC is then NaN for every C, and the first C wins.
#[test]
fn validation_rows_of_one_class_take_the_largest_c() {
    let mut train_labels = vec![false; 130];
    train_labels[..10].fill(true);
    let (latents, _) = planted(130);
    let options = ProbeOptions {
        reg_type: RegType::L2,
        solver: Solver::ScikitLearn,
        seed: 42,
    };
    let found = best_probe(&latents, &train_labels, &latents, &train_labels, options).unwrap();
    assert_eq!((found.val_auc, found.c), (None, 1e5));
}

#[test]
fn labels_and_rows_that_do_not_fit_are_refused() {
    let (latents, labels) = planted(728);
    let error = |labels: &[bool], config: &KSparseConfig| {
        k_sparse_probes("d", &latents, labels, config)
            .unwrap_err()
            .to_string()
    };
    let mut one = config(&[4], RegType::L2, Solver::ScikitLearn);
    assert!(error(&labels[1..], &one).contains("found 727, expected 728"));
    assert!(error(&[true; 728], &one).contains("0 negative rows"));
    one.setting = Setting::Scarcity { num_train: 728 };
    assert!(error(&labels, &one).contains("expected at least"));
    one.setting = Setting::LabelNoise { corrupt_frac: 0.6 };
    assert!(error(&labels, &one).contains("expected 0.0..=0.5"));
    let one = config(&[0], RegType::L2, Solver::ScikitLearn);
    assert!(error(&labels, &one).contains("found 0, expected at least 1"));
}

fn figure(dataset: &str, seed: u32, auc: f64) -> ProbeFigures {
    ProbeFigures {
        dataset: dataset.into(),
        setting: "normal",
        method: ProbeOf::Sae,
        k: Some(1),
        reg_type: RegType::L1,
        binarize: false,
        seed,
        num_train: 1024,
        num_test: 10,
        frac: None,
        ratio: None,
        metrics: ProbeMetrics {
            test_f1: 0.5,
            test_acc: 0.5,
            test_auc: Some(auc),
            val_auc: None,
            c: 1.0,
        },
        indices: vec![],
    }
}

#[test]
fn a_summary_has_the_error_over_data_sets_and_the_spread_over_seeds() {
    let mut figures = vec![
        figure("a", 1, 0.6),
        figure("a", 2, 0.8),
        figure("b", 1, 0.8),
        figure("b", 2, 0.9),
    ];
    let found = summarize(&figures).unwrap().remove(0);
    assert_eq!((found.datasets, found.seeds), (2, 2));
    // Data sets 0.7 and 0.85, seeds 0.7 and 0.85.
    assert!((found.test_auc.mean - 0.775).abs() < 1e-12);
    assert!((found.test_auc.standard_error.unwrap() - 0.075).abs() < 1e-12);
    assert!((found.test_auc.seed_deviation.unwrap() - 0.15 / 2f64.sqrt()).abs() < 1e-12);
    assert_eq!(found.test_acc.seed_deviation, Some(0.0));
    let one = summarize(&figures[..1]).unwrap().remove(0).test_auc;
    assert_eq!((one.standard_error, one.seed_deviation), (None, None));
    let error = summarize(&figures[..3]).unwrap_err().to_string();
    assert!(error.contains("none of b, seed 2"), "{error}");
    figures.push(figure("a", 1, 0.6));
    let error = summarize(&figures).unwrap_err().to_string();
    assert!(error.contains("several of a, seed 1"), "{error}");
}
