//! Pearson correlations of all pairs of latents over tokens, from one pass over sparse codes
//! (Li et al. 2015, "Convergent Learning").
//!
//! The pass keeps three sums: per latent Σ x and Σ x², and per pair Σ a b. All are f64. Memory of
//! the pair sums:
//! - dense, 8 bytes per pair of latents, if `8 * d_a * d_b` is within the limit of the caller;
//! - otherwise a hash map per latent of A with the pairs that fire together at least once: 19 to 39
//!   bytes per such pair during the pass and 16 after it. If more than a fifth to two fifths of all
//!   pairs fire together, the pass takes more than the dense matrix.
//!
//! Both add the same numbers in the order of the tokens, so both give the same bits, for any number
//! of threads and any split of the tokens into blocks.

mod result;

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use rayon::prelude::*;

use crate::FeaturesError;
use crate::measures::unfit;

use crate::SparseRows;
use result::{Cross, Standardization};

pub use result::Correlations;

/// A variance below this share of the mean square is rounding.
const RELATIVE_ROUNDING: f64 = 1e-12;

/// The accumulator: give it the codes of every token once, then call
/// [`finish`](CodeCorrelation::finish).
///
/// ```
/// use lapidary_features::{SparseRows, comparison::CodeCorrelation};
///
/// // Latent 0 of A and latent 1 of B fire on the tokens 0 and 2, in proportion.
/// let a = SparseRows::new(&[1.0, 0.0, 2.0], &[0, -1, 0], 1, 2)?;
/// let b = SparseRows::new(&[3.0, 5.0, 6.0], &[1, 0, 1], 1, 2)?;
/// let mut correlation = CodeCorrelation::new(2, 2);
/// correlation.observe(&a, &b)?;
/// let correlations = correlation.finish();
/// assert!((correlations.correlation(0, 1) - 1.0).abs() < 1e-12);
/// assert_eq!(correlations.correlation(1, 1), 0.0); // latent 1 of A never fires
/// # Ok::<(), lapidary_features::FeaturesError>(())
/// ```
#[derive(Debug)]
pub struct CodeCorrelation {
    tokens: u64,
    a: Side,
    b: Side,
    pairs: PairSums,
    dense_limit: usize,
    flush_at: usize,
    pending_a: Vec<(u32, u32, f32)>, // (latent, slot, activation)
    pending_b: Vec<(u32, f32)>,      // (latent, activation), by slot
    starts_b: Vec<usize>,            // [slots + 1], where the codes of a slot start
}

#[derive(Debug)]
struct Side {
    moments: Vec<Moments>, // [d]
}

#[derive(Debug, Clone, Copy, Default)]
struct Moments {
    count: u64,
    sum: f64,
    sum_squares: f64,
    low: f32,
    high: f32,
}

#[derive(Debug)]
enum PairSums {
    Unallocated,
    Dense(Vec<f64>),                                               // [d_a, d_b]
    Hashed(Vec<HashMap<u32, f64, BuildHasherDefault<IndexHash>>>), // [d_a]
}

/// A fast hash of one latent: its bits are spread by a multiplication.
#[derive(Debug, Default)]
struct IndexHash(u64);

impl Hasher for IndexHash {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u32(u32::from(byte));
        }
    }

    fn write_u32(&mut self, latent: u32) {
        let spread = (self.0 ^ u64::from(latent)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = spread ^ (spread >> 32);
    }
}

impl CodeCorrelation {
    /// An accumulator for `d_a` latents of A and `d_b` latents of B that has seen nothing. The
    /// dense matrix may take 4 GiB.
    pub fn new(d_a: usize, d_b: usize) -> Self {
        CodeCorrelation {
            tokens: 0,
            a: Side::new(d_a),
            b: Side::new(d_b),
            pairs: PairSums::Unallocated,
            dense_limit: 4 << 30,
            flush_at: 1 << 20,
            pending_a: Vec::new(),
            pending_b: Vec::new(),
            starts_b: vec![0],
        }
    }

    /// Sets the most bytes that the dense matrix may take. It has no effect once sums exist.
    #[must_use]
    pub fn with_dense_limit(mut self, bytes: usize) -> Self {
        self.dense_limit = bytes;
        self
    }

    /// Number of tokens so far.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Adds some tokens. Row `n` of `a` and row `n` of `b` are the same token.
    ///
    /// # Errors
    /// If the two have different numbers of rows, or latents of another dictionary; the block then
    /// counts for nothing.
    pub fn observe(&mut self, a: &SparseRows<'_>, b: &SparseRows<'_>) -> Result<(), FeaturesError> {
        let rows = a.len();
        if rows != b.len() {
            return Err(unfit(
                "b",
                format!("{} rows", b.len()),
                format!("{rows} rows, as in a"),
            ));
        }
        for (field, side, codes) in [("a", &self.a, a), ("b", &self.b, b)] {
            let d = side.moments.len();
            if codes.d_sae() != d {
                return Err(unfit(
                    field,
                    format!("{} latents", codes.d_sae()),
                    d.to_string(),
                ));
            }
        }
        self.tokens += rows as u64;
        for row in 0..rows {
            let slot = (self.starts_b.len() - 1) as u32;
            for (latent, value) in a.active(row) {
                self.a.moments[latent].add(value);
                self.pending_a.push((latent as u32, slot, value));
            }
            for (latent, value) in b.active(row) {
                self.b.moments[latent].add(value);
                self.pending_b.push((latent as u32, value));
            }
            self.starts_b.push(self.pending_b.len());
            let waiting = self.pending_a.len().max(self.pending_b.len());
            if waiting.max(self.starts_b.len()) >= self.flush_at {
                self.flush();
            }
        }
        Ok(())
    }

    /// The correlations of all tokens observed.
    pub fn finish(mut self) -> Correlations {
        self.flush();
        let cross = match self.pairs {
            PairSums::Unallocated => Cross::Sparse(vec![Vec::new(); self.a.moments.len()]),
            PairSums::Dense(sums) => Cross::Dense(sums),
            PairSums::Hashed(maps) => Cross::Sparse(
                maps.into_par_iter()
                    .map(|map| {
                        let mut sums: Vec<(u32, f64)> = map.into_iter().collect();
                        sums.sort_unstable_by_key(|&(latent, _)| latent);
                        sums
                    })
                    .collect(),
            ),
        };
        Correlations {
            tokens: self.tokens,
            a: self.a.standardize(self.tokens),
            b: self.b.standardize(self.tokens),
            cross,
        }
    }

    /// Adds the products of the pending codes, all latents of A at once.
    fn flush(&mut self) {
        let (d_a, d_b) = (self.a.moments.len(), self.b.moments.len());
        if let PairSums::Unallocated = self.pairs {
            let bytes = d_a.checked_mul(d_b).and_then(|pairs| pairs.checked_mul(8));
            self.pairs = match bytes {
                Some(bytes) if bytes <= self.dense_limit => PairSums::Dense(vec![0.0; bytes / 8]),
                _ => PairSums::Hashed(vec![HashMap::default(); d_a]),
            };
        }

        // A counting sort by latent keeps the order of the tokens within each.
        let mut starts = vec![0usize; d_a + 1];
        for &(latent, _, _) in &self.pending_a {
            starts[latent as usize + 1] += 1;
        }
        for latent in 0..d_a {
            starts[latent + 1] += starts[latent];
        }
        let mut next = starts.clone();
        let mut grouped = vec![(0u32, 0f32); self.pending_a.len()];
        for &(latent, slot, value) in &self.pending_a {
            let at = &mut next[latent as usize];
            grouped[*at] = (slot, value);
            *at += 1;
        }

        let codes_of = |latent: usize| &grouped[starts[latent]..starts[latent + 1]];
        let codes_b = |slot: u32| {
            let slot = slot as usize;
            &self.pending_b[self.starts_b[slot]..self.starts_b[slot + 1]]
        };
        match &mut self.pairs {
            PairSums::Unallocated => {}
            PairSums::Dense(sums) if d_b > 0 => {
                sums.par_chunks_mut(d_b)
                    .enumerate()
                    .for_each(|(latent, row)| {
                        for &(slot, value_a) in codes_of(latent) {
                            for &(latent_b, value_b) in codes_b(slot) {
                                row[latent_b as usize] += f64::from(value_a) * f64::from(value_b);
                            }
                        }
                    });
            }
            PairSums::Dense(_) => {}
            PairSums::Hashed(maps) => {
                maps.par_iter_mut().enumerate().for_each(|(latent, map)| {
                    for &(slot, value_a) in codes_of(latent) {
                        for &(latent_b, value_b) in codes_b(slot) {
                            *map.entry(latent_b).or_insert(0.0) +=
                                f64::from(value_a) * f64::from(value_b);
                        }
                    }
                });
            }
        }
        self.pending_a.clear();
        self.pending_b.clear();
        self.starts_b.truncate(1);
    }
}

impl Side {
    fn new(d: usize) -> Self {
        Side {
            moments: vec![Moments::default(); d],
        }
    }

    fn standardize(&self, tokens: u64) -> Standardization {
        Standardization {
            sum: self.moments.iter().map(|moments| moments.sum).collect(),
            scale: self.moments.iter().map(|m| m.scale(tokens)).collect(),
        }
    }
}

impl Moments {
    fn add(&mut self, value: f32) {
        if self.count == 0 {
            (self.low, self.high) = (value, value);
        }
        self.count += 1;
        self.sum += f64::from(value);
        self.sum_squares += f64::from(value) * f64::from(value);
        self.low = self.low.min(value);
        self.high = self.high.max(value);
    }

    /// 1 / sqrt(Σ (x - mean)²); 0 for a latent that never fires or is constant.
    fn scale(&self, tokens: u64) -> f64 {
        let constant = self.count == tokens && self.low == self.high;
        if self.count == 0 || constant {
            return 0.0;
        }
        let centred = self.sum_squares - self.sum * self.sum / tokens as f64;
        if centred <= RELATIVE_ROUNDING * self.sum_squares {
            return 0.0;
        }
        1.0 / centred.sqrt()
    }
}

#[cfg(test)]
pub(crate) mod tests;
