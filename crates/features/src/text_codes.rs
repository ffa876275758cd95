//! A text with the codes of all its tokens in memory, by latent: what labels are made of and tested
//! on.

use lapidary_activations::TokenBlock;

use crate::{CodeReader, FeaturesError};

/// The counted tokens of a text, and on which of them each latent fires. Special tokens are left
/// out. It takes 8 bytes per active latent and token, and 16 more while it is read.
#[derive(Debug, Clone, Default)]
pub struct TextCodes {
    /// Token ids, in the order of the text.
    pub tokens: Vec<u32>, // [tokens]
    /// The document of each token; the tokens of a document stand together.
    pub documents: Vec<u32>, // [tokens]
    starts: Vec<usize>,       // [d_sae + 1]
    firings: Vec<(u32, f32)>, // (place in `tokens`, activation), by latent, ascending by place
}

impl TextCodes {
    /// Runs model and dictionary on blocks of a text. `on_progress` hears the number of blocks
    /// done.
    ///
    /// # Errors
    /// When the model fails, or a code is not finite.
    pub fn read(
        reader: &CodeReader<'_>,
        blocks: &[TokenBlock],
        on_progress: &mut dyn FnMut(usize),
    ) -> Result<Self, FeaturesError> {
        let mut text = TextCodes::default();
        let mut codes: Vec<(u32, u32, f32)> = vec![]; // (latent, place, activation)
        reader.for_each(blocks, |first, batch, batch_codes| {
            let mut row = 0;
            for block in batch {
                for (token, (document, _)) in block.tokens.iter().zip(block.places()) {
                    let entries = row * batch_codes.k..(row + 1) * batch_codes.k;
                    row += 1;
                    if reader.model().is_special(*token) {
                        continue;
                    }
                    let place = text.tokens.len() as u32;
                    text.tokens.push(*token);
                    text.documents.push(document);
                    let values = batch_codes.values[entries.clone()].iter();
                    for (value, index) in values.zip(&batch_codes.indices[entries]) {
                        if !value.is_finite() {
                            return Err(FeaturesError::Input {
                                field: "values",
                                found: format!("{value} for latent {index}"),
                                expected: "finite activations".to_owned(),
                            });
                        }
                        if *value > 0.0 && *index >= 0 {
                            codes.push((*index as u32, place, *value));
                        }
                    }
                }
            }
            on_progress(first + batch.len());
            Ok(())
        })?;
        text.group(reader.d_sae(), &codes);
        Ok(text)
    }

    /// Sorts codes by latent; they come in the order of the text.
    fn group(&mut self, d_sae: usize, codes: &[(u32, u32, f32)]) {
        self.starts = vec![0; d_sae + 1];
        for (latent, ..) in codes {
            self.starts[*latent as usize + 1] += 1;
        }
        for latent in 0..d_sae {
            self.starts[latent + 1] += self.starts[latent];
        }
        self.firings = vec![(0, 0.0); codes.len()];
        let mut next = self.starts.clone();
        for &(latent, place, value) in codes {
            let at = &mut next[latent as usize];
            self.firings[*at] = (place, value);
            *at += 1;
        }
    }

    /// Number of latents.
    pub fn d_sae(&self) -> usize {
        self.starts.len().saturating_sub(1)
    }

    /// Where a latent fires, and with which activations: (place in `tokens`, activation).
    pub fn firings(&self, latent: usize) -> &[(u32, f32)] {
        &self.firings[self.starts[latent]..self.starts[latent + 1]]
    }

    /// The documents, in order: each with the places of its tokens.
    pub fn stretches(&self) -> Vec<(u32, std::ops::Range<usize>)> {
        let mut start = 0;
        let stretches = self.documents.chunk_by(|a, b| a == b).map(|chunk| {
            start += chunk.len();
            (chunk[0], start - chunk.len()..start)
        });
        stretches.collect()
    }
}

#[cfg(test)]
impl TextCodes {
    /// A text with the codes of each token: pairs (latent, activation).
    pub(crate) fn made(
        d_sae: usize,
        tokens: &[(u32, u32)], // (token, document)
        codes: &[Vec<(u32, f32)>],
    ) -> Self {
        let mut text = TextCodes {
            tokens: tokens.iter().map(|token| token.0).collect(),
            documents: tokens.iter().map(|token| token.1).collect(),
            ..TextCodes::default()
        };
        let flat = codes.iter().enumerate().flat_map(|(place, row)| {
            let row = row.iter();
            row.map(move |(latent, value)| (*latent, place as u32, *value))
        });
        text.group(d_sae, &flat.collect::<Vec<_>>());
        text
    }
}
