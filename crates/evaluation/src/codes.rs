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
        let values: Vec<f32> = codes.values.into_data().iter::<f32>().collect();
        let indices = codes.indices.into_data();
        let indices = indices
            .iter::<i32>()
            .zip(&values)
            .map(|(i, v)| if *v != 0.0 { i } else { -1 })
            .collect();
        Self { values, indices, k }
    }
}
/// Running sums over codes.
#[derive(Clone, Debug)]
pub struct CodeSums {
    tokens: u64,
    active: u64,
    total: f64,
    fired: Vec<bool>,
}

impl CodeSums {
    /// For a dictionary of `d_sae` latents.
    #[must_use]
    pub fn new(d_sae: usize) -> Self {
        Self {
            tokens: 0,
            active: 0,
            total: 0.0,
            fired: vec![false; d_sae],
        }
    }

    /// Takes in codes `[n, k]` row by row, of which the rows with `counts` count.
    pub fn observe(&mut self, values: &[f32], indices: &[i32], k: usize, counts: &[bool]) {
        let rows = values.chunks_exact(k).zip(indices.chunks_exact(k));
        for ((values, indices), _) in rows.zip(counts).filter(|(_, c)| **c) {
            self.tokens += 1;
            for (value, index) in values.iter().zip(indices) {
                if *value != 0.0 {
                    self.active += 1;
                    self.total += f64::from(*value);
                    if let Some(f) = usize::try_from(*index)
                        .ok()
                        .and_then(|i| self.fired.get_mut(i))
                    {
                        *f = true;
                    }
                }
            }
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

    /// Share of latents that fired.
    #[must_use]
    pub fn frac_alive(&self) -> f64 {
        self.fired.iter().filter(|f| **f).count() as f64 / self.fired.len() as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_figures_count_positive_values_of_counted_tokens() {
        let mut sums = CodeSums::new(4);
        sums.observe(
            &[2.0, 1.0, 5.0, 5.0, 3.0, 0.0],
            &[0, 1, 3, 3, 1, 2],
            2,
            &[true, false, true],
        );
        assert_eq!(sums.l0(), 1.5);
        assert_eq!(sums.l1(), 3.0);
        assert_eq!(sums.frac_alive(), 0.5);
    }
}
