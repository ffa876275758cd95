//! Sparse codes of many tokens as two flat arrays with `k` entries per token.

use crate::FeaturesError;
use crate::measures::unfit;

/// Sparse codes, `k` entries per row.
///
/// An entry is active if its index is at least 0 and its value is greater than 0. Only
/// [`SparseRows::new`] makes one, so that lengths, indices and values have been checked.
#[derive(Debug, Clone, Copy)]
pub struct SparseRows<'a> {
    /// Activations.
    pub values: &'a [f32], // [rows, k]
    /// Latents; -1 marks an unused entry.
    pub indices: &'a [i32], // [rows, k]
    /// Entries per row.
    pub k: usize,
    d_sae: usize,
}

impl<'a> SparseRows<'a> {
    /// Checks the arrays of a dictionary with `d_sae` latents.
    ///
    /// # Errors
    /// If the arrays are not whole rows of equal length, an index is neither -1 nor a latent, a
    /// value is not finite, or a latent is active twice in one row.
    pub fn new(
        values: &'a [f32],
        indices: &'a [i32],
        k: usize,
        d_sae: usize,
    ) -> Result<Self, FeaturesError> {
        if k == 0 || values.len() != indices.len() || !values.len().is_multiple_of(k) {
            return Err(unfit(
                "values",
                format!(
                    "{} values, {} indices, k = {k}",
                    values.len(),
                    indices.len()
                ),
                "two arrays of equal length in whole rows of k > 0",
            ));
        }
        if d_sae == 0 || i32::try_from(d_sae).is_err() {
            return Err(unfit("d_sae", d_sae, "between 1 and 2147483647 latents"));
        }
        let rows = SparseRows {
            values,
            indices,
            k,
            d_sae,
        };
        // The last row in which a latent was active, counted from 1.
        let mut seen = vec![0usize; d_sae];
        for row in 0..rows.len() {
            let entries = row * k..(row + 1) * k;
            for (&value, &index) in values[entries.clone()].iter().zip(&indices[entries]) {
                if !value.is_finite() {
                    return Err(unfit(
                        "values",
                        format!("{value} in row {row}"),
                        "finite values",
                    ));
                }
                if index < -1 || index >= d_sae as i32 {
                    return Err(unfit(
                        "indices",
                        format!("{index} in row {row}"),
                        format!("-1 or a latent below {d_sae}"),
                    ));
                }
            }
            for (latent, _) in rows.active(row) {
                if std::mem::replace(&mut seen[latent], row + 1) == row + 1 {
                    return Err(unfit(
                        "indices",
                        format!("latent {latent} twice in row {row}"),
                        "each active latent once per row",
                    ));
                }
            }
        }
        Ok(rows)
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.values.len() / self.k
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Number of latents of the dictionary.
    pub fn d_sae(&self) -> usize {
        self.d_sae
    }

    /// The active entries of a row as (latent, value), in stored order; none beyond the last row.
    pub fn active(&self, row: usize) -> impl Iterator<Item = (usize, f32)> + use<'a> {
        let end = row.saturating_add(1).saturating_mul(self.k);
        let entries = end.saturating_sub(self.k)..end;
        let indices = self.indices.get(entries.clone()).unwrap_or_default();
        let values = self.values.get(entries).unwrap_or_default();
        indices
            .iter()
            .zip(values)
            .filter(|&(&index, &value)| index >= 0 && value > 0.0)
            .map(|(&index, &value)| (index as usize, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unused_and_nonpositive_entries_are_not_active() {
        let values = [1.0, 0.0, -2.0, 3.0, 4.0, 9.0];
        let indices = [5, 5, 1, 0, 2, -1];
        let rows = SparseRows::new(&values, &indices, 3, 6).unwrap();
        assert_eq!(rows.len(), 2);
        assert_eq!(rows.active(0).collect::<Vec<_>>(), [(5, 1.0)]);
        assert_eq!(rows.active(1).collect::<Vec<_>>(), [(0, 3.0), (2, 4.0)]);
        assert_eq!(rows.active(2).count(), 0);
        assert_eq!(rows.active(usize::MAX).count(), 0);
    }

    #[test]
    fn codes_that_do_not_fit_are_refused() {
        assert!(SparseRows::new(&[1.0; 3], &[0, 1, 2], 2, 6).is_err());
        assert!(SparseRows::new(&[1.0; 2], &[0, 1, 2], 1, 6).is_err());
        assert!(SparseRows::new(&[], &[], 0, 6).is_err());
        assert!(SparseRows::new(&[1.0; 2], &[0, 6], 2, 6).is_err());
        assert!(SparseRows::new(&[1.0; 2], &[0, -2], 2, 6).is_err());
        assert!(SparseRows::new(&[1.0, f32::NAN], &[0, 1], 2, 6).is_err());
        let twice = SparseRows::new(&[1.0; 2], &[3, 3], 2, 6).unwrap_err();
        assert_eq!(
            twice.to_string(),
            "indices: found latent 3 twice in row 0, expected each active latent once per row"
        );
        // The same latent in two rows is no repetition.
        assert!(SparseRows::new(&[1.0; 2], &[3, 3], 1, 6).is_ok());
    }
}
