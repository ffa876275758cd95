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
        let tokenizer = self.model.tokenizer()?;
        let mut single = vec![];
        for word in words {
            if continuation(tokenizer, BEFORE, &format!(" {word}"))?.is_some_and(|c| c.len() == 1) {
                single.push(*word);
            }
        }
        match single.len() {
            found if found >= least => Ok(single),
            found => Err(CircuitError::Task {
                task: task.into(),
                problem: format!(
                    "the tokenizer of {} has {found} of the {} {what} as single tokens, expected \
                     at least {least}",
                    self.model.name(),
                    words.len()
                ),
            }),
        }
    }
}
