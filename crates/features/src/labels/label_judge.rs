//! What a label made of tokens predicts: whether a latent fires in a window (detection), and
//! whether marked tokens are those on which it fires (fuzzing; Paulo et al. 2024).

use super::examples::Window;
use super::ngrams::Ngram;
use crate::FeaturesError;

/// Where a label's tokens are, relative to a token on which the latent fires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LabelPlace {
    /// The label ends on the firing token.
    Firing,
    /// The label ends on the token before the firing one.
    Before,
    /// The label starts on the token after the firing one: tokens that a latent promotes.
    After,
}

/// A label made of tokens: one n-gram, or several of which any will do.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLabel {
    ngrams: Vec<(Ngram, LabelPlace)>,
}

impl TokenLabel {
    /// A label of one n-gram.
    pub fn ngram(ngram: Ngram, place: LabelPlace) -> Self {
        TokenLabel {
            ngrams: vec![(ngram, place)],
        }
    }

    /// A label of several n-grams, each with its place.
    ///
    /// # Errors
    /// When there is none.
    pub fn any_ngram(ngrams: Vec<(Ngram, LabelPlace)>) -> Result<Self, FeaturesError> {
        match ngrams.is_empty() {
            true => Err(FeaturesError::Input {
                field: "label",
                found: "no tokens".into(),
                expected: "at least one".into(),
            }),
            false => Ok(TokenLabel { ngrams }),
        }
    }

    /// A label of a set of tokens, such as the tokens that a latent promotes most
    /// ([`LabelPlace::After`]).
    ///
    /// # Errors
    /// When the set is empty.
    pub fn any_of(tokens: &[u32], place: LabelPlace) -> Result<Self, FeaturesError> {
        let ngrams = tokens.iter().copied().map(Ngram::unigram);
        Self::any_ngram(ngrams.map(|ngram| (ngram, place)).collect())
    }

    /// Detection: whether the window contains the n-gram, or any token of the set. The place has no
    /// effect. An n-gram that starts before the window is not seen.
    pub fn detects(&self, window: &Window<'_>) -> bool {
        self.ngrams.iter().any(|(ngram, _)| {
            let ngram = ngram.tokens();
            window
                .tokens
                .windows(ngram.len())
                .any(|tokens| tokens == ngram)
        })
    }

    /// Fuzzing: whether any marked token has the label in its place. `marks` is one per token.
    pub fn fits_marks(&self, window: &Window<'_>, marks: &[bool]) -> bool {
        let tokens = window.tokens;
        let marked = marks.iter().zip(0..tokens.len()).filter(|(mark, _)| **mark);
        marked.map(|(_, at)| at).any(|at| {
            self.ngrams.iter().any(|(ngram, place)| match place {
                LabelPlace::Firing => tokens[..=at].ends_with(ngram.tokens()),
                LabelPlace::Before => tokens[..at].ends_with(ngram.tokens()),
                LabelPlace::After => tokens[at + 1..].starts_with(ngram.tokens()),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKENS: [u32; 5] = [10, 11, 12, 11, 13];

    fn window() -> Window<'static> {
        Window {
            document: 0,
            tokens: &TOKENS,
            activations: &[0.0; 5],
        }
    }

    fn fits(label: &TokenLabel) -> Vec<usize> {
        (0..5)
            .filter(|&at| {
                let mut marks = [false; 5];
                marks[at] = true;
                label.fits_marks(&window(), &marks)
            })
            .collect()
    }

    #[test]
    fn an_ngram_is_detected_only_in_its_order() {
        let detects = |tokens: &[u32]| {
            TokenLabel::ngram(Ngram::new(tokens).unwrap(), LabelPlace::Firing).detects(&window())
        };
        assert!(detects(&[11, 12]) && detects(&[10]) && detects(&[12, 11, 13]));
        assert!(!detects(&[12, 10]) && !detects(&[13, 10]) && !detects(&[99]));
    }

    #[test]
    fn an_ngram_fits_marks_where_it_ends() {
        let ngram = Ngram::new(&[11, 12]).unwrap();
        assert_eq!(fits(&TokenLabel::ngram(ngram, LabelPlace::Firing)), [2]);
        assert_eq!(fits(&TokenLabel::ngram(ngram, LabelPlace::Before)), [3]);
        assert_eq!(fits(&TokenLabel::ngram(ngram, LabelPlace::After)), [0]);
    }

    #[test]
    fn a_set_fits_marks_on_its_tokens_or_on_the_tokens_before_them() {
        let set = |place| TokenLabel::any_of(&[13, 11, 77], place).unwrap();
        assert!(set(LabelPlace::After).detects(&window()));
        assert_eq!(fits(&set(LabelPlace::Firing)), [1, 3, 4]);
        assert_eq!(fits(&set(LabelPlace::After)), [0, 2, 3]);
        assert!(!set(LabelPlace::Firing).fits_marks(&window(), &[false; 5]));
        assert!(
            !TokenLabel::any_of(&[77], LabelPlace::After)
                .unwrap()
                .detects(&window())
        );
        assert!(TokenLabel::any_of(&[], LabelPlace::After).is_err());
    }
}
