//! Which features fire in a row.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::benchmark::{Generator, Row};
use super::config::{Kind, SyntheticConfig, Tree};
use super::normal;

/// How features fire.
#[derive(Clone, Debug)]
pub(crate) enum Firing {
    /// Each with its density; in groups of so many, with the probability that one takes its group's
    /// number.
    Grouped {
        densities: Vec<f64>,
        group: usize,
        shares: f64,
    },
    Tree(Tree),
    SynthSaeBench(Box<Generator>),
}

impl Firing {
    /// What is random about how features fire is drawn from `rng`.
    pub(crate) fn new(config: &SyntheticConfig, rng: &mut ChaCha8Rng) -> Self {
        let grouped = |group, correlation: f64| Self::Grouped {
            densities: config.densities(),
            group,
            shares: correlation.sqrt(),
        };
        match config.kind {
            Kind::Independent => grouped(1, 0.0),
            Kind::Correlated { group, correlation } => grouped(group, correlation),
            Kind::Hierarchical(tree) => Self::Tree(tree),
            Kind::SynthSaeBench(benchmark) => {
                let generator = Generator::new(config.n_features, &benchmark, rng);
                Self::SynthSaeBench(Box::new(generator))
            }
        }
    }

    pub(crate) fn densities(&self) -> Vec<f64> {
        match self {
            Self::Grouped { densities, .. } => densities.clone(),
            Self::Tree(tree) => {
                let mut densities = vec![tree.single_probability; tree.len()];
                for p in 0..tree.parents {
                    let of = tree.parent(p);
                    densities[of] = tree.parent_probability;
                    let child = tree.parent_probability * tree.child_probability;
                    densities[of + 1..=of + tree.children].fill(child);
                }
                densities
            }
            Self::SynthSaeBench(generator) => {
                generator.densities(&mut ChaCha8Rng::seed_from_u64(0))
            }
        }
    }

    /// Calls `add` with each feature that fires in one row, ascending, and how strongly. `row` is
    /// room to work in.
    pub(crate) fn draw(
        &self,
        config: &SyntheticConfig,
        row: &mut Row,
        rng: &mut ChaCha8Rng,
        mut add: impl FnMut(usize, f64),
    ) {
        let mut fire = |i: usize, rng: &mut ChaCha8Rng| {
            let size = config.magnitude + config.magnitude_std * normal(rng);
            if size > 0.0 {
                add(i, size);
            }
        };
        match self {
            Self::Grouped {
                densities,
                group,
                shares,
            } => {
                let mut together = 0.0;
                for (i, density) in densities.iter().enumerate() {
                    if *shares > 0.0 && i % group == 0 {
                        together = rng.random::<f64>();
                    }
                    let joins = *shares > 0.0 && rng.random::<f64>() < *shares;
                    let number = if joins { together } else { rng.random::<f64>() };
                    if number < *density {
                        fire(i, rng);
                    }
                }
            }
            Self::Tree(tree) => {
                let root = rng.random::<f64>();
                let parents = tree.parents as f64 * tree.parent_probability;
                if root < parents {
                    let p = (root / tree.parent_probability) as usize;
                    let parent = tree.parent(p.min(tree.parents - 1));
                    fire(parent, rng);
                    let child = rng.random::<f64>() / tree.child_probability;
                    if child < tree.children as f64 {
                        fire(parent + 1 + child as usize, rng);
                    }
                } else {
                    let single = (root - parents) / tree.single_probability;
                    // A rounded sum of probabilities may leave a last bit over.
                    if single < tree.singles as f64 + 1e-6 && tree.singles > 0 {
                        let first = tree.len() - tree.singles;
                        fire(first + (single as usize).min(tree.singles - 1), rng);
                    }
                }
            }
            Self::SynthSaeBench(generator) => {
                generator.draw(row, rng);
                for (i, size) in &row.fired {
                    add(*i as usize, f64::from(*size));
                }
            }
        }
    }
}
