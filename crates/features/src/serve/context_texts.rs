//! The texts of all contexts, for search: one lower-case text per latent.

use std::collections::HashMap;
use std::path::Path;

use crate::FeaturesError;
use crate::tables::for_each_context;

/// Between two contexts of a latent, so that nothing is found across them.
const BETWEEN: char = '\u{1}';

/// The most bytes of text that are kept in memory.
const MOST_BYTES: usize = 1 << 30;

/// The texts of the contexts of all latents.
#[derive(Debug, Default)]
pub(super) struct ContextTexts {
    texts: Vec<String>, // [latents], as in the index
    /// Whether all contexts are in it.
    pub(super) complete: bool,
}

impl ContextTexts {
    /// Reads `examples.parquet`; `place` says where each latent is in the index.
    pub(super) fn read(path: &Path, place: &HashMap<u32, u32>) -> Result<Self, FeaturesError> {
        let mut found = ContextTexts {
            texts: vec![String::new(); place.len()],
            complete: true,
        };
        let mut bytes = 0;
        for_each_context(path, &mut |latent, tokens| {
            let Some(&at) = place.get(&latent) else {
                return true;
            };
            let text = &mut found.texts[at as usize];
            let before = text.len();
            for token in tokens {
                match token.is_ascii() {
                    true => text.extend(token.chars().map(|c| c.to_ascii_lowercase())),
                    false => text.push_str(&token.to_lowercase()),
                }
            }
            text.push(BETWEEN);
            bytes += text.len() - before;
            found.complete = bytes < MOST_BYTES;
            found.complete
        })?;
        Ok(found)
    }

    /// In how many contexts of the latent at this place a lower-case text occurs; one that occurs
    /// twice in a context may count twice.
    pub(super) fn count(&self, place: u32, text: &str) -> usize {
        self.texts[place as usize].matches(text).count()
    }
}
