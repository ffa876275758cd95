//! Core features of a token and of a text: the strongest latents of each token, and of those the
//! ones that most tokens share (CoreInfer, Wang et al. 2024, there for neurons).

use std::collections::BTreeMap;
use std::ops::Range;

use super::binary_codes::{jaccard, shared_count};
use super::unfit;
use crate::{FeaturesError, SparseRows};

/// The number of latents that the share β of a text core refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CoreDenominator {
    /// The latents in at least one token core of the text.
    InTokenCores,
    /// All latents of the dictionary, as in the paper for neurons. Sparse codes rarely have that
    /// many latents in token cores, and then all of them are in the text core.
    DSae,
}

/// What belongs to a core.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CoreConfig {
    /// A token's core has the latents at or above the (1 − alpha) quantile of its positive
    /// activations; above 0, at most 1.
    pub alpha: f64,
    /// Share of latents in a text's core; above 0, at most 1.
    pub beta: f64,
    /// What `beta` is a share of.
    pub denominator: CoreDenominator,
}

impl Default for CoreConfig {
    /// alpha 0.4 and beta 0.2, of the latents in token cores.
    fn default() -> Self {
        CoreConfig {
            alpha: 0.4,
            beta: 0.2,
            denominator: CoreDenominator::InTokenCores,
        }
    }
}

/// A latent of a text's core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CoreLatent {
    /// The latent.
    pub latent: u32,
    /// Number of tokens whose core has it.
    pub tokens: usize,
}

/// The core of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextCore {
    /// By number of tokens, most first; ties: the lower latent first.
    pub ranked: Vec<CoreLatent>,
    /// Number of latents in at least one token core.
    pub in_token_cores: usize,
}

impl TextCore {
    /// The latents of the core, ascending.
    pub fn latents(&self) -> Vec<u32> {
        let mut latents: Vec<u32> = self.ranked.iter().map(|core| core.latent).collect();
        latents.sort_unstable();
        latents
    }

    /// Jaccard similarity to another core; 1 if both are empty.
    pub fn jaccard(&self, other: &TextCore) -> f64 {
        let (a, b) = (self.latents(), other.latents());
        jaccard(shared_count(&a, &b), a.len(), b.len())
    }
}

/// The core of one token: its latents with an activation of at least the (1 − `alpha`) quantile of
/// its positive activations, ascending by latent. The quantile is linearly interpolated.
///
/// # Errors
/// If there is no such row, or `alpha` is not above 0 and at most 1.
pub fn token_core(
    rows: &SparseRows<'_>,
    row: usize,
    alpha: f64,
) -> Result<Vec<u32>, FeaturesError> {
    check_share("alpha", alpha)?;
    check_tokens(rows, &(row..row.saturating_add(1)))?;
    let mut active: Vec<(usize, f32)> = rows.active(row).collect();
    let mut sorted: Vec<f32> = active.iter().map(|entry| entry.1).collect();
    sorted.sort_unstable_by(f32::total_cmp);
    let threshold = quantile(&sorted, 1.0 - alpha);
    active.retain(|entry| f64::from(entry.1) >= threshold);
    let mut core: Vec<u32> = active.into_iter().map(|entry| entry.0 as u32).collect();
    core.sort_unstable();
    Ok(core)
}

/// Linear interpolation between ascending values; 0 if there are none.
fn quantile(sorted: &[f32], q: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return 0.0;
    };
    let place = whole_if_close(q * last as f64);
    let below = place.floor() as usize;
    let low = f64::from(sorted[below]);
    low + (f64::from(sorted[(below + 1).min(last)]) - low) * (place - below as f64)
}

/// Products such as (1 − 0.7) · 10 miss a whole number by a rounding error, which must not move a
/// latent across the threshold.
fn whole_if_close(x: f64) -> f64 {
    if (x - x.round()).abs() < 1e-9 {
        x.round()
    } else {
        x
    }
}

/// The core of the tokens in a range of rows: of the latents in token cores, those of the most
/// tokens, ⌊β · denominator⌋ of them, but at least one if there are any.
///
/// # Errors
/// If the range exceeds the rows, or a share of the config is not above 0 and at most 1.
pub fn text_core(
    rows: &SparseRows<'_>,
    tokens: Range<usize>,
    config: &CoreConfig,
) -> Result<TextCore, FeaturesError> {
    check_share("beta", config.beta)?;
    check_tokens(rows, &tokens)?;
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    for row in tokens {
        for latent in token_core(rows, row, config.alpha)? {
            *counts.entry(latent).or_default() += 1;
        }
    }
    let in_token_cores = counts.len();
    let denominator = match config.denominator {
        CoreDenominator::InTokenCores => in_token_cores,
        CoreDenominator::DSae => rows.d_sae(),
    };
    let size = whole_if_close(config.beta * denominator as f64).floor() as usize;
    let mut ranked: Vec<CoreLatent> = counts
        .into_iter()
        .map(|(latent, tokens)| CoreLatent { latent, tokens })
        .collect();
    // Stable, so that equal counts stay in order of latents.
    ranked.sort_by_key(|core| std::cmp::Reverse(core.tokens));
    ranked.truncate(size.max(1));
    Ok(TextCore {
        ranked,
        in_token_cores,
    })
}

/// How a text's core changes when tokens are added to it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CoreChange {
    /// Jaccard similarity of the two cores.
    pub jaccard: f64,
    /// Share of the longer prefix's core that the shorter one's core lacks; 0 for an empty core.
    pub new: f64,
}

/// Compares the cores of the first `prefix` and of the first `longer` tokens.
///
/// # Errors
/// If `prefix` exceeds `longer` or `longer` the rows, or a share of the config is not above 0 and
/// at most 1.
pub fn core_stability(
    rows: &SparseRows<'_>,
    prefix: usize,
    longer: usize,
    config: &CoreConfig,
) -> Result<CoreChange, FeaturesError> {
    if prefix > longer {
        return Err(unfit("prefix", prefix, format!("at most {longer} tokens")));
    }
    let before = text_core(rows, 0..prefix, config)?.latents();
    let after = text_core(rows, 0..longer, config)?.latents();
    let shared = shared_count(&before, &after);
    Ok(CoreChange {
        jaccard: jaccard(shared, before.len(), after.len()),
        new: if after.is_empty() {
            0.0
        } else {
            1.0 - shared as f64 / after.len() as f64
        },
    })
}

fn check_share(field: &'static str, share: f64) -> Result<(), FeaturesError> {
    if share > 0.0 && share <= 1.0 {
        Ok(())
    } else {
        Err(unfit(field, share, "a share above 0 and at most 1"))
    }
}

fn check_tokens(rows: &SparseRows<'_>, tokens: &Range<usize>) -> Result<(), FeaturesError> {
    if tokens.start <= tokens.end && tokens.end <= rows.len() {
        Ok(())
    } else {
        Err(unfit(
            "tokens",
            format!("{tokens:?}"),
            format!("a range within {} rows", rows.len()),
        ))
    }
}

#[cfg(test)]
mod tests;
