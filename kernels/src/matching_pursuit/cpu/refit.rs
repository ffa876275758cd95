//! The least-squares fit of a row by the atoms that it has taken; non-negative ones by the
//! active-set method of Lawson and Hanson (1974), started from the previous fit.

use super::Pursuing;
use crate::host::widest_vectors;

/// Takes `latent` into `steps` and fits all values anew to `start`. Returns by how much each
/// changed. An atom that gets value 0 stays, with 0.
pub(super) fn refit(
    start: &[f32],
    steps: &mut Vec<(u32, f32)>,
    latent: u32,
    all: &Pursuing<'_>,
    signed: bool,
) -> Vec<(u32, f32)> {
    steps.push((latent, 0.0));
    let rows: Vec<&[f32]> = steps.iter().map(|(l, _)| all.atom(*l)).collect();
    let n = rows.len();
    let gram: Vec<Vec<f64>> = rows
        .iter()
        .map(|a| rows.iter().map(|b| wide_dot(a, b)).collect())
        .collect();
    let wanted: Vec<f64> = rows.iter().map(|a| wide_dot(a, start)).collect();
    let old: Vec<f64> = steps.iter().map(|(_, value)| f64::from(*value)).collect();
    let fitted = if signed {
        solve(&gram, &wanted, &(0..n).collect::<Vec<_>>())
    } else {
        non_negative(&gram, &wanted, &old)
    };
    let mut changes = Vec::with_capacity(n);
    for ((latent, value), new) in steps.iter_mut().zip(fitted) {
        let new = new as f32;
        changes.push((*latent, new - *value));
        *value = new;
    }
    changes
}

/// `z` of least |…|² with `z ≥ 0`, from the feasible `start`, whose last place is the one to enter.
fn non_negative(gram: &[Vec<f64>], wanted: &[f64], start: &[f64]) -> Vec<f64> {
    let n = start.len();
    let mut z = start.to_vec();
    let mut passive: Vec<bool> = z.iter().map(|v| *v > 0.0).collect();
    let scale = (0..n).map(|i| gram[i][i]).fold(0.0f64, f64::max).sqrt();
    let most = wanted.iter().fold(0.0f64, |most, w| most.max(w.abs()));
    // Each pass lets one variable in; a fit needs few more passes than variables.
    for _ in 0..3 * n {
        let slope = |i: usize| wanted[i] - (0..n).map(|j| gram[i][j] * z[j]).sum::<f64>();
        let entering = (0..n)
            .filter(|i| !passive[*i])
            .map(|i| (i, slope(i)))
            .max_by(|a, b| a.1.total_cmp(&b.1));
        match entering {
            Some((i, gain)) if gain > 1e-9 * most => passive[i] = true,
            _ => break,
        }
        loop {
            let places: Vec<usize> = (0..n).filter(|i| passive[*i]).collect();
            let goal = solve(gram, wanted, &places);
            let negative = places.iter().filter(|i| goal[**i] <= 0.0);
            let share = negative
                .map(|&i| z[i] / (z[i] - goal[i]).max(f64::MIN_POSITIVE))
                .reduce(f64::min);
            let Some(share) = share else {
                z = goal;
                break;
            };
            // As far towards the goal as none becomes negative; whoever is at 0 leaves.
            for &i in &places {
                z[i] += share.clamp(0.0, 1.0) * (goal[i] - z[i]);
                if goal[i] <= 0.0 && z[i] <= 1e-12 * scale {
                    z[i] = 0.0;
                    passive[i] = false;
                }
            }
            if places.iter().all(|i| passive[*i]) {
                break; // rounding let nobody leave
            }
        }
    }
    z.iter().map(|v| v.max(0.0)).collect()
}

/// The solution of the system of `places`, 0 elsewhere, by Cholesky's method; a place that depends
/// on those before it gets 0.
fn solve(gram: &[Vec<f64>], wanted: &[f64], places: &[usize]) -> Vec<f64> {
    let m = places.len();
    let mut lower = vec![vec![0.0f64; m]; m];
    let mut y = vec![0.0f64; m];
    let mut used = vec![false; m];
    for a in 0..m {
        for b in 0..a {
            let sum: f64 = (0..b).map(|c| lower[a][c] * lower[b][c]).sum();
            lower[a][b] = match used[b] {
                true => (gram[places[a]][places[b]] - sum) / lower[b][b],
                false => 0.0,
            };
        }
        let diagonal = gram[places[a]][places[a]];
        let left = diagonal - lower[a][..a].iter().map(|v| v * v).sum::<f64>();
        used[a] = left > 1e-10 * diagonal;
        if used[a] {
            lower[a][a] = left.sqrt();
            let sum: f64 = (0..a).map(|c| lower[a][c] * y[c]).sum();
            y[a] = (wanted[places[a]] - sum) / lower[a][a];
        }
    }
    let mut out = vec![0.0f64; wanted.len()];
    for a in (0..m).rev().filter(|a| used[*a]) {
        let sum: f64 = (a + 1..m).map(|c| lower[c][a] * out[places[c]]).sum();
        out[places[a]] = (y[a] - sum) / lower[a][a];
    }
    out
}

/// Numbers that are multiplied side by side.
const LANES: usize = 16;

widest_vectors! {
    /// In f32 lanes, summed in f64.
    fn wide_dot(a: &[f32], b: &[f32]) -> f64 {
        let mut sums = [0.0f32; LANES];
        let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
        for (a, b) in a.iter().zip(b) {
            for ((s, a), b) in sums.iter_mut().zip(a).zip(b) {
                *s += a * b;
            }
        }
        let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
        sums.into_iter().map(f64::from).sum::<f64>() + f64::from(rest)
    }
}
