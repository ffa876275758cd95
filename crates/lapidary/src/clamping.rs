//! Labels checked by clamping: does the model write a label's tokens more often if the latent is
//! active everywhere?

use std::collections::HashMap;

use lapidary_evaluation::Hooks;
use lapidary_features::labels::{LabelMethod, LatentLabel, Split, WINDOW};
use lapidary_features::{ClampedRuns, OtherLabels, Steer, Steering, TextCodes};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::error::Result;
use crate::opened::Opened;
use crate::progress::{Progress, Stage, count};

/// How labels are scored by clamping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClampOptions {
    /// Number of latents whose labels are scored, drawn at random; 0 for none.
    pub latents: usize,
    /// Number of windows of text, of 32 tokens each.
    pub windows: usize,
    /// Number of other labels of the same method that a label is compared with.
    pub others: usize,
    /// Seed of what is drawn.
    pub seed: u64,
}

impl Default for ClampOptions {
    fn default() -> Self {
        Self {
            latents: 100,
            windows: 8,
            others: 100,
            seed: 22,
        }
    }
}

/// Clamping scores by method and latent.
pub(crate) type ClampScores = HashMap<(LabelMethod, u32), f64>;

/// Windows of `text`, drawn at random from the documents that `counts`, each with BOS where the
/// dictionary was trained with it; and the number of tokens before the text.
fn windows(
    opened: &Opened,
    text: &TextCodes,
    counts: impl Fn(u32) -> bool,
    options: &ClampOptions,
) -> (Vec<Vec<u32>>, usize) {
    let stretches = text.stretches().into_iter();
    let counted = stretches.filter(|(document, _)| counts(*document));
    let mut starts: Vec<usize> = counted
        .flat_map(|(_, places)| {
            let end = places.end;
            places.step_by(WINDOW).filter(move |at| at + WINDOW <= end)
        })
        .collect();
    starts.shuffle(&mut ChaCha8Rng::seed_from_u64(options.seed));
    starts.truncate(options.windows);
    let bos: Vec<u32> = opened.context().1.into_iter().collect();
    let window = |at: &usize| [&bos, &text.tokens[*at..at + WINDOW]].concat();
    (starts.iter().map(window).collect(), bos.len())
}

/// The tokens that stand for a label: the last one of each n-gram.
fn tokens_of(label: &LatentLabel) -> Vec<u32> {
    let last = label.ngrams.iter().map(|(ngram, _)| ngram.tokens().last());
    last.flatten().copied().collect()
}

/// Scores the labels of some latents on windows of the test half of the text: the latent is clamped
/// at its largest activation on the text (a transcoder's is added), and its label's tokens compete
/// with those of other latents' labels of the same method.
pub(crate) fn clamping_scores(
    opened: &Opened,
    text: &TextCodes,
    labels: &[LatentLabel],
    options: &ClampOptions,
    progress: &dyn Progress,
) -> Result<ClampScores> {
    let mut scores = ClampScores::new();
    let dictionary = &opened.dictionary;
    if options.latents == 0 || labels.is_empty() {
        return Ok(scores);
    }
    if dictionary.sites().are_several() {
        let why = "labels are not scored by clamping: the coder writes at several hook points";
        progress.say("note", why);
        return Ok(scores);
    }
    if let Err(error) = opened.model.check_head() {
        progress.say(
            "note",
            &format!("labels are not scored by clamping: {error}"),
        );
        return Ok(scores);
    }
    let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
    let mut of_method: HashMap<LabelMethod, Vec<&LatentLabel>> = HashMap::new();
    let mut of_latent: HashMap<u32, Vec<&LatentLabel>> = HashMap::new();
    for label in labels {
        of_method.entry(label.method).or_default().push(label);
        of_latent.entry(label.latent).or_default().push(label);
    }
    let mut latents: Vec<u32> = of_latent.keys().copied().collect();
    latents.sort_unstable();
    latents.shuffle(&mut rng);
    latents.truncate(options.latents);
    // One more than is needed: a latent's own label may be among them.
    let others: HashMap<LabelMethod, OtherLabels> = LabelMethod::ALL
        .into_iter()
        .filter_map(|method| Some((method, of_method.remove(&method)?)))
        .map(|(method, mut labels)| {
            labels.shuffle(&mut rng);
            labels.truncate(options.others + 1);
            let labels = labels.iter();
            let tokens = labels.map(|label| (label.latent as usize, tokens_of(label)));
            (method, OtherLabels::new(tokens.collect(), options.others))
        })
        .collect();
    let in_test_half = |document: u32| Split::of_document(u64::from(document)) == Split::Test;
    let (windows, bos) = windows(opened, text, in_test_half, options);
    if windows.is_empty() {
        let why = "labels are not scored by clamping: no document of the test half has 32 tokens";
        progress.say("note", why);
        return Ok(scores);
    }
    let at = Hooks::targets(dictionary)?[0];
    let runs = ClampedRuns::new(&opened.model, &windows, bos, at)?;
    let stage = Stage::new(progress, "clamp", latents.len() as u64);
    for (done, latent) in latents.iter().enumerate() {
        let firings = text.firings(*latent as usize).iter();
        let largest = firings.map(|(_, value)| *value).fold(0.0, f32::max);
        let steer = match dictionary.transcodes() {
            true => Steer::Add(largest),
            false => Steer::Clamp(largest),
        };
        let steering = Steering::new(dictionary, *latent as usize, steer)?;
        let shifts = runs.shifts(steering.intervention())?;
        for label in &of_latent[latent] {
            let (others, own) = (&others[&label.method], tokens_of(label));
            if let Some(score) = others.clamping_score(&shifts, *latent as usize, &own) {
                scores.insert((label.method, *latent), score);
            }
        }
        stage.at(done as u64 + 1, format!("latent {latent}"));
    }
    stage.done(count(latents.len() as u64, "latent"));
    Ok(scores)
}
