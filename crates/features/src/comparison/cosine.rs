//! Cosines of all pairs of decoder rows of two dictionaries, a block at a time.

use crate::FeaturesError;

use super::similarity::Similarity;

/// Columns that are computed together. A thread holds `COLUMNS * d` numbers for them.
const COLUMNS: usize = 8;

/// Cosines between the decoder rows of A and of B. Nothing is computed before it is asked for.
///
/// Products and sums are f64. A row of zeros has cosine 0 with all.
#[derive(Debug, Clone)]
pub struct DecoderCosines<'a> {
    d: usize,
    a: Rows<'a>,
    b: Rows<'a>,
}

#[derive(Debug, Clone)]
struct Rows<'a> {
    values: &'a [f32],      // [rows, d]
    inverse_norm: Vec<f64>, // [rows], 0 for a row of zeros
}

impl<'a> DecoderCosines<'a> {
    /// Takes the decoders `a` `[d_a, d]` and `b` `[d_b, d]` in row-major order.
    ///
    /// # Errors
    /// If `d` is 0, a length is not a multiple of `d`, or a weight is not finite.
    pub fn new(a: &'a [f32], b: &'a [f32], d: usize) -> Result<Self, FeaturesError> {
        if d == 0 {
            return Err(FeaturesError::Input {
                field: "d",
                found: "0".to_owned(),
                expected: "at least 1".to_owned(),
            });
        }
        Ok(DecoderCosines {
            d,
            a: Rows::new("a", a, d)?,
            b: Rows::new("b", b, d)?,
        })
    }

    /// Cosine of row `i` of A and row `j` of B, in -1..=1.
    ///
    /// # Panics
    /// If `i >= d_a` or `j >= d_b`, like an index into a slice.
    pub fn cosine(&self, i: usize, j: usize) -> f64 {
        let (a, b) = (self.a.row(i, self.d), self.b.row(j, self.d));
        let mut dot = 0.0;
        for (&x, &y) in a.iter().zip(b) {
            dot += f64::from(x) * f64::from(y);
        }
        self.cosine_of_dot(i, j, dot)
    }

    fn cosine_of_dot(&self, i: usize, j: usize, dot: f64) -> f64 {
        (dot * (self.a.inverse_norm[i] * self.b.inverse_norm[j])).clamp(-1.0, 1.0)
    }
}

impl<'a> Rows<'a> {
    fn new(field: &'static str, values: &'a [f32], d: usize) -> Result<Self, FeaturesError> {
        if !values.len().is_multiple_of(d) {
            return Err(FeaturesError::Input {
                field,
                found: format!("{} weights", values.len()),
                expected: format!("a multiple of d = {d}"),
            });
        }
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            return Err(FeaturesError::Input {
                field,
                found: format!("{} in row {}", values[at], at / d),
                expected: "finite weights".to_owned(),
            });
        }
        let inverse_norm = |row: &[f32]| {
            let squares: f64 = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
            if squares == 0.0 {
                0.0
            } else {
                1.0 / squares.sqrt()
            }
        };
        Ok(Rows {
            values,
            inverse_norm: values.chunks(d).map(inverse_norm).collect(),
        })
    }

    fn row(&self, row: usize, d: usize) -> &'a [f32] {
        &self.values[row * d..(row + 1) * d]
    }
}

impl Similarity for DecoderCosines<'_> {
    fn d_a(&self) -> usize {
        self.a.inverse_norm.len()
    }

    fn d_b(&self) -> usize {
        self.b.inverse_norm.len()
    }

    fn similarity(&self, a: usize, b: usize) -> f64 {
        self.cosine(a, b)
    }

    fn fill_rows(&self, first: usize, out: &mut [f64]) {
        let d_b = self.d_b();
        if d_b == 0 {
            return;
        }
        let rows = out.len() / d_b;
        let mut panel = vec![[0.0; COLUMNS]; self.d]; // columns of B side by side
        for start in (0..d_b).step_by(COLUMNS) {
            let columns = COLUMNS.min(d_b - start);
            for column in 0..columns {
                for (slot, &value) in panel.iter_mut().zip(self.b.row(start + column, self.d)) {
                    slot[column] = f64::from(value);
                }
            }
            let mut store = |row: usize, dots: &[f64; COLUMNS]| {
                for (column, &dot) in dots.iter().enumerate().take(columns) {
                    let j = start + column;
                    out[row * d_b + j] = self.cosine_of_dot(first + row, j, dot);
                }
            };
            // Two rows at a time: each column of B that is loaded is used twice.
            for row in (0..rows - rows % 2).step_by(2) {
                let pair = [0, 1].map(|next| self.a.row(first + row + next, self.d));
                let [upper, lower] = dots(pair, &panel);
                store(row, &upper);
                store(row + 1, &lower);
            }
            if rows % 2 == 1 {
                let [last] = dots([self.a.row(first + rows - 1, self.d)], &panel);
                store(rows - 1, &last);
            }
        }
    }
}

/// Dot products of `R` rows with the columns of a panel. Each has one sum, in the order of the
/// dimensions, as in [`DecoderCosines::cosine`].
fn dots<const R: usize>(rows: [&[f32]; R], panel: &[[f64; COLUMNS]]) -> [[f64; COLUMNS]; R] {
    let mut sums = [[0.0; COLUMNS]; R];
    for (at, columns) in panel.iter().enumerate() {
        for (sums, row) in sums.iter_mut().zip(rows) {
            let x = f64::from(row[at]);
            for (sum, &y) in sums.iter_mut().zip(columns) {
                *sum += x * y;
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::super::random::Random;
    use super::*;

    fn decoder(rows: usize, d: usize, seed: u64) -> Vec<f32> {
        let mut random = Random::new(seed);
        (0..rows * d).map(|_| random.normal() as f32).collect()
    }

    /// Normalizes first and multiplies then, unlike the code under test.
    fn plain(a: &[f32], b: &[f32]) -> f64 {
        let unit = |v: &[f32]| {
            let norm = v.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
            v.iter().map(|&x| f64::from(x) / norm).collect::<Vec<f64>>()
        };
        unit(a).iter().zip(unit(b)).map(|(x, y)| x * y).sum()
    }

    #[test]
    fn cosines_equal_the_definition_for_sizes_that_do_not_fill_a_block() {
        for (d_a, d_b, d) in [(1, 1, 1), (67, 21, 13), (130, 8, 5), (2, 9, 32)] {
            let (a, b) = (decoder(d_a, d, 1), decoder(d_b, d, 2));
            let cosines = DecoderCosines::new(&a, &b, d).unwrap();
            let matrix = cosines.to_matrix();
            for i in 0..d_a {
                for j in 0..d_b {
                    let want = plain(&a[i * d..(i + 1) * d], &b[j * d..(j + 1) * d]);
                    assert!((matrix.similarity(i, j) - want).abs() < 1e-14);
                    assert_eq!(matrix.similarity(i, j), cosines.cosine(i, j));
                }
            }
            assert_eq!(cosines.top(3), matrix.top(3));
        }
    }

    #[test]
    fn scale_does_not_matter_and_the_opposite_direction_has_cosine_minus_1() {
        let cosines = DecoderCosines::new(&[3.0, 4.0], &[30.0, 40.0, -0.3, -0.4], 2).unwrap();
        assert!((cosines.cosine(0, 0) - 1.0).abs() < 1e-7);
        assert!((cosines.cosine(0, 1) + 1.0).abs() < 1e-7);
    }

    #[test]
    fn a_row_of_zeros_has_cosine_0_with_all() {
        let cosines = DecoderCosines::new(&[0.0, 0.0, 1.0, 0.0], &[1.0, 0.0], 2).unwrap();
        assert_eq!(cosines.to_matrix().values(), [0.0, 1.0]);
    }

    #[test]
    fn wrong_decoders_are_refused() {
        assert!(DecoderCosines::new(&[1.0; 4], &[1.0; 3], 2).is_err());
        assert!(DecoderCosines::new(&[1.0; 4], &[1.0; 4], 0).is_err());
        assert!(DecoderCosines::new(&[1.0, f32::INFINITY], &[1.0; 4], 2).is_err());
    }
}
