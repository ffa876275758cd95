//! Clusters against planted blocks, eigenvalues against a dense solver.

use super::super::SimilarityMatrix;
use super::super::eigen::jacobi;
use super::super::random::Random;
use super::*;

/// Correlations among stacked units with a planted block each: `inside` within a block, weak and of
/// random sign elsewhere; 0 for units without a block.
struct Planted {
    block: Vec<Option<usize>>, // [units_a + units_b]
    units_a: usize,
    full: Vec<f64>, // [units, units]
}

impl Planted {
    fn new(block: Vec<Option<usize>>, units_a: usize, inside: f64, outside: f64) -> Self {
        let n = block.len();
        let mut random = Random::new(11);
        let mut full = vec![0.0; n * n];
        for i in 0..n {
            full[i * n + i] = if block[i].is_some() { 1.0 } else { 0.0 };
            for j in 0..i {
                let size = match (block[i], block[j]) {
                    (Some(x), Some(y)) if x == y => inside * (0.8 + 0.2 * random.uniform()),
                    (Some(_), Some(_)) => outside * random.uniform(),
                    _ => 0.0,
                };
                let value = if random.below(2) == 0 { size } else { -size };
                full[i * n + j] = value;
                full[j * n + i] = value;
            }
        }
        Planted {
            block,
            units_a,
            full,
        }
    }

    /// 90 units of A and 60 of B in four blocks, shuffled; the last unit of each side in none.
    fn four_blocks() -> Self {
        let mut random = Random::new(7);
        let mut block: Vec<Option<usize>> = (0..150).map(|_| Some(random.below(4))).collect();
        block[89] = None;
        block[149] = None;
        Planted::new(block, 90, 0.7, 0.1)
    }

    fn part(
        &self,
        rows: std::ops::Range<usize>,
        columns: std::ops::Range<usize>,
    ) -> SimilarityMatrix {
        let n = self.block.len();
        let values = rows
            .clone()
            .flat_map(|i| columns.clone().map(move |j| self.full[i * n + j]));
        SimilarityMatrix::new(rows.len(), columns.len(), values.collect()).unwrap()
    }

    fn affinity(&self, neighbours: usize) -> Affinity {
        let (a, n) = (self.units_a, self.block.len());
        let aa = self.part(0..a, 0..a);
        let (ab, bb) = (self.part(0..a, a..n), self.part(a..n, a..n));
        Affinity::new(&aa, &ab, &bb, neighbours).unwrap()
    }
}

/// `D^-1/2 W D^-1/2` in full.
fn dense_operator(affinity: &Affinity) -> Vec<f64> {
    let n = affinity.units();
    let mut weights = vec![0.0; n * n];
    for i in 0..n {
        for &(j, weight) in affinity.neighbours(i) {
            weights[i * n + j as usize] = weight;
        }
    }
    let degree: Vec<f64> = weights.chunks(n).map(|row| row.iter().sum()).collect();
    for i in 0..n {
        for j in 0..n {
            weights[i * n + j] /= (degree[i] * degree[j]).sqrt();
        }
    }
    weights
}

#[test]
fn planted_blocks_across_both_models_are_recovered() {
    let planted = Planted::four_blocks();
    let got = cluster_units(&planted.affinity(20), &SpectralConfig::new(4)).unwrap();
    let cluster: Vec<Option<u32>> = [got.cluster_a, got.cluster_b].concat();
    for i in 0..150 {
        assert_eq!(cluster[i].is_some(), planted.block[i].is_some());
        for j in (0..i).filter(|&j| cluster[i].is_some() && cluster[j].is_some()) {
            let together = planted.block[i] == planted.block[j];
            assert_eq!(cluster[i] == cluster[j], together, "{i} {j}");
        }
    }
    assert_eq!(cluster[0], Some(0));
    for (id, size) in got.sizes.iter().enumerate() {
        let count = |range: std::ops::Range<usize>| {
            cluster[range]
                .iter()
                .filter(|&&c| c == Some(id as u32))
                .count()
        };
        assert_eq!((size.a, size.b), (count(0..90), count(90..150)));
        assert!(size.a > 0 && size.b > 0);
    }
    assert!(got.residual <= 1e-6);
}

#[test]
fn eigenvalues_equal_those_of_a_dense_solver() {
    let block = (0..70).map(|unit| Some(unit % 3)).collect();
    let affinity = Planted::new(block, 40, 0.5, 0.3).affinity(9);
    let (values, _) = jacobi(dense_operator(&affinity), 70);
    let config = SpectralConfig {
        tolerance: 1e-8,
        ..SpectralConfig::new(6)
    };
    let got = cluster_units(&affinity, &config).unwrap();
    assert!(got.residual <= 1e-8);
    for (got, want) in got.eigenvalues.iter().zip(values) {
        assert!((got - (1.0 - want)).abs() < 1e-12, "{got} {}", 1.0 - want);
    }
    assert!(got.eigenvalues[0].abs() < 1e-12);
}

#[test]
fn separate_components_have_as_many_eigenvalues_0() {
    let block = (0..60).map(|unit| Some(unit % 5)).collect();
    let affinity = Planted::new(block, 25, 0.6, 0.0).affinity(30);
    let got = cluster_units(&affinity, &SpectralConfig::new(6)).unwrap();
    assert!(got.eigenvalues[..5].iter().all(|value| value.abs() < 1e-9));
    assert!(got.eigenvalues[5] > 0.1);
    let got = cluster_units(&affinity, &SpectralConfig::new(5)).unwrap();
    assert_eq!(got.sizes, [ClusterSize { a: 5, b: 7 }; 5]);
    assert!(got.inertia < 1e-9);
}

#[test]
fn the_graph_is_symmetric_without_loops_and_keeps_the_strongest() {
    let planted = Planted::four_blocks();
    let (t, n) = (4, 150);
    let affinity = planted.affinity(t);
    // The definition, in full: joined if one is among the t strongest of the other.
    let chosen: Vec<Vec<usize>> = (0..n)
        .map(|i| {
            let weight = |j: usize| planted.full[i * n + j].abs();
            let mut others: Vec<usize> = (0..n).filter(|&j| j != i && weight(j) > 0.0).collect();
            others.sort_by(|&x, &y| weight(y).total_cmp(&weight(x)));
            others.truncate(t);
            others
        })
        .collect();
    for i in 0..n {
        let joined = |&j: &usize| chosen[i].contains(&j) || chosen[j].contains(&i);
        let want: Vec<(u32, f64)> = (0..n)
            .filter(joined)
            .map(|j| (j as u32, planted.full[i * n + j].abs()))
            .collect();
        assert_eq!(affinity.neighbours(i), want);
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let affinity = Planted::four_blocks().affinity(20);
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| cluster_units(&affinity, &SpectralConfig::new(4)).unwrap())
    };
    assert_eq!(run(1), run(4));
}

#[test]
fn wrong_sizes_and_settings_are_refused() {
    let square = SimilarityMatrix::new(2, 2, vec![1.0, 0.5, 0.5, 1.0]).unwrap();
    let wide = SimilarityMatrix::new(2, 3, vec![0.1; 6]).unwrap();
    assert!(Affinity::new(&square, &wide, &square, 2).is_err());
    assert!(Affinity::new(&wide, &square, &square, 2).is_err());
    assert!(Affinity::new(&square, &square, &square, 0).is_err());
    let affinity = Affinity::new(&square, &square, &square, 2).unwrap();
    assert!(cluster_units(&affinity, &SpectralConfig::new(4)).is_ok());
    let good = SpectralConfig::new(2);
    for bad in [
        SpectralConfig::new(0),
        SpectralConfig::new(5),
        SpectralConfig {
            restarts: 0,
            ..good.clone()
        },
        SpectralConfig {
            max_iterations: 0,
            ..good.clone()
        },
    ] {
        assert!(cluster_units(&affinity, &bad).is_err());
    }
}
