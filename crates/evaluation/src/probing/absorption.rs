//! Feature absorption (Chanin, Wilken-Smith, Dulka, Bhatnagar, Bloom 2024, "A is for Absorption"),
//! as SAEBench defines it: where a probe sees a word's first letter, but the latents that stand for
//! the letter do not fire, and others that do point the probe's way.

use rayon::prelude::*;
use serde::Serialize;

use lapidary_coder::{Coder, host};

use super::first_letter::FirstLetter;
use super::logistic::{Balance, Logistic};
use super::rows::{Rows, largest};
use super::texts::Represented;
use crate::cosines::unit;
use crate::error::EvaluationError;

/// SAEBench's thresholds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AbsorptionConfig {
    /// A letter's latents grow in number while F1 rises by more than this.
    pub f1_jump: f64,
    /// Most latents a letter.
    pub max_k: usize,
    /// Weight of the absolute penalty that orders latents.
    pub l1_decay: f64,
    /// A letter counts if its probe's F1 is above this.
    pub min_probe_f1: f64,
    /// Full absorption: least cosine of the absorbing latent's row with the probe.
    pub full_cosine: f64,
    /// Absorption fraction: least cosine of an absorbing latent's row with the probe.
    pub fraction_cosine: f64,
    /// Least share of the activation's projection on the probe that absorbing latents must make up.
    pub proportion: f64,
    /// Most absorbing latents of a word.
    pub max_absorbing: usize,
}

impl Default for AbsorptionConfig {
    fn default() -> Self {
        Self {
            f1_jump: 0.03,
            max_k: 10,
            l1_decay: 0.01,
            min_probe_f1: 0.6,
            full_cosine: 0.025,
            fraction_cosine: 0.1,
            proportion: 0.4,
            max_absorbing: 3,
        }
    }
}

/// Absorption over all letters whose probe is good enough. A mean over no letter is null.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Absorption {
    /// Letters that count.
    pub letters: usize,
    /// Mean over letters.
    pub mean_absorption_fraction_score: f64,
    /// Mean over letters.
    pub mean_full_absorption_score: f64,
    /// Mean over letters of the number of latents that stand for one.
    pub mean_num_split_features: f64,
    /// Words to train and to test on.
    pub words: [usize; 2],
    /// Each letter of which there are words to train and to test on.
    pub details: Vec<LetterAbsorption>,
}

/// One letter.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LetterAbsorption {
    /// The letter.
    pub letter: char,
    /// F1 of the probe on activations, on the words to test on.
    pub probe_f1: f64,
    /// The latents that stand for the letter.
    pub split_features: Vec<usize>,
    /// F1 of a probe on those latents.
    pub latents_f1: f64,
    /// Words with the letter that the probe sees.
    pub num_probe_true_positives: usize,
    /// Mean over those words; 0 if there are none.
    pub mean_absorption_fraction: f64,
    /// Share of those words with full absorption; 0 if there are none.
    pub full_absorption_rate: f64,
    /// What this is from.
    #[serde(skip)]
    pub evidence: Evidence,
}

/// The words that a letter's figures are from.
#[derive(Clone, Debug, PartialEq)]
pub struct Evidence {
    /// The probe's direction, of norm 1.
    pub direction: Vec<f64>,
    /// Places of the words in the task.
    pub words: Vec<usize>,
    /// What becomes of the letter in each.
    pub absorbed: Vec<WordAbsorption>,
}

/// What becomes of one word's letter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WordAbsorption {
    /// Share of the letter that absorbing latents took over, 0 to 1.
    pub fraction: f64,
    /// Whether the letter's latents are silent and one other speaks for it.
    pub full: bool,
}

/// One word: `projection` of its activation on the probe's direction, its `latents`, each latent's
/// `cosines` with that direction, and the `main` latents of the letter.
#[must_use]
pub fn word_absorption(
    projection: f64,
    latents: &[(u32, f32)],
    cosines: &[f64],
    main: &[usize],
    config: &AbsorptionConfig,
) -> WordAbsorption {
    let each = || {
        latents
            .iter()
            .map(|(i, v)| (*i as usize, f64::from(*v) * cosines[*i as usize]))
    };
    let of_main: f64 = each()
        .filter(|(i, _)| main.contains(i))
        .map(|(_, p)| p)
        .sum();
    let mut absorbing: Vec<f64> = each()
        .filter(|(i, p)| !main.contains(i) && cosines[*i] >= config.fraction_cosine && *p > 0.0)
        .map(|(_, p)| p)
        .collect();
    absorbing.sort_unstable_by(|a, b| b.total_cmp(a));
    let absorbed: f64 = absorbing.iter().take(config.max_absorbing).sum();
    let fraction = if of_main >= projection || absorbed / projection < config.proportion {
        0.0
    } else if of_main <= 0.0 {
        1.0
    } else {
        let absorbed = absorbed.min(projection - of_main);
        (absorbed / (absorbed + of_main)).clamp(0.0, 1.0)
    };
    let silent = latents
        .iter()
        .all(|(i, v)| !main.contains(&(*i as usize)) || *v < 1e-8);
    // Latents that do not fire project 0, which may be the most.
    let top = each()
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .filter(|(_, p)| *p > 0.0);
    let full = silent
        && projection >= 0.0
        && top.is_some_and(|(i, p)| {
            cosines[i] >= config.full_cosine && p / projection >= config.proportion
        });
    WordAbsorption { fraction, full }
}

/// Absorption of a dictionary's latents on a first-letter task. `on_progress` hears the number of
/// letters done.
///
/// # Errors
/// The device fails.
pub fn absorption_of(
    task: &FirstLetter,
    represented: &Represented,
    coder: &dyn Coder,
    config: &AbsorptionConfig,
    on_progress: &mut dyn FnMut(usize),
) -> Result<Absorption, EvaluationError> {
    let width = represented.activations.columns();
    if coder.w_dec().dims()[1] != width {
        return Err(EvaluationError::input(
            "width of the decoder's rows (against the activations')",
            coder.w_dec().dims()[1],
            width,
        ));
    }
    let rows = host(&unit(coder.w_dec()))?;
    let split = |r: &Rows| {
        let all: Vec<usize> = (0..r.len()).collect();
        (r.pick(&all[..task.train]), r.pick(&all[task.train..]))
    };
    let (train, test) = split(&represented.activations);
    let latents = split(&represented.latents);
    let (train_letters, test_letters) = task.letters.split_at(task.train);
    let of_letter = |letter: usize| -> Result<Option<LetterAbsorption>, EvaluationError> {
        let labels =
            |letters: &[usize]| letters.iter().map(|l| *l == letter).collect::<Vec<bool>>();
        let (train_labels, test_labels) = (labels(train_letters), labels(test_letters));
        if !train_labels.contains(&true) || !test_labels.contains(&true) {
            return Ok(None);
        }
        let probe = Logistic::fit(&train, &train_labels, 1.0, Balance::Positives)?;
        let (split_features, latents_f1) = split_features(
            (&latents.0, &train_labels),
            (&latents.1, &test_labels),
            config,
        )?;
        let norm = probe.weights.iter().map(|w| w * w).sum::<f64>().sqrt();
        let direction: Vec<f64> = probe.weights.iter().map(|w| w / norm).collect();
        let cosines: Vec<f64> = rows
            .chunks_exact(direction.len())
            .map(|row| {
                row.iter()
                    .zip(&direction)
                    .map(|(a, b)| f64::from(*a) * b)
                    .sum()
            })
            .collect();
        let seen = |word: &usize| test_labels[*word] && probe.score(&test, *word) > 0.0;
        let seen: Vec<usize> = (0..test_labels.len()).filter(seen).collect();
        let words: Vec<WordAbsorption> = seen
            .iter()
            .map(|word| {
                word_absorption(
                    test.dot(*word, &direction),
                    latents.1.row(*word),
                    &cosines,
                    &split_features,
                    config,
                )
            })
            .collect();
        let n = words.len().max(1) as f64;
        Ok(Some(LetterAbsorption {
            letter: char::from(b'a' + letter as u8),
            probe_f1: probe.f1(&test, &test_labels),
            split_features,
            latents_f1,
            num_probe_true_positives: words.len(),
            mean_absorption_fraction: words.iter().map(|w| w.fraction).sum::<f64>() / n,
            full_absorption_rate: words.iter().filter(|w| w.full).count() as f64 / n,
            evidence: Evidence {
                direction,
                words: seen.iter().map(|word| task.train + word).collect(),
                absorbed: words,
            },
        }))
    };
    let mut details = Vec::new();
    let letters: Vec<usize> = (0..26).collect();
    for some in letters.chunks(rayon::current_num_threads()) {
        let found: Vec<_> = some
            .par_iter()
            .map(|letter| of_letter(*letter))
            .collect::<Result<_, _>>()?;
        details.extend(found.into_iter().flatten());
        on_progress(some[some.len() - 1] + 1);
    }
    let counted = || {
        details
            .iter()
            .filter(|l| l.probe_f1 > config.min_probe_f1 && l.num_probe_true_positives > 0)
    };
    let letters = counted().count();
    let mean = |of: fn(&LetterAbsorption) -> f64| counted().map(of).sum::<f64>() / letters as f64;
    Ok(Absorption {
        letters,
        mean_absorption_fraction_score: mean(|l| l.mean_absorption_fraction),
        mean_full_absorption_score: mean(|l| l.full_absorption_rate),
        mean_num_split_features: mean(|l| l.split_features.len() as f64),
        words: [task.train, task.words.len() - task.train],
        details,
    })
}

/// The latents that stand for a letter, and F1 of a probe on them: those of largest weight in a
/// sparse probe, one more as long as each makes F1 jump.
fn split_features(
    (train, train_labels): (&Rows, &[bool]),
    (test, test_labels): (&Rows, &[bool]),
    config: &AbsorptionConfig,
) -> Result<(Vec<usize>, f64), EvaluationError> {
    let sparse = Logistic::fit_sparse(train, train_labels, config.l1_decay, Balance::Positives)?;
    let order = largest(&sparse.weights, config.max_k);
    let (mut features, mut best) = (Vec::new(), f64::NEG_INFINITY);
    for k in 1..=order.len() {
        let chosen = &order[..k];
        let probe = Logistic::fit(&train.select(chosen), train_labels, 1.0, Balance::Classes)?;
        let f1 = probe.f1(&test.select(chosen), test_labels);
        if f1 <= best + config.f1_jump {
            break;
        }
        (features, best) = (chosen.to_vec(), f1);
    }
    Ok((features, best))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Latent 0 stands for the letter; 1 and 2 point its way, 3 does not.
    #[test]
    fn a_word_is_absorbed_as_far_as_others_speak_for_its_letter() {
        let config = AbsorptionConfig::default();
        let cosines = [0.9, 0.5, 0.2, 0.05];
        let word = |latents: &[(u32, f32)]| word_absorption(1.0, latents, &cosines, &[0], &config);
        // The letter's own latent does it all.
        assert_eq!(
            word(&[(0, 1.2), (1, 2.0)]),
            WordAbsorption {
                fraction: 0.0,
                full: false
            }
        );
        // It is silent, another speaks.
        assert_eq!(
            word(&[(1, 1.0)]),
            WordAbsorption {
                fraction: 1.0,
                full: true
            }
        );
        // In part: of 0.45 each, the other's share is half.
        let half = word(&[(0, 0.5), (1, 0.9)]);
        assert!((half.fraction - 0.5).abs() < 1e-6 && !half.full);
        // More than is missing counts as what is missing.
        let capped = word(&[(0, 0.5), (1, 1.9)]);
        assert!((capped.fraction - 0.55).abs() < 1e-6);
        // Too little, or not that way.
        assert_eq!(
            word(&[(1, 0.7)]),
            WordAbsorption {
                fraction: 0.0,
                full: false
            }
        );
        assert_eq!(
            word(&[(3, 4.0)]),
            WordAbsorption {
                fraction: 0.0,
                full: false
            }
        );
        // A latent whose cosine is enough for full absorption, but not for the fraction.
        assert_eq!(
            word(&[(3, 9.0)]),
            WordAbsorption {
                fraction: 0.0,
                full: true
            }
        );
        assert_eq!(
            word(&[]),
            WordAbsorption {
                fraction: 0.0,
                full: false
            }
        );
    }
}
