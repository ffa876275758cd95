//! The way back through a pursuit.

use rayon::prelude::*;

use super::row::take_away;
use crate::host::{dot, widest_vectors};
use crate::sparse_products::cpu::{ByLatent, axpy};

/// Rows whose steps' gradients exist at one time.
const ROWS: usize = 128;

/// Gradients in the atoms `[F, d]`, and in the starts, summed, `[d]`: see
/// [`pursuit_gradient`](super::super::pursuit_gradient).
pub(super) fn gradient(
    taken: &[i32],    // [n, k], −1 for none
    values: &[f32],   // [n, k]
    residual: &[f32], // [n, d]
    atoms: &[f32],    // [F, d]
    [latents, d]: [usize; 2],
    refit: bool,
    factor: f32,
) -> (Vec<f32>, Vec<f32>) {
    let n = residual.len().checked_div(d).unwrap_or(0);
    let k = taken.len().checked_div(n).unwrap_or(0);
    let mut to_atoms = vec![0.0f32; latents * d];
    let mut to_starts = vec![0.0f32; d];
    if n == 0 {
        return (to_atoms, to_starts);
    }
    let mut parts = vec![0.0f32; ROWS.min(n) * k * d]; // [rows, k, d]
    let mut starts = vec![0.0f32; ROWS.min(n) * d]; // [rows, d]
    for first in (0..n).step_by(ROWS) {
        let rows = ROWS.min(n - first);
        let taken = &taken[first * k..][..rows * k];
        let residual = &residual[first * d..][..rows * d];
        let values = &values[first * k..][..rows * k];
        let (parts, starts) = (&mut parts[..rows * k * d], &mut starts[..rows * d]);
        for (g, r) in starts.iter_mut().zip(residual) {
            *g = 2.0 * factor * r;
        }
        if k > 0 {
            parts
                .par_chunks_exact_mut(k * d)
                .zip(starts.par_chunks_exact_mut(d))
                .zip(residual.par_chunks_exact(d))
                .zip(taken.par_chunks_exact(k).zip(values.par_chunks_exact(k)))
                .for_each_init(
                    || vec![0.0f32; d],
                    |before, (((parts, g), residual), (taken, values))| {
                        before.copy_from_slice(residual);
                        let steps = taken
                            .iter()
                            .zip(values)
                            .zip(parts.chunks_exact_mut(d))
                            .rev();
                        for ((&latent, &value), part) in
                            steps.filter(|((latent, _), _)| **latent >= 0)
                        {
                            let atom = &atoms[latent as usize * d..][..d];
                            if refit {
                                part.fill(0.0);
                                take_away(part, value, g);
                            } else {
                                back(value, -dot(g, atom), atom, before, g, part);
                            }
                        }
                    },
                );
            let mine: Vec<f32> = taken.iter().map(|l| f32::from(u8::from(*l >= 0))).collect();
            let latents_of: Vec<i32> = taken.iter().map(|l| (*l).max(0)).collect();
            // One step a row, so that an entry says which step.
            let steps = ByLatent::new(&mine, &latents_of, 1, latents);
            to_atoms
                .par_chunks_exact_mut(d)
                .enumerate()
                .with_min_len(64)
                .for_each(|(latent, sum)| {
                    for &(step, _) in steps.entries(latent) {
                        axpy(1.0, &parts[step as usize * d..][..d], sum);
                    }
                });
        }
        for start in starts.chunks_exact(d) {
            axpy(1.0, start, &mut to_starts);
        }
    }
    (to_atoms, to_starts)
}

widest_vectors! {
    /// One step back: `r` becomes the residual before it, `part = −v·g + dv·r`, and `g` gains
    /// `dv · atom`.
    fn back(v: f32, dv: f32, atom: &[f32], r: &mut [f32], g: &mut [f32], part: &mut [f32]) {
        for (((r, g), part), atom) in r.iter_mut().zip(g).zip(part).zip(atom) {
            *r += v * atom;
            *part = dv * *r - v * *g;
            *g += dv * atom;
        }
    }
}
