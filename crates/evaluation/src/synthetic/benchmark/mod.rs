//! The generator of SynthSAEBench (Chanin, Garriga-Alonso 2026): many nearly orthogonal features
//! with Zipf's firing rates, correlations, and trees with exclusive siblings.

mod config;
mod copula;
mod forest;
mod gaussian;
mod orthogonal;
#[cfg(test)]
mod tests;

pub use config::Benchmark;

use std::ops::Range;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::normal;
use copula::Copula;
use forest::Forest;

/// Draws of the factors that firing rates are a mean over.
const FACTOR_DRAWS: usize = 1024;

/// Which features fire in a row, and how strongly.
#[derive(Clone, Debug)]
pub(crate) struct Generator {
    scale_children: bool,
    forest: Forest,
    copula: Copula,
    /// Mean magnitude of each feature, and its standard deviation.
    means: Vec<f32>,
    stds: Vec<f32>,
}

/// Room for one row.
#[derive(Default)]
pub(crate) struct Row {
    /// The features that fire, ascending, and their magnitudes.
    pub(crate) fired: Vec<(u32, f32)>,
    epsilon: Vec<f32>,
    z: Vec<f32>,
}

impl Generator {
    /// The features of a configuration that was checked; what is random about them is drawn from
    /// `rng`.
    pub(crate) fn new(n_features: usize, config: &Benchmark, rng: &mut ChaCha8Rng) -> Self {
        let forest = Forest::new(n_features, config, rng);
        let base = config.zipf(n_features);
        let drawn = if config.compensate {
            forest.compensated(&base)
        } else {
            base
        };
        let (rank, scale) = (config.rank, config.correlation_scale);
        let copula = Copula::new(&drawn, &forest.blocks(), rank, scale, rng);
        let last = (n_features - 1).max(1) as f64;
        let slope = (config.magnitude_last - config.magnitude_first) / last;
        Self {
            scale_children: config.scale_children,
            forest,
            copula,
            means: (0..n_features)
                .map(|i| (config.magnitude_first + slope * i as f64) as f32)
                .collect(),
            stds: (0..n_features)
                .map(|_| config.magnitude_std_mean + config.magnitude_std_spread * normal(rng))
                .map(|std| std.abs() as f32)
                .collect(),
        }
    }

    /// Pairs of a parent and its child.
    pub(crate) fn families(&self) -> Vec<(usize, usize)> {
        self.forest.families()
    }

    /// Share of rows in which each feature fires. With correlations it is a mean over 1024 draws of
    /// the factors from `rng`.
    pub(crate) fn densities(&self, rng: &mut ChaCha8Rng) -> Vec<f64> {
        let mut sums = vec![0.0; self.means.len()];
        let mut z = Vec::new();
        let draws = if self.copula.rank == 0 {
            1
        } else {
            FACTOR_DRAWS
        };
        for _ in 0..draws {
            let epsilon = self.epsilon(rng);
            let mut drawn = Vec::with_capacity(sums.len());
            for block in self.forest.blocks() {
                self.copula.scores(block, &epsilon, &mut z);
                drawn.extend(z.iter().map(|z| gaussian::below(f64::from(*z))));
            }
            for (p, (mean, std)) in drawn.iter_mut().zip(self.means.iter().zip(&self.stds)) {
                *p *= gaussian::below(f64::from(mean / std));
            }
            let rates = self.forest.rates(&drawn);
            sums.iter_mut().zip(rates).for_each(|(s, r)| *s += r);
        }
        sums.into_iter().map(|s| s / draws as f64).collect()
    }

    /// Draws one row into `row.fired`.
    ///
    /// Given the factors, features are independent. So a feature whose parent does not fire need
    /// not be drawn.
    pub(crate) fn draw(&self, row: &mut Row, rng: &mut ChaCha8Rng) {
        row.epsilon = self.epsilon(rng);
        row.fired.clear();
        for block in self.forest.root_blocks() {
            self.draw_block(block, row, rng);
        }
        // Features are numbered breadth first: what fires below comes after what fires above.
        let mut at = 0;
        while at < row.fired.len() {
            let (parent, magnitude) = row.fired[at];
            let parent = parent as usize;
            at += 1;
            let children = self.forest.children(parent);
            if children.is_empty() {
                continue;
            }
            let first = row.fired.len();
            self.draw_block(children, row, rng);
            let rivals = row.fired.len() - first;
            if rivals > 1 && self.forest.exclusive(parent) {
                row.fired.swap(first, first + rng.random_range(0..rivals));
                row.fired.truncate(first + 1);
            }
            if self.scale_children {
                let scale = magnitude / self.means[parent];
                row.fired[first..].iter_mut().for_each(|f| f.1 *= scale);
            }
        }
        for block in self.forest.free_blocks() {
            self.draw_block(block, row, rng);
        }
    }

    /// Appends the features of a block that are drawn and have a magnitude above 0.
    fn draw_block(&self, block: Range<usize>, row: &mut Row, rng: &mut ChaCha8Rng) {
        let Row { fired, epsilon, z } = row;
        self.copula.draw(block, epsilon, z, rng, |i, rng| {
            let magnitude = self.means[i] + self.stds[i] * normal(rng) as f32;
            if magnitude > 0.0 {
                fired.push((i as u32, magnitude));
            }
        });
    }

    fn epsilon(&self, rng: &mut ChaCha8Rng) -> Vec<f32> {
        (0..self.copula.rank).map(|_| normal(rng) as f32).collect()
    }
}

/// Nearly orthogonal directions `[n_features, d_in]` of norm 1.
pub(crate) fn directions(
    n_features: usize,
    d_in: usize,
    config: &Benchmark,
    rng: &mut ChaCha8Rng,
) -> Vec<f32> {
    let mut e: Vec<f32> = (0..n_features * d_in).map(|_| normal(rng) as f32).collect();
    let (steps, lr) = (config.orthogonal_steps, config.orthogonal_lr);
    orthogonal::orthogonalize(&mut e, d_in, steps, lr, |e| orthogonal::cube(e, d_in));
    e
}

/// A constant vector with the norm that the configuration says.
pub(crate) fn bias(d_in: usize, config: &Benchmark, rng: &mut ChaCha8Rng) -> Vec<f64> {
    let row: Vec<f64> = (0..d_in).map(|_| normal(rng)).collect();
    let norm = row.iter().map(|v| v * v).sum::<f64>().sqrt().max(1e-8);
    row.iter().map(|v| v * config.bias / norm).collect()
}
