//! k-sparse probes of latents and the baseline probe of activations, on one data set, as in the
//! Python package sae-probes (Kantamneni et al. 2025).

use rayon::prelude::*;
use serde::Serialize;

use super::probe::{ProbeMetrics, ProbeOptions, RegType, Solver, best_probe};
use super::splits::{Setting, Split, split};
use crate::error::EvaluationError;
use crate::probing::rows::{Rows, largest};

/// Keeps a latent that never fires from being divided by 0.
const SMALL: f64 = 1e-6;

/// How to probe latents.
#[derive(Clone, Debug, PartialEq)]
pub struct KSparseConfig {
    /// Which rows to train and test on.
    pub setting: Setting,
    /// Numbers of latents. None means [`default_ks`].
    pub ks: Option<Vec<usize>>,
    /// Penalty. The package has no default; its example uses L1.
    pub reg_type: RegType,
    /// Probe whether a latent fires rather than its value. In [`Setting::Normal`] only.
    pub binarize: bool,
    /// Divide each latent by its mean magnitude where it fires before the latents are ranked.
    pub mean_diff_normalization: bool,
    /// Where the search for weights ends.
    pub solver: Solver,
    /// Seed of the rows, the folds and the solver. The package uses 42.
    pub seed: u32,
}

impl Default for KSparseConfig {
    fn default() -> Self {
        Self {
            setting: Setting::Normal,
            ks: None,
            reg_type: RegType::L1,
            binarize: false,
            mean_diff_normalization: true,
            solver: Solver::ScikitLearn,
            seed: 42,
        }
    }
}

/// What was probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ProbeOf {
    /// k latents.
    Sae,
    /// The whole activation: the package's baseline `logreg`.
    Logreg,
}

/// Figures of one probe. The names are the package's, save `method` of a latents' probe,
/// `setting`, `seed`, `num_test` and `c`, which it leaves out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProbeFigures {
    /// Data set.
    pub dataset: String,
    /// `normal`, `scarcity`, `imbalance` or `corrupt`.
    pub setting: &'static str,
    /// What was probed.
    pub method: ProbeOf,
    /// Number of latents. None for the baseline.
    pub k: Option<usize>,
    /// Penalty.
    pub reg_type: RegType,
    /// Whether it was probed if latents fire, rather than their values.
    pub binarize: bool,
    /// Seed.
    pub seed: u32,
    /// Rows trained on.
    pub num_train: usize,
    /// Rows tested on.
    pub num_test: usize,
    /// Share of positive rows, in the imbalance setting.
    pub frac: Option<f64>,
    /// Share of flipped training labels, in the label-noise setting.
    pub ratio: Option<f64>,
    /// The figures.
    #[serde(flatten)]
    pub metrics: ProbeMetrics,
    /// The latents, the one that tells most first. Empty for the baseline.
    pub indices: Vec<usize>,
}

/// The package's numbers of latents: 1, 2, 4, …, 512 in the normal setting, otherwise 16 and 128.
#[must_use]
pub fn default_ks(setting: Setting) -> Vec<usize> {
    match setting {
        Setting::Normal => (0..10).map(|i| 1 << i).collect(),
        _ => vec![16, 128],
    }
}

/// The `k` latents whose means over positive and over negative rows differ most, the one that
/// differs most first, ties to the lower latent. If `normalize`, each latent is divided by its mean
/// magnitude where it is not 0.
#[must_use]
pub fn selected(latents: &Rows, labels: &[bool], k: usize, normalize: bool) -> Vec<usize> {
    let mut difference = latents.mean_difference(labels);
    if normalize {
        let mut sums = vec![(0.0, 0u32); latents.columns()];
        for i in 0..latents.len() {
            for (j, v) in latents.row(i) {
                let (sum, count) = &mut sums[*j as usize];
                *sum += f64::from(v.abs());
                *count += 1;
            }
        }
        for (d, (sum, count)) in difference.iter_mut().zip(sums) {
            *d /= sum / (f64::from(count) + SMALL) + SMALL;
        }
    }
    difference.iter_mut().for_each(|d| *d = d.abs());
    largest(&difference, k)
}

/// Probes k latents, for each k. `latents` and `labels` are those of all rows of the data set.
///
/// # Errors
/// Labels are not one per row, there are too few rows, a k is 0, or the settings do not fit.
pub fn k_sparse_probes(
    dataset: &str,
    latents: &Rows,
    labels: &[bool],
    config: &KSparseConfig,
) -> Result<Vec<ProbeFigures>, EvaluationError> {
    if config.binarize && config.setting != Setting::Normal {
        let found = config.setting.name();
        return Err(EvaluationError::input(
            "setting with binarize",
            found,
            "normal",
        ));
    }
    let ks = config
        .ks
        .clone()
        .unwrap_or_else(|| default_ks(config.setting));
    if ks.contains(&0) {
        return Err(EvaluationError::input("number of latents", 0, "at least 1"));
    }
    let (split, train, test) = of_setting(latents, labels, config.setting, config.seed)?;
    let most = ks.iter().copied().max().unwrap_or(0);
    let ranked = selected(
        &train,
        &split.train_labels,
        most,
        config.mean_diff_normalization,
    );
    let options = ProbeOptions {
        reg_type: config.reg_type,
        solver: config.solver,
        seed: config.seed,
    };
    let probes = ks.par_iter().map(|k| {
        let indices = &ranked[..ranked.len().min(*k)];
        let of = |rows: &Rows| {
            let rows = rows.select(indices);
            if config.binarize { fired(&rows) } else { rows }
        };
        let (train, test) = (of(&train), of(&test));
        let (train_labels, test_labels) = (&split.train_labels, &split.test_labels);
        let metrics = best_probe(&train, train_labels, &test, test_labels, options)?;
        let setting = (config.setting, config.seed);
        let mut figures = figures(dataset, ProbeOf::Sae, setting, &split, metrics);
        figures.k = Some(*k);
        figures.reg_type = config.reg_type;
        figures.binarize = config.binarize;
        figures.indices = indices.to_vec();
        Ok(figures)
    });
    probes.collect()
}

/// Probes the whole activation, as the package's baseline `logreg` does (penalty L2).
/// `activations` and `labels` are those of all rows of the data set.
///
/// # Errors
/// Labels are not one per row, or there are too few rows.
pub fn baseline_probe(
    dataset: &str,
    activations: &Rows,
    labels: &[bool],
    setting: Setting,
    solver: Solver,
    seed: u32,
) -> Result<ProbeFigures, EvaluationError> {
    let (split, train, test) = of_setting(activations, labels, setting, seed)?;
    let options = ProbeOptions {
        reg_type: RegType::L2,
        solver,
        seed,
    };
    let (train_labels, test_labels) = (&split.train_labels, &split.test_labels);
    let metrics = best_probe(&train, train_labels, &test, test_labels, options)?;
    Ok(figures(
        dataset,
        ProbeOf::Logreg,
        (setting, seed),
        &split,
        metrics,
    ))
}

/// The rows of a setting.
fn of_setting(
    rows: &Rows,
    labels: &[bool],
    setting: Setting,
    seed: u32,
) -> Result<(Split, Rows, Rows), EvaluationError> {
    if rows.len() != labels.len() {
        let expected = format!("{}, one per row", rows.len());
        return Err(EvaluationError::input("labels", labels.len(), expected));
    }
    let split = split(labels, setting, seed)?;
    let (train, test) = (rows.pick(&split.train), rows.pick(&split.test));
    Ok((split, train, test))
}

/// 1 where an entry is not 0.
fn fired(rows: &Rows) -> Rows {
    let mut fired = Rows::new(rows.columns());
    for i in 0..rows.len() {
        fired.push(rows.row(i).iter().map(|(j, _)| (*j, 1.0)));
    }
    fired
}

fn figures(
    dataset: &str,
    method: ProbeOf,
    (setting, seed): (Setting, u32),
    split: &Split,
    metrics: ProbeMetrics,
) -> ProbeFigures {
    ProbeFigures {
        dataset: dataset.to_string(),
        setting: setting.name(),
        method,
        k: None,
        reg_type: RegType::L2,
        binarize: false,
        seed,
        num_train: split.train.len(),
        num_test: split.test.len(),
        frac: match setting {
            Setting::Imbalance { frac } => Some(frac),
            _ => None,
        },
        ratio: match setting {
            Setting::LabelNoise { corrupt_frac } => Some(corrupt_frac),
            _ => None,
        },
        metrics,
        indices: Vec::new(),
    }
}
