//! Products of a matrix of samples with a vector, dense where that is faster.

use crate::probing::rows::Rows;

/// Samples by rows, in the form in which products are fast.
pub(crate) enum Matrix<'a> {
    /// Every entry.
    Dense { values: Vec<f64>, columns: usize },
    /// Entries that are not 0.
    Sparse(&'a Rows),
}

/// Partial sums of a product, as many as fit a wide register.
const LANES: usize = 8;

impl<'a> Matrix<'a> {
    pub(crate) fn new(rows: &'a Rows) -> Self {
        let columns = rows.columns();
        let entries: usize = (0..rows.len()).map(|i| rows.row(i).len()).sum();
        if entries * 4 < rows.len() * columns {
            return Self::Sparse(rows);
        }
        let mut values = vec![0.0; rows.len() * columns];
        for (i, row) in values.chunks_exact_mut(columns.max(1)).enumerate() {
            for (j, v) in rows.row(i) {
                row[*j as usize] = f64::from(*v);
            }
        }
        Self::Dense { values, columns }
    }

    /// X w.
    pub(crate) fn times(&self, w: &[f64]) -> Vec<f64> {
        match self {
            Self::Dense { values, columns } => values
                .chunks_exact(*columns)
                .map(|row| dot(row, w))
                .collect(),
            Self::Sparse(rows) => (0..rows.len()).map(|i| rows.dot(i, w)).collect(),
        }
    }

    /// Xᵀ g.
    pub(crate) fn transposed_times(&self, g: &[f64]) -> Vec<f64> {
        match self {
            Self::Dense { values, columns } => {
                let mut sum = vec![0.0; *columns];
                for (row, g) in values.chunks_exact(*columns).zip(g) {
                    sum.iter_mut().zip(row).for_each(|(s, v)| *s += g * v);
                }
                sum
            }
            Self::Sparse(rows) => {
                let mut sum = vec![0.0; rows.columns()];
                for (i, g) in g.iter().enumerate() {
                    for (j, v) in rows.row(i) {
                        sum[*j as usize] += g * f64::from(*v);
                    }
                }
                sum
            }
        }
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut lanes = [0.0; LANES];
    let (a, b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f64 = a
        .remainder()
        .iter()
        .zip(b.remainder())
        .map(|(a, b)| a * b)
        .sum();
    for (a, b) in a.zip(b) {
        for i in 0..LANES {
            lanes[i] += a[i] * b[i];
        }
    }
    lanes.iter().sum::<f64>() + rest
}
