//! What correlations and cosines have in common: a similarity for every pair of a latent of A and a
//! latent of B, computed a few rows at a time.

use rayon::prelude::*;

use crate::FeaturesError;

/// Rows that are computed together. A thread holds `ROWS * d_b` numbers.
const ROWS: usize = 64;

/// A latent of B and how similar it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Neighbour {
    /// The latent of B.
    pub latent: u32,
    /// Its similarity.
    pub similarity: f64,
}

/// Similarities of all pairs of latents, each in -1..=1.
pub trait Similarity: Sync {
    /// Number of latents of A.
    fn d_a(&self) -> usize;

    /// Number of latents of B.
    fn d_b(&self) -> usize;

    /// The similarity of latent `a` of A and latent `b` of B.
    ///
    /// # Panics
    /// If `a >= d_a` or `b >= d_b`, like an index into a slice.
    fn similarity(&self, a: usize, b: usize) -> f64;

    /// Writes the rows of the latents of A from `first` on into `out`, which is `[rows, d_b]`.
    /// The numbers are the same bits as those of [`similarity`](Similarity::similarity).
    ///
    /// # Panics
    /// If there are fewer than `first + rows` latents of A.
    fn fill_rows(&self, first: usize, out: &mut [f64]);

    /// The `t` most similar latents of B for each latent of A, most similar first; ties: the lower
    /// latent first. Each thread holds 64 rows at a time, never the whole matrix.
    fn top(&self, t: usize) -> Vec<Vec<Neighbour>> {
        map_rows(self, |_, row| {
            strongest(row.iter().copied().enumerate(), t, |value| value)
        })
    }

    /// The whole matrix, `8 * d_a * d_b` bytes.
    fn to_matrix(&self) -> SimilarityMatrix {
        let (d_a, d_b) = (self.d_a(), self.d_b());
        let mut values = vec![0.0; d_a * d_b];
        if d_b > 0 {
            values
                .par_chunks_mut(ROWS * d_b)
                .enumerate()
                .for_each(|(block, rows)| self.fill_rows(block * ROWS, rows));
        }
        SimilarityMatrix { d_a, d_b, values }
    }
}

/// A whole matrix of similarities in memory.
#[derive(Debug, Clone, PartialEq)]
pub struct SimilarityMatrix {
    d_a: usize,
    d_b: usize,
    values: Vec<f64>, // [d_a, d_b]
}

impl SimilarityMatrix {
    /// Takes `values` `[d_a, d_b]` in row-major order.
    ///
    /// # Errors
    /// If the length is not `d_a * d_b`, or a value is not in -1..=1.
    pub fn new(d_a: usize, d_b: usize, values: Vec<f64>) -> Result<Self, FeaturesError> {
        if d_a.checked_mul(d_b) != Some(values.len()) {
            return Err(FeaturesError::Input {
                field: "values",
                found: format!("{} values", values.len()),
                expected: format!("{d_a} x {d_b}"),
            });
        }
        match values.iter().find(|value| !(-1.0..=1.0).contains(*value)) {
            None => Ok(SimilarityMatrix { d_a, d_b, values }),
            Some(value) => Err(FeaturesError::Input {
                field: "values",
                found: value.to_string(),
                expected: "similarities in -1..=1".to_owned(),
            }),
        }
    }

    /// All similarities in row-major order.
    pub fn values(&self) -> &[f64] {
        &self.values // [d_a, d_b]
    }
}

impl Similarity for SimilarityMatrix {
    fn d_a(&self) -> usize {
        self.d_a
    }

    fn d_b(&self) -> usize {
        self.d_b
    }

    fn similarity(&self, a: usize, b: usize) -> f64 {
        self.values[a * self.d_b..(a + 1) * self.d_b][b]
    }

    fn fill_rows(&self, first: usize, out: &mut [f64]) {
        let start = first * self.d_b;
        out.copy_from_slice(&self.values[start..start + out.len()]);
    }
}

/// The same similarities with A and B swapped. Its rows are computed pair by pair, which is slower.
pub(crate) struct Transposed<'a, S: ?Sized>(pub(crate) &'a S);

impl<S: Similarity + ?Sized> Similarity for Transposed<'_, S> {
    fn d_a(&self) -> usize {
        self.0.d_b()
    }

    fn d_b(&self) -> usize {
        self.0.d_a()
    }

    fn similarity(&self, a: usize, b: usize) -> f64 {
        self.0.similarity(b, a)
    }

    fn fill_rows(&self, first: usize, out: &mut [f64]) {
        let d_b = self.d_b();
        if d_b == 0 {
            return;
        }
        for (row, out) in out.chunks_mut(d_b).enumerate() {
            for (b, out) in out.iter_mut().enumerate() {
                *out = self.0.similarity(b, first + row);
            }
        }
    }
}

/// What `f` returns for each latent of A, given its number and its row `[d_b]`.
pub(crate) fn map_rows<S, T>(similarity: &S, f: impl Fn(usize, &[f64]) -> T + Sync) -> Vec<T>
where
    S: Similarity + ?Sized,
    T: Send,
{
    let (d_a, d_b) = (similarity.d_a(), similarity.d_b());
    (0..d_a.div_ceil(ROWS))
        .into_par_iter()
        .flat_map_iter(|block| {
            let first = block * ROWS;
            let rows = ROWS.min(d_a - first);
            let mut values = vec![0.0; rows * d_b];
            similarity.fill_rows(first, &mut values);
            let f = &f;
            (0..rows).map(move |row| f(first + row, &values[row * d_b..(row + 1) * d_b]))
        })
        .collect()
}

/// The `t` entries with the greatest `strength` of their value, greatest first. The entries come in
/// ascending order of latent; ties: the lower latent first.
pub(crate) fn strongest(
    entries: impl Iterator<Item = (usize, f64)>,
    t: usize,
    strength: impl Fn(f64) -> f64,
) -> Vec<Neighbour> {
    let mut kept: Vec<Neighbour> = Vec::new();
    for (latent, similarity) in entries {
        let new = strength(similarity);
        let full = kept.len() == t;
        if full
            && kept
                .last()
                .is_none_or(|last| new <= strength(last.similarity))
        {
            continue;
        }
        if full {
            kept.pop();
        }
        // After all that are at least as strong, because these have lower latents.
        let at = kept.partition_point(|old| strength(old.similarity) >= new);
        kept.insert(
            at,
            Neighbour {
                latent: latent as u32,
                similarity,
            },
        );
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::super::random::Random;
    use super::*;

    #[test]
    fn top_equals_a_stable_sort_of_the_row_with_ties() {
        let (d_a, d_b) = (130, 37); // more rows than two blocks
        let mut random = Random::new(1);
        let values: Vec<f64> = (0..d_a * d_b)
            .map(|_| random.below(9) as f64 / 8.0)
            .collect();
        let matrix = SimilarityMatrix::new(d_a, d_b, values).unwrap();
        for t in [0, 1, 5, 37, 50] {
            let top = matrix.top(t);
            assert_eq!(top.len(), d_a);
            for (a, got) in top.iter().enumerate() {
                let mut want: Vec<usize> = (0..d_b).collect();
                want.sort_by(|&i, &j| matrix.similarity(a, j).total_cmp(&matrix.similarity(a, i)));
                want.truncate(t);
                let got: Vec<usize> = got.iter().map(|n| n.latent as usize).collect();
                assert_eq!(got, want);
            }
        }
    }

    #[test]
    fn a_transposed_matrix_has_columns_for_rows() {
        let matrix = SimilarityMatrix::new(2, 3, vec![0.1, 0.2, 0.3, 0.4, 0.5, 0.6]).unwrap();
        let transposed = Transposed(&matrix).to_matrix();
        assert_eq!(transposed.values(), [0.1, 0.4, 0.2, 0.5, 0.3, 0.6]);
        assert_eq!(transposed.similarity(2, 1), 0.6);
    }

    #[test]
    fn a_matrix_of_the_wrong_size_or_with_impossible_values_is_refused() {
        assert!(SimilarityMatrix::new(2, 2, vec![0.0; 3]).is_err());
        assert!(SimilarityMatrix::new(1, 1, vec![f64::NAN]).is_err());
        assert!(SimilarityMatrix::new(1, 1, vec![1.5]).is_err());
        assert!(SimilarityMatrix::new(usize::MAX, 2, vec![]).is_err());
    }

    #[test]
    fn an_empty_dictionary_has_no_neighbours() {
        let no_b = SimilarityMatrix::new(3, 0, vec![]).unwrap();
        assert_eq!(no_b.top(2), vec![vec![]; 3]);
        assert_eq!(Transposed(&no_b).top(2), Vec::<Vec<Neighbour>>::new());
    }
}
