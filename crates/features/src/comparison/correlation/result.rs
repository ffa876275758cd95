//! The correlations of a finished pass, computed from its sums when they are asked for.

use rayon::prelude::*;

use super::super::similarity::Similarity;

/// Correlations of all pairs of a latent of A and a latent of B.
///
/// A latent that never fires or is constant has correlation 0 with all. A latent counts as constant
/// if its variance is below 1e-12 of its mean square.
#[derive(Debug, Clone)]
pub struct Correlations {
    pub(super) tokens: u64,
    pub(super) a: Standardization,
    pub(super) b: Standardization,
    pub(super) cross: Cross,
}

#[derive(Debug, Clone)]
pub(super) struct Standardization {
    pub(super) sum: Vec<f64>,   // [d]
    pub(super) scale: Vec<f64>, // [d], 1 / sqrt(Σ (x - mean)²), 0 for a constant latent
}

#[derive(Debug, Clone)]
pub(super) enum Cross {
    Dense(Vec<f64>),              // [d_a, d_b]
    Sparse(Vec<Vec<(u32, f64)>>), // [d_a], ascending by latent of B
}

impl Correlations {
    /// Number of tokens.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Correlation of latent `i` of A and latent `j` of B, in -1..=1.
    ///
    /// # Panics
    /// If `i >= d_a` or `j >= d_b`, like an index into a slice.
    pub fn correlation(&self, i: usize, j: usize) -> f64 {
        let cross = match &self.cross {
            Cross::Dense(sums) => sums[i * self.b.sum.len()..(i + 1) * self.b.sum.len()][j],
            Cross::Sparse(rows) => match rows[i].binary_search_by_key(&j, |e| e.0 as usize) {
                Ok(at) => rows[i][at].1,
                Err(_) => 0.0,
            },
        };
        self.correlation_of_sum(i, j, cross)
    }

    /// False for a latent of A that never fires or is constant.
    ///
    /// # Panics
    /// If `i >= d_a`, like an index into a slice.
    pub fn varies_a(&self, i: usize) -> bool {
        self.a.scale[i] != 0.0
    }

    /// False for a latent of B that never fires or is constant.
    ///
    /// # Panics
    /// If `j >= d_b`, like an index into a slice.
    pub fn varies_b(&self, j: usize) -> bool {
        self.b.scale[j] != 0.0
    }

    /// The bytes that the pair sums take.
    pub fn pair_bytes(&self) -> usize {
        match &self.cross {
            Cross::Dense(sums) => size_of_val(sums.as_slice()),
            Cross::Sparse(rows) => rows.iter().map(|row| size_of_val(row.as_slice())).sum(),
        }
    }

    /// The same correlations with A and B swapped. The pair sums are copied.
    pub fn transpose(&self) -> Correlations {
        let (d_a, d_b) = (self.a.sum.len(), self.b.sum.len());
        let cross = match &self.cross {
            Cross::Dense(sums) if d_a > 0 => {
                let mut swapped = vec![0.0; sums.len()];
                swapped
                    .par_chunks_mut(d_a)
                    .enumerate()
                    .for_each(|(j, row)| {
                        for (i, out) in row.iter_mut().enumerate() {
                            *out = sums[i * d_b + j];
                        }
                    });
                Cross::Dense(swapped)
            }
            Cross::Dense(_) => Cross::Dense(Vec::new()),
            Cross::Sparse(rows) => {
                let mut swapped = vec![Vec::new(); d_b];
                for (i, row) in rows.iter().enumerate() {
                    for &(j, sum) in row {
                        swapped[j as usize].push((i as u32, sum));
                    }
                }
                Cross::Sparse(swapped)
            }
        };
        Correlations {
            tokens: self.tokens,
            a: self.b.clone(),
            b: self.a.clone(),
            cross,
        }
    }

    fn correlation_of_sum(&self, i: usize, j: usize, cross: f64) -> f64 {
        // One product first, so that A and B are interchangeable to the last bit.
        let scale = self.a.scale[i] * self.b.scale[j];
        if scale == 0.0 {
            return 0.0;
        }
        let independent = self.a.sum[i] * self.b.sum[j] / self.tokens as f64;
        ((cross - independent) * scale).clamp(-1.0, 1.0)
    }
}

impl Similarity for Correlations {
    fn d_a(&self) -> usize {
        self.a.sum.len()
    }

    fn d_b(&self) -> usize {
        self.b.sum.len()
    }

    fn similarity(&self, a: usize, b: usize) -> f64 {
        self.correlation(a, b)
    }

    fn fill_rows(&self, first: usize, out: &mut [f64]) {
        let d_b = self.d_b();
        if d_b == 0 {
            return;
        }
        for (row, out) in out.chunks_mut(d_b).enumerate() {
            let i = first + row;
            match &self.cross {
                Cross::Dense(sums) => out.copy_from_slice(&sums[i * d_b..(i + 1) * d_b]),
                Cross::Sparse(rows) => {
                    out.fill(0.0);
                    for &(j, sum) in &rows[i] {
                        out[j as usize] = sum;
                    }
                }
            }
            for (j, value) in out.iter_mut().enumerate() {
                *value = self.correlation_of_sum(i, j, *value);
            }
        }
    }
}
