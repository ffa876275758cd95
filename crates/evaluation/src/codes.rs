//! Sparse codes on the host, and running sums over them.

use lapidary_kernels::SparseCodes;

/// Sparse codes on the host: `[n, k]` row-major, 0 and -1 where nothing is active.
pub struct HostCodes {
    /// Activations.
    pub values: Vec<f32>,
    /// Latents.
    pub indices: Vec<i32>,
    /// Entries a row.
    pub k: usize,
}

impl HostCodes {
    /// Reads codes from their device; entries that are not active get index -1.
    pub fn read(codes: SparseCodes) -> Self {
        let k = codes.values.dims()[1];
        let values = codes.values.into_data().iter::<f32>().collect();
        let indices = codes.indices.into_data().iter::<i32>().collect();
        Self::new(values, indices, k)
    }

    /// Codes that were read; entries that are not active get index -1.
    pub(crate) fn new(values: Vec<f32>, mut indices: Vec<i32>, k: usize) -> Self {
        for (index, value) in indices.iter_mut().zip(&values) {
            if *value == 0.0 {
                *index = -1;
            }
        }
        Self { values, indices, k }
    }

    /// The codes of several batches, one after the other. Rows of a batch with fewer places get
    /// places that are not active.
    pub fn joined(batches: Vec<Self>) -> Self {
        let k = batches.iter().map(|batch| batch.k).max().unwrap_or(0);
        let (mut values, mut indices) = (vec![], vec![]);
        for batch in batches {
            let rows = batch.values.chunks_exact(batch.k.max(1));
            for (row, latents) in rows.zip(batch.indices.chunks_exact(batch.k.max(1))) {
                values.extend(row);
                indices.extend(latents);
                values.resize(values.len() + k - batch.k, 0.0);
                indices.resize(values.len(), -1);
            }
        }
        Self { values, indices, k }
    }
}

/// Running sums over codes.
#[derive(Clone, Debug)]
pub struct CodeSums {
    tokens: u64,
    active: u64,
    total: f64,
    /// Of each latent.
    counts: Vec<Firings>,
    /// Every how many counted tokens' active latents are kept.
    stride: u64,
    supports: Vec<Vec<u32>>,
}

/// How often one latent fired.
#[derive(Clone, Copy, Debug, Default)]
struct Firings {
    /// Tokens with a value that is not 0.
    nonzero: u64,
    /// Tokens with a positive value.
    positive: u64,
    /// Blocks with at least one of them.
    blocks: u64,
    /// The last such block, counted from 1.
    last: u64,
}

impl CodeSums {
    /// For a dictionary of `d_sae` latents. The active latents of every `stride`-th counted token
    /// are kept for [`CodeSums::supports`].
    #[must_use]
    pub fn new(d_sae: usize, stride: u64) -> Self {
        Self {
            tokens: 0,
            active: 0,
            total: 0.0,
            counts: vec![Firings::default(); d_sae],
            stride: stride.max(1),
            supports: Vec::new(),
        }
    }

    /// Takes in the codes `[n, k]` of one block, row by row, of which the rows with `counts` count.
    /// `block` counts from 0.
    pub fn observe(
        &mut self,
        values: &[f32],
        indices: &[i32],
        k: usize,
        counts: &[bool],
        block: u64,
    ) {
        for row in (0..counts.len()).filter(|row| counts[*row]) {
            let of = row * k..(row + 1) * k; // k is 0 where nothing fires
            let (values, indices) = (&values[of.clone()], &indices[of]);
            let mut support = self.tokens.is_multiple_of(self.stride).then(Vec::new);
            self.tokens += 1;
            for (value, index) in values.iter().zip(indices) {
                let latent = usize::try_from(*index)
                    .ok()
                    .filter(|i| *i < self.counts.len());
                let (Some(latent), true) = (latent, *value != 0.0) else {
                    continue;
                };
                self.active += 1;
                self.total += f64::from(*value);
                if let Some(support) = &mut support {
                    support.push(latent as u32);
                }
                let firings = &mut self.counts[latent];
                firings.nonzero += 1;
                if *value > 0.0 {
                    firings.positive += 1;
                    if firings.last != block + 1 {
                        firings.last = block + 1;
                        firings.blocks += 1;
                    }
                }
            }
            self.supports.extend(support);
        }
    }

    /// Active latents a token.
    #[must_use]
    pub fn l0(&self) -> f64 {
        self.active as f64 / self.tokens as f64
    }

    /// Sum of activations a token.
    #[must_use]
    pub fn l1(&self) -> f64 {
        self.total / self.tokens as f64
    }

    /// Share of latents that were not 0 at least once.
    #[must_use]
    pub fn frac_alive(&self) -> f64 {
        self.counts.iter().filter(|f| f.nonzero > 0).count() as f64 / self.counts.len() as f64
    }

    /// Of each latent the share of tokens on which it is positive.
    #[must_use]
    pub fn densities(&self) -> Vec<f64> {
        let density = |f: &Firings| f.positive as f64 / self.tokens as f64;
        self.counts.iter().map(density).collect()
    }

    /// Of each latent the number of tokens on which it is positive a block in which it is so at
    /// least once; NaN if it never is.
    #[must_use]
    pub fn firings_a_block(&self) -> Vec<f64> {
        let ratio = |f: &Firings| f.positive as f64 / f.blocks as f64;
        self.counts.iter().map(ratio).collect()
    }

    /// The active latents of some tokens.
    #[must_use]
    pub fn supports(&self) -> &[Vec<u32>] {
        &self.supports
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_of_codes_are_joined_row_by_row() {
        let narrow = HostCodes::new(vec![1.0, 2.0], vec![7, 8], 1);
        let wide = HostCodes::new(vec![3.0, 4.0, 5.0, 0.0], vec![1, 2, 3, 9], 2);
        let joined = HostCodes::joined(vec![narrow, wide]);
        assert_eq!(joined.k, 2);
        assert_eq!(joined.values, [1.0, 0.0, 2.0, 0.0, 3.0, 4.0, 5.0, 0.0]);
        assert_eq!(joined.indices, [7, -1, 8, -1, 1, 2, 3, -1]);
    }

    #[test]
    fn code_figures_count_values_of_counted_tokens() {
        let mut sums = CodeSums::new(4, 2);
        sums.observe(
            &[2.0, 1.0, 5.0, 5.0, 3.0, 0.0],
            &[0, 1, 3, 3, 1, 2],
            2,
            &[true, false, true],
            0,
        );
        assert_eq!(sums.l0(), 1.5);
        assert_eq!(sums.l1(), 3.0);
        assert_eq!(sums.frac_alive(), 0.5);
        assert_eq!(sums.densities(), [0.5, 1.0, 0.0, 0.0]);
        assert_eq!(sums.firings_a_block()[..2], [1.0, 2.0]);
        assert!(sums.firings_a_block()[2].is_nan());
        // A negative value is active, but no firing; a second block counts by itself.
        sums.observe(&[1.0, -1.0, 1.0, 0.0], &[1, 2, 1, 0], 2, &[true, true], 1);
        assert_eq!(sums.frac_alive(), 0.75);
        assert_eq!(sums.densities(), [0.25, 1.0, 0.0, 0.0]);
        assert_eq!(sums.firings_a_block()[1], 2.0);
        assert_eq!(sums.supports(), [vec![0, 1], vec![1, 2]]);
    }
}
