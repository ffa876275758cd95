//! The windows on which a label is tested: firing ones from the whole range of activations, and
//! silent ones (Paulo et al. 2024).
//!
//! Labels are made from documents of one half ([`Split::Train`]) and tested on the other
//! ([`Split::Test`]). A hash of the document decides, so no window can be in both.

use super::chance::{draw, hash, stream};
use crate::FeaturesError;

/// Tokens per window.
pub const WINDOW: usize = 32;

/// Which half of the documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Split {
    /// Documents from which labels are made: those with an even hash.
    Train,
    /// Documents on which labels are tested: those with an odd hash.
    Test,
}

impl Split {
    /// The half to which a document belongs. It depends on the number alone, not on a seed, so that
    /// no two runs disagree. Whoever makes labels leaves out contexts of [`Split::Test`].
    pub fn of_document(document: u64) -> Split {
        const SPLIT: u64 = 0x7472_6169_6e2f_7465;
        if hash(SPLIT, document).is_multiple_of(2) {
            Split::Train
        } else {
            Split::Test
        }
    }
}

/// A few tokens of one document with one latent's activations on them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Window<'a> {
    /// Number of the document.
    pub document: u64,
    /// Tokens of the window.
    pub tokens: &'a [u32], // [window]
    /// The latent's activation on each of them; it fires where that is above 0.
    pub activations: &'a [f32], // [window]
}

impl<'a> Window<'a> {
    /// Cuts a document into consecutive windows of `len` tokens, usually [`WINDOW`]. A shorter rest
    /// at the end is left out.
    ///
    /// # Errors
    /// When `len` is 0 or there is not one activation per token.
    pub fn cut(
        document: u64,
        tokens: &'a [u32],
        activations: &'a [f32],
        len: usize,
    ) -> Result<Vec<Window<'a>>, FeaturesError> {
        if len == 0 {
            return Err(FeaturesError::Input {
                field: "window",
                found: "0 tokens".into(),
                expected: "at least 1".into(),
            });
        }
        let whole = Window {
            document,
            tokens,
            activations,
        };
        whole.check()?;
        Ok(tokens
            .chunks_exact(len)
            .zip(activations.chunks_exact(len))
            .map(|(tokens, activations)| Window {
                document,
                tokens,
                activations,
            })
            .collect())
    }

    /// The highest activation; 0 if the latent does not fire.
    pub fn max(&self) -> f32 {
        self.activations.iter().copied().fold(0.0, f32::max)
    }

    /// Number of tokens on which the latent fires.
    pub fn firing_tokens(&self) -> usize {
        self.activations
            .iter()
            .filter(|value| **value > 0.0)
            .count()
    }

    fn check(&self) -> Result<(), FeaturesError> {
        if self.activations.len() != self.tokens.len() {
            return Err(FeaturesError::Input {
                field: "window",
                found: format!(
                    "{} activations for {} tokens",
                    self.activations.len(),
                    self.tokens.len()
                ),
                expected: "one activation per token".into(),
            });
        }
        match self.activations.iter().find(|value| !value.is_finite()) {
            Some(value) => Err(FeaturesError::Input {
                field: "window",
                found: format!("activation {value}"),
                expected: "finite numbers".into(),
            }),
            None => Ok(()),
        }
    }
}

/// How many windows to choose, and from which half.
#[derive(Debug, Clone, PartialEq)]
pub struct ExampleConfig {
    /// The half of the documents; windows of the other are left out.
    pub split: Split,
    /// Firing windows to draw, a multiple of `cuts`.
    pub active: usize,
    /// Equal parts of the firing windows, sorted by maximum; each gives the same number.
    pub cuts: usize,
    /// Silent windows to draw.
    pub silent: usize,
    /// Fewest firing, and fewest silent, windows without which a latent is not scored.
    pub at_least: usize,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for ExampleConfig {
    /// 50 firing windows in 10 cuts and 50 silent ones, of the test half; at least 10 of each.
    fn default() -> Self {
        ExampleConfig {
            split: Split::Test,
            active: 50,
            cuts: 10,
            silent: 50,
            at_least: 10,
            seed: 22,
        }
    }
}

/// The windows on which the labels of one latent are tested.
#[derive(Debug, Clone, PartialEq)]
pub struct Examples<'a> {
    /// The latent.
    pub latent: usize,
    /// Windows in which it fires, strongest first.
    pub active: Vec<Window<'a>>,
    /// Windows in which it does not fire, in the order in which they were given.
    pub silent: Vec<Window<'a>>,
}

/// A latent with too few windows to score its labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooFewWindows {
    /// The latent.
    pub latent: usize,
    /// Windows of the half in which it fires.
    pub active: usize,
    /// Windows of the half in which it does not fire.
    pub silent: usize,
}

/// Examples, or a latent that cannot be scored.
#[derive(Debug, Clone, PartialEq)]
pub enum ExamplesOrTooFew<'a> {
    /// There are enough windows.
    Examples(Examples<'a>),
    /// There are too few.
    TooFew(TooFewWindows),
}

impl<'a> Examples<'a> {
    /// Chooses examples of one latent from windows of any documents, those of the other half left
    /// out.
    ///
    /// Firing windows are sorted by maximum (ties: the earlier in the list first) and cut into
    /// `cuts` parts whose sizes differ by at most one. Each part gives `active / cuts` windows at
    /// random, or all of its windows if it has fewer. So a latent with fewer than `active` firing
    /// windows is tested on nearly all of them. Silent windows are drawn at random.
    ///
    /// # Errors
    /// When a window does not have one finite activation per token, `active` is not a multiple of
    /// `cuts`, or `active`, `silent` or `at_least` is 0.
    pub fn choose(
        latent: usize,
        windows: &[Window<'a>],
        config: &ExampleConfig,
    ) -> Result<ExamplesOrTooFew<'a>, FeaturesError> {
        config.check()?;
        let mut firing: Vec<(f32, Window<'a>)> = Vec::new();
        let mut silent: Vec<Window<'a>> = Vec::new();
        for window in windows {
            window.check()?;
            if Split::of_document(window.document) != config.split {
                continue;
            }
            match window.max() {
                max if max > 0.0 => firing.push((max, *window)),
                _ => silent.push(*window),
            }
        }
        if firing.len() < config.at_least || silent.len() < config.at_least {
            return Ok(ExamplesOrTooFew::TooFew(TooFewWindows {
                latent,
                active: firing.len(),
                silent: silent.len(),
            }));
        }
        firing.sort_by(|a, b| b.0.total_cmp(&a.0));
        let drawn = |n, count, purpose| {
            let stream = stream(&[config.seed, latent as u64, purpose]);
            draw(n, count, stream)
        };
        let mut active = Vec::with_capacity(config.active);
        for cut in 0..config.cuts {
            let start = cut * firing.len() / config.cuts;
            let end = (cut + 1) * firing.len() / config.cuts;
            let part = &firing[start..end];
            let chosen = drawn(part.len(), config.active / config.cuts, 1 + cut as u64);
            active.extend(chosen.into_iter().map(|index| part[index].1));
        }
        let silent = drawn(silent.len(), config.silent, 0)
            .into_iter()
            .map(|index| silent[index])
            .collect();
        Ok(ExamplesOrTooFew::Examples(Examples {
            latent,
            active,
            silent,
        }))
    }

    /// All windows with whether the latent fires in them: the firing ones, then the silent ones.
    pub fn labelled(&self) -> impl Iterator<Item = (&Window<'a>, bool)> {
        let active = self.active.iter().map(|window| (window, true));
        active.chain(self.silent.iter().map(|window| (window, false)))
    }
}

impl ExampleConfig {
    fn check(&self) -> Result<(), FeaturesError> {
        for (field, value) in [
            ("active", self.active),
            ("cuts", self.cuts),
            ("silent", self.silent),
            ("at_least", self.at_least),
        ] {
            if value == 0 {
                return Err(FeaturesError::Input {
                    field,
                    found: "0".into(),
                    expected: "at least 1".into(),
                });
            }
        }
        if !self.active.is_multiple_of(self.cuts) {
            return Err(FeaturesError::Input {
                field: "active",
                found: self.active.to_string(),
                expected: format!("a multiple of the {} cuts", self.cuts),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
