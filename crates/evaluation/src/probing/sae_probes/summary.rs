//! Mean test metrics over data sets, with their error over data sets and their spread over seeds.

use serde::Serialize;

use super::k_sparse::{ProbeFigures, ProbeOf};
use super::probe::RegType;
use crate::error::EvaluationError;

/// Means over data sets of probes that differ in data set and seed alone.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
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
    /// Rows trained on, in the scarcity setting.
    pub num_train: Option<usize>,
    /// Share of positive rows, in the imbalance setting.
    pub frac: Option<f64>,
    /// Share of flipped training labels, in the label-noise setting.
    pub ratio: Option<f64>,
    /// Number of data sets.
    pub datasets: usize,
    /// Number of seeds.
    pub seeds: usize,
    /// ROC AUC on test rows.
    pub test_auc: Spread,
    /// Accuracy on test rows.
    pub test_acc: Spread,
    /// Weighted F1 on test rows.
    pub test_f1: Spread,
}

/// A mean and how sure it is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// Mean over seeds and data sets.
    pub mean: f64,
    /// Standard error over data sets: the sample standard deviation of their means over seeds,
    /// divided by the root of their number. None with one data set.
    pub standard_error: Option<f64>,
    /// Sample standard deviation over seeds of the mean over data sets. None with one seed.
    pub seed_deviation: Option<f64>,
}

/// Groups probes by everything but data set and seed, in the order in which groups first appear.
///
/// # Errors
/// A group lacks a seed of a data set or has it twice, or a probe has no test AUC.
pub fn summarize(figures: &[ProbeFigures]) -> Result<Vec<Summary>, EvaluationError> {
    let mut groups: Vec<(Summary, Vec<&ProbeFigures>)> = Vec::new();
    for figure in figures {
        let nothing = Spread {
            mean: 0.0,
            standard_error: None,
            seed_deviation: None,
        };
        let key = Summary {
            setting: figure.setting,
            method: figure.method,
            k: figure.k,
            reg_type: figure.reg_type,
            binarize: figure.binarize,
            num_train: (figure.setting == "scarcity").then_some(figure.num_train),
            frac: figure.frac,
            ratio: figure.ratio,
            datasets: 0,
            seeds: 0,
            test_auc: nothing,
            test_acc: nothing,
            test_f1: nothing,
        };
        match groups.iter_mut().find(|(k, _)| *k == key) {
            Some((_, group)) => group.push(figure),
            None => groups.push((key, vec![figure])),
        }
    }
    let summaries = groups.into_iter().map(|(mut summary, group)| {
        let (mut datasets, mut seeds) = (Vec::new(), Vec::new());
        for figure in &group {
            if !datasets.contains(&figure.dataset.as_str()) {
                datasets.push(figure.dataset.as_str());
            }
            if !seeds.contains(&figure.seed) {
                seeds.push(figure.seed);
            }
        }
        let mut table: Vec<Vec<&ProbeFigures>> = Vec::new();
        for dataset in &datasets {
            let of = |seed| {
                let mut found = group
                    .iter()
                    .filter(|f| f.dataset == *dataset && f.seed == seed);
                match (found.next(), found.next()) {
                    (Some(figure), None) => Ok(*figure),
                    (first, _) => Err(EvaluationError::input(
                        "probes of a data set with one seed",
                        format!(
                            "{} of {dataset}, seed {seed}",
                            if first.is_some() { "several" } else { "none" }
                        ),
                        "one",
                    )),
                }
            };
            table.push(seeds.iter().map(|s| of(*s)).collect::<Result<_, _>>()?);
        }
        if let Some(f) = group.iter().find(|f| f.metrics.test_auc.is_none()) {
            let found = format!("one class alone in {}", f.dataset);
            return Err(EvaluationError::input("test rows", found, "two classes"));
        }
        summary.datasets = datasets.len();
        summary.seeds = seeds.len();
        summary.test_auc = spread(&table, |f| f.metrics.test_auc.unwrap_or(f64::NAN));
        summary.test_acc = spread(&table, |f| f.metrics.test_acc);
        summary.test_f1 = spread(&table, |f| f.metrics.test_f1);
        Ok(summary)
    });
    summaries.collect()
}

/// Over a table of data sets by seeds.
fn spread(table: &[Vec<&ProbeFigures>], of: impl Fn(&ProbeFigures) -> f64) -> Spread {
    let by_dataset = table.iter().map(|seeds| mean(seeds.iter().map(|f| of(f))));
    let by_dataset: Vec<f64> = by_dataset.collect();
    let by_seed = (0..table[0].len()).map(|s| mean(table.iter().map(|seeds| of(seeds[s]))));
    let by_seed: Vec<f64> = by_seed.collect();
    let root = (by_dataset.len() as f64).sqrt();
    Spread {
        mean: mean(by_dataset.iter().copied()),
        standard_error: deviation(&by_dataset).map(|d| d / root),
        seed_deviation: deviation(&by_seed),
    }
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let n = values.len() as f64;
    values.sum::<f64>() / n
}

/// Sample standard deviation.
fn deviation(values: &[f64]) -> Option<f64> {
    if values.len() < 2 {
        return None;
    }
    let center = mean(values.iter().copied());
    let squares: f64 = values.iter().map(|v| (v - center).powi(2)).sum();
    Some((squares / (values.len() - 1) as f64).sqrt())
}
