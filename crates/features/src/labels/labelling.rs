//! Labels of all latents of a dictionary, made on one half of a text's documents and scored on the
//! other.

use std::fmt;

use rayon::prelude::*;

use super::{
    CandidateSet, Confusion, CorpusCounts, ExampleConfig, Examples, ExamplesOrTooFew, LabelContext,
    LabelPlace, MAX_NGRAM, Ngram, PmiConfig, PmiLabel, Split, TokenLabel, WINDOW, Window,
    detection, fuzzing, pmi_labels, top_token_label,
};
use crate::{FeaturesError, TextCodes};

/// Strongest windows from which a label is made, at most one per document and 32 tokens (MILAN
/// takes 15 image regions).
const CONTEXTS: usize = 15;

/// Most n-grams, or tokens, of a label: what a latent responds to is seldom one word.
pub const LABEL_WORDS: usize = 3;

/// Fewest contexts for which a further n-gram is added to a label.
const LEAST_CONTEXTS: usize = 2;

/// How a label is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LabelMethod {
    /// The n-grams at the peaks that are most typical of them ([`pmi_labels`]).
    Pmi,
    /// The most frequent token at the peaks, the baseline.
    TopToken,
    /// The tokens whose logits the decoder row raises most.
    Lens,
}

impl LabelMethod {
    /// All methods.
    pub const ALL: [LabelMethod; 3] = [LabelMethod::Pmi, LabelMethod::TopToken, LabelMethod::Lens];

    /// The name on the command line and in the table.
    pub fn name(self) -> &'static str {
        match self {
            LabelMethod::Pmi => "pmi",
            LabelMethod::TopToken => "top-token",
            LabelMethod::Lens => "lens",
        }
    }

    /// The method of that name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.name() == name)
    }
}

impl fmt::Display for LabelMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The label of a latent, with its score on documents that it was not made from.
#[derive(Debug, Clone, PartialEq)]
pub struct LatentLabel {
    /// The latent.
    pub latent: u32,
    /// How the label was made.
    pub method: LabelMethod,
    /// The n-grams, the best one first, and where each is relative to a token on which the latent
    /// fires. Any of them stands for the label.
    pub ngrams: Vec<(Ngram, LabelPlace)>,
    /// Counts of detection and of fuzzing; none if the latent has too few windows to be scored.
    pub scores: Option<[Confusion; 2]>,
}

/// Labels every latent that fires in the training half, by each of the methods. `promoted` has each
/// latent's promoted tokens, strongest first, for [`LabelMethod::Lens`].
///
/// The result is sorted by method, then by latent.
///
/// # Errors
/// If a parameter of `pmi` or `examples` is out of its range.
pub fn label_latents(
    text: &TextCodes,
    methods: &[LabelMethod],
    promoted: &[Vec<(u32, f32)>],
    pmi: &PmiConfig,
    examples: &ExampleConfig,
) -> Result<Vec<LatentLabel>, FeaturesError> {
    let documents = text.stretches();
    let latents: Vec<usize> = (0..text.d_sae()).collect();
    let strongest: Vec<Vec<Peak>> = latents
        .par_iter()
        .map(|latent| strongest_windows(text, &documents, *latent))
        .collect();
    let mut candidates = CandidateSet::new(MAX_NGRAM)?;
    for peak in strongest.iter().flatten() {
        candidates.add(&peak.context(text))?;
    }
    let mut counts = CorpusCounts::new(candidates);
    for (_, places) in documents.iter().filter(|(document, _)| trains(*document)) {
        counts.observe(&text.tokens[places.clone()]);
    }
    let all = PmiConfig {
        labels: usize::MAX,
        ..pmi.clone()
    };
    let mut labels = vec![];
    for method in methods {
        let of_latent = |latent: &usize| -> Result<Option<LatentLabel>, FeaturesError> {
            let peaks = &strongest[*latent];
            let contexts: Vec<LabelContext<'_>> = peaks.iter().map(|p| p.context(text)).collect();
            if contexts.is_empty() {
                return Ok(None);
            }
            let ngrams: Vec<(Ngram, LabelPlace)> = match method {
                LabelMethod::Pmi => {
                    let labels = pmi_labels(&contexts, &counts, &all)?;
                    best_ngrams(&labels, &contexts, MAX_NGRAM)
                }
                LabelMethod::TopToken => top_token_label(&contexts)?
                    .map(|(token, _)| (Ngram::unigram(token), LabelPlace::Firing))
                    .into_iter()
                    .collect(),
                LabelMethod::Lens => {
                    let tokens = promoted.get(*latent).into_iter().flatten();
                    let tokens = tokens.take(LABEL_WORDS).map(|t| Ngram::unigram(t.0));
                    tokens.map(|ngram| (ngram, LabelPlace::After)).collect()
                }
            };
            if ngrams.is_empty() {
                return Ok(None);
            }
            let judge = TokenLabel::any_ngram(ngrams.clone())?;
            Ok(Some(LatentLabel {
                latent: *latent as u32,
                method: *method,
                ngrams,
                scores: score(text, &documents, *latent, &judge, examples)?,
            }))
        };
        let found: Result<Vec<_>, _> = latents.par_iter().map(of_latent).collect();
        labels.extend(found?.into_iter().flatten());
    }
    Ok(labels)
}

/// The best n-grams, each of which is in contexts that the better ones are not in: what a latent
/// responds to is seldom one word, but a latent on one word should have no other.
fn best_ngrams(
    labels: &[PmiLabel],
    contexts: &[LabelContext<'_>],
    max_n: usize,
) -> Vec<(Ngram, LabelPlace)> {
    let mut left: Vec<&LabelContext<'_>> = contexts.iter().collect();
    let mut best = vec![];
    for label in labels {
        let has = |context: &&LabelContext<'_>| {
            let mut candidates = context.candidates(max_n);
            candidates.any(|(ngram, _)| ngram == label.ngram)
        };
        let explains = left.iter().filter(|context| has(context)).count();
        if best.is_empty() || explains >= LEAST_CONTEXTS {
            best.push((label.ngram, label.place));
            left.retain(|context| !has(context));
        }
        if best.len() == LABEL_WORDS || left.len() < LEAST_CONTEXTS {
            break;
        }
    }
    best
}

fn trains(document: u32) -> bool {
    Split::of_document(u64::from(document)) == Split::Train
}

/// A window of a document in which a latent is strong.
struct Peak {
    /// First token of the window, and one past the last.
    places: std::ops::Range<usize>,
    /// Activations of the window.
    activations: Vec<f32>,
    /// Where the strongest is.
    index: usize,
}

impl Peak {
    fn context<'a>(&'a self, text: &'a TextCodes) -> LabelContext<'a> {
        LabelContext {
            token_ids: &text.tokens[self.places.clone()],
            activations: &self.activations,
            peak_index: self.index,
        }
    }
}

/// The strongest windows of a latent in the training half: around each peak, the tokens before it
/// up to the window's length.
fn strongest_windows(
    text: &TextCodes,
    documents: &[(u32, std::ops::Range<usize>)],
    latent: usize,
) -> Vec<Peak> {
    let mut peaks: Vec<(f32, usize, usize)> = vec![]; // activation, place, start of the document
    let mut firings = text.firings(latent).iter().peekable();
    for (document, places) in documents {
        let mut best: Option<(f32, usize)> = None;
        while let Some(&(place, value)) = firings.next_if(|f| (f.0 as usize) < places.end) {
            let place = place as usize;
            let apart = best.is_none_or(|(_, at)| place - at >= WINDOW);
            if apart && let Some((value, at)) = best.take() {
                peaks.push((value, at, places.start));
            }
            if best.is_none_or(|(strongest, _)| value > strongest) {
                best = Some((value, place));
            }
        }
        if let Some((value, at)) = best {
            peaks.push((value, at, places.start));
        }
        if !trains(*document) {
            while peaks.last().is_some_and(|peak| peak.2 == places.start) {
                peaks.pop();
            }
        }
    }
    peaks.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    peaks.truncate(CONTEXTS);
    let all = text.firings(latent);
    let window = |(_, place, start): (f32, usize, usize)| {
        let first = start.max((place + 1).saturating_sub(WINDOW));
        let mut activations = vec![0.0; place + 1 - first];
        let from = all.partition_point(|f| (f.0 as usize) < first);
        for (at, value) in all[from..].iter().take_while(|f| f.0 as usize <= place) {
            activations[*at as usize - first] = *value;
        }
        Peak {
            places: first..place + 1,
            index: place - first,
            activations,
        }
    };
    peaks.into_iter().map(window).collect()
}

/// Detection and fuzzing of a label on windows of the test half.
fn score(
    text: &TextCodes,
    documents: &[(u32, std::ops::Range<usize>)],
    latent: usize,
    label: &TokenLabel,
    config: &ExampleConfig,
) -> Result<Option<[Confusion; 2]>, FeaturesError> {
    let mut dense = vec![0.0; text.tokens.len()];
    for (place, value) in text.firings(latent) {
        dense[*place as usize] = *value;
    }
    let mut windows = vec![];
    for (document, places) in documents.iter().filter(|(document, _)| !trains(*document)) {
        let (tokens, activations) = (&text.tokens[places.clone()], &dense[places.clone()]);
        let document = u64::from(*document);
        windows.extend(Window::cut(document, tokens, activations, WINDOW)?);
    }
    Ok(match Examples::choose(latent, &windows, config)? {
        ExamplesOrTooFew::TooFew(_) => None,
        ExamplesOrTooFew::Examples(chosen) => Some([
            detection(&chosen, |window| Some(label.detects(window))),
            fuzzing(&chosen, config.seed, |window, marks| {
                Some(label.fits_marks(window, marks))
            }),
        ]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Latent 0 fires on token 7 and nowhere else, latent 1 on the token after 3, latent 2 never.
    /// The text repeats 40 tokens of which the pair (3, 9) is rare.
    fn text() -> TextCodes {
        let mut tokens = vec![];
        let mut codes = vec![];
        let mut state = 1u64;
        for document in 0..60u32 {
            for _ in 0..128 {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                let token = (state >> 33) as u32 % 100;
                let before = tokens.last().map_or(0, |last: &(u32, u32)| last.0);
                let mut row = vec![];
                if token == 7 {
                    row.push((0, 2.0 + (state >> 60) as f32));
                }
                if before == 3 && !codes.is_empty() {
                    row.push((1, 1.0));
                }
                tokens.push((token, document));
                codes.push(row);
            }
        }
        TextCodes::made(3, &tokens, &codes)
    }

    fn labels(methods: &[LabelMethod]) -> Vec<LatentLabel> {
        let promoted = vec![vec![(5, 1.0), (6, 0.5)], vec![], vec![(1, 1.0)]];
        let (pmi, examples) = (PmiConfig::default(), ExampleConfig::default());
        label_latents(&text(), methods, &promoted, &pmi, &examples).unwrap()
    }

    #[test]
    fn a_latent_on_one_token_is_labelled_by_it_and_scores_one() {
        let found = labels(&[LabelMethod::Pmi, LabelMethod::TopToken]);
        for method in [LabelMethod::Pmi, LabelMethod::TopToken] {
            let mut of_first = found.iter().filter(|l| l.latent == 0 && l.method == method);
            let label = of_first.next().unwrap();
            assert_eq!(label.ngrams[0], (Ngram::unigram(7), LabelPlace::Firing));
            let [detection, fuzzing] = label.scores.unwrap();
            assert_eq!(detection.balanced_accuracy(), Some(1.0));
            assert_eq!(fuzzing.balanced_accuracy(), Some(1.0));
        }
        assert!(
            found.iter().all(|label| label.latent != 2),
            "it never fires"
        );
    }

    #[test]
    fn a_latent_after_a_token_is_labelled_by_the_token_before() {
        let found = labels(&[LabelMethod::Pmi, LabelMethod::TopToken]);
        let of = |method| {
            found
                .iter()
                .find(|l| l.latent == 1 && l.method == method)
                .unwrap()
        };
        let label = of(LabelMethod::Pmi);
        assert_eq!(label.ngrams[0], (Ngram::unigram(3), LabelPlace::Before));
        let accuracy = |label: &LatentLabel| label.scores.unwrap()[0].balanced_accuracy().unwrap();
        assert!(accuracy(label) > 0.9 && accuracy(of(LabelMethod::TopToken)) < 0.7);
        assert_eq!(label.scores.unwrap()[1].balanced_accuracy(), Some(1.0));
    }

    #[test]
    fn promoted_tokens_are_the_label_of_the_lens() {
        let found = labels(&[LabelMethod::Lens]);
        assert_eq!(
            found.len(),
            1,
            "latent 1 promotes nothing, latent 2 never fires"
        );
        let promoted = [5, 6].map(|token| (Ngram::unigram(token), LabelPlace::After));
        assert_eq!(found[0].ngrams, promoted);
    }

    #[test]
    fn labels_come_from_training_documents_only() {
        let text = text();
        let documents = text.stretches();
        for peak in strongest_windows(&text, &documents, 0) {
            assert!(trains(text.documents[peak.places.start]));
            assert_eq!(text.tokens[peak.places.end - 1], 7);
            assert!(peak.activations[peak.index] >= 2.0);
        }
    }
}
