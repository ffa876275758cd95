//! Labels by weighted pointwise mutual information, the text analogue of MILAN (Hernandez et al.
//! 2022): the n-gram d that maximizes log p(d|E) - lambda log p(d).
//!
//! E is the set of a latent's strongest contexts. p(d|E) says how typical an n-gram is for them,
//! p(d) how common it is anyway. With lambda = 0 the label is a frequent token; with lambda = 1 it
//! is a rare n-gram that one context happens to contain.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::label_judge::LabelPlace;
use super::ngrams::{CorpusCounts, LabelContext, Ngram};
use crate::FeaturesError;

/// How n-grams are ranked.
#[derive(Debug, Clone, PartialEq)]
pub struct PmiConfig {
    /// Weight of -log p(d): how much a common n-gram loses.
    pub lambda: f64,
    /// Fewest occurrences in the corpus; rarer n-grams are no labels. At least 1.
    pub min_count: u64,
    /// Number of labels to return.
    pub labels: usize,
}

impl Default for PmiConfig {
    /// MILAN's lambda of 0.2, n-grams that occur at least three times, the best five.
    fn default() -> Self {
        PmiConfig {
            lambda: 0.2,
            min_count: 3,
            labels: 5,
        }
    }
}

/// An n-gram as the label of a latent.
#[derive(Debug, Clone, PartialEq)]
pub struct PmiLabel {
    /// The label.
    pub ngram: Ngram,
    /// Whether it mostly ends at the peak or one token before it.
    pub place: LabelPlace,
    /// log p(d|E) - lambda log p(d), natural logarithms.
    pub score: f64,
    /// p(d|E): share of the contexts that have it, weighted by the activation at the peak.
    pub context_share: f64,
    /// p(d): share among the corpus's n-grams of its length.
    pub corpus_share: f64,
    /// How often it occurs in the corpus.
    pub corpus_count: u64,
}

#[derive(Debug, Default)]
struct Weight {
    any: f64,
    at_peak: f64,
    before: f64,
}

impl PmiConfig {
    /// Checks the parameters.
    ///
    /// # Errors
    /// When lambda is negative or not finite, or the minimum count is 0.
    pub fn check(&self) -> Result<(), FeaturesError> {
        if !(self.lambda.is_finite() && self.lambda >= 0.0) {
            return Err(FeaturesError::Input {
                field: "lambda",
                found: self.lambda.to_string(),
                expected: "a finite number, at least 0".into(),
            });
        }
        if self.min_count == 0 {
            return Err(FeaturesError::Input {
                field: "min_count",
                found: "0".into(),
                expected: "at least 1, since p(d) = 0 has no logarithm".into(),
            });
        }
        Ok(())
    }
}

/// The best labels of one latent, the best first; none for a latent without contexts.
///
/// Candidates are the n-grams that end at a context's peak or one token before it. For n contexts,
/// p(d|E) = (w + 0.5) / (n + 1), where w sums, over the contexts that have d, the peak's activation
/// divided by the mean peak. So w counts contexts, and the scale of the activations has no effect.
/// Ties go to the n-gram that is more frequent in the corpus, then to the shorter one, then to the
/// lower token ids.
///
/// Repeating the corpus changes no score. It doubles every count, so it can let n-grams through
/// that [`PmiConfig::min_count`] held back.
///
/// # Errors
/// When a context's parts do not fit together, when an n-gram was no candidate as the corpus was
/// counted, or when lambda is negative or not finite or the minimum count is 0.
pub fn pmi_labels(
    contexts: &[LabelContext<'_>],
    counts: &CorpusCounts,
    config: &PmiConfig,
) -> Result<Vec<PmiLabel>, FeaturesError> {
    config.check()?;
    let mut weights = BTreeMap::<Ngram, Weight>::new();
    let mut total = 0.0;
    for context in contexts {
        let peak = f64::from(context.peak()?);
        total += peak;
        let found: Vec<(Ngram, bool)> = context.candidates(counts.max_n()).collect();
        for (index, &(ngram, at_peak)) in found.iter().enumerate() {
            let weight = weights.entry(ngram).or_default();
            if at_peak {
                weight.at_peak += peak;
            } else {
                weight.before += peak;
            }
            // A context counts once, even if the n-gram comes in both places.
            if found[..index].iter().all(|(earlier, _)| *earlier != ngram) {
                weight.any += peak;
            }
        }
    }
    let n = contexts.len() as f64;
    let mut labels = Vec::with_capacity(weights.len());
    for (ngram, weight) in weights {
        let corpus_count = counts.count(&ngram).ok_or_else(|| FeaturesError::Input {
            field: "corpus counts",
            found: format!("no count of the n-gram {:?}", ngram.tokens()),
            expected: "counts whose candidate set had all contexts that are labelled".into(),
        })?;
        if corpus_count < config.min_count {
            continue;
        }
        let Some(corpus_share) = counts.share(&ngram) else {
            continue;
        };
        let context_share = (weight.any * n / total + 0.5) / (n + 1.0);
        labels.push(PmiLabel {
            ngram,
            place: if weight.at_peak >= weight.before {
                LabelPlace::Firing
            } else {
                LabelPlace::Before
            },
            score: context_share.ln() - config.lambda * corpus_share.ln(),
            context_share,
            corpus_share,
            corpus_count,
        });
    }
    labels.sort_by(better);
    labels.truncate(config.labels);
    Ok(labels)
}

fn better(a: &PmiLabel, b: &PmiLabel) -> Ordering {
    b.score
        .total_cmp(&a.score)
        .then(b.corpus_share.total_cmp(&a.corpus_share))
        .then(a.ngram.cmp(&b.ngram))
}

/// The baseline label: the most frequent token among the peaks, with the number of contexts that
/// peak on it. Ties go to the lower token id; `None` without contexts.
///
/// # Errors
/// When a context's parts do not fit together.
pub fn top_token_label(
    contexts: &[LabelContext<'_>],
) -> Result<Option<(u32, usize)>, FeaturesError> {
    let mut counts = BTreeMap::<u32, usize>::new();
    for context in contexts {
        context.peak()?;
        *counts
            .entry(context.token_ids[context.peak_index])
            .or_default() += 1;
    }
    Ok(counts
        .into_iter()
        .reduce(|best, next| if next.1 > best.1 { next } else { best }))
}

#[cfg(test)]
mod tests;
