//! Mutual information between each latent of a sparse code and a label (adaptive bins: Chelombiev,
//! Houghton and O'Donnell 2019).
//!
//! The outcome of a latent is its bin: 0 where it is inactive, otherwise one of at most `bins`
//! adaptive bins over its positive activations. Plug-in information is biased upwards, most of all
//! for latents that fire rarely and for many classes. The bias is reported, never subtracted.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::adaptive_bins::AdaptiveBins;
use super::plug_in::{Classes, count_log_count, miller_madow_bias};
use super::{check_labels, unfit};
use crate::{FeaturesError, SparseRows};

/// How to estimate the information of latents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LatentInformationConfig {
    /// Most bins for a latent's positive activations; 1 asks only whether the latent fires.
    pub bins: usize,
    /// Number of times that labels are permuted for the chance level; 0 skips it. Each costs as
    /// much as the estimate itself and 4 bytes per row.
    pub permutations: usize,
    /// Seed of the permutations.
    pub seed: u64,
}

impl Default for LatentInformationConfig {
    /// 30 bins, no permutation, seed 0.
    fn default() -> Self {
        LatentInformationConfig {
            bins: 30,
            permutations: 0,
            seed: 0,
        }
    }
}

/// What one latent says about the label.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LatentInformation {
    /// Plug-in I(bin; label) in bits.
    pub information: f64,
    /// First-order bias of `information` in bits: (occupied cells − bins − classes + 1) /
    /// (2 rows ln 2). It is too small where most cells hold one sample.
    pub miller_madow_bias: f64,
    /// Mean of `information` in bits over permuted labels: its chance level. None without
    /// permutations.
    pub permuted_information: Option<f64>,
    /// Number of rows in which the latent is active.
    pub firing_count: usize,
    /// Number of occupied bins, the inactive one included.
    pub bins: usize,
}

/// What all latents say about the label, each alone.
#[derive(Debug, Clone, PartialEq)]
pub struct InformationTable {
    /// H(label) in bits: no latent says more.
    pub label_entropy: f64,
    /// Number of distinct labels.
    pub classes: usize,
    /// Number of rows.
    pub samples: usize,
    /// One per latent.
    pub latents: Vec<LatentInformation>, // [d_sae]
}

/// Estimates I(bin of activation; label) for every latent.
///
/// `labels` has one label per row; any numbers do. Memory is O(active entries + rows · (1 +
/// permutations) + `d_sae`).
///
/// # Errors
/// If labels and rows differ in number, there is no row, or `bins` is 0.
pub fn latent_information(
    rows: &SparseRows<'_>,
    labels: &[u32],
    config: &LatentInformationConfig,
) -> Result<InformationTable, FeaturesError> {
    check_labels(labels, rows.len())?;
    if config.bins == 0 {
        return Err(unfit("bins", 0, "at least one bin"));
    }
    let classes = Classes::new(labels);
    let totals = Totals::new(&classes);
    let permuted: Vec<Vec<u32>> = (0..config.permutations)
        .map(|round| {
            let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
            rng.set_stream(round as u64);
            let mut of_row = classes.of_row.clone();
            of_row.shuffle(&mut rng);
            of_row
        })
        .collect();
    let firings = Firings::new(rows);
    let latents = (0..rows.d_sae())
        .into_par_iter()
        .map_init(Vec::new, |cells, latent| {
            let firings = firings.of(latent);
            let mut values: Vec<f32> = firings.iter().map(|&(_, value)| value).collect();
            let bins = AdaptiveBins::new(&mut values, 0.0, config.bins);
            let mut under = |of_row: &[u32]| {
                cells.clear();
                cells.extend(
                    firings
                        .iter()
                        .map(|&(row, value)| (bins.bin(value), of_row[row])),
                );
                totals.information(cells)
            };
            let chance: f64 = permuted
                .iter()
                .map(|of_row| under(of_row).information)
                .sum();
            LatentInformation {
                permuted_information: (!permuted.is_empty())
                    .then_some(chance / permuted.len() as f64),
                ..under(&classes.of_row)
            }
        })
        .collect();
    Ok(InformationTable {
        label_entropy: classes.entropy(),
        classes: classes.len(),
        samples: rows.len(),
        latents,
    })
}

/// The active entries by latent, each latent's in the order of rows.
struct Firings {
    offsets: Vec<usize>,        // [d_sae + 1]
    entries: Vec<(usize, f32)>, // (row, value)
}

impl Firings {
    fn new(rows: &SparseRows<'_>) -> Self {
        let all = || (0..rows.len()).flat_map(|row| rows.active(row).map(move |e| (row, e)));
        let mut offsets = vec![0; rows.d_sae() + 1];
        for (_, (latent, _)) in all() {
            offsets[latent + 1] += 1;
        }
        for latent in 0..rows.d_sae() {
            offsets[latent + 1] += offsets[latent];
        }
        let mut next = offsets.clone();
        let mut entries = vec![(0, 0.0); offsets[rows.d_sae()]];
        for (row, (latent, value)) in all() {
            entries[next[latent]] = (row, value);
            next[latent] += 1;
        }
        Firings { offsets, entries }
    }

    fn of(&self, latent: usize) -> &[(usize, f32)] {
        &self.entries[self.offsets[latent]..self.offsets[latent + 1]]
    }
}

/// What is the same for all latents.
struct Totals<'a> {
    counts: &'a [usize], // [classes]
    samples: usize,
    label_sum: f64, // Σ c log2 c over classes
}

impl<'a> Totals<'a> {
    fn new(classes: &'a Classes) -> Self {
        Totals {
            counts: &classes.counts,
            samples: classes.of_row.len(),
            label_sum: classes.counts.iter().copied().map(count_log_count).sum(),
        }
    }

    /// Information of one latent from (bin, class) of each of its firings. The inactive rows are
    /// what remains of each class, so that time does not depend on the number of classes.
    fn information(&self, firings: &mut [(u32, u32)]) -> LatentInformation {
        firings.sort_unstable();
        let (mut joint_sum, mut joint_cells) = (0.0, 0);
        for cell in firings.chunk_by(|a, b| a == b) {
            joint_sum += count_log_count(cell.len());
            joint_cells += 1;
        }
        let (mut bin_sum, mut bins) = (0.0, 0);
        for bin in firings.chunk_by(|a, b| a.0 == b.0) {
            bin_sum += count_log_count(bin.len());
            bins += 1;
        }
        let inactive = self.samples - firings.len();
        if inactive > 0 {
            bin_sum += count_log_count(inactive);
            bins += 1;
            joint_sum += self.label_sum;
            joint_cells += self.counts.len();
            firings.sort_unstable_by_key(|&(_, class)| class);
            for active in firings.chunk_by(|a, b| a.1 == b.1) {
                let total = self.counts[active[0].1 as usize];
                let rest = total - active.len();
                joint_sum += count_log_count(rest) - count_log_count(total);
                joint_cells -= usize::from(rest == 0);
            }
        }
        let n = self.samples as f64;
        LatentInformation {
            information: (n.log2() + (joint_sum - bin_sum - self.label_sum) / n).max(0.0),
            miller_madow_bias: miller_madow_bias(
                joint_cells,
                bins,
                self.counts.len(),
                self.samples,
            ),
            permuted_information: None,
            firing_count: firings.len(),
            bins,
        }
    }
}

#[cfg(test)]
mod tests;
