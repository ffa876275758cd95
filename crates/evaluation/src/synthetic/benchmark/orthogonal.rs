//! Nearly orthogonal directions: Adam on Σ_{i≠j}⟨dᵢ,dⱼ⟩² + n Σᵢ(‖dᵢ‖² − 1)² (Chanin,
//! Garriga-Alonso 2026).

use rayon::prelude::*;

/// Adam's running means keep these shares (Kingma, Ba 2015).
const BETAS: [f32; 2] = [0.9, 0.999];
const EPSILON: f32 = 1e-8;
/// Numbers in a unit of parallel work.
const CHUNK: usize = 1 << 14;
/// Rows of a product in a unit of parallel work, and terms added to each before the next row: the
/// former fit into the second cache, the latter into the first.
const TILE: usize = 64;
const DEPTH: usize = 8;

/// Moves the rows of `e`, `[n, d]`, towards orthogonality in `steps` steps of Adam and gives them
/// norm 1. `cube` is E ↦ E EᵀE, see [`cube`].
pub(super) fn orthogonalize(
    e: &mut [f32],
    d: usize,
    steps: usize,
    lr: f64,
    cube: impl Fn(&[f32]) -> Vec<f32>,
) {
    unit_rows(e, d);
    let mut m = vec![0.0f32; e.len()];
    let mut v = vec![0.0f32; e.len()];
    for step in 1..=steps as i32 {
        let gradient = gradient(e, d, cube(e));
        let size = (lr / (1.0 - f64::from(BETAS[0]).powi(step))) as f32;
        let root = (1.0 - f64::from(BETAS[1]).powi(step)).sqrt() as f32;
        e.par_chunks_mut(CHUNK)
            .zip(m.par_chunks_mut(CHUNK).zip(v.par_chunks_mut(CHUNK)))
            .zip(gradient.par_chunks(CHUNK))
            .for_each(|((e, (m, v)), gradient)| {
                for (i, g) in gradient.iter().enumerate() {
                    m[i] += (1.0 - BETAS[0]) * (g - m[i]);
                    v[i] = BETAS[1] * v[i] + (1.0 - BETAS[1]) * g * g;
                    e[i] -= size * m[i] / (v[i].sqrt() / root + EPSILON);
                }
            });
    }
    unit_rows(e, d);
}

/// The loss's gradient, 4 (Σ_{j≠i}⟨dᵢ,dⱼ⟩dⱼ + n (‖dᵢ‖² − 1) dᵢ), from E EᵀE, which has the sum over
/// all j.
fn gradient(e: &[f32], d: usize, mut cube: Vec<f32>) -> Vec<f32> {
    let n = (e.len() / d) as f64;
    cube.par_chunks_mut(d)
        .zip(e.par_chunks(d))
        .for_each(|(sum, row)| {
            let square = square(row);
            let own = (n * (square - 1.0) - square) as f32;
            sum.iter_mut()
                .zip(row)
                .for_each(|(s, r)| *s = 4.0 * (*s + own * r));
        });
    cube
}

/// E EᵀE of `e`, `[n, d]`. With EᵀE first, this takes d/n of the time that all cosines E Eᵀ would
/// take.
pub(super) fn cube(e: &[f32], d: usize) -> Vec<f32> {
    let mut square = vec![0.0; d * d]; // EᵀE
    square
        .par_chunks_mut(TILE * d)
        .enumerate()
        .for_each(|(tile, out)| add_product(out, d, e, |row, k| e[k * d + tile * TILE + row]));
    let mut product = vec![0.0; e.len()];
    product
        .par_chunks_mut(TILE * d)
        .zip(e.par_chunks(TILE * d))
        .for_each(|(out, e)| add_product(out, d, &square, |row, k| e[row * d + k]));
    product
}

/// Adds Σ_k weight(row, k) b_k to each row of `out`. Rows have `d` numbers.
fn add_product(out: &mut [f32], d: usize, b: &[f32], weight: impl Fn(usize, usize) -> f32) {
    for (chunk, b) in b.chunks(DEPTH * d).enumerate() {
        for (row, out) in out.chunks_exact_mut(d).enumerate() {
            let mut k = chunk * DEPTH;
            let fours = b.chunks_exact(4 * d);
            let rest = fours.remainder();
            for four in fours {
                let [w0, w1, w2, w3] = [0, 1, 2, 3].map(|i| weight(row, k + i));
                let (b0, b1) = (&four[..d], &four[d..2 * d]);
                let (b2, b3) = (&four[2 * d..3 * d], &four[3 * d..]);
                let pairs = b0.iter().zip(b1).zip(b2.iter().zip(b3));
                out.iter_mut()
                    .zip(pairs)
                    .for_each(|(o, ((b0, b1), (b2, b3)))| {
                        *o += (w0 * b0 + w1 * b1) + (w2 * b2 + w3 * b3);
                    });
                k += 4;
            }
            for b in rest.chunks_exact(d) {
                let w = weight(row, k);
                out.iter_mut().zip(b).for_each(|(o, b)| *o += w * b);
                k += 1;
            }
        }
    }
}

fn square(row: &[f32]) -> f64 {
    row.iter().map(|v| f64::from(*v) * f64::from(*v)).sum()
}

fn unit_rows(e: &mut [f32], d: usize) {
    e.par_chunks_mut(d).for_each(|row| {
        let norm = square(row).sqrt().max(1e-8);
        row.iter_mut()
            .for_each(|v| *v = (f64::from(*v) / norm) as f32);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic::normal;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    fn rows(n: usize, d: usize) -> Vec<f32> {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        (0..n * d).map(|_| normal(&mut rng) as f32).collect()
    }

    fn cosine(e: &[f32], d: usize, i: usize, j: usize) -> f64 {
        let (a, b) = (&e[i * d..][..d], &e[j * d..][..d]);
        a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum()
    }

    fn loss(e: &[f32], d: usize) -> f64 {
        let n = e.len() / d;
        let pairs = (0..n).flat_map(|i| (0..n).map(move |j| (i, j)));
        pairs
            .map(|(i, j)| match cosine(e, d, i, j) {
                norm if i == j => n as f64 * (norm - 1.0).powi(2),
                cosine => cosine.powi(2),
            })
            .sum()
    }

    #[test]
    fn the_gradient_is_the_slope_of_the_loss() {
        let (n, d) = (21, 10);
        let e: Vec<f32> = rows(n, d).iter().map(|v| v * 0.3).collect();
        let gradient = gradient(&e, d, cube(&e, d));
        for i in (0..e.len()).step_by(17) {
            let at = |h: f32| {
                let mut e = e.clone();
                e[i] += h;
                (loss(&e, d), f64::from(e[i]))
            };
            let ((above, a), (below, b)) = (at(1e-2), at(-1e-2));
            let slope = (above - below) / (a - b);
            let found = f64::from(gradient[i]);
            assert!(
                (found - slope).abs() < 0.02 + 1e-3 * slope.abs(),
                "{i}: {found} {slope}"
            );
        }
    }

    #[test]
    fn as_many_directions_as_dimensions_become_orthogonal() {
        let (n, d) = (24, 24);
        let mut e = rows(n, d);
        orthogonalize(&mut e, d, 2000, 1e-2, |e| cube(e, d));
        for i in 0..n {
            assert!((cosine(&e, d, i, i) - 1.0).abs() < 1e-6);
            for j in 0..i {
                assert!(cosine(&e, d, i, j).abs() < 0.01, "{}", cosine(&e, d, i, j));
            }
        }
    }

    /// n unit rows in d < n dimensions have Σ_{i≠j}⟨dᵢ,dⱼ⟩² ≥ n²/d − n (Welch 1974).
    #[test]
    fn more_directions_than_dimensions_come_near_the_welch_bound() {
        let (n, d) = (120, 30);
        let mut e = rows(n, d);
        orthogonalize(&mut e, d, 0, 1e-2, |e| cube(e, d));
        let (bound, random) = ((n * n / d - n) as f64, loss(&e, d));
        orthogonalize(&mut e, d, 300, 1e-2, |e| cube(e, d));
        let found = loss(&e, d);
        assert!(found >= bound * 0.999, "{found} {bound}");
        assert!(
            found - bound < 0.05 * (random - bound),
            "{found} {bound} {random}"
        );
    }
}
