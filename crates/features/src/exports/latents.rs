//! The rows of a dictionary, checked and joined latent by latent, as both writers need them.

use std::collections::HashMap;

use super::activation_bins::{ActivationBin, Distribution};
use super::{DictionaryExport, FeatureExplanation, input};
use crate::FeaturesError;
use crate::statistics::Band;
use crate::tables::{ExampleRow, FeatureRow, LogitToken};

/// One latent with all that is known of it.
pub(super) struct Latent<'a> {
    pub(super) row: &'a FeatureRow,
    /// By band and rank.
    pub(super) examples: Vec<Example<'a>>,
    pub(super) distribution: Distribution,
    /// Similar latents with finite cosines.
    pub(super) similar: Vec<(u32, f32)>,
    pub(super) explanations: Vec<&'a FeatureExplanation>,
}

/// A context whose activations are all finite.
pub(super) struct Example<'a> {
    pub(super) row: &'a ExampleRow,
    /// Its place among all contexts of the latent.
    pub(super) number: usize,
    pub(super) bin: Option<ActivationBin>,
}

impl Example<'_> {
    /// The highest activation and the first token that has it.
    pub(super) fn highest(&self) -> (usize, f32) {
        let activations = self.row.activations.iter().copied().enumerate();
        activations.fold((0, f32::NEG_INFINITY), |best, here| {
            if here.1 > best.1 { here } else { best }
        })
    }

    /// The lowest activation.
    pub(super) fn lowest(&self) -> f32 {
        let activations = self.row.activations.iter().copied();
        activations.fold(f32::INFINITY, f32::min)
    }
}

impl Latent<'_> {
    /// The highest activation; none if it is not a finite number.
    pub(super) fn max_activation(&self) -> Option<f32> {
        Some(self.row.max_activation).filter(|max| max.is_finite())
    }
}

/// Texts and logits of the tokens whose logits are finite.
pub(super) fn logits(tokens: &[LogitToken]) -> (Vec<&str>, Vec<f32>) {
    let finite = tokens.iter().filter(|token| token.logit.is_finite());
    finite.map(|token| (&*token.text, token.logit)).unzip()
}

impl<'a> DictionaryExport<'a> {
    /// Every latent, ascending.
    pub(super) fn latents(&self) -> Result<Vec<Latent<'a>>, FeaturesError> {
        self.names.check()?;
        let features = self.features.len();
        let found = self.histograms.len();
        if found != 0 && found != features {
            let expected = format!("{features}, one per feature, or none");
            return Err(input("histograms", format!("{found} entries"), expected));
        }
        if let Some(pair) = self
            .features
            .windows(2)
            .find(|pair| pair[0].feature_id >= pair[1].feature_id)
        {
            let [first, second] = [0, 1].map(|i| pair[i].feature_id);
            let found = format!("{second} after {first}");
            return Err(input("features.feature_id", found, "ascending ids"));
        }
        let mut latents = Vec::with_capacity(features);
        for (at, row) in self.features.iter().enumerate() {
            // Neither viewer has a way to say that the density is not known.
            if !(0.0..=1.0).contains(&row.firing_density) {
                let found = format!("{} for latent {}", row.firing_density, row.feature_id);
                let expected = "a share from 0 to 1";
                return Err(input("features.firing_density", found, expected));
            }
            let histogram = self.histograms.get(at).map_or(&[][..], Vec::as_slice);
            let finite = row.nearest.iter().filter(|(_, cosine)| cosine.is_finite());
            latents.push(Latent {
                row,
                examples: vec![],
                distribution: Distribution::new(histogram, row.max_activation, row.firing_density),
                similar: finite.copied().collect(),
                explanations: vec![],
            });
        }
        self.add_examples(&mut latents)?;
        self.add_explanations(&mut latents)?;
        Ok(latents)
    }

    fn add_examples(&self, latents: &mut [Latent<'a>]) -> Result<(), FeaturesError> {
        let places = places(latents);
        let mut of_latent: Vec<Vec<&ExampleRow>> = vec![vec![]; latents.len()];
        for row in self.examples {
            check_example(row)?;
            let Some(&at) = places.get(&row.feature_id) else {
                let found = row.feature_id.to_string();
                return Err(input("examples.feature_id", found, "the id of a feature"));
            };
            of_latent[at].push(row);
        }
        for (latent, mut rows) in latents.iter_mut().zip(of_latent) {
            rows.sort_by_key(|row| (row.band, row.rank));
            let max = latent.max_activation();
            for (number, row) in rows.into_iter().enumerate() {
                if !row.activations.iter().all(|value| value.is_finite()) {
                    continue;
                }
                let mut example = Example {
                    row,
                    number,
                    bin: None,
                };
                example.bin = match row.band {
                    Band::Top => max.map(|max| ActivationBin {
                        min: -1.0,
                        max,
                        contains: -1.0,
                    }),
                    _ => latent.distribution.interval(example.highest().1),
                };
                latent.examples.push(example);
            }
        }
        Ok(())
    }

    fn add_explanations(&self, latents: &mut [Latent<'a>]) -> Result<(), FeaturesError> {
        let places = places(latents);
        for explanation in self.explanations {
            let id = explanation.feature_id;
            if explanation.text.trim().is_empty() {
                let found = format!("nothing for latent {id}");
                return Err(input("explanations.text", found, "a text"));
            }
            let Some(&at) = places.get(&id) else {
                let expected = "the id of a feature";
                return Err(input("explanations.feature_id", id.to_string(), expected));
            };
            latents[at].explanations.push(explanation);
        }
        Ok(())
    }
}

fn places(latents: &[Latent<'_>]) -> HashMap<u32, usize> {
    let ids = latents.iter().map(|latent| latent.row.feature_id);
    ids.enumerate().map(|(at, id)| (id, at)).collect()
}

fn check_example(row: &ExampleRow) -> Result<(), FeaturesError> {
    let (tokens, activations) = (row.tokens.len(), row.activations.len());
    let of = format!("in an example of latent {}", row.feature_id);
    if tokens == 0 || tokens != activations {
        let found = format!("{tokens} tokens and {activations} activations {of}");
        let expected = "as many of each, at least one";
        return Err(input("examples.activations", found, expected));
    }
    if row.peak_index as usize >= tokens {
        let found = format!("{} of {tokens} tokens {of}", row.peak_index);
        return Err(input("examples.peak_index", found, "the index of a token"));
    }
    Ok(())
}
