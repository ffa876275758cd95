//! What a language model is shown of a latent: contexts to explain it from, of one half of the
//! documents, and windows to test the explanation on, of the other.

use super::{
    ExampleConfig, Examples, ExamplesOrTooFew, LabelTask, Split, TextContext, WINDOW, Window,
    fuzzing_items,
};
use crate::{FeaturesError, TextCodes};

/// Contexts that an explanation is made from (Paulo et al. 2024).
const CONTEXTS: usize = 40;

/// A latent's contexts and windows as texts.
#[derive(Debug, Clone)]
pub struct LatentTexts {
    latent: usize,
    contexts: Vec<(Vec<String>, Vec<f32>)>,
    windows: Vec<Vec<String>>,
    fires: Vec<bool>,
    marks: Vec<Vec<bool>>,
}

impl LatentTexts {
    /// Chooses contexts from the training half and windows from the other, both from the whole
    /// range of activations; `texts` gives the texts of tokens. None if the latent has too few of
    /// either.
    ///
    /// # Errors
    /// If a parameter of `examples` is out of its range.
    pub fn choose(
        text: &TextCodes,
        latent: usize,
        examples: &ExampleConfig,
        texts: &dyn Fn(&[u32]) -> Vec<String>,
    ) -> Result<Option<Self>, FeaturesError> {
        let mut dense = vec![0.0; text.tokens.len()];
        for (place, value) in text.firings(latent) {
            dense[*place as usize] = *value;
        }
        let mut windows = vec![];
        for (document, places) in text.stretches() {
            let (tokens, activations) = (&text.tokens[places.clone()], &dense[places]);
            windows.extend(Window::cut(
                u64::from(document),
                tokens,
                activations,
                WINDOW,
            )?);
        }
        let train = ExampleConfig {
            split: Split::Train,
            active: CONTEXTS,
            ..examples.clone()
        };
        let ExamplesOrTooFew::Examples(shown) = Examples::choose(latent, &windows, &train)? else {
            return Ok(None);
        };
        let ExamplesOrTooFew::Examples(tested) = Examples::choose(latent, &windows, examples)?
        else {
            return Ok(None);
        };
        let context = |window: &Window<'_>| (texts(window.tokens), window.activations.to_vec());
        let items = fuzzing_items(&tested, examples.seed);
        Ok(Some(LatentTexts {
            latent,
            contexts: shown.active.iter().map(context).collect(),
            windows: items.iter().map(|item| texts(item.window.tokens)).collect(),
            fires: items.iter().map(|item| item.fires).collect(),
            marks: items.into_iter().map(|item| item.marks).collect(),
        }))
    }

    /// The latent as a task for a language model.
    pub fn task(&self) -> LabelTask<'_> {
        let contexts = self.contexts.iter();
        let contexts = contexts.map(|(pieces, activations)| TextContext {
            pieces,
            activations,
        });
        LabelTask {
            latent: self.latent,
            contexts: contexts.collect(),
            windows: self.windows.clone(),
            fires: self.fires.clone(),
            marks: self.marks.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_and_windows_are_of_different_documents() {
        // Each token is its document's number, and every eighth one makes the latent fire.
        let tokens: Vec<(u32, u32)> = (0..64 * 128).map(|at| (at / 128, at / 128)).collect();
        let fires = |at: usize| (at / 32).is_multiple_of(2) && at.is_multiple_of(8);
        let codes: Vec<Vec<(u32, f32)>> = (0..tokens.len())
            .map(|at| if fires(at) { vec![(0, 1.0)] } else { vec![] })
            .collect();
        let text = TextCodes::made(2, &tokens, &codes);
        let texts = |tokens: &[u32]| tokens.iter().map(u32::to_string).collect();
        let config = ExampleConfig::default();
        let found = LatentTexts::choose(&text, 0, &config, &texts)
            .unwrap()
            .unwrap();
        let document = |pieces: &[String]| pieces[0].parse::<u64>().unwrap();
        let task = found.task();
        assert_eq!((task.contexts.len(), task.windows.len()), (40, 100));
        let shown = task.contexts.iter().map(|context| document(context.pieces));
        assert!(
            shown
                .into_iter()
                .all(|d| Split::of_document(d) == Split::Train)
        );
        let mut tested = task.windows.iter().map(|window| document(window));
        assert!(tested.all(|d| Split::of_document(d) == Split::Test));
        assert_eq!(task.fires.iter().filter(|fires| **fires).count(), 50);
        assert!(
            task.marks
                .iter()
                .all(|marks| marks.iter().filter(|m| **m).count() == 4)
        );
        assert!(
            LatentTexts::choose(&text, 1, &config, &texts)
                .unwrap()
                .is_none()
        );
    }
}
