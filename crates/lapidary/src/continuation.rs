//! Text that a model continues, steered by latents of a dictionary or not.

use std::path::Path;

use lapidary_features::{Steer, read_features};
use lapidary_model::{Intervention, LanguageModel, Sampling, generate};

use crate::error::{Context, Result};
use crate::run_folder::RunFolder;

/// A text to continue.
pub struct Prompt {
    text: Vec<u32>,
    tokens: Vec<u32>,
}

impl Prompt {
    /// The text as the tokens of a model, with its BOS before them.
    ///
    /// # Errors
    /// The model has no tokenizer, or the tokenizer refuses the text.
    pub fn new(model: &LanguageModel, text: &str) -> Result<Self> {
        let tokenizer = model.tokenizer()?;
        let text = tokenizer.encode(text)?;
        let tokens = tokenizer.bos().into_iter().chain(text.clone()).collect();
        Ok(Self { text, tokens })
    }

    /// Whether so many more tokens do not fit in the context of the model, which then forgets the
    /// oldest ones.
    pub fn outgrows(&self, model: &LanguageModel, more: usize) -> bool {
        self.tokens.len().saturating_add(more) > model.config().n_ctx
    }

    /// Continues the text; `each` gets the new text piece by piece.
    ///
    /// # Errors
    /// The model fails.
    pub fn continued(
        &self,
        model: &LanguageModel,
        sampling: &Sampling,
        steering: &[Intervention<'_>],
        each: &mut dyn FnMut(&str),
    ) -> Result<()> {
        let mut stream = model.tokenizer()?.stream(&self.text);
        generate(model, &self.tokens, sampling, steering, &mut |token| {
            let new = stream.push(token);
            if !new.is_empty() {
                each(&new);
            }
        })?;
        each(&stream.finish());
        Ok(())
    }
}

/// Adds `strength` times the latent's `highest` activation, or as many units of activation if that
/// is not known or 0.
#[must_use]
pub fn steer_by(strength: f32, highest: Option<f32>) -> Steer {
    match highest {
        Some(highest) if highest > 0.0 => Steer::Add(strength * highest),
        _ => Steer::Add(strength),
    }
}

/// The highest activation of each latent, where the dictionary lies in a run with feature tables.
///
/// # Errors
/// There is such a table, but it cannot be read.
pub fn highest_activations(dictionary: &Path) -> Result<Option<Vec<f32>>> {
    // `.` has a parent only as an absolute path.
    let whole = std::path::absolute(dictionary).unwrap_or_else(|_| dictionary.to_path_buf());
    let parent = whole.parent().unwrap_or(&whole);
    let runs = [dictionary, parent].map(|folder| RunFolder::new(folder).features());
    let tables = runs.map(|features| features.join("features.parquet"));
    let Some(table) = tables.iter().find(|table| table.is_file()) else {
        return Ok(None);
    };
    let rows = read_features(table).with_context(|| {
        format!(
            "{}: the unit of --strength is read from it",
            table.display()
        )
    })?;
    Ok(Some(rows.iter().map(|row| row.max_activation).collect()))
}
