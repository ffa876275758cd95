//! What every latent does over a text, from one pass over sparse codes: how often it fires, how
//! strongly, on which tokens, in which contexts.
//!
//! Memory depends on the number of latents and on the limits in [`StatisticsConfig`], never on the
//! number of tokens. Codes are gathered until there are a million, sorted by latent, and taken in
//! by all cores at once, each latent's in their order of arrival: the result is the same to the
//! last bit for any number of threads.

mod coactivation;
mod contexts;
mod histogram;
mod moments;
mod top_tokens;

use std::collections::HashMap;

use rayon::prelude::*;

pub use coactivation::Coactivation;
pub use contexts::{Band, Context};
pub use histogram::HistogramBin;
pub use moments::QUANTILES;
pub use top_tokens::TokenCount;

use crate::FeaturesError;
use coactivation::{PartnerScratch, Partners, strongest};
use contexts::{BlockFirings, ContextLimits, Contexts};
use moments::Moments;
pub(crate) use moments::hash;
use top_tokens::{TallyScratch, TopTokens};

/// What to keep for every latent.
#[derive(Debug, Clone, PartialEq)]
pub struct StatisticsConfig {
    /// Number of latents.
    pub d_sae: usize,
    /// Number of strongest contexts to keep.
    pub examples_per_feature: usize,
    /// Number of contexts from each weaker band ([`Band`]); 0 keeps none.
    pub examples_per_band: usize,
    /// Tokens of a context before its peak.
    pub tokens_before: usize,
    /// Tokens of a context after its peak.
    pub tokens_after: usize,
    /// Number of firing tokens to report.
    pub top_tokens: usize,
    /// Distinct firing tokens that are always counted exactly; memory for up to twice as many.
    pub token_capacity: usize,
    /// Activations kept for the quantiles; a latent that fired at most as often has exact
    /// quantiles, another has them from its histogram.
    pub kept_activations: usize,
    /// Number of partners to report for each latent, those with the highest phi coefficient; 0
    /// counts no pairs.
    pub partners: usize,
    /// Partners of a latent that are always counted exactly; memory for up to twice as many.
    pub partner_capacity: usize,
    /// Seed of the sample of contexts.
    pub seed: u64,
}

impl StatisticsConfig {
    /// The defaults for `d_sae` latents: 16 strongest contexts and 2 a weaker band, each of 16
    /// tokens, the peak, and 8 tokens; 10 top tokens; exact quantiles up to 1024 activations; 10
    /// partners, counted in at most 128 MiB; seed 0.
    pub fn new(d_sae: usize) -> Self {
        StatisticsConfig {
            d_sae,
            examples_per_feature: 16,
            examples_per_band: 2,
            tokens_before: 16,
            tokens_after: 8,
            top_tokens: 10,
            token_capacity: 128,
            kept_activations: 1024,
            partners: 10,
            partner_capacity: ((1 << 23) / d_sae.max(1)).max(64),
            seed: 0,
        }
    }
}

/// One block of text as the model saw it.
#[derive(Debug, Clone, Copy)]
pub struct BlockView<'a> {
    /// Token ids.
    pub tokens: &'a [u32], // [tokens]
    /// The document of each token.
    pub document: &'a [u32], // [tokens]
    /// The position of each token in its document.
    pub position: &'a [u32], // [tokens]
    /// The number of this block in the pass, each used once; of equally strong contexts the lower
    /// block comes first.
    pub block_index: u64,
    /// False where a token counts for nothing (a BOS token): it still shows in contexts, with
    /// activation 0.
    pub active: &'a [bool], // [tokens]
}

/// What one latent did.
#[derive(Debug, Clone, PartialEq)]
pub struct LatentStatistics {
    /// Number of tokens on which it fired.
    pub firing_count: u64,
    /// The same as a share of all counted tokens.
    pub firing_density: f64,
    /// Mean activation over the tokens on which it fired (0 if none, as are the next ones).
    pub mean_activation: f32,
    /// Highest activation.
    pub max_activation: f32,
    /// Population standard deviation of the activation over the tokens on which it fired.
    pub std_activation: f32,
    /// [`QUANTILES`] of the activation over the tokens on which it fired, linearly interpolated.
    pub quantiles: [f32; 5],
    /// False if the quantiles come from the histogram: then each is at most 1/64 of its value away
    /// from an order statistic next to it ([`StatisticsConfig::kept_activations`]).
    pub quantiles_exact: bool,
    /// Number of tokens by activation, ascending.
    pub histogram: Vec<HistogramBin>,
    /// Mean position in the document of the tokens on which it fired (0 if none).
    pub mean_position: f64,
    /// Tokens by the sum of its activations on them, largest first.
    pub top_tokens: Vec<TokenCount>,
    /// The most that a count in `top_tokens` can lack; 0 means exact.
    pub top_token_error: u64,
    /// Strongest contexts, by peak; then those of the weaker bands.
    pub contexts: Vec<Context>,
}

/// What all latents did.
#[derive(Debug, Clone, PartialEq)]
pub struct StatisticsSummary {
    /// Number of counted tokens.
    pub tokens: u64,
    /// One entry per latent.
    pub latents: Vec<LatentStatistics>, // [d_sae]
    /// Pairs of latents that fire together, by the lower number, then by the higher one: for each
    /// latent its partners with the highest phi coefficient.
    pub coactivations: Vec<Coactivation>,
    /// How often each token was counted.
    pub token_counts: HashMap<u32, u64>,
}

/// The accumulator: give it every block once, then call [`finish`](FeatureStatistics::finish).
///
/// ```
/// use lapidary_features::{BlockView, FeatureStatistics, StatisticsConfig};
///
/// let mut statistics = FeatureStatistics::new(StatisticsConfig::new(4));
/// let block = BlockView {
///     tokens: &[0, 17, 18],
///     document: &[5, 5, 5],
///     position: &[0, 1, 2],
///     block_index: 0,
///     active: &[false, true, true], // the first is BOS
/// };
/// let (values, indices) = ([9.0, 0.0, 1.5, 0.5, 2.5, 0.0], [3, 0, 2, 3, 2, 0]); // [tokens, k]
/// statistics.observe_block(block, &values, &indices, 2)?;
/// let summary = statistics.finish();
/// assert_eq!(summary.tokens, 2);
/// assert_eq!(summary.latents[2].firing_density, 1.0);
/// assert_eq!(summary.latents[2].mean_activation, 2.0);
/// assert_eq!(summary.latents[3].max_activation, 0.5);
/// # Ok::<(), lapidary_features::FeaturesError>(())
/// ```
#[derive(Debug)]
pub struct FeatureStatistics {
    config: StatisticsConfig,
    tokens: u64,
    token_counts: HashMap<u32, u64>,
    latents: Vec<Latent>,
    pending: Pending,
    grouped: Vec<(u32, f32)>, // (slot, activation), by latent; kept for its memory
}

#[derive(Debug, Clone, Default)]
struct Latent {
    moments: Moments,
    position_sum: u64,
    tokens: TopTokens,
    contexts: Contexts,
    partners: Partners,
}

/// Blocks that have been observed and not yet taken in. A slot is the place of a token in the
/// vectors below.
#[derive(Debug, Default)]
struct Pending {
    blocks: Vec<PendingBlock>,
    block_of: Vec<u32>,          // [slots]
    tokens: Vec<u32>,            // [slots]
    document: Vec<u32>,          // [slots]
    position: Vec<u32>,          // [slots]
    first_code: Vec<u32>,        // [slots], where the codes of each begin
    codes: Vec<(u32, u32, f32)>, // (latent, slot, activation)
}

#[derive(Debug)]
struct PendingBlock {
    index: u64,
    slots: std::ops::Range<usize>,
}

#[derive(Debug, Default)]
struct Scratch {
    by_token: Vec<(u32, f32)>,
    by_place: Vec<(u32, f32)>,
    tallies: TallyScratch,
    partners: PartnerScratch,
}

impl FeatureStatistics {
    /// An accumulator that has seen nothing.
    pub fn new(config: StatisticsConfig) -> Self {
        FeatureStatistics {
            tokens: 0,
            token_counts: HashMap::new(),
            latents: vec![Latent::default(); config.d_sae],
            pending: Pending::default(),
            grouped: Vec::new(),
            config,
        }
    }

    /// Number of counted tokens so far.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Adds one block and its sparse codes, `values` and `indices` being `[tokens, k]` in row-major
    /// order. An entry with index -1 or a value that is not positive is inactive; the indices of a
    /// row are distinct.
    ///
    /// # Errors
    /// If lengths disagree, an index is not a latent, or a value is not finite; the block then
    /// counts for nothing.
    pub fn observe_block(
        &mut self,
        block: BlockView<'_>,
        values: &[f32],
        indices: &[i32],
        k: usize,
    ) -> Result<(), FeaturesError> {
        let n = block.tokens.len();
        same_length("block.document", block.document.len(), n)?;
        same_length("block.position", block.position.len(), n)?;
        same_length("block.active", block.active.len(), n)?;
        same_length("values", values.len(), n * k)?;
        same_length("indices", indices.len(), n * k)?;

        let codes_before = self.pending.codes.len();
        let first_slot = self.pending.tokens.len();
        for (row, &active) in block.active.iter().enumerate() {
            self.pending
                .first_code
                .push(self.pending.codes.len() as u32);
            if !active {
                continue;
            }
            let slot = (first_slot + row) as u32;
            let row = row * k..(row + 1) * k;
            for (&value, &index) in values[row.clone()].iter().zip(&indices[row]) {
                // NaN compares false with everything, so it does not pass for inactive here.
                if value <= 0.0 || index == -1 {
                    continue;
                }
                match u32::try_from(index)
                    .ok()
                    .filter(|&latent| (latent as usize) < self.config.d_sae)
                {
                    Some(latent) if value.is_finite() => {
                        self.pending.codes.push((latent, slot, value))
                    }
                    found => {
                        self.pending.codes.truncate(codes_before);
                        self.pending.first_code.truncate(first_slot);
                        return Err(self.bad_code(found, index, value));
                    }
                }
            }
        }
        for (token, _) in block.tokens.iter().zip(block.active).filter(|(_, a)| **a) {
            self.tokens += 1;
            *self.token_counts.entry(*token).or_default() += 1;
        }
        self.pending
            .block_of
            .resize(first_slot + n, self.pending.blocks.len() as u32);
        self.pending.blocks.push(PendingBlock {
            index: block.block_index,
            slots: first_slot..first_slot + n,
        });
        self.pending.tokens.extend_from_slice(block.tokens);
        self.pending.document.extend_from_slice(block.document);
        self.pending.position.extend_from_slice(block.position);
        if self.pending.codes.len() >= (1 << 20).max(16 * self.config.d_sae)
            || self.pending.tokens.len() >= 1 << 20
        {
            self.take_in();
        }
        Ok(())
    }

    fn bad_code(&self, latent: Option<u32>, index: i32, value: f32) -> FeaturesError {
        match latent {
            None => FeaturesError::Input {
                field: "indices",
                found: index.to_string(),
                expected: format!("-1 or a latent below {}", self.config.d_sae),
            },
            Some(latent) => FeaturesError::Input {
                field: "values",
                found: format!("{value} for latent {latent}"),
                expected: "finite activations".to_owned(),
            },
        }
    }

    /// Everything that was asked for, of all blocks observed.
    pub fn finish(mut self) -> StatisticsSummary {
        self.take_in();
        let FeatureStatistics {
            config,
            tokens,
            token_counts,
            mut latents,
            ..
        } = self;
        let partners: Vec<Partners> = latents
            .iter_mut()
            .map(|latent| std::mem::take(&mut latent.partners))
            .collect();
        let firings: Vec<u64> = latents.iter().map(|l| l.moments.count()).collect();
        let coactivations = strongest(&partners, &firings, tokens, config.partners);
        let latents = latents
            .into_par_iter()
            .map(|latent| {
                let Latent {
                    moments,
                    position_sum,
                    tokens: top_tokens,
                    contexts,
                    ..
                } = latent;
                LatentStatistics {
                    firing_count: moments.count(),
                    firing_density: if tokens == 0 {
                        0.0
                    } else {
                        moments.count() as f64 / tokens as f64
                    },
                    mean_activation: moments.mean() as f32,
                    max_activation: moments.max(),
                    std_activation: moments.std() as f32,
                    quantiles_exact: moments.quantiles_exact(),
                    histogram: moments.histogram(),
                    mean_position: position_sum as f64 / moments.count().max(1) as f64,
                    top_token_error: top_tokens.missed_at_most(),
                    top_tokens: top_tokens.strongest(config.top_tokens),
                    quantiles: moments.quantiles(),
                    contexts: contexts.finish(config.examples_per_band),
                }
            })
            .collect();
        StatisticsSummary {
            tokens,
            latents,
            coactivations,
            token_counts,
        }
    }

    /// Sorts the pending codes by latent (a counting sort, so in order of arrival within each) and
    /// takes them in.
    fn take_in(&mut self) {
        let mut start = vec![0usize; self.config.d_sae + 1]; // where each latent's codes start
        for &(latent, _, _) in &self.pending.codes {
            start[latent as usize + 1] += 1;
        }
        for latent in 0..self.config.d_sae {
            start[latent + 1] += start[latent];
        }
        self.grouped.resize(self.pending.codes.len(), (0, 0.0));
        let mut next = start.clone();
        for &(latent, slot, value) in &self.pending.codes {
            let at = &mut next[latent as usize];
            self.grouped[*at] = (slot, value);
            *at += 1;
        }

        let fired: Vec<u64> = self
            .latents
            .iter()
            .zip(start.windows(2))
            .map(|(latent, codes)| latent.moments.count() + (codes[1] - codes[0]) as u64)
            .collect();
        let (config, pending, grouped) = (&self.config, &self.pending, &self.grouped);
        self.latents
            .par_iter_mut()
            .with_min_len(32)
            .enumerate()
            .for_each_init(Scratch::default, |scratch, (id, latent)| {
                let codes = &grouped[start[id]..start[id + 1]];
                if !codes.is_empty() {
                    latent.take_in(
                        (id as u32, &fired),
                        codes,
                        pending,
                        config,
                        hash(config.seed, id as u64 + 1),
                        scratch,
                    );
                }
            });
        self.pending.clear();
    }
}

impl Latent {
    fn take_in(
        &mut self,
        (id, fired): (u32, &[u64]),
        codes: &[(u32, f32)],
        pending: &Pending,
        config: &StatisticsConfig,
        stream: u64,
        scratch: &mut Scratch,
    ) {
        for &(slot, value) in codes {
            self.moments.add(value, config.kept_activations);
            self.position_sum += u64::from(pending.position[slot as usize]);
        }
        if config.partners > 0 {
            for &(slot, _) in codes {
                let active = pending.row(slot).iter().map(|&(latent, ..)| latent);
                scratch.partners.count(id, active, config.d_sae);
            }
            self.partners
                .add(&mut scratch.partners, config.partner_capacity, fired);
        }

        scratch.by_token.clear();
        scratch.by_token.extend(
            codes
                .iter()
                .map(|&(slot, value)| (pending.tokens[slot as usize], value)),
        );
        self.tokens.add(
            &mut scratch.by_token,
            config.token_capacity,
            &mut scratch.tallies,
        );

        let limits = ContextLimits {
            top: config.examples_per_feature,
            per_band: config.examples_per_band,
            before: config.tokens_before,
            after: config.tokens_after,
        };
        for of_block in
            codes.chunk_by(|a, b| pending.block_of[a.0 as usize] == pending.block_of[b.0 as usize])
        {
            let block = &pending.blocks[pending.block_of[of_block[0].0 as usize] as usize];
            let slots = block.slots.clone();
            scratch.by_place.clear();
            scratch.by_place.extend(
                of_block
                    .iter()
                    .map(|&(slot, value)| (slot - slots.start as u32, value)),
            );
            let firings = BlockFirings {
                tokens: &pending.tokens[slots.clone()],
                document: &pending.document[slots.clone()],
                position: &pending.position[slots],
                block_index: block.index,
                firings: &scratch.by_place,
            };
            self.contexts.offer(&firings, &limits, stream);
        }
    }
}

impl Pending {
    /// The codes of a slot.
    fn row(&self, slot: u32) -> &[(u32, u32, f32)] {
        let start = self.first_code[slot as usize] as usize;
        let end = self.first_code.get(slot as usize + 1);
        &self.codes[start..end.map_or(self.codes.len(), |end| *end as usize)]
    }

    fn clear(&mut self) {
        self.blocks.clear();
        self.block_of.clear();
        self.tokens.clear();
        self.document.clear();
        self.position.clear();
        self.first_code.clear();
        self.codes.clear();
    }
}

fn same_length(field: &'static str, found: usize, expected: usize) -> Result<(), FeaturesError> {
    if found == expected {
        return Ok(());
    }
    Err(FeaturesError::Input {
        field,
        found: format!("{found} entries"),
        expected: expected.to_string(),
    })
}

#[cfg(test)]
mod tests;
