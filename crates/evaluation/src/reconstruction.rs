//! How near reconstructions come to the activations: running sums in f64.

/// Running sums over reconstructions.
#[derive(Clone, Debug, Default)]
pub struct ReconstructionSums {
    tokens: u64,
    batches: u64,
    error: f64,
    square: f64,
    sum: Vec<f64>,
    legacy: f64,
    cosine: f64,
    ratio: f64,
    bias: f64,
}

impl ReconstructionSums {
    /// Takes in one batch: `x` and its reconstruction `x_hat`, `[n, d]` row by row, of which the rows with `counts`
    /// count.
    pub fn observe(&mut self, x: &[f32], x_hat: &[f32], d: usize, counts: &[bool]) {
        let rows = || {
            x.chunks_exact(d)
                .zip(x_hat.chunks_exact(d))
                .zip(counts)
                .filter(|(_, c)| **c)
                .map(|(rows, _)| rows)
        };
        self.sum.resize(d, 0.0);
        let mut n = 0u64;
        let mut mean = vec![0.0f64; d];
        for (row, _) in rows() {
            n += 1;
            for (m, v) in mean.iter_mut().zip(row) {
                *m += f64::from(*v);
            }
        }
        if n == 0 {
            return;
        }
        for (s, m) in self.sum.iter_mut().zip(&mut mean) {
            *s += *m;
            *m /= n as f64;
        }
        let (mut hat_squares, mut products) = (0.0f64, 0.0f64);
        for (row, hat) in rows() {
            let (mut error, mut square, mut spread, mut hat_square, mut product) =
                (0.0f64, 0.0f64, 0.0f64, 0.0f64, 0.0f64);
            for ((v, h), m) in row.iter().zip(hat).zip(&mean) {
                let (v, h) = (f64::from(*v), f64::from(*h));
                error += (v - h) * (v - h);
                square += v * v;
                spread += (v - m) * (v - m);
                hat_square += h * h;
                product += v * h;
            }
            self.error += error;
            self.square += square;
            self.legacy += 1.0 - error / spread;
            self.cosine += product / (square.sqrt() * hat_square.sqrt()).max(1e-300);
            self.ratio += (hat_square / square).sqrt();
            hat_squares += hat_square;
            products += product;
        }
        self.tokens += n;
        self.batches += 1;
        self.bias += hat_squares / products;
    }

    /// Fraction of variance unexplained, with the mean over all tokens.
    #[must_use]
    pub fn fvu(&self) -> f64 {
        let n = self.tokens as f64;
        let mean_square: f64 = self.sum.iter().map(|s| (s / n).powi(2)).sum();
        (self.error / n) / (self.square / n - mean_square)
    }

    /// Per-token explained variance with the batch's mean.
    #[must_use]
    pub fn explained_variance_legacy(&self) -> f64 {
        self.legacy / self.tokens as f64
    }

    /// Mean cosine.
    #[must_use]
    pub fn cossim(&self) -> f64 {
        self.cosine / self.tokens as f64
    }

    /// Mean ratio of norms.
    #[must_use]
    pub fn l2_ratio(&self) -> f64 {
        self.ratio / self.tokens as f64
    }

    /// Mean over batches of E|x̂|² / E⟨x, x̂⟩.
    #[must_use]
    pub fn relative_reconstruction_bias(&self) -> f64 {
        self.bias / self.batches as f64
    }

    /// Tokens taken in.
    #[must_use]
    pub const fn tokens(&self) -> u64 {
        self.tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numbers::numbers;

    #[test]
    fn reconstruction_figures_equal_their_formulas_written_out() {
        let d = 5;
        let sizes = [7usize, 4];
        let mut sums = ReconstructionSums::default();
        let (mut all_x, mut all_h) = (Vec::new(), Vec::new());
        let (mut legacy, mut bias) = (Vec::new(), Vec::new());
        for (b, n) in sizes.into_iter().enumerate() {
            let x: Vec<f32> = numbers(n * d, b as u64).iter().map(|v| v + 3.0).collect();
            let h: Vec<f32> = x
                .iter()
                .zip(numbers(n * d, 99 + b as u64))
                .map(|(x, e)| x + 0.3 * e)
                .collect();
            let mut counts = vec![true; n];
            counts[2] = false;
            sums.observe(&x, &h, d, &counts);
            let kept = |v: &[f32]| -> Vec<Vec<f64>> {
                v.chunks(d)
                    .enumerate()
                    .filter(|(i, _)| *i != 2)
                    .map(|(_, r)| r.iter().map(|v| f64::from(*v)).collect())
                    .collect()
            };
            let (x, h) = (kept(&x), kept(&h));
            let mean = column_mean(&x);
            for (x, h) in x.iter().zip(&h) {
                legacy.push(1.0 - distance(x, h) / distance(x, &mean));
            }
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            bias.push(
                h.iter().map(|h| dot(h, h)).sum::<f64>()
                    / x.iter().zip(&h).map(|(x, h)| dot(x, h)).sum::<f64>(),
            );
            all_x.extend(x);
            all_h.extend(h);
        }
        let n = all_x.len() as f64;
        assert_eq!(sums.tokens(), 9);
        let mean = column_mean(&all_x);
        let error: f64 = all_x.iter().zip(&all_h).map(|(x, h)| distance(x, h)).sum();
        let spread: f64 = all_x.iter().map(|x| distance(x, &mean)).sum();
        assert!((sums.fvu() - error / spread).abs() < 1e-9);
        assert!((sums.explained_variance_legacy() - legacy.iter().sum::<f64>() / n).abs() < 1e-9);
        assert!((sums.relative_reconstruction_bias() - (bias[0] + bias[1]) / 2.0).abs() < 1e-12);
        let norm = |a: &[f64]| a.iter().map(|v| v * v).sum::<f64>().sqrt();
        let ratio: f64 = all_x
            .iter()
            .zip(&all_h)
            .map(|(x, h)| norm(h) / norm(x))
            .sum();
        assert!((sums.l2_ratio() - ratio / n).abs() < 1e-12);
        let cosine: f64 = all_x
            .iter()
            .zip(&all_h)
            .map(|(x, h)| x.iter().zip(h).map(|(a, b)| a * b).sum::<f64>() / norm(x) / norm(h))
            .sum();
        assert!((sums.cossim() - cosine / n).abs() < 1e-12);
    }

    fn column_mean(rows: &[Vec<f64>]) -> Vec<f64> {
        (0..rows[0].len())
            .map(|j| rows.iter().map(|r| r[j]).sum::<f64>() / rows.len() as f64)
            .collect()
    }

    fn distance(a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum()
    }
}
