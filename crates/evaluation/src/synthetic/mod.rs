//! Activations whose features are known: sums of a few directions each, with features that fire by
//! themselves, together, or one only with another. What a coder makes of them can be compared with
//! the truth.

mod benchmark;
mod config;
mod directions;
mod firing;
mod recovery;
mod refusal;
mod source;

pub use benchmark::Benchmark;
pub use config::{Kind, SyntheticConfig, Tree};
pub use recovery::{Recovery, recovery};
pub use source::SyntheticSource;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::error::EvaluationError;
use benchmark::Row;
use firing::Firing;

/// A standard normal number (Box, Muller 1958).
pub(crate) fn normal(rng: &mut ChaCha8Rng) -> f64 {
    (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt()
        * (std::f64::consts::TAU * rng.random::<f64>()).cos()
}

/// Known features: their directions, and how they fire.
#[derive(Clone, Debug)]
pub struct Synthetic {
    config: SyntheticConfig,
    /// `[n_features, d_in]`, rows of norm 1.
    directions: Vec<Vec<f64>>,
    /// Added to every row.
    bias: Vec<f64>,
    firing: Firing,
}

/// Activations, and what they are made of.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// `[rows, d_in]`, row by row.
    pub x: Vec<f32>,
    /// The features that fire in each row, ascending, and how strongly.
    pub features: Vec<Vec<(u32, f32)>>,
}

impl Synthetic {
    /// The features of a configuration; their directions, and what else is random about them, are
    /// drawn from `rng`.
    ///
    /// # Errors
    /// The configuration contradicts itself.
    pub fn new(config: SyntheticConfig, rng: &mut ChaCha8Rng) -> Result<Self, EvaluationError> {
        config.check()?;
        let directions = directions::directions(&config, rng);
        let bias = match &config.kind {
            Kind::SynthSaeBench(benchmark) => benchmark::bias(config.d_in, benchmark, rng),
            _ => vec![0.0; config.d_in],
        };
        Ok(Self {
            firing: Firing::new(&config, rng),
            directions,
            bias,
            config,
        })
    }

    /// Width of the activations.
    #[must_use]
    pub fn d_in(&self) -> usize {
        self.config.d_in
    }

    /// The features' directions, `[n_features, d_in]`, rows of norm 1.
    #[must_use]
    pub fn directions(&self) -> &[Vec<f64>] {
        &self.directions
    }

    /// Share of rows in which each feature fires. For the kind `synth_sae_bench` it is an estimate
    /// with a relative standard error of about 4 percent, because of the correlations.
    #[must_use]
    pub fn densities(&self) -> Vec<f64> {
        self.firing.densities()
    }

    /// Pairs of a parent and its child; none where features are independent or correlated.
    #[must_use]
    pub fn families(&self) -> Vec<(usize, usize)> {
        match &self.firing {
            Firing::Tree(tree) => tree.families(),
            Firing::SynthSaeBench(generator) => generator.families(),
            Firing::Grouped { .. } => Vec::new(),
        }
    }

    /// `rows` activations, in parallel where the kind is `synth_sae_bench`. They are the same for
    /// any number of threads.
    pub fn sample(&self, rows: usize, rng: &mut ChaCha8Rng) -> Sample {
        let d = self.config.d_in;
        let mut x = vec![0.0; rows * d];
        let features = if let Firing::SynthSaeBench(_) = self.firing {
            // Each row has its own random numbers, whoever draws it.
            let seeds: Vec<[u8; 32]> = (0..rows).map(|_| rng.random()).collect();
            x.par_chunks_mut(d)
                .zip(seeds)
                .map_init(Default::default, |work, (x, seed)| {
                    self.row(x, work, &mut ChaCha8Rng::from_seed(seed))
                })
                .collect()
        } else {
            let mut work = Default::default();
            x.chunks_mut(d)
                .map(|x| self.row(x, &mut work, rng))
                .collect()
        };
        Sample { x, features }
    }

    /// Writes one activation to `x` and returns its features.
    fn row(
        &self,
        x: &mut [f32],
        (row, sum): &mut (Row, Vec<f64>),
        rng: &mut ChaCha8Rng,
    ) -> Vec<(u32, f32)> {
        sum.clone_from(&self.bias);
        let mut features = Vec::new();
        self.firing.draw(&self.config, row, rng, |i, size| {
            let direction = &self.directions[i];
            sum.iter_mut()
                .zip(direction)
                .for_each(|(r, v)| *r += size * v);
            features.push((i as u32, size as f32));
        });
        if self.config.noise > 0.0 {
            sum.iter_mut()
                .for_each(|r| *r += self.config.noise * normal(rng));
        }
        x.iter_mut().zip(sum).for_each(|(x, r)| *x = *r as f32);
        features
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    fn counted(config: &str) -> (Synthetic, Sample) {
        let config = SyntheticConfig::parse("test", config, &[]).unwrap();
        let synthetic = Synthetic::new(config, &mut ChaCha8Rng::seed_from_u64(3)).unwrap();
        let sample = synthetic.sample(100_000, &mut ChaCha8Rng::seed_from_u64(4));
        (synthetic, sample)
    }

    fn share(sample: &Sample, of: impl Fn(&[usize]) -> bool) -> f64 {
        let rows = sample.features.iter();
        let fired = rows.map(|f| f.iter().map(|(i, _)| *i as usize).collect::<Vec<_>>());
        fired.filter(|f| of(f)).count() as f64 / sample.features.len() as f64
    }

    #[test]
    fn features_fire_as_often_and_as_much_together_as_they_should() {
        let text = "synthetic = { kind = 'correlated', d_in = 8, n_features = 12, density = 0.2, group = 3, correlation = 0.49 }";
        let (synthetic, sample) = counted(text);
        let p = 0.2;
        for i in [0, 5, 11] {
            assert!((synthetic.densities()[i] - p).abs() < 1e-12);
            let found = share(&sample, |f| f.contains(&i));
            assert!((found - p).abs() < 0.005, "{i}: {found}");
        }
        for (i, j, expected) in [(0, 1, 0.49), (3, 5, 0.49), (2, 3, 0.0), (0, 11, 0.0)] {
            let both = share(&sample, |f| f.contains(&i) && f.contains(&j));
            let found = (both - p * p) / (p * (1.0 - p));
            assert!((found - expected).abs() < 0.02, "{i} {j}: {found}");
        }
        // Every activation is the sum of what fires.
        for (x, features) in sample.x.chunks(8).zip(&sample.features).take(100) {
            for (at, x) in x.iter().enumerate() {
                let sum: f64 = features
                    .iter()
                    .map(|(i, size)| f64::from(*size) * synthetic.directions()[*i as usize][at])
                    .sum();
                assert!((f64::from(*x) - sum).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn frequent_features_come_first_and_the_mean_density_is_kept() {
        let text = "synthetic = { d_in = 16, n_features = 16, density = 0.05, density_skew = 0.7, magnitude_std = 0 }";
        let (synthetic, sample) = counted(text);
        let densities = synthetic.densities();
        assert!((densities.iter().sum::<f64>() / 16.0 - 0.05).abs() < 1e-12);
        assert!((densities[0] / densities[15] - 16f64.powf(0.7)).abs() < 1e-9);
        for i in [0, 15] {
            assert!((share(&sample, |f| f.contains(&i)) - densities[i]).abs() < 0.005);
        }
        // As many features as dimensions: orthonormal unless asked for otherwise.
        for (i, a) in synthetic.directions().iter().enumerate() {
            for (j, b) in synthetic.directions().iter().enumerate() {
                let dot: f64 = a.iter().zip(b).map(|(a, b)| a * b).sum();
                assert!((dot - f64::from(u8::from(i == j))).abs() < 1e-9);
            }
        }
    }

    #[test]
    fn children_fire_only_with_their_parent() {
        let (synthetic, sample) =
            counted("synthetic = { kind = 'hierarchical', child_cosine = 0.3, root_cosine = 0.2 }");
        assert_eq!(synthetic.families().len(), 9);
        for (parent, child) in synthetic.families() {
            assert_eq!(
                share(&sample, |f| f.contains(&child) && !f.contains(&parent)),
                0.0
            );
            let both = share(&sample, |f| f.contains(&child));
            assert!((both - 0.04).abs() < 0.003, "{both}");
        }
        let l0 = sample.features.iter().map(Vec::len).sum::<usize>() as f64 / 100_000.0;
        assert!((l0 - 1.36).abs() < 0.01, "{l0}");
        assert!((synthetic.densities().iter().sum::<f64>() - 1.36).abs() < 1e-12);
        let cosine = |i: usize, j: usize| -> f64 {
            let (a, b) = (&synthetic.directions()[i], &synthetic.directions()[j]);
            a.iter().zip(b).map(|(a, b)| a * b).sum()
        };
        for (i, j, expected) in [
            (1, 2, 0.3),
            (5, 7, 0.3),
            (0, 4, 0.2),
            (0, 19, 0.2),
            (0, 1, 0.0),
            (1, 5, 0.0),
        ] {
            assert!(
                (cosine(i, j) - expected).abs() < 1e-6,
                "{i} {j}: {}",
                cosine(i, j)
            );
        }
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_key() {
        for (text, key) in [
            ("kind = 'tree'", "synthetic.kind"),
            ("density = 0", "synthetic.density"),
            ("density = 0.5, density_skew = 2", "synthetic.density_skew"),
            (
                "d_in = 8, n_features = 9, orthonormal = true",
                "synthetic.orthonormal",
            ),
            ("kind = 'hierarchical', d_in = 19", "synthetic.d_in"),
            (
                "kind = 'hierarchical', child_cosine = 1",
                "synthetic.child_cosine",
            ),
            (
                "kind = 'hierarchical', child_probability = 0.4",
                "synthetic.child_probability",
            ),
            ("kind = 'correlated', group = 0", "synthetic.group"),
            ("n_features = 1e9", "synthetic.n_features"),
            ("densty = 0.1", "densty"),
        ] {
            let parsed =
                SyntheticConfig::parse("file.toml", &format!("synthetic = {{ {text} }}"), &[]);
            let error = parsed.and_then(|c| c.check()).unwrap_err().to_string();
            assert!(error.contains(key), "{text}: {error}");
        }
    }
}
