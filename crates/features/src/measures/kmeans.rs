//! Accuracy of k-means clusters of binary codes as a classifier (Lloyd 1982; k-means++: Arthur and
//! Vassilvitskii 2007).
//!
//! Half of the samples are clustered, with as many clusters as classes, and each cluster is named
//! after the majority of its samples. The other half is classified by the nearest centroid. Rows
//! are 0/1 vectors, so sums are whole numbers and nothing depends on the order of addition.

use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::binary_codes::shared_count;
use super::plug_in::Classes;
use super::{SupportCodes, check_labels, unfit};
use crate::FeaturesError;

/// How to cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KMeansConfig {
    /// Number of starts; the one with the least sum of squared distances counts.
    pub restarts: usize,
    /// Most iterations per start.
    pub max_iterations: usize,
    /// Seed of the split in halves and of the first centroids.
    pub seed: u64,
}

impl Default for KMeansConfig {
    /// 10 starts of at most 100 iterations, seed 0.
    fn default() -> Self {
        KMeansConfig {
            restarts: 10,
            max_iterations: 100,
            seed: 0,
        }
    }
}

/// How well clusters tell classes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KMeansAccuracy {
    /// Accuracy on the half that was clustered (purity).
    pub train: f64,
    /// Accuracy on the other half.
    pub test: f64,
    /// Sum of squared distances of the clustered half to its centroids.
    pub inertia: f64,
}

/// Clusters the codes of a random half of the samples and classifies the other half.
///
/// Ties go to the lower cluster and to the lower label. Memory is O(d_sae · classes).
///
/// # Errors
/// If labels and samples differ in number, there are fewer than two samples, or a limit of the
/// config is 0.
pub fn kmeans_accuracy(
    codes: &SupportCodes,
    labels: &[u32],
    config: &KMeansConfig,
) -> Result<KMeansAccuracy, FeaturesError> {
    check_labels(labels, codes.len())?;
    if codes.len() < 2 {
        return Err(unfit("codes", "1 sample", "at least two samples"));
    }
    if config.restarts == 0 || config.max_iterations == 0 {
        return Err(unfit(
            "config",
            format!(
                "{} restarts of {} iterations",
                config.restarts, config.max_iterations
            ),
            "at least one of each",
        ));
    }
    let classes = Classes::new(labels);
    let mut order: Vec<usize> = (0..codes.len()).collect();
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(config.seed));
    let (train, test) = order.split_at(codes.len().div_ceil(2));
    let mut best: Option<(f64, Centroids)> = None;
    for start in 0..config.restarts {
        let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
        rng.set_stream(start as u64 + 1);
        let mut centroids = Centroids::spread(codes, train, classes.len(), &mut rng);
        let mut assigned = centroids.assign(codes, train);
        for _ in 0..config.max_iterations {
            centroids.update(codes, train, &assigned);
            let next = centroids.assign(codes, train);
            let settled = next.iter().zip(&assigned).all(|(a, b)| a.0 == b.0);
            assigned = next;
            if settled {
                break;
            }
        }
        let inertia: f64 = assigned.iter().map(|near| near.1).sum();
        if best.as_ref().is_none_or(|(least, _)| inertia < *least) {
            best = Some((inertia, centroids));
        }
    }
    let Some((inertia, centroids)) = best else {
        return Err(unfit("restarts", 0, "at least one"));
    };
    let train_clusters = centroids.assign(codes, train);
    let names = majorities(&train_clusters, train, &classes);
    let accuracy = |clusters: &[(usize, f64)], samples: &[usize]| {
        let correct = clusters
            .iter()
            .zip(samples)
            .filter(|(near, sample)| names[near.0] == classes.of_row[**sample])
            .count();
        correct as f64 / samples.len() as f64
    };
    Ok(KMeansAccuracy {
        train: accuracy(&train_clusters, train),
        test: accuracy(&centroids.assign(codes, test), test),
        inertia,
    })
}

/// The most frequent class of each cluster; of an empty one, the most frequent class of all.
fn majorities(clusters: &[(usize, f64)], samples: &[usize], classes: &Classes) -> Vec<u32> {
    let count = classes.len();
    let mut votes = vec![0usize; count * count]; // [clusters, classes]
    let mut all = vec![0usize; count];
    for (near, &sample) in clusters.iter().zip(samples) {
        let class = classes.of_row[sample] as usize;
        votes[near.0 * count + class] += 1;
        all[class] += 1;
    }
    let first_most = |votes: &[usize]| {
        (0..count).fold(0, |best, class| {
            if votes[class] > votes[best] {
                class
            } else {
                best
            }
        }) as u32
    };
    votes
        .chunks_exact(count)
        .map(|votes| {
            if votes.iter().all(|&votes| votes == 0) {
                first_most(&all)
            } else {
                first_most(votes)
            }
        })
        .collect()
}

/// Centroids as the sums of their 0/1 rows, and the number of those.
struct Centroids {
    clusters: usize,
    sums: Vec<u32>, // [d_sae, clusters]
    sizes: Vec<u32>,
    squared_norms: Vec<f64>,
}

impl Centroids {
    /// k-means++: each next centroid is a sample, drawn with a weight of its squared distance to
    /// the nearest centroid so far.
    fn spread(
        codes: &SupportCodes,
        samples: &[usize],
        clusters: usize,
        rng: &mut ChaCha8Rng,
    ) -> Self {
        let mut centroids = Centroids {
            clusters,
            sums: vec![0; codes.d_sae() * clusters],
            sizes: vec![1; clusters],
            squared_norms: vec![0.0; clusters],
        };
        let mut distances = vec![u64::MAX; samples.len()];
        let mut chosen = rng.random_range(0..samples.len() as u64) as usize;
        for cluster in 0..clusters {
            let code = codes.code(samples[chosen]);
            for &latent in code {
                centroids.sums[latent as usize * clusters + cluster] = 1;
            }
            distances
                .par_iter_mut()
                .zip(samples)
                .for_each(|(distance, &sample)| {
                    let other = codes.code(sample);
                    let differing = code.len() + other.len() - 2 * shared_count(code, other);
                    *distance = (*distance).min(differing as u64);
                });
            let total: u64 = distances.iter().sum();
            // With fewer distinct codes than clusters, the last centroids repeat and stay empty.
            if total > 0 {
                let mut rest = rng.random_range(0..total);
                for (index, &distance) in distances.iter().enumerate() {
                    if rest < distance {
                        chosen = index;
                        break;
                    }
                    rest -= distance;
                }
            }
        }
        centroids.set_norms();
        centroids
    }

    /// Cluster and squared distance of each sample.
    fn assign(&self, codes: &SupportCodes, samples: &[usize]) -> Vec<(usize, f64)> {
        samples
            .par_iter()
            .map_init(
                || vec![0u64; self.clusters],
                |shared, &sample| {
                    shared.fill(0);
                    let code = codes.code(sample);
                    for &latent in code {
                        let start = latent as usize * self.clusters;
                        let sums = &self.sums[start..start + self.clusters];
                        for (shared, &sum) in shared.iter_mut().zip(sums) {
                            *shared += u64::from(sum);
                        }
                    }
                    let mut best = (0, f64::INFINITY);
                    for (cluster, &shared) in shared.iter().enumerate() {
                        let dot = shared as f64 / f64::from(self.sizes[cluster]);
                        let distance = code.len() as f64 - 2.0 * dot + self.squared_norms[cluster];
                        if distance < best.1 {
                            best = (cluster, distance);
                        }
                    }
                    (best.0, best.1.max(0.0))
                },
            )
            .collect()
    }

    /// Moves each centroid to the mean of its samples; an empty one stays.
    fn update(&mut self, codes: &SupportCodes, samples: &[usize], assigned: &[(usize, f64)]) {
        let mut sizes = vec![0u32; self.clusters];
        assigned.iter().for_each(|near| sizes[near.0] += 1);
        for row in self.sums.chunks_exact_mut(self.clusters) {
            for (sum, &size) in row.iter_mut().zip(&sizes) {
                if size > 0 {
                    *sum = 0;
                }
            }
        }
        for (&sample, near) in samples.iter().zip(assigned) {
            for &latent in codes.code(sample) {
                self.sums[latent as usize * self.clusters + near.0] += 1;
            }
        }
        for (old, size) in self.sizes.iter_mut().zip(sizes) {
            if size > 0 {
                *old = size;
            }
        }
        self.set_norms();
    }

    fn set_norms(&mut self) {
        let mut squares = vec![0u64; self.clusters];
        for row in self.sums.chunks_exact(self.clusters) {
            for (square, &sum) in squares.iter_mut().zip(row) {
                *square += u64::from(sum) * u64::from(sum);
            }
        }
        for (cluster, square) in squares.into_iter().enumerate() {
            self.squared_norms[cluster] = square as f64 / f64::from(self.sizes[cluster]).powi(2);
        }
    }
}

#[cfg(test)]
mod tests;
