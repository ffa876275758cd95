//! A logistic-regression probe whose C is chosen on validation rows, as in the Python package
//! sae-probes (Kantamneni et al. 2025).

use rayon::prelude::*;
use serde::Serialize;

use super::folds::folds;
use super::matrix::Matrix;
use super::metrics::{accuracy, auc, numpy_sum, weighted_f1};
use super::numpy_random::NumpyRandom;
use super::{lbfgs, saga};
use crate::error::EvaluationError;
use crate::probing::logistic::{Balance, Logistic};
use crate::probing::rows::Rows;

/// C where there are too few rows to choose it.
const DEFAULT_C: f64 = 1.0;

/// Penalty of a probe's weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RegType {
    /// Sum of absolute values.
    L1,
    /// Half the sum of squares.
    L2,
}

/// Where the search for a probe's weights ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Solver {
    /// Where scikit-learn's solvers end: L-BFGS for [`RegType::L2`], SAGA for [`RegType::L1`], at
    /// most 1000 steps. Gives the package's figures.
    #[default]
    ScikitLearn,
    /// At the minimum. Where classes are hard to tell, this differs from the package by up to a
    /// tenth of AUC, because stopping early acts as a penalty.
    Minimum,
}

/// How to fit a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeOptions {
    /// Penalty.
    pub reg_type: RegType,
    /// Solver.
    pub solver: Solver,
    /// Seed of the folds and of SAGA's order of rows. The package uses 42.
    pub seed: u32,
}

/// Figures of a probe, under the package's names.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ProbeMetrics {
    /// F1 of both classes on the test rows, weighted by their numbers of rows.
    pub test_f1: f64,
    /// Accuracy on the test rows.
    pub test_acc: f64,
    /// ROC AUC on the test rows. None if they are of one class.
    pub test_auc: Option<f64>,
    /// ROC AUC on validation rows at the chosen C, a mean over folds. With up to 3 training rows,
    /// the AUC on these. None if the validation rows are of one class; C is then the largest.
    pub val_auc: Option<f64>,
    /// Inverse weight of the penalty, of 10 values from 1e5 to 1e-5 the one with the largest
    /// `val_auc`, the larger of equal ones. 1 with up to 3 training rows.
    pub c: f64,
}

/// The 10 values of C, largest first.
pub(crate) fn grid() -> Vec<f64> {
    let exponent = |i: i32| 5.0 - f64::from(i) * (10.0 / 9.0);
    (0..10).map(|i| 10f64.powf(exponent(i))).collect()
}

/// Chooses C, fits a probe on all training rows and measures it on the test rows.
///
/// # Errors
/// Labels are not one per row, or all training rows are of one class.
pub fn best_probe(
    train: &Rows,
    train_labels: &[bool],
    test: &Rows,
    test_labels: &[bool],
    options: ProbeOptions,
) -> Result<ProbeMetrics, EvaluationError> {
    for (rows, labels) in [(train, train_labels), (test, test_labels)] {
        if rows.len() != labels.len() {
            let expected = format!("{}, one per row", rows.len());
            return Err(EvaluationError::input("labels", labels.len(), expected));
        }
    }
    if train_labels.iter().all(|l| *l == train_labels[0]) {
        return Err(EvaluationError::input(
            "labels to train a probe on",
            "one class alone",
            "two classes",
        ));
    }
    let chosen = choose_c(train, train_labels, options)?;
    // The order of the rows matters to solvers that stop early.
    let order = NumpyRandom::new(options.seed).permutation((0..train.len()).collect());
    let (rows, labels) = pick(train, train_labels, &order);
    let c = chosen.map_or(DEFAULT_C, |(c, _)| c);
    let probe = fit(&rows, &labels, c, options, None)?;
    let scores = probabilities(&probe, test);
    let predicted: Vec<bool> = scores.iter().map(|s| *s > 0.5).collect();
    Ok(ProbeMetrics {
        test_f1: weighted_f1(&predicted, test_labels),
        test_acc: accuracy(&predicted, test_labels),
        test_auc: auc(&scores, test_labels),
        val_auc: match chosen {
            Some((_, val_auc)) => val_auc,
            None => auc(&probabilities(&probe, &rows), &labels),
        },
        c,
    })
}

/// The best C and its validation AUC. None with too few rows for that.
fn choose_c(
    train: &Rows,
    labels: &[bool],
    options: ProbeOptions,
) -> Result<Option<(f64, Option<f64>)>, EvaluationError> {
    let cs = grid();
    if train.len() <= 3 {
        return Ok(None);
    }
    let folds = folds(labels, options.seed);
    // One AUC per fold, for each C.
    let by_fold = folds.par_iter().map(|(fit_rows, validation)| {
        let (fit_rows, fit_labels) = pick(train, labels, fit_rows);
        let (rows, labels) = pick(train, labels, validation);
        if fit_labels.iter().all(|l| *l == fit_labels[0]) {
            return Ok(vec![Some(0.5); cs.len()]);
        }
        let measure = |probe: &Logistic| auc(&probabilities(probe, &rows), &labels);
        if options.solver == Solver::ScikitLearn {
            let fits = cs
                .par_iter()
                .map(|c| fit(&fit_rows, &fit_labels, *c, options, None));
            return fits.map(|probe| Ok(measure(&probe?))).collect();
        }
        // Each fit starts where that of the next smaller C ended.
        let mut aucs = vec![None; cs.len()];
        let mut start: Option<Logistic> = None;
        for (auc, c) in aucs.iter_mut().zip(&cs).rev() {
            let probe = fit(&fit_rows, &fit_labels, *c, options, start.as_ref())?;
            *auc = measure(&probe);
            start = Some(probe);
        }
        Ok(aucs)
    });
    let by_fold = by_fold.collect::<Result<Vec<_>, EvaluationError>>()?;
    let mut best: Option<(f64, f64)> = None;
    for (i, c) in cs.iter().enumerate() {
        let Some(aucs) = by_fold.iter().map(|f| f[i]).collect::<Option<Vec<f64>>>() else {
            return Ok(Some((cs[0], None)));
        };
        let mean = numpy_sum(&aucs) / aucs.len() as f64;
        if best.is_none_or(|(_, other)| mean > other) {
            best = Some((*c, mean));
        }
    }
    Ok(best.map(|(c, mean)| (c, Some(mean).filter(|m| !m.is_nan()))))
}

fn pick(rows: &Rows, labels: &[bool], places: &[usize]) -> (Rows, Vec<bool>) {
    (
        rows.pick(places),
        places.iter().map(|i| labels[*i]).collect(),
    )
}

fn fit(
    x: &Rows,
    labels: &[bool],
    c: f64,
    options: ProbeOptions,
    start: Option<&Logistic>,
) -> Result<Logistic, EvaluationError> {
    match (options.solver, options.reg_type) {
        (Solver::ScikitLearn, RegType::L1) => Ok(saga::fit(x, labels, c, options.seed)),
        (Solver::ScikitLearn, RegType::L2) => {
            Ok(lbfgs::fit(&Matrix::new(x), x.columns(), labels, c))
        }
        (Solver::Minimum, RegType::L1) => {
            let lambda = 1.0 / (c * x.len() as f64);
            Logistic::fit_sparse_from(x, labels, lambda, Balance::Samples, start)
        }
        (Solver::Minimum, RegType::L2) => Logistic::fit_from(x, labels, c, Balance::Samples, start),
    }
}

/// Probability of the positive class for each row. Scores above 37 tie at 1, in scikit-learn too.
fn probabilities(probe: &Logistic, x: &Rows) -> Vec<f64> {
    let scores = (0..x.len()).map(|i| probe.score(x, i));
    scores.map(|z| 1.0 / (1.0 + (-z).exp())).collect()
}
