//! k-sparse probing as in SAEBench (`evals/sparse_probing`): of latents (and for comparison of
//! activations) the k with the largest difference of class means, and logistic regression on them.
//! Each class of a task is probed against the others.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::Serialize;

use super::logistic::{Balance, Logistic};
use super::rows::{Rows, largest};
use super::texts::Represented;
use crate::error::EvaluationError;

/// How to probe.
#[derive(Clone, Debug, PartialEq)]
pub struct ProbeConfig {
    /// Numbers of latents.
    pub ks: Vec<usize>,
    /// Inverse weight of the penalty, scikit-learn's C.
    pub c: f64,
    /// Seed of the choice among negative samples.
    pub seed: u64,
}

impl Default for ProbeConfig {
    fn default() -> Self {
        Self {
            ks: vec![1, 2, 5],
            c: 1.0,
            seed: 0,
        }
    }
}

/// Samples with one class each.
#[derive(Clone, Debug)]
pub struct Task {
    /// Names of the classes.
    pub classes: Vec<String>,
    /// Texts to train on.
    pub train: Represented,
    /// The class of each.
    pub train_classes: Vec<usize>,
    /// Texts to test on.
    pub test: Represented,
    /// The class of each.
    pub test_classes: Vec<usize>,
}

/// Accuracies of one class against the others, on as many texts of either.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProbeResult {
    /// The class.
    pub class: String,
    /// Texts trained on.
    pub train_texts: usize,
    /// Texts tested on.
    pub test_texts: usize,
    /// Places of the texts trained on and tested on, the class's own in the first half.
    #[serde(skip)]
    pub samples: [Vec<usize>; 2],
    /// A probe on the whole activation.
    pub llm_test_accuracy: f64,
    /// A probe on all latents.
    pub sae_test_accuracy: f64,
    /// Probes on k of either.
    pub top_k: Vec<TopK>,
}

/// Accuracies with k dimensions or latents.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TopK {
    /// How many.
    pub k: usize,
    /// Of the activation's dimensions.
    pub llm_test_accuracy: f64,
    /// Of the latents.
    pub sae_test_accuracy: f64,
    /// The latents, the one with the largest difference first.
    pub latents: Vec<usize>,
    /// Their weights in the probe.
    pub weights: Vec<f64>,
}

/// Probes every class of a task. `on_progress` hears the number of classes done.
///
/// # Errors
/// A class has no text in either part.
pub fn sparse_probing(
    task: &Task,
    config: &ProbeConfig,
    on_progress: &mut dyn FnMut(usize),
) -> Result<Vec<ProbeResult>, EvaluationError> {
    let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
    let mut results = Vec::new();
    for (class, name) in task.classes.iter().enumerate() {
        let (train, train_labels) =
            balanced(&task.train_classes, task.classes.len(), class, &mut rng)?;
        let (test, test_labels) =
            balanced(&task.test_classes, task.classes.len(), class, &mut rng)?;
        let of = |r: &Rows, samples: &[usize]| r.pick(samples);
        let both =
            |train_rows: &Rows, test_rows: &Rows| (of(train_rows, &train), of(test_rows, &test));
        let llm = both(&task.train.activations, &task.test.activations);
        let sae = both(&task.train.latents, &task.test.latents);
        let accuracy = |(train, test): (&Rows, &Rows)| -> Result<(f64, Logistic), EvaluationError> {
            let probe = Logistic::fit(train, &train_labels, config.c, Balance::Samples)?;
            Ok((probe.accuracy(test, &test_labels), probe))
        };
        let (whole, latents) =
            rayon::join(|| accuracy((&llm.0, &llm.1)), || accuracy((&sae.0, &sae.1)));
        let order = |rows: &Rows, k| {
            let difference = rows.mean_difference(&train_labels);
            largest(&difference.iter().map(|d| d.abs()).collect::<Vec<_>>(), k)
        };
        let top_k = config.ks.par_iter().map(|k| {
            let (dimensions, latents) = (order(&llm.0, *k), order(&sae.0, *k));
            let (llm, _) = accuracy((&llm.0.select(&dimensions), &llm.1.select(&dimensions)))?;
            let (sae, probe) = accuracy((&sae.0.select(&latents), &sae.1.select(&latents)))?;
            Ok(TopK {
                k: *k,
                llm_test_accuracy: llm,
                sae_test_accuracy: sae,
                latents,
                weights: probe.weights,
            })
        });
        results.push(ProbeResult {
            class: name.clone(),
            train_texts: train.len(),
            test_texts: test.len(),
            samples: [train.clone(), test.clone()],
            llm_test_accuracy: whole?.0,
            sae_test_accuracy: latents?.0,
            top_k: top_k.collect::<Result<_, EvaluationError>>()?,
        });
        on_progress(class + 1);
    }
    Ok(results)
}

/// All samples of a class and as many of the others, these in equal parts as far as there are so
/// many. Of the larger side the surplus is left out, so that chance is one half.
fn balanced(
    classes: &[usize],
    count: usize,
    class: usize,
    rng: &mut ChaCha8Rng,
) -> Result<(Vec<usize>, Vec<bool>), EvaluationError> {
    let mut of: Vec<Vec<usize>> = vec![Vec::new(); count];
    for (sample, c) in classes.iter().enumerate() {
        of[*c].push(sample);
    }
    of.iter_mut().for_each(|samples| samples.shuffle(rng));
    let mut positive = std::mem::take(&mut of[class]);
    let mut negative = Vec::new();
    // One of each class in turn.
    while negative.len() < positive.len() {
        let before = negative.len();
        negative.extend(of.iter_mut().filter_map(Vec::pop));
        if negative.len() == before {
            break;
        }
    }
    negative.truncate(positive.len());
    positive.truncate(negative.len());
    if positive.is_empty() {
        return Err(EvaluationError::input(
            "texts of a class and of the others",
            "none",
            "at least one each",
        ));
    }
    let labels = [vec![true; positive.len()], vec![false; negative.len()]].concat();
    positive.extend(negative);
    Ok((positive, labels))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negatives_come_in_equal_parts() {
        let classes: Vec<usize> = [vec![0; 10], vec![1; 3], vec![2; 20], vec![3; 20]].concat();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let (samples, labels) = balanced(&classes, 4, 0, &mut rng).unwrap();
        assert_eq!(
            (samples.len(), labels.iter().filter(|l| **l).count()),
            (20, 10)
        );
        let count = |class| samples.iter().filter(|s| classes[**s] == class).count();
        assert_eq!(count(0), 10);
        assert_eq!(count(1), 3);
        assert!(count(2) >= 3 && count(3) >= 3 && count(2) + count(3) == 7);
        // More of the class than of all others.
        let (samples, labels) = balanced(&[0, 0, 0, 1], 2, 0, &mut rng).unwrap();
        assert_eq!((samples.len(), labels), (2, vec![true, false]));
        assert!(balanced(&[0, 0], 2, 0, &mut rng).is_err());
    }

    /// Latent 3 says the class, latent 1 nearly so, the rest nothing.
    #[test]
    fn the_latent_that_tells_the_class_is_found() {
        let mut rows = Rows::new(6);
        let classes: Vec<usize> = (0..80).map(|i| i % 2).collect();
        for (i, class) in classes.iter().enumerate() {
            let told = if *class == 1 { 2.0 } else { 0.0 };
            let nearly = if i % 10 == 0 { 1.0 } else { told / 2.0 };
            rows.push([(0, 5.0), (1, nearly), (2, (i % 3) as f32), (3, told)]);
        }
        let part = Represented {
            activations: rows.clone(),
            latents: rows,
        };
        let task = Task {
            classes: vec!["a".into(), "b".into()],
            train: part.clone(),
            train_classes: classes.clone(),
            test: part,
            test_classes: classes,
        };
        let mut done = 0;
        let results = sparse_probing(&task, &ProbeConfig::default(), &mut |n| done = n).unwrap();
        assert_eq!((done, results.len()), (2, 2));
        for result in results {
            assert_eq!(result.top_k[0].latents, [3]);
            assert_eq!(result.top_k[1].latents, [3, 1]);
            assert_eq!(result.top_k[0].sae_test_accuracy, 1.0);
            assert_eq!(result.sae_test_accuracy, 1.0);
        }
    }
}
