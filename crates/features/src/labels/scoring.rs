//! How well a label predicts a latent: detection and fuzzing (Paulo et al. 2024).
//!
//! Detection asks for each window whether the latent fires in it. Fuzzing marks tokens, those on
//! which the latent fires or random ones, and asks whether the marks are right.

use super::chance::{draw, stream};
use super::examples::{Examples, TooFewWindows, Window};

/// Fraction of a window's maximum from which on a token counts as firing strongly.
pub(super) const STRONG: f32 = 0.3;

/// Predictions by outcome, with the replies that were none.
///
/// Malformed replies are counted and take no part in any score.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Confusion {
    /// Firing windows predicted to fire.
    pub true_positives: u64,
    /// Silent windows predicted to fire.
    pub false_positives: u64,
    /// Silent windows predicted to be silent.
    pub true_negatives: u64,
    /// Firing windows predicted to be silent.
    pub false_negatives: u64,
    /// Windows for which the judge gave no usable reply.
    pub malformed: u64,
}

impl Confusion {
    /// Counts one window: whether the latent fires, and the prediction (`None`: malformed).
    pub fn record(&mut self, fires: bool, predicted: Option<bool>) {
        let count = match (fires, predicted) {
            (true, Some(true)) => &mut self.true_positives,
            (false, Some(true)) => &mut self.false_positives,
            (false, Some(false)) => &mut self.true_negatives,
            (true, Some(false)) => &mut self.false_negatives,
            (_, None) => &mut self.malformed,
        };
        *count += 1;
    }

    /// Adds the counts of another.
    pub fn add(&mut self, other: &Confusion) {
        self.true_positives += other.true_positives;
        self.false_positives += other.false_positives;
        self.true_negatives += other.true_negatives;
        self.false_negatives += other.false_negatives;
        self.malformed += other.malformed;
    }

    /// Balanced accuracy, (TPR + TNR) / 2; `None` without a firing or without a silent window.
    pub fn balanced_accuracy(&self) -> Option<f64> {
        let true_negative_rate = ratio(
            self.true_negatives,
            self.true_negatives + self.false_positives,
        );
        Some((self.recall()? + true_negative_rate?) / 2.0)
    }

    /// Share of the windows predicted to fire that do; `None` if none was predicted.
    pub fn precision(&self) -> Option<f64> {
        ratio(
            self.true_positives,
            self.true_positives + self.false_positives,
        )
    }

    /// Share of the firing windows that were predicted to fire; `None` if there is none.
    pub fn recall(&self) -> Option<f64> {
        ratio(
            self.true_positives,
            self.true_positives + self.false_negatives,
        )
    }

    /// F1 = 2 TP / (2 TP + FP + FN), the harmonic mean of precision and recall; `None` if no window
    /// fires and none was predicted to.
    pub fn f1(&self) -> Option<f64> {
        let twice = 2 * self.true_positives;
        ratio(twice, twice + self.false_positives + self.false_negatives)
    }
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// Detection: asks for each window whether the latent fires in it. `None` is a malformed reply.
pub fn detection(
    examples: &Examples<'_>,
    mut predicts: impl FnMut(&Window<'_>) -> Option<bool>,
) -> Confusion {
    let mut confusion = Confusion::default();
    for (window, fires) in examples.labelled() {
        confusion.record(fires, predicts(window));
    }
    confusion
}

/// Fuzzing: asks for each window with marks whether the marks are right ([`fuzzing_items`]). `None`
/// is a malformed reply.
pub fn fuzzing(
    examples: &Examples<'_>,
    seed: u64,
    mut predicts: impl FnMut(&Window<'_>, &[bool]) -> Option<bool>,
) -> Confusion {
    let mut confusion = Confusion::default();
    for item in fuzzing_items(examples, seed) {
        confusion.record(item.fires, predicts(&item.window, &item.marks));
    }
    confusion
}

/// A window with marked tokens, and whether the latent fires on them.
#[derive(Debug, Clone, PartialEq)]
pub struct FuzzingItem<'a> {
    /// The window.
    pub window: Window<'a>,
    /// Whether each of its tokens is marked.
    pub marks: Vec<bool>, // [window]
    /// Whether the marks are right.
    pub fires: bool,
}

/// Marks for fuzzing, in the order of [`Examples::labelled`].
///
/// In a firing window, tokens are marked by [`activation_marks`]. In a silent one, random tokens
/// are: as many as the firing examples have firing tokens on average, rounded up, or all if the
/// window is shorter.
pub fn fuzzing_items<'a>(examples: &Examples<'a>, seed: u64) -> Vec<FuzzingItem<'a>> {
    const FUZZING: u64 = 0x6675_7a7a;
    let firing: usize = examples.active.iter().map(Window::firing_tokens).sum();
    let per_window = firing.div_ceil(examples.active.len().max(1));
    let random = |index: usize, tokens: usize| {
        let stream = stream(&[seed, FUZZING, examples.latent as u64, index as u64]);
        let mut marks = vec![false; tokens];
        for at in draw(tokens, per_window, stream) {
            marks[at] = true;
        }
        marks
    };
    examples
        .labelled()
        .enumerate()
        .map(|(index, (window, fires))| FuzzingItem {
            window: *window,
            marks: if fires {
                activation_marks(window.activations)
            } else {
                random(index, window.tokens.len())
            },
            fires,
        })
        .collect()
}

/// Marks the tokens whose activation is at least 0.3 of the window's maximum, as a product in f32;
/// none if the latent does not fire.
pub fn activation_marks(activations: &[f32]) -> Vec<bool> {
    let max = activations.iter().copied().fold(0.0, f32::max);
    activations
        .iter()
        .map(|&value| value > 0.0 && value >= STRONG * max)
        .collect()
}

/// The score of one latent's label.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LatentScore {
    /// The latent.
    pub latent: usize,
    /// How often it fires in the corpus, its weight in [`Scores::frequency_weighted_f1`].
    pub firings: u64,
    /// Its predictions by outcome.
    pub confusion: Confusion,
}

/// Scores of many latents' labels under one test.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scores {
    /// One per scored latent.
    pub per_latent: Vec<LatentScore>,
    /// Latents with too few windows; they take no part in any score.
    pub unscored: Vec<TooFewWindows>,
}

impl Scores {
    /// The predictions of all latents together.
    pub fn pooled(&self) -> Confusion {
        let mut pooled = Confusion::default();
        for score in &self.per_latent {
            pooled.add(&score.confusion);
        }
        pooled
    }

    /// Σ F1 · firings / Σ firings, over the latents that have an F1; `None` if none has or none
    /// fires.
    pub fn frequency_weighted_f1(&self) -> Option<f64> {
        let (mut sum, mut firings) = (0.0, 0.0);
        for score in &self.per_latent {
            if let Some(f1) = score.confusion.f1() {
                sum += f1 * score.firings as f64;
                firings += score.firings as f64;
            }
        }
        (firings > 0.0).then(|| sum / firings)
    }
}

#[cfg(test)]
mod tests;
