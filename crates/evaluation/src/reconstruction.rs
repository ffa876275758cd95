//! How near reconstructions come to the activations: running sums in f64.

/// Running sums over reconstructions. Some figures are means over batches, because the tools that
/// they come from take them so.
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
    norm_in: f64,
    norm_out: f64,
    of_batches: Batches,
}

/// Sums over batches of what each batch says by itself.
#[derive(Clone, Debug, Default)]
struct Batches {
    bias: f64,
    fvu: f64,
    centred_fvu: f64,
    mean_error: f64,
    mean_square: f64,
    /// Of E(x_d²), over the dimensions too.
    square_per_dimension: f64,
}

impl ReconstructionSums {
    /// Takes in one batch: `x` and its reconstruction `x_hat`, `[n, d]` row by row, of which the
    /// rows with `counts` count.
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
        let (mut mean, mut mean_error) = (vec![0.0f64; d], vec![0.0f64; d]);
        for (row, hat) in rows() {
            n += 1;
            for (((m, e), v), h) in mean.iter_mut().zip(&mut mean_error).zip(row).zip(hat) {
                *m += f64::from(*v);
                *e += f64::from(*v) - f64::from(*h);
            }
        }
        if n == 0 {
            return;
        }
        let count = n as f64;
        for (s, m) in self.sum.iter_mut().zip(&mut mean) {
            *s += *m;
            *m /= count;
        }
        mean_error.iter_mut().for_each(|e| *e /= count);
        let (mut errors, mut squares, mut spreads, mut centred_errors) = (0.0, 0.0, 0.0, 0.0);
        let (mut hat_squares, mut products) = (0.0f64, 0.0f64);
        for (row, hat) in rows() {
            let (mut error, mut square, mut spread, mut hat_square, mut product) =
                (0.0f64, 0.0f64, 0.0f64, 0.0f64, 0.0f64);
            for (((v, h), m), e) in row.iter().zip(hat).zip(&mean).zip(&mean_error) {
                let (v, h) = (f64::from(*v), f64::from(*h));
                error += (v - h) * (v - h);
                centred_errors += (v - h - e) * (v - h - e);
                square += v * v;
                spread += (v - m) * (v - m);
                hat_square += h * h;
                product += v * h;
            }
            errors += error;
            squares += square;
            spreads += spread;
            self.legacy += 1.0 - error / spread;
            self.cosine += product / (square.sqrt() * hat_square.sqrt()).max(1e-300);
            self.ratio += (hat_square / square).sqrt();
            self.norm_in += square.sqrt();
            self.norm_out += hat_square.sqrt();
            hat_squares += hat_square;
            products += product;
        }
        self.tokens += n;
        self.batches += 1;
        self.error += errors;
        self.square += squares;
        let b = &mut self.of_batches;
        b.bias += hat_squares / products;
        b.fvu += errors / spreads;
        b.centred_fvu += centred_errors / spreads;
        b.mean_error += errors / count;
        b.mean_square += squares / count;
        b.square_per_dimension += squares / count / d as f64;
    }

    /// Fraction of variance unexplained, with the mean over all tokens.
    #[must_use]
    pub fn fvu(&self) -> f64 {
        let n = self.tokens as f64;
        let mean_square: f64 = self.sum.iter().map(|s| (s / n).powi(2)).sum();
        (self.error / n) / (self.square / n - mean_square)
    }

    /// sparsify's fraction of variance unexplained: with each batch's own mean, mean over batches.
    #[must_use]
    pub fn fvu_sparsify(&self) -> f64 {
        self.of_batches.fvu / self.batches as f64
    }

    /// dictionary_learning's: one minus the variance of the error over that of the activations,
    /// mean over batches. An error that is the same at every token costs nothing.
    #[must_use]
    pub fn frac_variance_explained(&self) -> f64 {
        1.0 - self.of_batches.centred_fvu / self.batches as f64
    }

    /// SAEBench's `explained_variance` as it is coded: in the place of |E x|² stands the square of
    /// E(x_d²), mean over batches and dimensions.
    #[must_use]
    pub fn explained_variance_saebench(&self) -> f64 {
        let (b, n) = (&self.of_batches, self.batches as f64);
        let variance = b.mean_square / n - (b.square_per_dimension / n).powi(2);
        1.0 - b.mean_error / n / variance
    }

    /// Squared error of a token, summed over dimensions, mean over tokens.
    #[must_use]
    pub fn mse(&self) -> f64 {
        self.error / self.tokens as f64
    }

    /// SAEBench's `mse` as it is coded: each token's squared error over the number of tokens in its
    /// batch, mean over tokens.
    #[must_use]
    pub fn mse_saebench(&self) -> f64 {
        self.of_batches.mean_error / self.tokens as f64
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

    /// Mean norm of the activations.
    #[must_use]
    pub fn l2_norm_in(&self) -> f64 {
        self.norm_in / self.tokens as f64
    }

    /// Mean norm of the reconstructions.
    #[must_use]
    pub fn l2_norm_out(&self) -> f64 {
        self.norm_out / self.tokens as f64
    }

    /// Mean over batches of E|x̂|² / E⟨x, x̂⟩.
    #[must_use]
    pub fn relative_reconstruction_bias(&self) -> f64 {
        self.of_batches.bias / self.batches as f64
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
        let (mut sparsify, mut learning, mut scaled) = (Vec::new(), Vec::new(), Vec::new());
        let (mut residual, mut power, mut dimensions) = (Vec::new(), Vec::new(), Vec::new());
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
            let errors: Vec<Vec<f64>> = x
                .iter()
                .zip(&h)
                .map(|(x, h)| x.iter().zip(h).map(|(x, h)| x - h).collect())
                .collect();
            let zero = vec![0.0; d];
            let total = |rows: &[Vec<f64>], from: &[f64]| -> f64 {
                rows.iter().map(|r| distance(r, from)).sum()
            };
            let (error, spread) = (total(&errors, &zero), total(&x, &mean));
            let n = x.len() as f64;
            sparsify.push(error / spread);
            learning.push(1.0 - total(&errors, &column_mean(&errors)) / spread);
            residual.push(error / n);
            power.push(total(&x, &zero) / n);
            dimensions.extend((0..d).map(|j| x.iter().map(|r| r[j] * r[j]).sum::<f64>() / n));
            scaled.extend(x.iter().zip(&h).map(|(x, h)| distance(x, h) / n));
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
        let average = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
        for (found, expected) in [
            (sums.fvu_sparsify(), average(&sparsify)),
            (sums.frac_variance_explained(), average(&learning)),
            (
                sums.explained_variance_saebench(),
                1.0 - average(&residual) / (average(&power) - average(&dimensions).powi(2)),
            ),
            (sums.mse(), error / n),
            (sums.mse_saebench(), average(&scaled)),
        ] {
            assert!((found - expected).abs() < 1e-9, "{found} {expected}");
        }
        let norm = |a: &[f64]| a.iter().map(|v| v * v).sum::<f64>().sqrt();
        let ratio: f64 = all_x
            .iter()
            .zip(&all_h)
            .map(|(x, h)| norm(h) / norm(x))
            .sum();
        assert!((sums.l2_ratio() - ratio / n).abs() < 1e-12);
        let (norm_in, norm_out): (f64, f64) = (
            all_x.iter().map(|x| norm(x)).sum(),
            all_h.iter().map(|h| norm(h)).sum(),
        );
        assert!((sums.l2_norm_in() - norm_in / n).abs() < 1e-12);
        assert!((sums.l2_norm_out() - norm_out / n).abs() < 1e-12);
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
