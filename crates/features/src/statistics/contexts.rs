//! The contexts that show what one latent responds to: the strongest, and a few from weaker bands.
//!
//! A context is a window of tokens around the strongest firing in one block; a block gives at most
//! one. Beside the strongest ones, a uniform sample of all blocks in which the latent fired is kept
//! (the smallest hashes of (seed, latent, block)); from it come, at the end, contexts whose peaks
//! lie nearest to the quartiles of all such peaks. Showing only the strongest contexts overstates
//! how specific a latent is (Bills et al. 2023; Bricken et al. 2023).

use serde::{Deserialize, Serialize};

use super::moments::hash;

/// Number of sampled contexts from which the weaker bands are chosen.
const SAMPLED: usize = 32;

/// From which part of a latent's activation range a context was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Band {
    /// The highest peaks of all.
    Top,
    /// Peaks nearest to the upper quartile of the peaks of all blocks in which the latent fired.
    Q75,
    /// Peaks nearest to their median.
    Q50,
    /// Peaks nearest to their lower quartile.
    Q25,
}

impl Band {
    /// All bands, strongest first.
    pub const ALL: [Band; 4] = [Band::Top, Band::Q75, Band::Q50, Band::Q25];

    /// The name in the tables: `top`, `q75`, `q50`, `q25`.
    pub fn name(self) -> &'static str {
        match self {
            Band::Top => "top",
            Band::Q75 => "q75",
            Band::Q50 => "q50",
            Band::Q25 => "q25",
        }
    }

    /// The band of that name.
    pub fn from_name(name: &str) -> Option<Band> {
        Band::ALL.into_iter().find(|band| band.name() == name)
    }
}

/// A window of tokens around the strongest firing of a latent in one block.
#[derive(Debug, Clone, PartialEq)]
pub struct Context {
    /// The band it stands for.
    pub band: Band,
    /// The activation at the peak.
    pub peak: f32,
    /// Where in the window the peak is.
    pub peak_index: usize,
    /// Tokens of the window.
    pub tokens: Vec<u32>, // [window]
    /// The latent's activation on each of them; 0 where it does not fire or the token is excluded.
    pub activations: Vec<f32>, // [window]
    /// Document of the peak token.
    pub document: u32,
    /// Position of the peak token in that document.
    pub position: u32,
    /// Block of the peak token.
    pub block_index: u64,
}

/// All firings of one latent in one block.
pub(super) struct BlockFirings<'a> {
    pub(super) tokens: &'a [u32],   // [tokens of the block]
    pub(super) document: &'a [u32], // [tokens of the block]
    pub(super) position: &'a [u32], // [tokens of the block]
    pub(super) block_index: u64,
    // (token's place in the block, activation), ascending by place
    pub(super) firings: &'a [(u32, f32)],
}

impl BlockFirings<'_> {
    fn window(&self, place: usize, peak: f32, limits: &ContextLimits) -> Context {
        let start = place.saturating_sub(limits.before);
        let end = (place + limits.after + 1).min(self.tokens.len());
        let mut activations = vec![0.0; end - start];
        for &(at, value) in self.firings {
            if (start..end).contains(&(at as usize)) {
                activations[at as usize - start] = value;
            }
        }
        Context {
            band: Band::Top,
            peak,
            peak_index: place - start,
            tokens: self.tokens[start..end].to_vec(),
            activations,
            document: self.document[place],
            position: self.position[place],
            block_index: self.block_index,
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct ContextLimits {
    pub(super) top: usize,
    pub(super) per_band: usize,
    pub(super) before: usize,
    pub(super) after: usize,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Contexts {
    top: Vec<Context>,            // descending by peak; ties: earlier block first
    sampled: Vec<(u64, Context)>, // with the smallest (hash, block)
    sampled_below: u64,           // the largest hash in `sampled` once it is full
}

impl Contexts {
    pub(super) fn offer(&mut self, block: &BlockFirings<'_>, limits: &ContextLimits, stream: u64) {
        // Strictly greater: of equal peaks in a block the first counts.
        let Some((place, peak)) = block
            .firings
            .iter()
            .copied()
            .reduce(|best, next| if next.1 > best.1 { next } else { best })
        else {
            return;
        };
        let place = place as usize;
        let ahead = |other: &Context| {
            other.peak > peak || (other.peak == peak && other.block_index <= block.block_index)
        };
        if limits.top > 0
            && (self.top.len() < limits.top || self.top.last().is_some_and(|last| !ahead(last)))
        {
            self.top.truncate(limits.top - 1);
            let at = self.top.partition_point(ahead);
            self.top.insert(at, block.window(place, peak, limits));
        }
        if limits.per_band > 0 {
            let draw = hash(stream, block.block_index);
            if self.sampled.len() < SAMPLED {
                self.sampled.push((draw, block.window(place, peak, limits)));
            } else if draw < self.sampled_below {
                let largest = self
                    .sampled
                    .iter()
                    .position(|(hash, _)| *hash == self.sampled_below);
                self.sampled[largest.expect("the bound is the hash of a member")] =
                    (draw, block.window(place, peak, limits));
            } else {
                return;
            }
            self.sampled_below = self
                .sampled
                .iter()
                .map(|(hash, _)| *hash)
                .max()
                .unwrap_or(0);
        }
    }

    /// The strongest contexts, then those of the weaker bands; no block twice.
    pub(super) fn finish(self, per_band: usize) -> Vec<Context> {
        let mut chosen = self.top;
        let mut sampled: Vec<Context> = self
            .sampled
            .into_iter()
            .map(|(_, context)| context)
            .collect();
        sampled.sort_unstable_by(|a, b| {
            b.peak
                .total_cmp(&a.peak)
                .then(a.block_index.cmp(&b.block_index))
        });
        let ascending: Vec<f32> = sampled.iter().rev().map(|context| context.peak).collect();
        for (band, q) in [(Band::Q75, 0.75), (Band::Q50, 0.5), (Band::Q25, 0.25)] {
            sampled.retain(|context| {
                chosen
                    .iter()
                    .all(|other| other.block_index != context.block_index)
            });
            let target = super::moments::quantile_of_sorted(&ascending, q);
            let mut nearest: Vec<usize> = (0..sampled.len()).collect();
            nearest.sort_by(|&a, &b| {
                (sampled[a].peak - target)
                    .abs()
                    .total_cmp(&(sampled[b].peak - target).abs())
            });
            nearest.truncate(per_band);
            nearest.sort_unstable();
            chosen.extend(nearest.into_iter().map(|at| Context {
                band,
                ..sampled[at].clone()
            }));
        }
        chosen
    }
}
