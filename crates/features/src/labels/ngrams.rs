//! Counts in a corpus of the n-grams that are candidates for a label, in two passes: first all
//! candidates, then their counts.
//!
//! Memory depends on the number of candidates, never on the length of the corpus.

use std::collections::HashMap;

use crate::FeaturesError;

/// Length of the longest n-gram.
pub const MAX_NGRAM: usize = 3;

/// One to [`MAX_NGRAM`] consecutive token ids. Shorter ones order first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ngram {
    len: u8,
    tokens: [u32; MAX_NGRAM], // 0 beyond `len`
}

impl Ngram {
    /// The n-gram of these token ids.
    ///
    /// # Errors
    /// When there are none, or more than [`MAX_NGRAM`].
    pub fn new(tokens: &[u32]) -> Result<Self, FeaturesError> {
        if tokens.is_empty() || tokens.len() > MAX_NGRAM {
            return Err(FeaturesError::Input {
                field: "n-gram",
                found: format!("{} tokens", tokens.len()),
                expected: format!("1 to {MAX_NGRAM}"),
            });
        }
        Ok(Ngram::of(tokens))
    }

    /// The n-gram of a single token.
    pub fn unigram(token: u32) -> Self {
        Ngram::of(&[token])
    }

    /// Its token ids, in order.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens[..usize::from(self.len)]
    }

    // The caller knows that the length is 1 to MAX_NGRAM.
    fn of(tokens: &[u32]) -> Self {
        let mut ngram = Ngram {
            len: tokens.len() as u8,
            tokens: [0; MAX_NGRAM],
        };
        ngram.tokens[..tokens.len()].copy_from_slice(tokens);
        ngram
    }
}

/// A window of tokens in which a latent fires, as labelling reads it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LabelContext<'a> {
    /// Tokens of the window.
    pub token_ids: &'a [u32], // [window]
    /// The latent's activation on each of them.
    pub activations: &'a [f32], // [window]
    /// Where in the window the latent fires most.
    pub peak_index: usize,
}

impl LabelContext<'_> {
    /// The activation at the peak.
    ///
    /// # Errors
    /// When the lengths differ, the peak is not in the window, or the latent does not fire on it.
    pub(super) fn peak(&self) -> Result<f32, FeaturesError> {
        if self.activations.len() != self.token_ids.len() {
            return Err(FeaturesError::Input {
                field: "context",
                found: format!(
                    "{} activations for {} tokens",
                    self.activations.len(),
                    self.token_ids.len()
                ),
                expected: "one activation per token".into(),
            });
        }
        match self.activations.get(self.peak_index) {
            None => Err(FeaturesError::Input {
                field: "peak_index",
                found: self.peak_index.to_string(),
                expected: format!("less than the window's {} tokens", self.token_ids.len()),
            }),
            Some(peak) if !(peak.is_finite() && *peak > 0.0) => Err(FeaturesError::Input {
                field: "context",
                found: format!("activation {peak} at the peak"),
                expected: "a positive, finite number".into(),
            }),
            Some(peak) => Ok(*peak),
        }
    }

    /// The n-grams up to `max_n` tokens that end at the peak, then those that end one token before.
    /// Each comes with whether it ends at the peak. An n-gram may come in both places.
    pub(super) fn candidates(&self, max_n: usize) -> impl Iterator<Item = (Ngram, bool)> {
        let at_peak = self.peak_index + 1;
        [(at_peak, true), (at_peak - 1, false)]
            .into_iter()
            .flat_map(move |(end, at_peak)| {
                (1..=max_n.min(end))
                    .map(move |n| (Ngram::of(&self.token_ids[end - n..end]), at_peak))
            })
    }
}

/// All n-grams that can become the label of some latent: the first pass.
#[derive(Debug, Clone)]
pub struct CandidateSet {
    max_n: usize,
    counts: HashMap<Ngram, u64>, // all 0
}

impl CandidateSet {
    /// An empty set of n-grams of up to `max_n` tokens.
    ///
    /// # Errors
    /// When `max_n` is not 1 to [`MAX_NGRAM`].
    pub fn new(max_n: usize) -> Result<Self, FeaturesError> {
        if !(1..=MAX_NGRAM).contains(&max_n) {
            return Err(FeaturesError::Input {
                field: "max_n",
                found: max_n.to_string(),
                expected: format!("1 to {MAX_NGRAM}"),
            });
        }
        Ok(CandidateSet {
            max_n,
            counts: HashMap::new(),
        })
    }

    /// Adds the candidates of one context of any latent.
    ///
    /// # Errors
    /// When the context's parts do not fit together.
    pub fn add(&mut self, context: &LabelContext<'_>) -> Result<(), FeaturesError> {
        context.peak()?;
        self.counts
            .extend(context.candidates(self.max_n).map(|(ngram, _)| (ngram, 0)));
        Ok(())
    }

    /// Number of different candidates.
    pub fn len(&self) -> usize {
        self.counts.len()
    }

    /// Whether there is no candidate.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }
}

/// How often each candidate occurs in a corpus: the second pass.
#[derive(Debug, Clone)]
pub struct CorpusCounts {
    max_n: usize,
    counts: HashMap<Ngram, u64>,
    positions: [u64; MAX_NGRAM], // n-grams of each length that were seen, candidates or not
}

impl CorpusCounts {
    /// Counts of 0 for these candidates.
    pub fn new(candidates: CandidateSet) -> Self {
        CorpusCounts {
            max_n: candidates.max_n,
            counts: candidates.counts,
            positions: [0; MAX_NGRAM],
        }
    }

    /// Counts the candidates in one block of tokens. An n-gram does not continue from one block
    /// into the next.
    pub fn observe(&mut self, tokens: &[u32]) {
        for n in 1..=self.max_n {
            for ngram in tokens.windows(n) {
                self.positions[n - 1] += 1;
                if let Some(count) = self.counts.get_mut(&Ngram::of(ngram)) {
                    *count += 1;
                }
            }
        }
    }

    /// Length of the longest n-gram that is counted.
    pub fn max_n(&self) -> usize {
        self.max_n
    }

    /// How often an n-gram occurred; `None` if it was no candidate and so was not counted.
    pub fn count(&self, ngram: &Ngram) -> Option<u64> {
        self.counts.get(ngram).copied()
    }

    /// Share of an n-gram among all n-grams of its length; `None` if it was not counted or there
    /// were no n-grams of its length.
    pub fn share(&self, ngram: &Ngram) -> Option<f64> {
        let count = self.count(ngram)?;
        let positions = self.positions[ngram.tokens().len() - 1];
        (positions > 0).then(|| count as f64 / positions as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(token_ids: &[u32], peak_index: usize) -> (Vec<u32>, Vec<f32>, usize) {
        let mut activations = vec![0.0; token_ids.len()];
        activations[peak_index] = 1.0;
        (token_ids.to_vec(), activations, peak_index)
    }

    fn view(
        (token_ids, activations, peak_index): &(Vec<u32>, Vec<f32>, usize),
    ) -> LabelContext<'_> {
        LabelContext {
            token_ids,
            activations,
            peak_index: *peak_index,
        }
    }

    #[test]
    fn candidates_end_at_the_peak_or_one_token_before_it() {
        let context = context(&[9, 1, 2, 3, 4, 8], 4);
        let got: Vec<(Vec<u32>, bool)> = view(&context)
            .candidates(3)
            .map(|(ngram, at_peak)| (ngram.tokens().to_vec(), at_peak))
            .collect();
        let expected: Vec<(Vec<u32>, bool)> = vec![
            (vec![4], true),
            (vec![3, 4], true),
            (vec![2, 3, 4], true),
            (vec![3], false),
            (vec![2, 3], false),
            (vec![1, 2, 3], false),
        ];
        assert_eq!(got, expected);
    }

    #[test]
    fn a_peak_at_the_start_of_a_window_has_only_itself_as_candidate() {
        let context = context(&[7, 1], 0);
        let got: Vec<_> = view(&context).candidates(3).collect();
        assert_eq!(got, vec![(Ngram::unigram(7), true)]);
    }

    #[test]
    fn counts_equal_a_count_by_hand_and_nothing_else_is_stored() {
        let context = context(&[1, 2, 1], 2);
        let mut candidates = CandidateSet::new(3).unwrap();
        candidates.add(&view(&context)).unwrap();
        let mut counts = CorpusCounts::new(candidates);
        let before = counts.counts.len();
        let blocks: [&[u32]; 3] = [&[1, 2, 1, 2, 1], &[1], &[3, 1, 2, 4]];
        for block in blocks {
            counts.observe(block);
        }
        let of = |tokens: &[u32]| counts.count(&Ngram::new(tokens).unwrap());
        assert_eq!(of(&[1]), Some(5));
        assert_eq!(of(&[2]), Some(3));
        assert_eq!(of(&[1, 2]), Some(3));
        assert_eq!(of(&[2, 1]), Some(2));
        assert_eq!(of(&[1, 2, 1]), Some(2));
        assert_eq!(of(&[3]), None);
        assert_eq!(counts.counts.len(), before);
        // 10 tokens, 4 + 0 + 3 bigrams, 3 + 0 + 2 trigrams.
        assert_eq!(counts.positions, [10, 7, 5]);
        assert_eq!(counts.share(&Ngram::unigram(1)), Some(0.5));
    }

    #[test]
    fn contexts_that_do_not_fit_together_are_refused() {
        let mut set = CandidateSet::new(2).unwrap();
        let refused = [
            (vec![1, 2], vec![1.0], 0),
            (vec![1, 2], vec![1.0, 0.0], 2),
            (vec![1, 2], vec![1.0, 0.0], 1),
            (vec![1, 2], vec![f32::NAN, 0.0], 0),
            (vec![], vec![], 0),
        ];
        for context in &refused {
            assert!(set.add(&view(context)).is_err(), "{context:?}");
        }
        assert!(set.is_empty());
        assert!(CandidateSet::new(0).is_err() && CandidateSet::new(4).is_err());
        assert!(Ngram::new(&[]).is_err() && Ngram::new(&[1, 2, 3, 4]).is_err());
    }
}
