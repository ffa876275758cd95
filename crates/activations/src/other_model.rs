//! A second model that runs on the same tokens, such as one before and one after fine-tuning.

use std::fmt;
use std::sync::Arc;

use lapidary_model::{HookPoint, LanguageModel};

use crate::ActivationsError;

/// A second model, and which of its activations are wanted.
#[derive(Clone)]
pub struct OtherModel {
    /// The model.
    pub model: Arc<LanguageModel>,
    /// No point twice.
    pub hook_points: Vec<HookPoint>,
}

impl OtherModel {
    /// Before the names of its hook points, where both models' stand together.
    pub const PREFIX: &str = "other:";

    /// Its hook points as they stand beside the first model's.
    pub(crate) fn names(&self) -> impl Iterator<Item = String> {
        let hooks = self.hook_points.iter();
        hooks.map(|hook| format!("{}{hook}", Self::PREFIX))
    }

    /// Refuses a model whose tokens mean other texts than `first`'s.
    ///
    /// # Errors
    /// A token's text differs, or one of them has no tokenizer.
    pub fn check_tokens(&self, first: &LanguageModel) -> Result<(), ActivationsError> {
        let (a, b) = (first.tokenizer()?, self.model.tokenizer()?);
        let differ = |problem: String| {
            Err(ActivationsError::Tokenizers {
                first: first.name().into(),
                other: self.model.name().into(),
                problem,
            })
        };
        if a.len() != b.len() {
            return differ(format!("{} tokens and {}", a.len(), b.len()));
        }
        if (a.bos(), a.eos()) != (b.bos(), b.eos()) {
            let show = |t: &lapidary_model::Tokenizer| format!("{:?} and {:?}", t.bos(), t.eos());
            return differ(format!(
                "beginning and end of sequence {}, and {}",
                show(a),
                show(b)
            ));
        }
        let other = (0..a.len() as u32).find(|t| a.token_text(*t) != b.token_text(*t));
        match other {
            Some(token) => differ(format!(
                "token {token}, {:?} and {:?}",
                a.token_text(token),
                b.token_text(token)
            )),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for OtherModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {:?}", self.model.name(), self.hook_points)
    }
}
