//! Words that are one token.

use crate::CircuitError;
use crate::task::continuation;
use lapidary_model::LanguageModel;

/// A text before a word: some tokenizers put a token before the first word of a text.
const BEFORE: &str = "the";

/// The words of a model.
pub(super) struct Words<'a> {
    pub(super) model: &'a LanguageModel,
}

impl Words<'_> {
    /// The words that are one token after another word, at least `least` of them.
    pub(super) fn single(
        &self,
        task: &str,
        what: &str,
        words: &[&'static str],
        least: usize,
    ) -> Result<Vec<&'static str>, CircuitError> {
        let mut single = vec![];
        for word in words {
            if self.is_single(word)? {
                single.push(*word);
            }
        }
        self.enough(task, what, single, words.len(), least)
    }

    /// The pairs of words, one from each list, of which both are one token.
    pub(super) fn pairs(
        &self,
        task: &str,
        what: &str,
        [first, second]: [&[&'static str]; 2],
        least: usize,
    ) -> Result<Vec<[&'static str; 2]>, CircuitError> {
        let mut pairs = vec![];
        for (a, b) in first.iter().zip(second) {
            if self.is_single(a)? && self.is_single(b)? {
                pairs.push([*a, *b]);
            }
        }
        self.enough(task, what, pairs, first.len(), least)
    }

    fn is_single(&self, word: &str) -> Result<bool, CircuitError> {
        let tokenizer = self.model.tokenizer()?;
        let tokens = continuation(tokenizer, BEFORE, &format!(" {word}"))?;
        Ok(tokens.is_some_and(|tokens| tokens.len() == 1))
    }

    fn enough<T>(
        &self,
        task: &str,
        what: &str,
        found: Vec<T>,
        of: usize,
        least: usize,
    ) -> Result<Vec<T>, CircuitError> {
        match found.len() {
            n if n >= least => Ok(found),
            n => Err(CircuitError::Task {
                task: task.into(),
                problem: format!(
                    "the tokenizer of {} has {n} of the {of} {what} as single tokens, expected at \
                     least {least}",
                    self.model.name()
                ),
            }),
        }
    }
}
