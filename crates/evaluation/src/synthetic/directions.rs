//! Directions of features: random, orthonormal, nearly orthogonal, or with given cosines among
//! siblings.

use rand_chacha::ChaCha8Rng;

use super::benchmark;
use super::config::{Kind, SyntheticConfig};
use super::normal;

/// `[n_features, d_in]`, rows of norm 1.
pub(crate) fn directions(config: &SyntheticConfig, rng: &mut ChaCha8Rng) -> Vec<Vec<f64>> {
    let (n, d) = (config.n_features, config.d_in);
    let tree = match &config.kind {
        Kind::Hierarchical(tree) => tree,
        Kind::SynthSaeBench(config) => {
            let rows = benchmark::directions(n, d, config, rng);
            let wide = |row: &[f32]| row.iter().copied().map(f64::from).collect();
            return rows.chunks(d).map(wide).collect();
        }
        _ => return rows(n, d, config.orthonormal, rng),
    };
    let q = rows(n, d, true, rng);
    let mut f = q.clone();
    let children = (0..tree.parents).map(|p| {
        let of = tree.parent(p);
        ((of + 1..=of + tree.children).collect(), tree.child_cosine)
    });
    let groups: Vec<(Vec<usize>, f64)> =
        children.chain([(tree.roots(), tree.root_cosine)]).collect();
    for (group, cosine) in groups.iter().filter(|(group, _)| group.len() > 1) {
        let n = group.len() as f64;
        let share = mixing(*cosine, n);
        for &i in group {
            let mut row: Vec<f64> = q[i].iter().map(|v| v * (1.0 - share)).collect();
            for &j in group.iter().filter(|j| **j != i) {
                let part = share / (n - 1.0);
                row.iter_mut().zip(&q[j]).for_each(|(r, v)| *r += part * v);
            }
            f[i] = unit(row);
        }
    }
    f
}

/// Random rows of norm 1, made orthogonal (Gram, Schmidt) if asked for.
fn rows(n: usize, d: usize, orthonormal: bool, rng: &mut ChaCha8Rng) -> Vec<Vec<f64>> {
    let mut q: Vec<Vec<f64>> = Vec::with_capacity(n);
    while q.len() < n {
        let mut row: Vec<f64> = (0..d).map(|_| normal(rng)).collect();
        if orthonormal {
            for other in &q {
                let along = dot(&row, other);
                row.iter_mut().zip(other).for_each(|(r, o)| *r -= along * o);
            }
        }
        q.push(unit(row));
    }
    q
}

/// How much of its siblings each of `n` orthonormal directions must take in for cosines of `rho`,
/// by bisection.
fn mixing(rho: f64, n: f64) -> f64 {
    let cosine = |share: f64| {
        let (a, b) = (1.0 - share, share / (n - 1.0));
        (2.0 * a * b + (n - 2.0) * b * b) / (a * a + (n - 1.0) * b * b)
    };
    let (mut low, mut high) = (0.0, (n - 1.0) / n);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if cosine(middle) < rho {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn unit(row: Vec<f64>) -> Vec<f64> {
    let norm = dot(&row, &row).sqrt();
    row.into_iter().map(|v| v / norm).collect()
}
