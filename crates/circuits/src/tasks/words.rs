//! Words that are one token.

use crate::CircuitError;
use lapidary_model::LanguageModel;

/// The words of a model.
pub(super) struct Words<'a> {
    pub(super) model: &'a LanguageModel,
}

impl Words<'_> {
    /// The words that are one token with a space before them, at least `least` of them.
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
            if tokenizer.encode(&format!(" {word}"))?.len() == 1 {
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
