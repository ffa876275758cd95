//! Leading eigenvectors of a symmetric operator by block subspace iteration with a Chebyshev filter
//! (Zhou et al. 2006, "Self-consistent-field calculations using Chebyshev-filtered subspace
//! iteration"), and all eigenvectors of a small dense matrix by Jacobi rotations.
//!
//! A block finds repeated eigenvalues, which a graph of several components has.

use rayon::prelude::*;

use super::random::Random;

/// Degree of the filter polynomial.
const DEGREE: usize = 8;
/// Relative norm below which a vector is no direction of its own.
const DEPENDENT: f64 = 1e-10;

/// The greatest eigenvalues of an operator.
pub(crate) struct Eigenpairs {
    /// Eigenvalues, greatest first.
    pub(crate) values: Vec<f64>, // [count]
    /// Orthonormal eigenvectors.
    pub(crate) vectors: Vec<Vec<f64>>, // [count, n]
    /// The greatest ‖M x - value x‖ of them.
    pub(crate) residual: f64,
}

/// The `count` greatest eigenvalues of an operator on vectors of length `n`, whose eigenvalues all
/// lie in -1..=1. Stops when all residuals are at most `tolerance`, or after `max_iterations`.
pub(crate) fn leading_eigenpairs(
    apply: &(dyn Fn(&[f64]) -> Vec<f64> + Sync),
    n: usize,
    count: usize,
    seed: u64,
    tolerance: f64,
    max_iterations: usize,
) -> Eigenpairs {
    let count = count.min(n);
    // Extra vectors: convergence depends on the gap to the first eigenvalue outside the block.
    let width = (count + (count / 2).max(8)).min(n);
    let mut random = Random::new(seed);
    let mut block: Vec<Vec<f64>> = (0..width).map(|_| direction(n, &mut random)).collect();
    let mut iteration = 0;
    loop {
        orthonormalize(&mut block, &mut random);
        let images: Vec<Vec<f64>> = block.par_iter().map(|x| apply(x)).collect();
        let projected: Vec<f64> = (0..width * width)
            .into_par_iter()
            .map(|at| dot(&block[at / width], &images[at % width]))
            .collect();
        let (values, rotations) = jacobi(projected, width);
        block = combine(&block, &rotations);
        let images = combine(&images, &rotations);
        let residual = (0..count)
            .map(|at| {
                let error = |(y, x): (&f64, &f64)| (y - values[at] * x).powi(2);
                images[at]
                    .iter()
                    .zip(&block[at])
                    .map(error)
                    .sum::<f64>()
                    .sqrt()
            })
            .fold(0.0, f64::max);
        iteration += 1;
        if residual <= tolerance || iteration >= max_iterations {
            block.truncate(count);
            return Eigenpairs {
                values: values[..count].to_vec(),
                vectors: block,
                residual,
            };
        }
        let cut = values[width - 1];
        block = block.par_iter().map(|x| filter(apply, x, cut)).collect();
    }
}

/// Applies the Chebyshev polynomial that is at most 1 on -1..=`cut` and grows fast above it.
fn filter(apply: &(dyn Fn(&[f64]) -> Vec<f64> + Sync), x: &[f64], cut: f64) -> Vec<f64> {
    let centre = (cut - 1.0) / 2.0;
    let half = ((cut + 1.0) / 2.0).max(0.05);
    let shifted = |x: &[f64]| -> Vec<f64> {
        let image = apply(x);
        image
            .iter()
            .zip(x)
            .map(|(y, x)| (y - centre * x) / half)
            .collect()
    };
    let mut before = x.to_vec();
    let mut now = shifted(x);
    for _ in 1..DEGREE {
        let image = shifted(&now);
        let next = image
            .iter()
            .zip(&before)
            .map(|(y, x)| 2.0 * y - x)
            .collect();
        before = std::mem::replace(&mut now, next);
    }
    now
}

/// The vectors `Σ_j block[j] * rotations[j][i]`.
fn combine(block: &[Vec<f64>], rotations: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let column = |i: usize| {
        let mut out = vec![0.0; block[0].len()];
        for (vector, rotation) in block.iter().zip(rotations) {
            subtract(&mut out, -rotation[i], vector);
        }
        out
    };
    (0..block.len()).into_par_iter().map(column).collect()
}

/// Gram and Schmidt, twice each. A vector that depends on those before it becomes a random one.
fn orthonormalize(block: &mut [Vec<f64>], random: &mut Random) {
    for at in 0..block.len() {
        let (before, rest) = block.split_at_mut(at);
        let vector = &mut rest[0];
        for _ in 0..8 {
            normalize(vector);
            for _ in 0..2 {
                let shares: Vec<f64> = before.par_iter().map(|other| dot(other, vector)).collect();
                for (other, share) in before.iter().zip(shares) {
                    subtract(vector, share, other);
                }
            }
            if dot(vector, vector).sqrt() > DEPENDENT {
                break;
            }
            *vector = direction(vector.len(), random);
        }
        normalize(vector);
        // Once more: the normalization of a short vector enlarges what rounding left.
        for other in before.iter() {
            let share = dot(other, vector);
            subtract(vector, share, other);
        }
        normalize(vector);
    }
}

fn direction(n: usize, random: &mut Random) -> Vec<f64> {
    (0..n).map(|_| 2.0 * random.uniform() - 1.0).collect()
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

fn subtract(x: &mut [f64], factor: f64, y: &[f64]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x -= factor * y;
    }
}

fn normalize(x: &mut [f64]) {
    let norm = dot(x, x).sqrt();
    if norm > 0.0 {
        x.iter_mut().for_each(|x| *x /= norm);
    }
}

/// All eigenvalues of a symmetric matrix `[n, n]`, greatest first, and the eigenvectors as columns
/// (Jacobi 1846; Golub and Van Loan, "Matrix Computations", 8.5).
pub(crate) fn jacobi(mut matrix: Vec<f64>, n: usize) -> (Vec<f64>, Vec<Vec<f64>>) {
    let mut vectors = vec![0.0; n * n];
    for i in 0..n {
        vectors[i * n + i] = 1.0;
        for j in 0..i {
            let mean = (matrix[i * n + j] + matrix[j * n + i]) / 2.0;
            (matrix[i * n + j], matrix[j * n + i]) = (mean, mean);
        }
    }
    let scale = dot(&matrix, &matrix);
    for _sweep in 0..60 {
        let above = |i: usize| (i + 1..n).map(move |j| (i, j));
        let rest: f64 = (0..n)
            .flat_map(above)
            .map(|(i, j)| matrix[i * n + j].powi(2))
            .sum();
        if rest <= 1e-32 * scale {
            break;
        }
        for (p, q) in (0..n).flat_map(above) {
            let off = matrix[p * n + q];
            if off == 0.0 {
                continue;
            }
            // The rotation that makes the entry (p, q) zero, by the smaller of the two angles.
            let theta = (matrix[q * n + q] - matrix[p * n + p]) / (2.0 * off);
            let tangent = theta.signum() / (theta.abs() + theta.hypot(1.0));
            let cosine = 1.0 / tangent.hypot(1.0);
            let sine = tangent * cosine;
            let rotate = |values: &mut [f64], i: usize, j: usize| {
                let (x, y) = (values[i], values[j]);
                values[i] = cosine * x - sine * y;
                values[j] = sine * x + cosine * y;
            };
            for k in 0..n {
                rotate(&mut matrix, k * n + p, k * n + q);
                rotate(&mut vectors, k * n + p, k * n + q);
            }
            for k in 0..n {
                rotate(&mut matrix, p * n + k, q * n + k);
            }
        }
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&i, &j| matrix[j * n + j].total_cmp(&matrix[i * n + i]));
    let values = order.iter().map(|&i| matrix[i * n + i]).collect();
    let row = |k: usize| order.iter().map(|&i| vectors[k * n + i]).collect();
    (values, (0..n).map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn multiply(matrix: &[f64], x: &[f64]) -> Vec<f64> {
        matrix.chunks(x.len()).map(|row| dot(row, x)).collect()
    }

    /// The averaging operator of a cycle; its eigenvalues are cos(2 π j / n).
    fn cycle(n: usize) -> Vec<f64> {
        let mut matrix = vec![0.0; n * n];
        for i in 0..n {
            matrix[i * n + (i + 1) % n] = 0.5;
            matrix[(i + 1) % n * n + i] = 0.5;
        }
        matrix
    }

    fn cycle_eigenvalues(n: usize) -> Vec<f64> {
        let angle = |j: usize| std::f64::consts::TAU * j as f64 / n as f64;
        let mut values: Vec<f64> = (0..n).map(|j| angle(j).cos()).collect();
        values.sort_by(|x, y| y.total_cmp(x));
        values
    }

    #[test]
    fn jacobi_finds_the_known_eigenvalues_of_a_cycle_and_their_vectors() {
        let n = 30;
        let matrix = cycle(n);
        let (values, vectors) = jacobi(matrix.clone(), n);
        for (at, (got, want)) in values.iter().zip(cycle_eigenvalues(n)).enumerate() {
            assert!((got - want).abs() < 1e-12);
            let vector: Vec<f64> = vectors.iter().map(|row| row[at]).collect();
            assert!((dot(&vector, &vector) - 1.0).abs() < 1e-12);
            for (y, x) in multiply(&matrix, &vector).iter().zip(&vector) {
                assert!((y - got * x).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn subspace_iteration_finds_the_known_repeated_eigenvalues_of_a_large_cycle() {
        let n = 300; // all but the first come in pairs, and lie within 2e-4 of each other
        let matrix = cycle(n);
        let apply = |x: &[f64]| multiply(&matrix, x);
        let found = leading_eigenpairs(&apply, n, 7, 1, 1e-9, 500);
        assert!(found.residual <= 1e-9, "{}", found.residual);
        for (got, want) in found.values.iter().zip(cycle_eigenvalues(n)) {
            assert!((got - want).abs() < 1e-12);
        }
        for (i, x) in found.vectors.iter().enumerate() {
            for (j, y) in found.vectors.iter().enumerate() {
                let want = if i == j { 1.0 } else { 0.0 };
                assert!((dot(x, y) - want).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn equal_vectors_become_an_orthonormal_block() {
        let mut block = vec![vec![1.0, 2.0, 3.0, 4.0]; 4];
        orthonormalize(&mut block, &mut Random::new(1));
        for (i, x) in block.iter().enumerate() {
            for (j, y) in block.iter().enumerate() {
                let want = if i == j { 1.0 } else { 0.0 };
                assert!((dot(x, y) - want).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn too_few_iterations_show_in_the_residual() {
        let matrix = cycle(300);
        let apply = |x: &[f64]| multiply(&matrix, x);
        assert!(leading_eigenpairs(&apply, 300, 7, 1, 1e-9, 2).residual > 1e-6);
    }

    #[test]
    fn more_eigenvalues_than_dimensions_give_all_of_them() {
        let matrix = [1.0, 0.0, 0.0, -1.0];
        let found = leading_eigenpairs(&|x: &[f64]| multiply(&matrix, x), 2, 5, 1, 1e-9, 5);
        assert!((found.values[0] - 1.0).abs() < 1e-15 && (found.values[1] + 1.0).abs() < 1e-15);
    }
}
