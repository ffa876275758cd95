//! Binary codes: which latents are active in each sample, without their activations.

use super::unfit;
use crate::{FeaturesError, SparseRows};

/// The active latents of many samples, as compressed sparse rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SupportCodes {
    offsets: Vec<usize>, // [samples + 1]
    indices: Vec<u32>,   // ascending within a sample
    d_sae: usize,
}

impl SupportCodes {
    /// Checks compressed sparse rows: sample i has the latents
    /// `indices[offsets[i]..offsets[i + 1]]`, ascending.
    ///
    /// # Errors
    /// If the offsets do not run from 0 to the number of indices without falling, or a sample's
    /// latents do not ascend or are not below `d_sae`.
    pub fn new(
        offsets: Vec<usize>,
        indices: Vec<u32>,
        d_sae: usize,
    ) -> Result<Self, FeaturesError> {
        if offsets.first() != Some(&0)
            || offsets.last() != Some(&indices.len())
            || !offsets.is_sorted()
        {
            return Err(unfit(
                "offsets",
                format!("{} offsets for {} indices", offsets.len(), indices.len()),
                "ascending offsets from 0 to the number of indices",
            ));
        }
        let codes = SupportCodes {
            offsets,
            indices,
            d_sae,
        };
        for sample in 0..codes.len() {
            let code = codes.code(sample);
            if !code.is_sorted_by(|a, b| a < b) || code.last().is_some_and(|&l| l as usize >= d_sae)
            {
                return Err(unfit(
                    "indices",
                    format!("{code:?} in sample {sample}"),
                    format!("ascending latents below {d_sae}"),
                ));
            }
        }
        Ok(codes)
    }

    /// The supports of sparse rows.
    pub fn from_rows(rows: &SparseRows<'_>) -> Self {
        let mut offsets = vec![0];
        let mut indices = Vec::new();
        for row in 0..rows.len() {
            let start = indices.len();
            indices.extend(rows.active(row).map(|(latent, _)| latent as u32));
            indices[start..].sort_unstable();
            offsets.push(indices.len());
        }
        SupportCodes {
            offsets,
            indices,
            d_sae: rows.d_sae(),
        }
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of latents of the dictionary.
    pub fn d_sae(&self) -> usize {
        self.d_sae
    }

    /// The active latents of a sample, ascending; none beyond the last sample.
    pub fn code(&self, sample: usize) -> &[u32] {
        match self.offsets.get(sample..).unwrap_or_default() {
            [start, end, ..] => &self.indices[*start..*end],
            _ => &[],
        }
    }

    /// The samples in which each latent is active, as offsets `[d_sae + 1]` and samples.
    pub(super) fn by_latent(&self) -> (Vec<usize>, Vec<u32>) {
        let mut offsets = vec![0; self.d_sae + 1];
        for &latent in &self.indices {
            offsets[latent as usize + 1] += 1;
        }
        for latent in 0..self.d_sae {
            offsets[latent + 1] += offsets[latent];
        }
        let mut next = offsets.clone();
        let mut samples = vec![0; self.indices.len()];
        for sample in 0..self.len() {
            for &latent in self.code(sample) {
                samples[next[latent as usize]] = sample as u32;
                next[latent as usize] += 1;
            }
        }
        (offsets, samples)
    }
}

/// Number of elements that two ascending lists share.
pub(super) fn shared_count(a: &[u32], b: &[u32]) -> usize {
    let (mut i, mut j, mut shared) = (0, 0, 0);
    while i < a.len() && j < b.len() {
        shared += usize::from(a[i] == b[j]);
        let (step_a, step_b) = (a[i] <= b[j], b[j] <= a[i]);
        i += usize::from(step_a);
        j += usize::from(step_b);
    }
    shared
}

/// Jaccard similarity of two sets of given sizes; 1 for two empty sets.
pub(super) fn jaccard(shared: usize, a: usize, b: usize) -> f64 {
    let union = a + b - shared;
    if union == 0 {
        1.0
    } else {
        shared as f64 / union as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn supports_are_sorted_and_leave_out_inactive_entries() {
        let rows = SparseRows::new(&[1.0, 2.0, 0.0, 4.0], &[5, 2, 1, 0], 2, 6).unwrap();
        let codes = SupportCodes::from_rows(&rows);
        assert_eq!(
            codes,
            SupportCodes::new(vec![0, 2, 3], vec![2, 5, 0], 6).unwrap()
        );
        assert_eq!((codes.code(0), codes.code(1)), (&[2, 5][..], &[0][..]));
        assert!(codes.code(2).is_empty() && codes.code(usize::MAX).is_empty());
        let (offsets, samples) = codes.by_latent();
        assert_eq!(offsets, [0, 1, 1, 2, 2, 2, 3]);
        assert_eq!(samples, [1, 0, 0]);
    }

    #[test]
    fn rows_that_do_not_fit_are_refused() {
        for (offsets, indices) in [
            (vec![], vec![]),
            (vec![1, 2], vec![0, 1]),
            (vec![0, 1], vec![0, 1]),
            (vec![0, 2, 1, 2], vec![0, 1]),
            (vec![0, 2], vec![1, 1]),
            (vec![0, 2], vec![1, 0]),
            (vec![0, 1], vec![6]),
        ] {
            assert!(SupportCodes::new(offsets, indices, 6).is_err());
        }
    }

    #[test]
    fn similarity_of_sets_matches_a_count_by_hand() {
        assert_eq!(shared_count(&[1, 3, 5, 9], &[0, 3, 4, 5, 10]), 2);
        assert_eq!(jaccard(2, 4, 5), 2.0 / 7.0);
        assert_eq!(jaccard(0, 0, 0), 1.0);
        assert_eq!(jaccard(0, 0, 3), 0.0);
    }
}
