//! Groups of units that span two models, by spectral clustering of their correlations
//! (Li et al. 2015, "Convergent Learning"; Ng, Jordan and Weiss 2001 for the algorithm).
//!
//! The affinity of two units is their absolute correlation, within and between the models. Each
//! unit keeps its strongest neighbours, so memory is linear in the number of units.

use rayon::prelude::*;

use serde::Serialize;

use crate::FeaturesError;

use super::eigen::leading_eigenpairs;
use super::k_means::k_means;
use super::similarity::{Neighbour, Similarity, Transposed, map_rows, strongest};

/// Absolute correlations between the units of A, then those of B, as a sparse symmetric graph.
#[derive(Debug, Clone)]
pub struct Affinity {
    units_a: usize,
    neighbours: Vec<Vec<(u32, f64)>>, // [units_a + units_b], ascending by unit
}

impl Affinity {
    /// The graph in which two units are joined if one is among the `neighbours` strongest of the
    /// other, weighted by their absolute similarity.
    ///
    /// `aa` is A with itself, `ab` A with B, and `bb` B with itself. `aa` and `bb` are symmetric.
    ///
    /// # Errors
    /// If sizes disagree or `neighbours` is 0.
    pub fn new(
        aa: &dyn Similarity,
        ab: &dyn Similarity,
        bb: &dyn Similarity,
        neighbours: usize,
    ) -> Result<Self, FeaturesError> {
        let (units_a, units_b) = (ab.d_a(), ab.d_b());
        for (field, matrix, units) in [("aa", aa, units_a), ("bb", bb, units_b)] {
            if (matrix.d_a(), matrix.d_b()) != (units, units) {
                return Err(FeaturesError::Input {
                    field,
                    found: format!("{} x {}", matrix.d_a(), matrix.d_b()),
                    expected: format!("{units} x {units}"),
                });
            }
        }
        if neighbours == 0 {
            return Err(FeaturesError::Input {
                field: "neighbours",
                found: "0".to_owned(),
                expected: "at least 1".to_owned(),
            });
        }
        let keep = |matrix: &dyn Similarity, offset: usize, own: bool| {
            map_rows(matrix, |unit, row| {
                let others = row.iter().copied().enumerate();
                let others = others.filter(|&(other, _)| !(own && other == unit));
                let mut kept = strongest(others, neighbours, f64::abs);
                for neighbour in &mut kept {
                    neighbour.latent += offset as u32;
                }
                kept
            })
        };
        let of_a = merge(keep(aa, 0, true), keep(ab, units_a, false), neighbours);
        let of_b = merge(
            keep(&Transposed(ab), 0, false),
            keep(bb, units_a, true),
            neighbours,
        );
        let lists = of_a.into_iter().chain(of_b).collect();
        Ok(Affinity {
            units_a,
            neighbours: symmetrize(lists),
        })
    }

    /// Number of units of both models.
    pub fn units(&self) -> usize {
        self.neighbours.len()
    }

    /// The units that one is joined with, ascending, and the weights.
    ///
    /// # Panics
    /// If `unit >= units`, like an index into a slice.
    pub fn neighbours(&self, unit: usize) -> &[(u32, f64)] {
        &self.neighbours[unit]
    }
}

/// The strongest of two lists for each unit. Units in the first list are lower than in the second.
fn merge(
    first: Vec<Vec<Neighbour>>,
    second: Vec<Vec<Neighbour>>,
    neighbours: usize,
) -> Vec<Vec<Neighbour>> {
    let pairs = first.into_iter().zip(second);
    pairs
        .map(|(mut kept, second)| {
            kept.extend(second);
            kept.sort_by_key(|neighbour| neighbour.latent);
            let entries = kept.iter().map(|n| (n.latent as usize, n.similarity));
            strongest(entries, neighbours, f64::abs)
        })
        .collect()
}

/// Adds every edge to both of its units, once.
fn symmetrize(lists: Vec<Vec<Neighbour>>) -> Vec<Vec<(u32, f64)>> {
    let mut edges = vec![Vec::new(); lists.len()];
    for (unit, list) in lists.iter().enumerate() {
        for neighbour in list.iter().filter(|neighbour| neighbour.similarity != 0.0) {
            let weight = neighbour.similarity.abs();
            edges[unit].push((neighbour.latent, weight));
            edges[neighbour.latent as usize].push((unit as u32, weight));
        }
    }
    for list in &mut edges {
        // The two directions may differ by rounding; both units must keep the same.
        list.sort_by(|x, y| x.0.cmp(&y.0).then(y.1.total_cmp(&x.1)));
        list.dedup_by_key(|edge| edge.0);
    }
    edges
}

/// How to cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct SpectralConfig {
    /// Number of clusters, and of eigenvectors.
    pub clusters: usize,
    /// Eigenvectors are exact to this residual.
    pub tolerance: f64,
    /// Most iterations for the eigenvectors.
    pub max_iterations: usize,
    /// Runs of k-means, of which the best counts.
    pub restarts: usize,
    /// Seed of the first block of vectors and of k-means.
    pub seed: u64,
}

impl SpectralConfig {
    /// The defaults for so many clusters: tolerance 1e-6, 200 iterations, 8 runs, seed 0.
    pub fn new(clusters: usize) -> Self {
        SpectralConfig {
            clusters,
            tolerance: 1e-6,
            max_iterations: 200,
            restarts: 8,
            seed: 0,
        }
    }
}

/// How many units of each model a cluster has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ClusterSize {
    /// Units of A.
    pub a: usize,
    /// Units of B.
    pub b: usize,
}

/// Clusters of the units of two models.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Clustering {
    /// The cluster of each unit of A; `None` for a unit that correlates with no other.
    pub cluster_a: Vec<Option<u32>>,
    /// The cluster of each unit of B, likewise.
    pub cluster_b: Vec<Option<u32>>,
    /// The size of each cluster. Clusters are numbered by their first unit, A before B, and none is
    /// empty; there are fewer than asked for only if units coincide.
    pub sizes: Vec<ClusterSize>,
    /// The smallest eigenvalues of the normalized Laplacian of the units that have neighbours,
    /// ascending. As many are 0 as the graph has components.
    pub eigenvalues: Vec<f64>, // [clusters]
    /// The greatest residual of an eigenvector; above the tolerance if the iterations were used up.
    pub residual: f64,
    /// What k-means minimized: squared distances on the unit sphere, summed over units.
    pub inertia: f64,
}

/// Clusters the units by the leading eigenvectors of `D^-1/2 W D^-1/2`, rows normalized, k-means.
///
/// # Errors
/// If `clusters` is 0 or above the number of units that have neighbours, or `restarts` or
/// `max_iterations` is 0.
pub fn cluster_units(
    affinity: &Affinity,
    config: &SpectralConfig,
) -> Result<Clustering, FeaturesError> {
    let degree: Vec<f64> = affinity
        .neighbours
        .iter()
        .map(|list| list.iter().map(|&(_, weight)| weight).sum())
        .collect();
    let joined: Vec<usize> = (0..degree.len())
        .filter(|&unit| degree[unit] > 0.0)
        .collect();
    if config.clusters == 0 || config.clusters > joined.len() {
        return Err(FeaturesError::Input {
            field: "clusters",
            found: config.clusters.to_string(),
            expected: format!("1 to {}, the units that have neighbours", joined.len()),
        });
    }
    for (field, value) in [
        ("restarts", config.restarts),
        ("max_iterations", config.max_iterations),
    ] {
        if value == 0 {
            return Err(FeaturesError::Input {
                field,
                found: "0".to_owned(),
                expected: "at least 1".to_owned(),
            });
        }
    }

    let operator = normalized(affinity, &degree, &joined);
    let apply = |x: &[f64]| -> Vec<f64> {
        let row = |row: &Vec<(u32, f64)>| row.iter().map(|&(j, w)| w * x[j as usize]).sum();
        operator.iter().map(row).collect()
    };
    let found = leading_eigenpairs(
        &apply,
        joined.len(),
        config.clusters,
        config.seed,
        config.tolerance,
        config.max_iterations,
    );
    let mut points = vec![0.0; joined.len() * config.clusters]; // [units, clusters]
    points
        .par_chunks_mut(config.clusters)
        .enumerate()
        .for_each(|(unit, point)| {
            for (x, vector) in point.iter_mut().zip(&found.vectors) {
                *x = vector[unit];
            }
            let norm = point.iter().map(|x| x * x).sum::<f64>().sqrt();
            if norm > 0.0 {
                point.iter_mut().for_each(|x| *x /= norm);
            }
        });
    let groups = k_means(
        &points,
        config.clusters,
        config.clusters,
        config.restarts,
        config.seed.wrapping_add(1),
    );

    let mut number: Vec<Option<u32>> = vec![None; config.clusters];
    let mut sizes: Vec<ClusterSize> = Vec::new();
    let mut cluster: Vec<Option<u32>> = vec![None; affinity.units()];
    for (&unit, &group) in joined.iter().zip(&groups.group) {
        let id = *number[group].get_or_insert_with(|| {
            sizes.push(ClusterSize { a: 0, b: 0 });
            sizes.len() as u32 - 1
        });
        let size = &mut sizes[id as usize];
        if unit < affinity.units_a {
            size.a += 1;
        } else {
            size.b += 1;
        }
        cluster[unit] = Some(id);
    }
    let cluster_b = cluster.split_off(affinity.units_a);
    Ok(Clustering {
        cluster_a: cluster,
        cluster_b,
        sizes,
        eigenvalues: found.values.iter().map(|value| 1.0 - value).collect(),
        residual: found.residual,
        inertia: groups.inertia,
    })
}

/// `D^-1/2 W D^-1/2` of the units that have neighbours, numbered anew.
fn normalized(affinity: &Affinity, degree: &[f64], joined: &[usize]) -> Vec<Vec<(u32, f64)>> {
    let mut place = vec![0u32; degree.len()];
    for (at, &unit) in joined.iter().enumerate() {
        place[unit] = at as u32;
    }
    let scaled = |&unit: &usize| {
        let edges = affinity.neighbours[unit].iter();
        edges
            .map(|&(other, weight)| {
                let other = other as usize;
                (place[other], weight / (degree[unit] * degree[other]).sqrt())
            })
            .collect()
    };
    joined.par_iter().map(scaled).collect()
}

#[cfg(test)]
mod tests;
