//! Latents whose decoder rows point the same way as that of a latent.

use rayon::prelude::*;

use crate::FeaturesError;

/// The decoder of a dictionary, ready for the cosines of one row with all.
#[derive(Debug)]
pub struct SimilarLatents {
    d: usize,
    decoder: Vec<f32>,      // [d_sae, d]
    inverse_norm: Vec<f32>, // [d_sae], 0 for a row of zeros
}

impl SimilarLatents {
    /// Takes the decoder `[d_sae, d]` in row-major order.
    ///
    /// # Errors
    /// If `d` is 0, or the length is not a multiple of it.
    pub fn new(decoder: Vec<f32>, d: usize) -> Result<Self, FeaturesError> {
        if d == 0 || !decoder.len().is_multiple_of(d) {
            return Err(FeaturesError::Input {
                field: "decoder",
                found: format!("{} weights", decoder.len()),
                expected: format!("a multiple of d = {d}, which is at least 1"),
            });
        }
        let inverse_norm = |row: &[f32]| match dot(row, row).sqrt() {
            norm if norm > 0.0 && norm.is_finite() => 1.0 / norm,
            _ => 0.0,
        };
        Ok(Self {
            d,
            inverse_norm: decoder.par_chunks(d).map(inverse_norm).collect(),
            decoder,
        })
    }

    /// The `n` latents with the highest cosines with a latent, as (latent, cosine), highest first.
    /// Nothing if the dictionary has no such latent.
    pub fn top(&self, latent: u32, n: usize) -> Vec<(u32, f32)> {
        let at = latent as usize;
        let Some(norm) = self.inverse_norm.get(at) else {
            return vec![];
        };
        let row = &self.decoder[at * self.d..(at + 1) * self.d];
        let others = self.decoder.par_chunks(self.d).zip(&self.inverse_norm);
        let mut cosines: Vec<(u32, f32)> = others
            .enumerate()
            .filter(|(other, _)| *other != at)
            .map(|(other, (values, inverse))| (other as u32, dot(row, values) * norm * inverse))
            .collect();
        let higher = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        let n = n.min(cosines.len());
        if n > 0 {
            cosines.select_nth_unstable_by(n - 1, higher);
        }
        cosines.truncate(n);
        cosines.sort_by(higher);
        cosines
    }
}

/// A dot product in eight sums, which the compiler makes vectors of.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a, a_rest) = a.as_chunks::<8>();
    let (b, b_rest) = b.as_chunks::<8>();
    let mut sums = [0.0; 8];
    for (a, b) in a.iter().zip(b) {
        for ((sum, x), y) in sums.iter_mut().zip(a).zip(b) {
            *sum += x * y;
        }
    }
    let rest = a_rest.iter().zip(b_rest).map(|(x, y)| x * y);
    sums.iter().sum::<f32>() + rest.sum::<f32>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comparison::DecoderCosines;

    #[test]
    fn the_nearest_latents_are_those_with_the_highest_cosines() {
        let d = 11;
        let decoder: Vec<f32> = (0..40 * d)
            .map(|i| ((i * 7919 % 101) as f32 - 50.0) / 17.0)
            .collect();
        let cosines = DecoderCosines::new(&decoder, &decoder, d).unwrap();
        let similar = SimilarLatents::new(decoder.clone(), d).unwrap();
        for latent in [0, 17, 39] {
            let mut expected: Vec<f64> = (0..40)
                .filter(|other| *other != latent)
                .map(|other| cosines.cosine(latent, other))
                .collect();
            expected.sort_by(|a, b| b.total_cmp(a));
            let found = similar.top(latent as u32, 6);
            assert_eq!(found.len(), 6);
            for ((other, cosine), expected) in found.iter().zip(expected) {
                assert_ne!(*other as usize, latent);
                assert!((f64::from(*cosine) - expected).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn zeros_and_unknown_latents_are_similar_to_nothing() {
        let similar = SimilarLatents::new(vec![0.0, 0.0, 3.0, 4.0], 2).unwrap();
        assert_eq!(similar.top(1, 5), [(0, 0.0)]);
        assert_eq!(similar.top(2, 5), []);
        assert!(SimilarLatents::new(vec![1.0; 3], 2).is_err());
        assert!(SimilarLatents::new(vec![1.0; 3], 0).is_err());
    }
}
